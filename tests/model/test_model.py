"""The objective as a whole: who learns from what, and the schedules that drive it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from xkd.config import MODALITIES, LossConfig, Modality, PretrainConfig
from xkd.model.losses import mmd
from xkd.model.vit import CHANNELS
from xkd.model.xkd import XKD
from xkd.train.schedules import cosine, learning_rate, temperature


@pytest.fixture
def config() -> PretrainConfig:
    from tests.tiny import tiny_config

    return tiny_config()


def random_batch(
    config: PretrainConfig, batch: int = 3
) -> tuple[dict[Modality, list[Tensor]], dict[Modality, Tensor], dict[Modality, float]]:
    views: dict[Modality, list[Tensor]] = {}
    noise: dict[Modality, Tensor] = {}
    for m in MODALITIES:
        c = config.modality(m)
        sizes = [c.global_view, *[c.local_view] * c.local_views]
        views[m] = [torch.randn(batch, CHANNELS[m], *size) for size in sizes]
        noise[m] = torch.rand(batch, math.prod(c.grid))
    return views, noise, {m: config.modality(m).teacher_temperature for m in MODALITIES}


def test_gradients_reach_students_but_not_teachers(config: PretrainConfig) -> None:
    model = XKD(config)
    model(*random_batch(config)).terms["loss"].backward()
    for name, parameter in model.named_parameters():
        if name.startswith("teacher."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("share", ["none", "student", "both"])
def test_teachers_start_equal_to_the_students(
    config: PretrainConfig, share: Literal["none", "student", "both"]
) -> None:
    model = XKD(replace(config, share=share))
    teacher, student = model.teacher.state_dict(), model.student.state_dict()
    assert teacher.keys() == student.keys()
    assert all(torch.equal(teacher[name], student[name]) for name in teacher)


def test_teachers_are_moving_averages_of_the_students(config: PretrainConfig) -> None:
    model = XKD(config)
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1.0)
    before = [p.clone() for p in model.teacher.parameters()]
    model.update_teachers(0.9)
    for old, new in zip(before, model.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)


@pytest.mark.parametrize(("twice", "share"), [(False, "both"), (True, "both"), (False, "student")])
def test_shared_teacher_blocks_are_updated_once_or_twice(
    config: PretrainConfig, twice: bool, share: Literal["student", "both"]
) -> None:
    model = XKD(replace(config, share=share, optim=replace(config.optim, ema_shared_twice=twice)))
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1.0)
    before = {name: p.clone() for name, p in model.teacher.named_parameters(remove_duplicate=False)}
    model.update_teachers(0.9)
    for name, new in model.teacher.named_parameters(remove_duplicate=False):
        moved = 0.19 if twice and ".blocks." in name else 0.1
        torch.testing.assert_close(new, before[name] + moved, msg=name)


@pytest.mark.parametrize("twice", [False, True])
def test_sharing_the_teachers_blocks_too_changes_only_a_second_update(
    config: PretrainConfig, twice: bool
) -> None:
    """Teachers of shared students start equal and follow the same weights (Table S5, Equation 13)."""
    trained = []
    for share in ("student", "both"):
        torch.manual_seed(0)
        shared = replace(config, share=share, optim=replace(config.optim, ema_shared_twice=twice))
        model = XKD(shared)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batch = random_batch(shared)
        for _ in range(3):
            optimizer.zero_grad()
            model(*batch).terms["loss"].backward()
            optimizer.step()
            model.update_teachers(0.9)
        trained.append(model.state_dict())
    mas, mats = trained
    assert mas.keys() == mats.keys()
    assert all(torch.equal(mas[name], mats[name]) for name in mas) is not twice


def test_alignment_pairs_are_those_of_the_equations(config: PretrainConfig) -> None:
    """Equations 7, S1 and S2."""
    rows = {role: {m: torch.randn(4, 8) for m in MODALITIES} for role in ("student", "teacher")}
    student, teacher = rows["student"], rows["teacher"]
    same = {
        "align_student": mmd(student["video"], student["audio"]),
        "align_teacher": mmd(teacher["video"], teacher["audio"]),
    }
    across = {
        "align_video_to_audio": mmd(teacher["video"], student["audio"]),
        "align_audio_to_video": mmd(teacher["audio"], student["video"]),
    }
    pairs: Literal["same", "across", "both"]
    for pairs, expected in (("same", same), ("across", across), ("both", same | across)):
        model = XKD(replace(config, loss=LossConfig(align_pairs=pairs)))
        torch.testing.assert_close(model._alignment(student, teacher), expected)
        terms = model(*random_batch(config)).terms
        torch.testing.assert_close(terms["align"], torch.stack([terms[name] for name in expected]).sum())


def test_centering_can_be_turned_off(config: PretrainConfig) -> None:
    off = replace(config, loss=replace(config.loss, centering=False))
    model = XKD(off)
    model.update_centers({m: t.mean_output for m, t in model(*random_batch(off)).teacher_outputs.items()})
    assert all(getattr(model, f"center_{m}").abs().sum() == 0 for m in MODALITIES)


def test_mean_reduction_scales_the_printed_sum(config: PretrainConfig) -> None:
    """The authors' halves and division by the weights make one constant: 2 (1 + 1 + 5)."""
    batch = random_batch(config)
    model = XKD(config)
    summed = model(*batch).terms["loss"]
    averaging = XKD(replace(config, loss=replace(config.loss, reduction="mean")))
    averaging.load_state_dict(model.state_dict())
    torch.testing.assert_close(summed, 14 * averaging(*batch).terms["loss"])


def test_learning_rate_warms_up_to_the_base_and_ends_at_the_final() -> None:
    rates = [learning_rate(s, steps=100, warmup=10, base=1.0) for s in range(100)]
    assert rates[0] == 0
    assert rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)


def test_temperatures_rise_by_a_cosine_per_step_or_linearly_per_epoch() -> None:
    cosine = [temperature(step, 10, 3, 0.04, 0.06, "cosine") for step in range(40)]
    assert cosine == sorted(cosine)
    assert cosine[0] == pytest.approx(0.04)
    assert cosine[15] == pytest.approx(0.05)
    assert cosine[30:] == pytest.approx([0.06] * 10)
    stairs = [temperature(step, 10, 3, 0.04, 0.06, "linear") for step in range(40)]
    assert stairs == pytest.approx([0.04] * 10 + [0.05] * 10 + [0.06] * 20)


def test_momentum_goes_from_base_to_one() -> None:
    assert cosine(0, 10, 0.997, 1.0) == pytest.approx(0.997)
    assert cosine(5, 10, 0.997, 1.0) == pytest.approx(0.9985)
    assert cosine(10, 10, 0.997, 1.0) == 1.0
