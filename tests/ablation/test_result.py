"""What the results of tables say, from runs and scores as training and evaluation write them."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import stdev

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.report.synthetic import HEALTHY, write_run, write_scores
from tests.tiny import tiny_config
from xkd.ablation.page import write_results
from xkd.ablation.result import Cell, Difference, Measurement, Result, collect, difference
from xkd.ablation.tables import find_tables
from xkd.data.shards.manifest import PreparedDataset
from xkd.evaluation.plan import make_task
from xkd.rundir import Verdict

COLLAPSED = Verdict("constant", "KLD fell to 0", 1000)
SCORES = {
    "ablation": {"video": (0.50, 0.52), "audio": (0.60, 0.60)},
    "align_across": {"video": (0.30, 0.31), "audio": (0.85, 0.86)},
}


@pytest.fixture(scope="module")
def datasets(prepared: Path) -> dict[str, PreparedDataset]:
    return {"embedded": PreparedDataset.open(prepared)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, datasets: dict[str, PreparedDataset]) -> Path:
    """Return two seeds of table S13: of align_both one collapsed without scores, the other is not trained."""
    folder = tmp_path_factory.mktemp("ablations")
    tasks = {modality: make_task("embedded", modality, "svm", "teacher") for modality in ("video", "audio")}
    for preset, columns in SCORES.items():
        for seed in (0, 1):
            run = write_run(folder / "runs" / f"{preset}-seed{seed}", tiny_config(), HEALTHY, 20, seed)
            for modality, values in columns.items():
                identity = datasets["embedded"].identity | tasks[modality].identity
                write_scores(run / "scores", run, (tasks[modality],), score=values[seed], **identity)
                if preset == "ablation":
                    untrained = make_task("embedded", modality, "svm", "random", settings={"seed": seed})
                    identity = datasets["embedded"].identity | untrained.identity
                    write_scores(run / "scores", run, (untrained,), score=0.21, **identity)
    write_run(folder / "runs/align_both-seed0", tiny_config(), COLLAPSED, 60)
    return folder


@pytest.fixture(scope="module")
def result(folder: Path, datasets: dict[str, PreparedDataset]) -> Result:
    return collect(find_tables(["S13"])[0], "small", 2, datasets, (), folder / "runs")


def test_scores_are_means_over_seeds(result: Result) -> None:
    video, audio = result.rows[0].cells
    assert (video.mean, audio.mean) == pytest.approx((51, 60))
    assert video.std == pytest.approx(2**0.5)
    assert video.difference is None
    assert video.paper == (58.5, 82.6)


def test_seeds_of_another_command_are_shown_too(folder: Path, datasets: dict[str, PreparedDataset]) -> None:
    table = find_tables(["S13"])[0]
    rows = collect(table, "small", 1, datasets, (), folder / "runs").rows
    assert [len(row.verdicts) for row in rows] == [2, 2, 1, 0]
    assert rows[0].cells[0].mean == pytest.approx(51)


def test_the_last_row_is_a_random_initialization(result: Result) -> None:
    row = result.rows[-1]
    assert (row.row.title, row.row.preset, row.verdicts) == ("Random initialization", "ablation", ())
    assert row.cells[0].mean == pytest.approx(21)
    assert row.cells[0].difference is not None
    assert row.cells[0].difference.mean == pytest.approx(-30)
    assert row.cells[0].paper == (None, None)


def test_signs_are_compared_with_the_papers(result: Result) -> None:
    video, audio = result.rows[1].cells
    assert video.difference is not None
    assert audio.difference is not None
    assert video.difference.mean == pytest.approx(-20.5)
    assert audio.difference.mean == pytest.approx(25.5)
    assert video.paper_differences == pytest.approx((-2.4, -1.5))
    assert audio.paper_differences == pytest.approx((-0.7,))
    assert (video.outcome, audio.outcome) == ("same sign", "opposite sign")


def test_what_is_missing_says_why(result: Result) -> None:
    row = result.rows[2]
    assert row.verdicts == ("collapsed: constant from step 260 on", "not trained")
    assert not row.cells[0].seeds
    assert row.cells[0].missing == {0: "not evaluated", 1: "not trained"}
    assert row.cells[0].outcome == ""


def test_files_show_every_row(
    folder: Path, datasets: dict[str, PreparedDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    page = write_results(find_tables(["S13", "S9", "S6"]), "small", 2, datasets, (), folder)
    text = (folder / "ablations.md").read_text()
    assert text in capsys.readouterr().out
    html = page.read_text()
    for part in ("51.0 ± 1.4 (2)", "\N{MINUS SIGN}20.5 [", "58.5, 82.6", "same sign", "opposite sign"):
        assert part in text
        assert part in html
    assert "constant from step 260 on" in html
    assert "local_seconds_4_1" in text  # does not exist at this scale
    assert "| called a collapse | 0 | 0 |" in text  # the one that collapsed has no score
    assert "| not called | 4 | 4 | +19.8 ± 11.9 | +51.8 ± 14.7 |" in text
    assert "Early signals" not in text  # too few runs
    assert html.count("<svg") == 2  # nothing of S6 was measured
    with (folder / "ablations.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["table"] == "S13"]
    assert len(lines) == 8
    assert lines[2] | {"seeds": "0:30.00 1:31.00", "n": "2", "outcome": "same sign"} == lines[2]


def hits(percent: int, first: int = 0) -> NDArray[np.int8]:
    """Return 200 clips of which a share, from the clip `first` on, is recognized."""
    return np.roll(np.arange(200) < 2 * percent, first).astype(np.int8)


@pytest.mark.parametrize("seeds", [1, 3])
def test_an_interval_covers_the_noise_of_test_clips_however_many_seeds(seeds: int) -> None:
    # 30 of 200 clips are recognized by one alone, 20 by the other alone.
    pairs = [(Measurement([hits(55)]), Measurement([hits(50, first=30)]))] * seeds
    found = difference(pairs)
    width = 2 * 1.96 * 100 * ((50 / 200 - 0.05**2) / 200) ** 0.5
    assert found.mean == pytest.approx(5)
    assert found.high - found.low == pytest.approx(width, rel=0.06)
    assert difference(pairs) == found  # no other numbers when it is computed again


def test_an_interval_covers_the_noise_of_seeds() -> None:
    gains = (0, 10, 20, 30)  # the same in every group of ten clips, so that drawing clips adds little
    pairs = [(Measurement([hits(50 + gain)]), Measurement([hits(50)])) for gain in gains]
    found = difference(pairs)
    assert found.mean == pytest.approx(15)
    assert found.high - found.low > 2 * 1.96 * stdev(gains) * (3 / 4 / 4) ** 0.5 * 0.95


def test_folds_count_alike() -> None:
    ours, theirs = Measurement([hits(80), hits(60)[:100]]), Measurement([hits(80), np.zeros(100, np.int8)])
    assert (ours.percent, theirs.percent) == pytest.approx((90, 40))
    assert difference([(ours, theirs)]) == Difference(50, 50, 50)


@pytest.mark.parametrize(
    ("paper", "outcome"),
    [
        ((1.0, None), "same sign"),
        ((1.0, 0.0), "same sign"),
        ((-1.0,), "opposite sign"),
        ((-1.0, 2.0), "mixed in the paper"),
        ((0.0,), "equal in the paper"),
        ((None,), ""),
    ],
)
def test_a_sign_is_compared_with_the_papers(paper: tuple[float | None, ...], outcome: str) -> None:
    cell = Cell(seeds={}, missing={}, difference=Difference(2, 1, 3), paper=paper, paper_differences=paper)
    assert cell.outcome == outcome


def test_a_difference_within_its_interval_has_no_sign() -> None:
    assert [Difference(1, -1, 3).sign, Difference(2, 1, 3).sign, Difference(-2, -3, -1).sign] == [0, 1, -1]
