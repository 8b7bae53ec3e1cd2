"""One training step: objective, gradients, clipping, AdamW, centers and teachers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from xkd.config import MODALITIES, Modality, OptimConfig, PretrainConfig
from xkd.config.overrides import to_dict
from xkd.errors import UserError
from xkd.launch.distributed import DistributedContext
from xkd.model.terms import TEACHER_TEMPERATURE
from xkd.model.vit import Block
from xkd.model.xkd import XKD, Objective, TeacherOutput

Part = tuple[dict[Modality, list[Tensor]], dict[Modality, Tensor]]
"""Views and masking noise of one forward pass: the share of a batch that fits the device."""

SMALLEST_SCALE = 2.0**-10
"""Smallest plausible loss scale: it starts at 2 ** 16 and is halved at each overflow."""


class Stepper:
    """Trains a model step by step, in the configured precision and number of parts, on every process.

    A step over N parts, N processes or both is the same step: gradients are means, and centers move once, by
    the mean of all outputs. (The alignment compares the rows of one part; with `loss.align_gather` those of a
    part of each process, so that parts and processes then differ.)
    """

    def __init__(self, model: XKD, config: PretrainConfig, context: DistributedContext) -> None:
        self.model, self.context = model, context
        self.clip_norm, self.parts = config.optim.clip_norm, config.run.accumulate
        if config.run.compile:
            for module in model.modules():
                if isinstance(module, Block):
                    module.compile()
        self.dtype = precision(config.run.precision, context.device)
        self.scaler = GradScaler(context.device.type, enabled=self.dtype is torch.float16)
        self.objective: nn.Module = model
        if context.size > 1:
            self.objective = DistributedDataParallel(
                model, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.optimizer = build_optimizer(model, config.optim)
        self.teacher_outputs: dict[Modality, list[TeacherOutput]] = {}
        """The teachers' outputs for each part of the last step."""

    def step(
        self,
        parts: Iterable[Part],
        values: Mapping[str, float],
        on_phase_end: Callable[[], None] = lambda: None,
    ) -> dict[str, Tensor]:
        """Make one step.

        Args:
            parts: this process's share of the batch, `run.accumulate` of them.
            values: learning rate, momentum and temperatures, see `xkd.train.schedules.schedule`.
            on_phase_end: called before the last backward pass, after it, and after the updates.

        Returns:
            The terms of the objective, averaged over the parts, and ``grad_norm`` before clipping; nothing
            synchronizes with the device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = values["lr"]
        self.optimizer.zero_grad()
        temperature: dict[Modality, float] = {m: values[TEACHER_TEMPERATURE[m]] for m in MODALITIES}
        results: list[Objective] = []
        for views, noise in parts:
            last = len(results) == self.parts - 1
            with exchange_gradients(self.objective, when=last):
                with autocast(self.context.device, self.dtype):
                    result = self.objective(views, noise, temperature)
                if last:
                    on_phase_end()
                self.scaler.scale(result.terms["loss"] / self.parts).backward()
            results.append(result)
        on_phase_end()

        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.student.parameters() if p.grad is not None]
        grad_norm = nn.utils.get_total_norm(gradients)
        # Blocks that the modalities share are clipped once per modality, as in the authors' code.
        for m in self.model.student:
            clip_gradients(self.model.student[m].parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.teacher_outputs = {
            m: [result.teacher_outputs[m] for result in results] for m in self.model.teacher
        }
        self.model.update_centers(
            {m: self.mean([out.mean_output for out in outs]) for m, outs in self.teacher_outputs.items()}
        )
        self.model.update_teachers(values["momentum"])
        on_phase_end()

        terms = {
            name: torch.stack([result.terms[name].detach() for result in results]).mean()
            for name in results[0].terms
        }
        return terms | {"grad_norm": grad_norm}

    def mean(self, values: list[Tensor]) -> Tensor:
        """Return the mean over the parts and the processes."""
        return self.context.all_reduce_mean(torch.stack(values).mean(dim=0))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, except its number."""
        return {
            "config": to_dict(self.model.config),  # for whoever finds the file
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty if the run was not in fp16 before
            self.scaler.load_state_dict(state["scaler"])


def require_compiler(device: torch.device) -> None:
    """Check that torch.compile works, by compiling a small function: it needs a compiler and its headers.

    Raises:
        UserError: it does not, as in our image.
    """
    try:
        torch.compile(torch.sin)(torch.ones(8, device=device))
    except Exception as error:  # of the compiler, the linker or triton
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"run.compile: torch.compile does not work here ({reason}); install a C++ compiler (g++), or set "
            "run.compile=false"
        ) from None


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over all trainable parameters.

    Biases and other one-dimensional tensors have no weight decay. Class tokens, mask tokens and position
    tables have, as in the authors' code.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=1e-8, fused=True)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Clip the gradient of each tensor to an L2 norm of `max_norm`, as in the authors' code."""
    # No synchronization with the device.
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    torch._foreach_mul_(gradients, list((max_norm / (norms + 1e-6)).clamp(max=1.0).unbind()))


def mask_noise(
    config: PretrainConfig, step: int, context: DistributedContext
) -> list[dict[Modality, Tensor]]:
    """Return the noise that chooses the hidden tokens: this process's parts of the step's global batch."""
    generator = torch.Generator().manual_seed(config.run.seed * 2**32 + step)
    batch, parts = config.optim.batch_size, config.run.accumulate
    tokens = {m: math.prod(config.modality(m).grid) for m in config.modalities}
    noise = {
        m: torch.rand(batch, count, generator=generator).chunk(context.size * parts)
        for m, count in tokens.items()
    }
    mine = range(context.rank * parts, (context.rank + 1) * parts)
    return [{m: noise[m][part].to(context.device) for m in noise} for part in mine]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which a network computes."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def exchange_gradients(network: nn.Module, *, when: bool) -> AbstractContextManager[None]:
    """Return a context in which backward passes average gradients over the processes, or not yet."""
    if isinstance(network, DistributedDataParallel) and not when:
        return network.no_sync()
    return nullcontext()


def precision(setting: Literal["auto", "fp32", "fp16", "bf16"], device: torch.device) -> torch.dtype:
    """Return the data type of matrix products.

    Raises:
        UserError: the device does not support it.
    """
    cuda = device.type == "cuda"
    has_bf16 = cuda and torch.cuda.get_device_capability(device) >= (8, 0)
    if setting == "auto":
        setting = "bf16" if has_bf16 else "fp16" if cuda else "fp32"
    if setting == "bf16" and cuda and not has_bf16:
        raise UserError("run.precision bf16 needs a GPU of compute capability 8; use fp16 or auto")
    if setting == "fp16" and not cuda:
        raise UserError("run.precision fp16 needs a GPU; on the CPU use bf16, fp32 or auto")
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[setting]
