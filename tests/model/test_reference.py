"""Our step against the authors' code, recorded in float64: losses, activations, gradients, EMA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.model.reference import TERMS, Reference, our_name
from tests.reference.reduce import fold
from xkd.config import MODALITIES, other
from xkd.launch.distributed import DistributedContext
from xkd.model.refinement import cross_modal_attention, refine
from xkd.model.vit import gather_tokens
from xkd.model.xkd import XKD
from xkd.train.step import Stepper

TOLERANCE = 1e-8
"""Relative; the recorded MMD computes |x - x|^2 as |x|^2 + |x|^2 - 2xx, whose rounding costs about 1e-9."""


@pytest.fixture(
    scope="module",
    params=[
        *(f"{variant}_{teacher}" for variant in ("xkd", "mas", "mats") for teacher in ("global", "released")),
        "xkd_released_softmax_attn",
        "xkd_released_stemp_v0.2_a0.1",
    ],
)
def recorded(reference: Path, request: pytest.FixtureRequest) -> Reference:
    return Reference(reference, request.param)


@pytest.fixture
def model(recorded: Reference) -> XKD:
    model = XKD(recorded.config()).double()
    model.load_state_dict(recorded.state())
    return model


def assert_close(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Compare with a tensor recorded whole or folded (see `fold`), relative to the norm of the whole."""
    folded = fold(ours) if ours.shape != theirs.shape else ours
    norm = theirs[-1] if folded is not ours else theirs.norm()
    error = (folded - theirs).norm() / norm.clamp_min(1e-30)
    assert error <= TOLERANCE, f"{what}: relative error {error:.1e}"


def test_gradients_equal_the_recorded_ones(recorded: Reference, model: XKD) -> None:
    temperature = {m: recorded.config().modality(m).teacher_temperature for m in MODALITIES}
    model(recorded.views(), recorded.noise(0), temperature).terms["loss"].backward()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, expected in recorded.state("grad/").items():
        assert_close(gradient(parameters[name]), expected, f"gradient of {name}")


def test_every_step_equals_the_recorded_one(recorded: Reference, model: XKD) -> None:
    config = recorded.config()
    now = {f"teacher_temperature_{m}": config.modality(m).teacher_temperature for m in MODALITIES}
    now |= {"lr": recorded.meta["lr"], "momentum": recorded.meta["ema"]}
    stepper = Stepper(model, config, DistributedContext(0, 1, torch.device("cpu")))
    for step in range(recorded.meta["steps"]):
        terms = stepper.step([(recorded.views(), recorded.noise(step))], now)
        for theirs, ours in TERMS.items():
            assert_close(terms[ours], recorded.values[f"step/{step}/loss/{theirs}"], f"step {step} {ours}")
        for m in MODALITIES:
            center = recorded.values[f"step/{step}/center/{m}_teacher"].squeeze(0)
            assert_close(getattr(model, f"center_{m}"), center, f"step {step} center of {m}")
        assert_statistics(
            recorded, model, step, "grad_names", "grad_norm_clipped", lambda p: gradient(p).norm()
        )
        assert_statistics(recorded, model, step, "student_names", "student_stat_after_adamw", statistics)
        assert_statistics(recorded, model, step, "teacher_names", "teacher_stat_after_ema", statistics)
        if step == 0:
            ours_after = model.state_dict()
            for name, after in recorded.state("after/").items():
                assert_close(ours_after[name], after, f"after one step: {name}")


def assert_statistics(
    recorded: Reference, model: XKD, step: int, names: str, values: str, of: Callable[[Tensor], Tensor]
) -> None:
    """Figures recorded for one tensor after the other."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, expected in zip(recorded.meta[names], recorded.values[f"step/{step}/{values}"], strict=True):
        ours_name = our_name(name)
        if ours_name is not None:
            assert_close(of(parameters[ours_name]), expected, f"step {step} {values} of {ours_name}")


def statistics(parameter: Tensor) -> Tensor:
    value = parameter.detach()
    return torch.stack([value.sum(), value.abs().sum(), value.norm()])


def gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_activations_equal_the_recorded_ones(recorded: Reference, model: XKD) -> None:
    act = {k.removeprefix("act/"): v for k, v in recorded.values.items() if k.startswith("act/")}
    views, noise = recorded.views(), recorded.noise(0)
    tokens, attention = {}, {}
    how = model.config.refine.relevance
    assert how != "none"
    for m in MODALITIES:
        masked = model.reconstruct(m, views[m][0], noise[m])
        assert_close(masked.patches, act[f"{m}/recon/target_patches"], f"{m} patches")
        assert torch.equal(masked.mask.hidden, act[f"{m}/recon/mask"].to(masked.mask.hidden.dtype))
        assert torch.equal(masked.mask.restore, act[f"{m}/recon/ids_restore"])
        assert_close(masked.latent, act[f"{m}/student_global/latent_tokens"], f"{m} latent")
        everywhere = torch.arange(masked.mask.restore.shape[1]).expand(len(masked.latent), -1)
        predicted = model.decoder[m](masked.latent, masked.mask._replace(drop=everywhere))
        assert_close(predicted, act[f"{m}/recon/pred"], f"{m} prediction")
        assert_close(masked.predicted, gather_tokens(predicted, masked.mask.drop), f"{m} hidden patches")
        student, teacher = model.student[m], model.teacher[m]
        assert_close(
            student.encoder(torch.cat(views[m][1:])), act[f"{m}/student_local/tokens"], f"{m} local tokens"
        )
        for kind in ("global", "local"):
            projected = student.projector(act[f"{m}/student_{kind}/pooled"])
            assert_close(projected, act[f"{m}/student_{kind}/projected"], f"{m} {kind} projected")
        seen = model.config.views.teacher_index
        tokens[m], attention[m] = teacher.encoder.forward_with_attention(views[m][seen])
        assert_close(tokens[m], act[f"{m}/teacher/tokens"], f"{m} teacher tokens")
        assert_close(attention[m], act[f"{m}/teacher/cls_attn"], f"{m} cls attention")
    for m in MODALITIES:
        relevance = cross_modal_attention(attention[m], attention[other(m)], how)
        assert_close(relevance, act[f"{m}/teacher/cross_attn"], f"{m} cross-modal attention")
        refined = refine(tokens[m][:, 1:], relevance)
        assert_close(refined, act[f"{m}/teacher/refined_tokens"], f"{m} refined")
        assert_close(refined.mean(dim=1), act[f"{m}/teacher/pooled_refined"], f"{m} pooled refined")
        projected = model.teacher[m].projector(refined.mean(dim=1))
        assert_close(projected, act[f"{m}/teacher/projected"], f"{m} teacher projected")
