"""Correctness on a GPU: its terms, gradients, resumed and distributed steps."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.common import random_part
from benchmarks.gpu_kit import Kit, Setting, Values, temperatures, with_run
from xkd.config import PretrainConfig
from xkd.config.types import Precision
from xkd.launch.distributed import DistributedContext
from xkd.model.xkd import XKD
from xkd.train.step import Part, autocast, precision

LOSS_SCALE = 2.0**10
"""Keeps the gradients of float16 in its range; exact in every type."""


def gradients(
    config: PretrainConfig, device: torch.device, dtype: torch.dtype = torch.float32, term: str = "loss"
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the terms of a step, and the gradient of one of them by parameter, on the CPU in float64."""
    torch.manual_seed(0)
    model = XKD(config)
    views, noise = random_part(config, DistributedContext(0, 1, torch.device("cpu")))
    model.to(device, dtype)
    part: Part = (
        {m: [view.to(device, dtype) for view in views[m]] for m in views},
        {m: value.to(device) for m, value in noise.items()},
    )
    with autocast(device, precision(config.run.precision, device)):
        terms = model(*part, temperatures(config)).terms
    (LOSS_SCALE * terms[term]).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    found = {name: grad.cpu().double() / LOSS_SCALE for name, grad in grads.items()}
    return {name: value.detach().cpu().double() for name, value in terms.items()}, found


def difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Return the norm of the difference of all tensors, relative to that of the second ones."""
    return _norm([ours[name] - theirs[name] for name in theirs]) / _norm(list(theirs.values()))


def _norm(tensors: list[Tensor]) -> float:
    return float(nn.utils.get_total_norm(tensors))


def check_numbers(kit: Kit, config: PretrainConfig) -> None:
    """Compare a step's terms and gradients across devices and precisions."""
    single = small(config, "fp32")
    exact_terms, exact = gradients(single, torch.device("cpu"), torch.float64)
    terms, loss = gradients(single, kit.device)
    _, alignment = gradients(single, kit.device, term="align")
    errors = [float((terms[name] / value - 1).abs()) for name, value in exact_terms.items() if value]
    kit.check("terms, fp32 to the CPU's float64", 1e-4, lambda: {"error": max(errors)})
    kit.check("gradients, fp32 to the CPU's float64", 1e-3, lambda: {"error": difference(loss, exact)})

    def half_precision(term: str, kind: Precision, expected: Mapping[str, Tensor]) -> Values:
        return {"error": difference(gradients(small(config, kind), kit.device, term=term)[1], expected)}

    kinds: tuple[Precision, ...] = ("fp16", "bf16")
    for kind in kinds:
        align = partial(half_precision, "align", kind, alignment)
        kit.check(f"gradients of the alignment, {kind} to fp32", 1e-2, align)
        all_terms = partial(half_precision, "loss", kind, loss)
        kit.measure("correctness", f"gradients of the loss, {kind} to fp32", all_terms)


def check_training(kit: Kit, config: PretrainConfig) -> None:
    """Compare resumed and distributed steps with plain ones."""
    config = small(config, "fp32")

    def resumed() -> Values:
        whole = Setting(config, kit.context)
        for number in range(4):
            if number == 2:
                file = io.BytesIO()
                torch.save(whole.stepper.state_dict(), file)
            whole.step()
        again = Setting(config, kit.context)
        file.seek(0)
        again.stepper.load_state_dict(torch.load(file, weights_only=True))
        for _ in range(2):
            again.step()
        return {"error": difference(again.model.state_dict(), whole.model.state_dict())}

    def distributed() -> Values:
        alone = Setting(config, kit.context)
        alone.step()
        with process_group(kit.device):
            setting = Setting(config, kit.context)
            setting.stepper.objective = DistributedDataParallel(
                setting.model, broadcast_buffers=False, gradient_as_bucket_view=True
            )
            setting.step()
        return {"error": difference(setting.model.state_dict(), alone.model.state_dict())}

    kit.check("four steps, resumed after two", 1e-5, resumed)
    kit.check("a step with DDP of one process", 1e-5, distributed)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join a group of one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=address, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def small(config: PretrainConfig, kind: Precision) -> PretrainConfig:
    """Return a configuration with a preset's widths, but few blocks and clips, fast enough in float64."""
    encoder, decoder = (replace(size, depth=min(size.depth, 2)) for size in (config.encoder, config.decoder))
    return with_run(replace(config, encoder=encoder, decoder=decoder), 4, precision=kind)
