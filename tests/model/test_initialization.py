"""Names, shapes and initial values of the paper's model against those of the authors' code."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.reference import SHARE, SHORT, our_name
from xkd.config import MODALITIES
from xkd.config.presets import get_preset
from xkd.model.vit import build_encoder
from xkd.model.xkd import XKD
from xkd.train.import_released import our_name as our_encoder_name


@pytest.fixture(scope="module")
def layout(reference: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((reference / "checkpoint_layout.json").read_text())
    return found


def test_encoders_have_the_names_and_shapes_of_the_released_files(layout: dict[str, Any]) -> None:
    for m in MODALITIES:
        with torch.device("meta"):
            ours = build_encoder(get_preset("paper"), m).state_dict()
        theirs = {our_encoder_name(name): shape for name, shape in layout[SHORT[m]].items()}
        assert {name: list(value.shape) for name, value in ours.items()} == theirs


@pytest.mark.parametrize("variant", SHARE)
def test_the_numbers_of_parameters_are_the_recorded_ones(layout: dict[str, Any], variant: str) -> None:
    theirs = layout["parameters"][variant]
    config = replace(get_preset("paper"), share=SHARE[variant])
    with torch.device("meta"):
        model = XKD(config)
    parts = {f"{SHORT[m]}_decoder_side": model.decoder[m] for m in MODALITIES}
    for role, networks in (("student", model.student), ("teacher", model.teacher)):
        for m in MODALITIES:
            parts[f"{SHORT[m]}_{role}.backbone"] = networks[m].encoder
            parts[f"{SHORT[m]}_{role}.head"] = networks[m].projector
    counted = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    gains = config.projector.out_dim  # the norms of the output directions, constant 1, which we do not store
    assert counted == {
        name: theirs[name] - gains * name.endswith(".head") for name in theirs if name in counted
    }
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == theirs["trainable"]
    assert sum(p.numel() for p in model.parameters()) == theirs["unique_params"] - 4 * gains


def test_initial_values_are_distributed_as_the_recorded_ones(reference: Path) -> None:
    """Blocks are all initialized alike, so that a model of one block shows all there is."""
    paper = get_preset("paper")
    torch.manual_seed(0)
    model = XKD(
        replace(paper, encoder=replace(paper.encoder, depth=1), decoder=replace(paper.decoder, depth=1))
    )
    recorded = json.loads((reference / "initialization.json").read_text())["xkd"]
    theirs = {ours: about for name, about in recorded.items() if (ours := our_name(name)) is not None}
    assert theirs.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == theirs[name]["requires_grad"], name
        assert_distributed(parameter.detach().double(), theirs[name], name)


def assert_distributed(ours: Tensor, theirs: dict[str, Any], name: str) -> None:
    """Compare two samples of one distribution; six standard errors of each statistic are a chance of 1e-8.

    Mean and standard deviation of a uniform or normal distribution have standard errors of at most
    std / sqrt(n), and sqrt(2) times that between two samples.
    """
    assert list(ours.shape) == theirs["shape"], name
    error = 6 * math.sqrt(2 / ours.numel()) * theirs["std"]
    assert ours.mean().item() == pytest.approx(theirs["mean"], rel=0, abs=error), name
    if theirs["std"] == 0:
        assert torch.all(ours == theirs["mean"]), name
        return
    assert ours.std().item() == pytest.approx(theirs["std"], rel=0, abs=error), name
    # A uniform distribution ends at 1.7 standard deviations, a normal one continues.
    uniform = theirs["max"] < 1.8 * theirs["std"]
    assert (ours.abs().max().item() < 1.8 * theirs["std"]) == uniform, name
