"""Images of sample clips."""

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
from xkd.report.load import Samples, load_samples
from xkd.report.plots.reconstructions import HIDDEN, attention_maps, by_mask_ratio, reconstructions
from xkd.report.tabulate import tabulate


def hatched(image: Any) -> Any:
    """Return which pixels have a color of hidden patches."""
    return np.isclose(image[..., None, :], HIDDEN).all(axis=-1).any(axis=-1)


@pytest.fixture(scope="module")
def all_samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Samples]:
    run = write_run(tmp_path_factory.mktemp("runs") / "toy", get_preset("toy"), rows=1)
    return load_samples(run / "reconstruction.pt")


@pytest.fixture(params=MODALITIES)
def samples(all_samples: dict[str, Samples], request: pytest.FixtureRequest) -> Samples:
    return all_samples[request.param]


def rows(figure: Figure) -> dict[str, list[Any]]:
    """Return the images by row label, from the top."""
    found: dict[str, list[Any]] = {}
    images = [panel.images[0].get_array() for panel in figure.axes if panel.images]
    across = len(images) // len(figure.texts)
    for index, text in enumerate(figure.texts):
        found.setdefault(text.get_text(), []).extend(images[index * across : (index + 1) * across])
    return found


def test_every_mask_ratio_has_two_rows(samples: Samples) -> None:
    found = rows(by_mask_ratio(samples))
    ratios = (60, 70, 80, 90) if samples["original"].dim() == 5 else (50, 60, 70, 80)
    assert {*found} == {"original", *(f"{ratio}% masked" for ratio in ratios), "reconstructed"}
    assert len(found["original"]) == 3
    assert len(found["reconstructed"]) == 12
    for ratio in ratios:
        hidden = np.mean([hatched(image) for image in found[f"{ratio}% masked"]])
        assert hidden == pytest.approx(ratio / 100, abs=0.1)


def test_visible_patches_equal_the_original(samples: Samples) -> None:
    found = rows(reconstructions(samples))
    versions = [found[name] for name in ("original", "masked", "reconstructed")]
    for original, masked, made in zip(*versions, strict=True):
        visible = ~hatched(masked)
        assert 0.1 < visible.mean() < 0.5
        np.testing.assert_array_equal(masked[visible], original[visible])
        np.testing.assert_array_equal(made[visible], original[visible])
        assert not np.array_equal(made, original)


def test_attention_and_weights_are_divided_by_their_means(samples: Samples) -> None:
    found = rows(attention_maps(samples | {"relevance": 3 * samples["attention"]}))
    for before, after in zip(found["before"], found["after"], strict=True):
        np.testing.assert_allclose(before, after, atol=1e-6)
    for change in found["after \N{MINUS SIGN} before"]:
        np.testing.assert_allclose(np.ptp(change, axis=-1), 0, atol=1e-3)  # plain gray


def test_only_the_attended_patch_is_colored(samples: Samples) -> None:
    attention = 0 * samples["attention"] + 0.001
    video = attention.dim() == 4
    attention[0][(1, 0, 0) if video else (0, 0)] = 1.0
    image = rows(attention_maps(samples | {"attention": attention}))["before"][0]
    shown = np.ptp(image, axis=-1) > 0.2
    corner = shown[:8, :8] if video else shown[-16:, :32]  # of the first frame; of the low frequencies
    assert corner.all()
    assert shown.sum() == corner.sum()


def test_samples_of_a_diverged_model_are_drawn(samples: Samples) -> None:
    broken = {
        name: samples[name] * float("nan")
        for name in ("reconstructed", "attention", "relevance")
        if samples[name].is_floating_point()
    }
    for draw in (reconstructions, by_mask_ratio, attention_maps):
        for images in rows(draw(samples | broken)).values():
            assert all(np.isfinite(image).all() for image in images)


def test_the_page_explains_missing_attention(tmp_path: Path) -> None:
    config = get_preset("toy")
    run = write_run(
        tmp_path / "run", replace(config, refine=replace(config.refine, relevance="none")), rows=1
    )
    (tmp_path / "scores").mkdir()
    page = tabulate(run, tmp_path / "scores", tmp_path / "report").read_text()
    assert page.count("features are not refined (refine.relevance is none)") == 2
    assert not list((tmp_path / "report" / "figures").glob("attention_*"))
    assert "Reconstruction by mask ratio, video" in page
