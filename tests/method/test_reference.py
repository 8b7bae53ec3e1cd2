"""Our step against the authors' code, recorded in float64: losses, activations, gradients, EMA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.method.reference import TERMS, Reference, our_name
from xkd.config import MODALITIES, other
from xkd.method.model import XKD
from xkd.method.refine import cross_modal_attention, refine
from xkd.train.optimizer import build_optimizer, clip_gradients


@pytest.fixture(scope="module")
def recorded(reference: Path) -> Reference:
    return Reference(reference / "micro_xkd_global_f64.pt")


@pytest.fixture
def model(recorded: Reference) -> XKD:
    model = XKD(recorded.config()).double()
    model.load_state_dict(recorded.state())
    return model


def assert_close(ours: Tensor, theirs: Tensor, what: str, relative: float = 1e-8) -> None:
    error = (ours - theirs).norm() / theirs.norm().clamp_min(1e-30)
    assert error <= relative, f"{what}: relative error {error:.1e}"


def test_five_steps_equal(recorded: Reference, model: XKD) -> None:
    optimizer = build_optimizer(model, recorded.config().optim)
    for step in range(recorded.meta["steps"]):
        optimizer.zero_grad()
        terms = model(recorded.views(), recorded.noise(step))
        for theirs, ours in TERMS.items():
            assert_close(
                terms[ours].detach(), recorded.values[f"step/{step}/loss/{theirs}"], f"step {step} {ours}"
            )
        terms["loss"].backward()
        parameters = dict(model.named_parameters())
        if step == 0:
            for name, theirs_grad in recorded.state("grad/").items():
                gradient = parameters[name].grad
                assert gradient is not None, name
                assert_close(gradient, theirs_grad, f"gradient of {name}")
        clip_gradients(model.student.parameters(), recorded.meta["clip"])
        for name, norm in zip(
            recorded.meta["grad_names"], recorded.values[f"step/{step}/grad_norm_clipped"], strict=True
        ):
            ours_name = our_name(name)
            if ours_name is not None:
                gradient = parameters[ours_name].grad
                assert gradient is not None
                assert_close(gradient.norm(), norm, f"step {step} clipped gradient of {ours_name}")
        optimizer.step()
        model.update_teachers(recorded.meta["ema"])
        for m in MODALITIES:
            assert_close(
                getattr(model, f"center_{m}"),
                recorded.values[f"step/{step}/center/{m}_teacher"].squeeze(0),
                f"step {step} center of {m}",
            )
        if step == 0:
            ours_after = model.state_dict()
            for name, after in recorded.state("after/").items():
                assert_close(ours_after[name], after, f"after one step: {name}")


def test_activations_equal(recorded: Reference, model: XKD) -> None:
    act = {k.removeprefix("act/"): v for k, v in recorded.values.items() if k.startswith("act/")}
    views, noise = recorded.views(), recorded.noise(0)
    tokens, attention = {}, {}
    for m in MODALITIES:
        masked = model.reconstruct(m, views[m][0], noise[m])
        assert_close(masked.patches, act[f"{m}/recon/target_patches"], f"{m} patches")
        assert torch.equal(masked.mask.hidden, act[f"{m}/recon/mask"].to(masked.mask.hidden.dtype))
        assert torch.equal(masked.mask.restore, act[f"{m}/recon/ids_restore"])
        assert_close(masked.latent, act[f"{m}/student_global/latent_tokens"], f"{m} latent")
        assert_close(masked.predicted, act[f"{m}/recon/pred"], f"{m} prediction")
        student, teacher = model.student[m], model.teacher[m]
        assert_close(student.encoder(views[m][1]), act[f"{m}/student_local/tokens"], f"{m} local tokens")
        projected = student.projector(act[f"{m}/student_global/pooled"])
        assert_close(projected, act[f"{m}/student_global/projected"], f"{m} projected")
        tokens[m], attention[m] = teacher.encoder.forward_with_cls_attention(views[m][0])
        assert_close(tokens[m], act[f"{m}/teacher/tokens"], f"{m} teacher tokens")
        assert_close(attention[m], act[f"{m}/teacher/cls_attn"], f"{m} cls attention")
    for m in MODALITIES:
        relevance = cross_modal_attention(attention[m], attention[other(m)])
        assert_close(relevance, act[f"{m}/teacher/cross_attn"], f"{m} cross-modal attention")
        assert_close(refine(tokens[m][:, 1:], relevance), act[f"{m}/teacher/refined_tokens"], f"{m} refined")
