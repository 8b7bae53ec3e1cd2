"""The plain step that benchmarks compare with computes what the step of training computes."""

from __future__ import annotations

import torch

from benchmarks.plain import PlainStepper
from tests.tiny import tiny_config
from tests.train.test_step import CPU, part
from xkd.model.xkd import XKD
from xkd.train.schedules import schedule
from xkd.train.step import Part, Stepper


def double(given: Part) -> Part:
    views, noise = given
    return {m: [view.double() for view in views[m]] for m in views}, noise


def test_a_plain_step_is_the_same_step() -> None:
    config = tiny_config()
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(XKD(config).double())
    batch, values = double(part(config, CPU)), schedule(config, 10, 20, 1)
    ours, plain = Stepper(models[0], config, CPU), PlainStepper(models[1], config, CPU.device)
    for _ in range(2):
        terms, others = ours.step([batch], values), plain.step(batch, values)
    for name, term in others.items():
        torch.testing.assert_close(terms[name], term, rtol=1e-8, atol=1e-10)
    expected = models[0].state_dict()
    for name, value in models[1].state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-9)
