"""One step of pretraining: objective, gradients, clipping, AdamW, teachers and centers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from math import isfinite
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from xkd.config import MODALITIES, Modality, PretrainConfig, other
from xkd.config.overrides import to_dict
from xkd.errors import UserError
from xkd.launch.distributed import DistributedContext
from xkd.model.vit import Block
from xkd.model.xkd import Autoencoders, Objective, TeacherOutput
from xkd.monitor.signals import effective_rank, entropy, spread
from xkd.train.optimizer import build_optimizer, clip_gradients

Part = tuple[dict[Modality, list[Tensor]], dict[Modality, Tensor]]
"""Views and masking noise of one forward pass: a share of the batch that fits the device."""


SMALLEST_SCALE = 2.0**-10
"""A loss scale below it is no accident: it began at 2 ** 16 and is halved at each overflow."""
_NEVER = 2**62
"""A step that no run comes to."""


class Stepper:
    """Trains a model step by step, in the precision and over the parts and processes that are asked for.

    A step over N parts, over N processes, or over both, is the same step: centers move once, by the mean
    of all outputs, and gradients are means. (The alignment compares the rows of one part at a time; with
    `loss.align_gather` those of a part of each process, so that parts and processes then differ.)
    """

    def __init__(self, model: Autoencoders, config: PretrainConfig, context: DistributedContext) -> None:
        self.model, self.context = model, context
        self.clip_norm, self.parts = config.optim.clip_norm, config.run.accumulate
        if config.run.compile:
            for module in model.modules():
                if isinstance(module, Block):
                    module.compile()
        self.optimizer = build_optimizer(model, config.optim)
        self.dtype = precision(config.run.precision, context.device)
        self.scaler = GradScaler(context.device.type, enabled=self.dtype is torch.float16)
        self.objective = _distributed(model) if context.size > 1 else model
        self._watched: dict[str, Tensor] = {}
        self._taught: dict[Modality, list[TeacherOutput]] = {}

    def step(
        self,
        number: int,
        parts: Iterable[Part],
        now: Mapping[str, float],
        mark: Callable[[], None] = lambda: None,
    ) -> dict[str, Tensor]:
        """One step.

        Args:
            number: of the step, from 1.
            parts: this process's share of the batch, `run.accumulate` of them.
            now: what the schedules say for it, from `schedule`.
            mark: called when the gradients are computed and when everything has moved.

        Returns:
            The terms of the objective, means over the parts, and ``grad_norm`` before clipping; nothing
            waits for the device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = now["lr"]
        self.optimizer.zero_grad()
        temperature: dict[Modality, float] = {m: now[f"teacher_temperature_{m}"] for m in MODALITIES}
        results: list[Objective] = []
        for views, noise in parts:
            with exchange_gradients(self.objective, when=len(results) == self.parts - 1):
                with autocast(self.context.device, self.dtype):
                    result = self.objective(views, noise, temperature)
                self.scaler.scale(result.terms["loss"] / self.parts).backward()
            results.append(result)
        mark()
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.student.parameters() if p.grad is not None]
        grad_norm = nn.utils.get_total_norm(gradients)
        # Blocks that the modalities share are met, and clipped, with each of them, as in the authors' code.
        for m in self.model.config.modalities:
            clip_gradients(self.model.student[m].parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._taught = {m: [result.taught[m] for result in results] for m in results[0].taught}
        self.model.move_centers(
            {m: self._mean([part.mean_output for part in among]) for m, among in self._taught.items()}
        )
        self.model.move_teachers(now["momentum"])
        mark()
        terms = {
            name: torch.stack([result.terms[name].detach() for result in results]).mean()
            for name in results[0].terms
        }
        terms["grad_norm"] = grad_norm
        self._watch(number, terms)
        return terms

    def signals(self) -> dict[str, Tensor]:
        """Numbers of the step for the collapse watch, the same on every process; a few passes over (B, D)."""
        found: dict[str, Tensor] = {}
        for m, parts in self._taught.items():
            features = torch.cat([part.features for part in parts])
            direction = f"{m}_to_{other(m)}"
            found[f"batch_entropy_{direction}"] = entropy(self._mean([p.mean_target for p in parts]))
            found[f"feature_std_{m}"] = self.context.all_reduce_mean(spread(features))
            found[f"feature_rank_{m}"] = self.context.all_reduce_mean(effective_rank(features))
        return found

    def _mean(self, parts: list[Tensor]) -> Tensor:
        """Over the parts and the processes."""
        return self.context.all_reduce_mean(torch.stack(parts).mean(dim=0))

    def trouble(self) -> str:
        """What was first not finite on any process, and in which step; empty if nothing was.

        Waits for the device. With a gradient scaler gradients may overflow: it leaves out such a step.
        """
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            return "gradients overflow in fp16 at any loss scale"
        mine = int(self._watched["step"]) if self._watched["bad"] else _NEVER
        step = -self.context.all_reduce_max(-mine)
        if step == _NEVER:
            return ""
        values = self._watched["values"] if mine == step else torch.zeros_like(self._watched["values"])
        values = self.context.all_reduce_mean(values)
        bad = [name for name, value in zip(self._names, values.tolist(), strict=True) if not isfinite(value)]
        return f"{', '.join(bad)} not finite at step {step}"

    def facts(self, number: int) -> dict[str, float]:
        """How the device fares after `number` steps. Waits for it.

        Returns:
            ``skipped_steps`` that the gradient scaler left out; where there are such things ``loss_scale``
            and ``gpu_memory_bytes``, the most that was held.
        """
        taken = next(iter(self.optimizer.state.values()))["step"] if self.optimizer.state else 0
        facts: dict[str, float] = {"skipped_steps": number - int(taken)}
        if self.scaler.is_enabled():
            facts["loss_scale"] = self.scaler.get_scale()
        if self.context.device.type == "cuda":
            facts["gpu_memory_bytes"] = torch.cuda.max_memory_allocated(self.context.device)
        return facts

    def _watch(self, number: int, terms: dict[str, Tensor]) -> None:
        """Remember the first terms that are not finite, on the device."""
        self._names = [name for name in terms if name != "grad_norm" or not self.scaler.is_enabled()]
        now = {"values": torch.stack([terms[name] for name in self._names])}
        now["bad"] = ~now["values"].isfinite().all()
        now["step"] = torch.full_like(now["bad"], number, dtype=torch.int64)
        before = self._watched or now
        self._watched = {name: torch.where(before["bad"], before[name], now[name]) for name in now}

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on but the schedules, which follow from its number."""
        return {
            "config": to_dict(self.model.config),  # for whoever finds the file
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where the run was not in fp16 before
            self.scaler.load_state_dict(state["scaler"])


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context that a network computes in."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def exchange_gradients(network: nn.Module, *, when: bool) -> AbstractContextManager[None]:
    """Have the processes average their gradients in the next backward pass, or not yet."""
    if isinstance(network, DistributedDataParallel) and not when:
        return network.no_sync()
    return nullcontext()


def _distributed(model: Autoencoders) -> DistributedDataParallel:
    return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


def precision(asked: Literal["auto", "fp32", "fp16", "bf16"], device: torch.device) -> torch.dtype:
    """The type that matrix products are computed in.

    Raises:
        UserError: the device cannot compute in it.
    """
    cuda = device.type == "cuda"
    modern = cuda and torch.cuda.get_device_capability(device) >= (8, 0)
    if asked == "auto":
        asked = "bf16" if modern else "fp16" if cuda else "fp32"
    if asked == "bf16" and cuda and not modern:
        raise UserError("run.precision bf16 needs a GPU of compute capability 8; take fp16 or auto")
    if asked == "fp16" and not cuda:
        raise UserError("run.precision fp16 is for GPUs; on the CPU take bf16, fp32 or auto")
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[asked]
