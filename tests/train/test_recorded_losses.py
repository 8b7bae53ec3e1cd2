"""Twenty steps in float64 on fixed views give the recorded losses, on any processor."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import tiny_config
from xkd.config import PretrainConfig
from xkd.launch.distributed import DistributedContext
from xkd.model.vit import CHANNELS
from xkd.model.xkd import XKD
from xkd.train.schedules import schedule
from xkd.train.step import Stepper

RECORDED = Path(__file__).parents[1] / "reference" / "losses_float64.json"
"""Recorded at commit 1f4f05c; only a change that is meant to change results replaces it."""
STEPS, BATCH, STEPS_PER_EPOCH = 20, 4, 5


def configurations() -> dict[str, PretrainConfig]:
    """The variants of the model, at the size of the tests."""
    tiny = tiny_config()
    tiny = replace(tiny, run=replace(tiny.run, precision="fp32"))
    return {
        "xkd": tiny,
        "xkd_mas": replace(tiny, share="student"),
        "xkd_mats_released": replace(
            tiny,
            share="both",
            loss=replace(tiny.loss, reduction="mean"),
            views=replace(tiny.views, teacher="local"),
            optim=replace(tiny.optim, ema_shared_twice=True),
        ),
        "align_both_softmax": replace(
            tiny,
            loss=replace(tiny.loss, align_pairs="both"),
            refine=replace(tiny.refine, relevance="softmax", query="mean_query"),
            video=replace(tiny.video, local_views=2),
        ),
        "videomae": replace(
            tiny,
            modalities=("video",),
            video=replace(tiny.video, mask="tube", local_views=0),
            audio=replace(tiny.audio, local_views=0),
            loss=replace(tiny.loss, align=0.0, distill=0.0),
        ),
    }


def set_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter by its name and shape, so that no initialization plays a part."""
    for name, parameter in sorted(module.named_parameters()):
        noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 0.5
        if parameter.ndim > 1:
            parameter.copy_(2 * noise / math.sqrt(parameter.shape[-1]))
        else:
            parameter.copy_((1 if name.endswith("weight") else 0) + 0.1 * noise)


def train(config: PretrainConfig) -> list[dict[str, float]]:
    """Return the terms of each step."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    model = XKD(config).double()
    with torch.no_grad():
        for module in (model.student, model.decoder):
            set_weights(module, generator)
    for m in model.teacher:
        model.teacher[m].load_state_dict(model.student[m].state_dict())
    stepper = Stepper(model, config, DistributedContext(0, 1, torch.device("cpu")))
    rows = []
    for step in range(STEPS):
        views = {}
        for m in config.modalities:
            c = config.modality(m)
            sizes = [c.global_view, *[c.local_view] * c.local_views]
            views[m] = [draw(BATCH, CHANNELS[m], *size) * 2 - 1 for size in sizes]
        noise = {m: draw(BATCH, math.prod(config.modality(m).grid)) for m in config.modalities}
        terms = stepper.step([(views, noise)], schedule(config, step, STEPS, STEPS_PER_EPOCH))
        rows.append({name: term.item() for name, term in terms.items()})
    return rows


@pytest.mark.parametrize("name", configurations())
def test_twenty_steps_give_the_recorded_losses(name: str) -> None:
    recorded = json.loads(RECORDED.read_text())[name]
    for step, (row, expected) in enumerate(zip(train(configurations()[name]), recorded, strict=True), 1):
        assert row == pytest.approx(expected, rel=1e-10, abs=1e-300), f"step {step}"
