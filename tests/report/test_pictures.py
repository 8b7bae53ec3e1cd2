"""What is drawn of a few clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.report.synthetic import write_run
from xkd.config import MODALITIES
from xkd.config.presets import get_preset
from xkd.report.plots.reconstructions import (
    HIDDEN,
    Picture,
    attention_maps,
    by_mask_ratio,
    load_pictures,
    reconstructions,
)
from xkd.report.tabulate import tabulate


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Picture]:
    run = write_run(tmp_path_factory.mktemp("runs") / "toy", get_preset("toy"), rows=1)
    return load_pictures(run / "reconstruction.pt")


@pytest.fixture(params=MODALITIES)
def picture(pictures: dict[str, Picture], request: pytest.FixtureRequest) -> Picture:
    return pictures[request.param]


def rows(figure: Figure) -> dict[str, list[Any]]:
    """The images of all rows of a name, from the top."""
    found: dict[str, list[Any]] = {}
    images = [panel.images[0].get_array() for panel in figure.axes if panel.images]
    across = len(images) // len(figure.texts)
    for index, text in enumerate(figure.texts):
        found.setdefault(text.get_text(), []).extend(images[index * across : (index + 1) * across])
    return found


def test_every_mask_ratio_has_its_rows(picture: Picture) -> None:
    found = rows(by_mask_ratio(picture))
    ratios = (60, 70, 80, 90) if picture["original"].dim() == 5 else (50, 60, 70, 80)
    assert {*found} == {"original", *(f"{ratio}% masked" for ratio in ratios), "reconstructed"}
    assert len(found["original"]) == 3
    assert len(found["reconstructed"]) == 12
    for ratio in ratios:
        hidden = np.mean([(image == HIDDEN).all(axis=-1) for image in found[f"{ratio}% masked"]])
        assert hidden == pytest.approx(ratio / 100, abs=0.1)


def test_what_is_visible_is_drawn_as_in_the_original(picture: Picture) -> None:
    found = rows(reconstructions(picture))
    versions = [found[name] for name in ("original", "masked", "reconstructed")]
    for original, masked, made in zip(*versions, strict=True):
        visible = ~(masked == HIDDEN).all(axis=-1)
        assert 0.1 < visible.mean() < 0.5
        np.testing.assert_array_equal(masked[visible], original[visible])
        np.testing.assert_array_equal(made[visible], original[visible])
        assert not np.array_equal(made, original)


def test_attention_and_weights_are_drawn_over_their_means(picture: Picture) -> None:
    found = rows(attention_maps(picture | {"relevance": 3 * picture["attention"]}))
    for before, after in zip(found["before"], found["after"], strict=True):
        np.testing.assert_allclose(before, after, atol=1e-6)
    for change in found["after \N{MINUS SIGN} before"]:
        np.testing.assert_allclose(np.ptp(change, axis=-1), 0, atol=1e-3)  # plain gray


def test_the_patch_with_the_attention_is_the_colored_one(picture: Picture) -> None:
    attention = 0 * picture["attention"] + 0.001
    video = attention.dim() == 4
    attention[0][(1, 0, 0) if video else (0, 0)] = 1.0
    image = rows(attention_maps(picture | {"attention": attention}))["before"][0]
    shown = np.ptp(image, axis=-1) > 0.2
    corner = shown[:8, :8] if video else shown[-16:, :32]  # of the first frame; of the low frequencies
    assert corner.all()
    assert shown.sum() == corner.sum()


def test_a_diverged_model_is_drawn(picture: Picture) -> None:
    broken = {
        name: picture[name] * float("nan")
        for name in ("reconstructed", "attention", "relevance")
        if picture[name].is_floating_point()
    }
    for draw in (reconstructions, by_mask_ratio, attention_maps):
        for images in rows(draw(picture | broken)).values():
            assert all(np.isfinite(image).all() for image in images)


def test_the_page_says_why_there_is_no_attention(tmp_path: Path) -> None:
    config = get_preset("toy")
    run = write_run(
        tmp_path / "run", replace(config, refine=replace(config.refine, relevance="none")), rows=1
    )
    (tmp_path / "scores").mkdir()
    page = tabulate(run, tmp_path / "scores", tmp_path / "report").read_text()
    assert page.count("features are not refined (refine.relevance is none)") == 2
    assert not list((tmp_path / "report" / "figures").glob("attention_*"))
    assert "Reconstruction by mask ratio, video" in page
