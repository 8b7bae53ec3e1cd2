"""A training step in other precisions, and compiled."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_config
from xkd.config import PretrainConfig
from xkd.errors import UserError
from xkd.launch.distributed import DistributedContext
from xkd.model.vit import CHANNELS
from xkd.model.xkd import XKD
from xkd.monitor.metrics import PHASES
from xkd.train.schedules import schedule
from xkd.train.step import Part, Stepper, mask_noise, precision
from xkd.train.watch import StepWatch

CPU = DistributedContext(0, 1, torch.device("cpu"))


def one_step(config: PretrainConfig, device: str = "cpu") -> dict[str, Tensor]:
    context = replace(CPU, device=torch.device(device))
    torch.manual_seed(0)
    stepper = Stepper(XKD(config).to(device), config, context)
    return stepper.step([part(config, context)], schedule(config, 10, 20, 1))


def part(config: PretrainConfig, context: DistributedContext) -> Part:
    generator = torch.Generator().manual_seed(0)
    views = {}
    for m in config.modalities:
        c = config.modality(m)
        sizes = [c.global_view, *[c.local_view] * c.local_views]
        views[m] = [
            torch.randn(4, CHANNELS[m], *size, generator=generator).to(context.device) for size in sizes
        ]
    return views, mask_noise(config, 0, context)[0]


def with_run(**changes: Any) -> PretrainConfig:
    config = tiny_config()
    return replace(config, run=replace(config.run, **changes))


def assert_near(ours: dict[str, Tensor], reference: dict[str, Tensor], relative: float) -> None:
    for name, value in reference.items():
        assert ours[name].item() == pytest.approx(value.item(), rel=relative, abs=relative), name


def test_bfloat16_is_close_to_float32() -> None:
    assert_near(one_step(with_run(precision="bf16")), one_step(with_run(precision="fp32")), 0.05)


def test_precision_follows_the_device() -> None:
    assert precision("auto", torch.device("cpu")) is torch.float32
    with pytest.raises(UserError, match=r"run\.precision fp16 needs a GPU"):
        precision("fp16", torch.device("cpu"))


@pytest.mark.parametrize("parts", [1, 2])
def test_every_step_has_all_phases_however_many_parts_it_has(parts: int) -> None:
    config = with_run(precision="fp32", accumulate=parts)
    config = replace(config, optim=replace(config.optim, batch_size=4 * parts))
    stepper = Stepper(XKD(config), config, CPU)
    watch = StepWatch(stepper, 20, 1)
    watch.timer.start()
    watch.timer.end_phase()
    terms = stepper.step([part(config, CPU)] * parts, schedule(config, 10, 20, 1), watch.timer.end_phase)
    watch.observe(1, terms)
    row = watch.row(1, {})
    seconds = [row[f"seconds_{phase}"] for phase in PHASES]
    assert min(seconds) > 0
    assert sum(seconds) <= row["step_seconds"]
    assert row["seconds_forward_by_rank"] == pytest.approx([row["seconds_forward"]])


@pytest.mark.system
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="needs a C++ compiler")
def test_compiled_blocks_compute_the_same() -> None:
    compiled = with_run(precision="fp32", compile=True)
    assert_near(one_step(compiled), one_step(with_run(precision="fp32")), 1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16"])
def test_a_gpu_agrees_with_the_cpu(kind: str) -> None:
    reference = one_step(with_run(precision="fp32"))
    assert_near(one_step(with_run(precision=kind), "cuda"), reference, 1e-3 if kind == "fp32" else 0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_overflow_in_fp16_skips_the_step_and_is_counted() -> None:
    config = with_run(precision="fp16")
    context = replace(CPU, device=torch.device("cuda"))
    stepper = Stepper(XKD(config).cuda(), config, context)
    watch = StepWatch(stepper, 20, 1)
    stepper.scaler._init_scale = 2.0**40  # no gradient survives this in half precision
    before = {name: value.clone() for name, value in stepper.model.student.state_dict().items()}
    watch.observe(1, stepper.step([part(config, context)], schedule(config, 10, 20, 1)))
    assert watch.device_statistics(1)["skipped_steps"] == 1
    assert not watch.first_nonfinite()
    for name, value in stepper.model.student.state_dict().items():
        assert torch.equal(value, before[name]), name
