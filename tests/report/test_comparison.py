"""Comparison of runs: seeds become one row, followed by the paper's number of the same kind."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.synthetic import ONE_HOT, write_run, write_scores
from xkd.config import PretrainConfig
from xkd.config.overrides import to_yaml
from xkd.config.presets import get_preset
from xkd.errors import UserError
from xkd.evaluation.plan import make_task
from xkd.report.collect import collect
from xkd.report.tabulate import tabulate

PUBLISHED = tuple(
    make_task(dataset="ucf101", modality="video", protocol="svm", encoder=encoder, fold=fold)
    for encoder in ("teacher", "student")
    for fold in (1, 2, 3)
)


def small_run(folder: Path, preset: str, seed: int = 0, change: PretrainConfig | None = None) -> Path:
    """Write a run that claims a preset but has small encoders, and no sample clips."""
    run = write_run(folder, get_preset("toy"), rows=3, seed=seed)
    (run / "reconstruction.pt").unlink()
    config = change or get_preset(preset)
    config = replace(config, preset=preset, run=replace(config.run, seed=seed))
    (run / "config.yaml").write_text(to_yaml(config))
    return run


def test_seeds_become_one_row_followed_by_the_papers_number(tmp_path: Path) -> None:
    runs = [small_run(tmp_path / f"paper_{seed}", "paper", seed) for seed in (0, 1)]
    runs.append(small_run(tmp_path / "mas", "xkd_mas", 2))
    for run, score in zip(runs, (0.80, 0.84, 0.70), strict=True):
        write_scores(run / "scores", run, PUBLISHED, score=score)
    report = tabulate(runs[0], runs[0] / "scores", tmp_path / "report", compare=runs[1:])
    table = (report.parent / "tables.md").read_text()
    split = table.partition("## Comparison of runs: Linear evaluation, split 1")[2]
    assert split.startswith(
        "\n\n| | ucf101: video |\n|---|---:|\n"
        "| paper, teacher | 82.0 ± 2.8 (n=2 seeds) |\n"
        "| the paper's teacher (Table S15) | 84.7 (ours -2.7) |\n"
        "| paper, student | 82.0 ± 2.8 (n=2 seeds) |\n"
        "| the paper's student (Table S15) | 84.4 (ours -2.4) |\n"
        "| xkd_mas, teacher | 70.0 |\n"
        "| the paper's teacher (Table S15) | 81.9 (ours -11.9) |\n"
        "| xkd_mas, student | 70.0 |\n"
        "| the paper's student (Table S15) | 81.5 (ours -11.5) |\n"
    )
    whole = table.partition("## Comparison of runs: Linear evaluation, all splits")[2]
    assert "| the paper's teacher (Table S16) | 83.8 (ours -1.8) |" in whole
    assert "| xkd_mas, teacher | 70.0 ± 0.0 (n=3 folds) |" in whole
    for text in ("84.7 (ours -2.7)", "82.0 ± 2.8 (n=2 seeds)", "<h2>Runs</h2>", str(runs[2])):
        assert text in report.read_text()
    assert r"paper, teacher & 82.0 $\pm$ 2.8 (n=2 seeds) \\" in (report.parent / "tables.tex").read_text()
    assert "xkd_mas, student" in (report.parent / "figures" / "comparison_1.svg").read_text()
    with (report.parent / "tables.csv").open() as file:
        first = next(csv.DictReader(file))
    assert first == {
        "row": "paper",
        "encoder": "teacher",
        "dataset": "ucf101",
        "modality": "video",
        "protocol": "svm",
        "metric": "top-1",
        "split": "1",
        "mean": "82.0",
        "std": "2.83",
        "n": "2",
        "over": "seeds",
        "paper": "84.7",
        "difference": "-2.7",
        "source": "Table S15",
    }


def test_a_single_run_is_not_compared(tmp_path: Path) -> None:
    run = small_run(tmp_path / "paper", "paper")
    report = tabulate(run, write_scores(run / "scores", run, PUBLISHED), tmp_path / "report")
    assert "Comparison" not in (report.parent / "tables.md").read_text() + report.read_text()


def test_runs_with_other_settings_or_data_become_separate_rows(tmp_path: Path) -> None:
    paper = get_preset("paper")
    faster = replace(paper, optim=replace(paper.optim, lr=2e-4))
    runs = [
        small_run(tmp_path / "paper", "paper"),
        small_run(tmp_path / "faster", "paper", 1, faster),
        small_run(tmp_path / "elsewhere", "paper", 2),
    ]
    facts = runs[2] / "run.json"
    facts.write_text(facts.read_text().replace('"embedded"', '"audioset"'))
    for run in runs:
        write_scores(run / "scores", run, PUBLISHED[:1])
    groups = collect(runs[0], runs[0] / "scores", runs[1:]).comparison.groups
    assert [group.title for group in groups] == [
        "paper, on embedded 5f0c2a9be1d4",
        "paper, optim.lr 0.0002, on embedded 5f0c2a9be1d4",
        "paper, on audioset 5f0c2a9be1d4",
    ]


def test_an_autoencoder_is_compared_by_its_student(tmp_path: Path) -> None:
    runs = [small_run(tmp_path / "paper", "paper"), small_run(tmp_path / "mae", "videomae_32", 1)]
    write_scores(runs[0] / "scores", runs[0], PUBLISHED, score=0.8)
    write_scores(runs[1] / "scores", runs[1], PUBLISHED[3:], score=0.75)
    report = tabulate(runs[0], runs[0] / "scores", tmp_path / "report", compare=runs[1:])
    table = (report.parent / "tables.md").read_text()
    assert "| videomae_32, student | 75.0 ± 0.0 (n=3 folds) |" in table
    assert "| the paper's student (Table S16) | 78.9 (ours -3.9) |" in table
    assert "videomae_32, teacher" not in table


def test_a_collapsed_run_and_untrained_classes_are_listed_below_the_table(tmp_path: Path) -> None:
    run = small_run(tmp_path / "paper", "paper")
    write_scores(run / "scores", run, PUBLISHED, untrained=["jump"])
    collapsed = write_run(tmp_path / "collapsed", get_preset("toy"), ONE_HOT, rows=3, seed=1)
    (collapsed / "reconstruction.pt").unlink()
    for main, other in ((run, collapsed), (collapsed, run)):
        report = tabulate(main, main / "scores", tmp_path / main.name / "report", compare=[other])
        for said in (
            "Run collapsed has the verdict one-hot and was not evaluated.",
            "No training clips, ucf101: video: jump.",
        ):
            assert said in (report.parent / "tables.md").read_text()
            assert said in report.read_text()
        assert "| paper, teacher | 52.0 |" in (report.parent / "tables.md").read_text()


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    run = small_run(tmp_path / "paper", "paper")
    write_scores(run / "scores", run, PUBLISHED)
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "link").symlink_to(run)
    for other, message in (
        (tmp_path / "copy", "paper and .*copy contain the same weights"),
        (tmp_path / "link", "paper is given twice"),
        (tmp_path / "none", "no run in .*none"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            tabulate(run, run / "scores", tmp_path / "report", compare=[other])
        assert "\n" not in str(caught.value)


def test_scores_of_other_data_or_settings_are_not_compared(tmp_path: Path) -> None:
    runs = [small_run(tmp_path / f"paper_{seed}", "paper", seed) for seed in (0, 1)]
    write_scores(runs[0] / "scores", runs[0], PUBLISHED[:3])
    changes: tuple[dict[str, Any], ...] = (
        {},
        {"data_revision": "another"},
        {"windows": {"train": 5, "test": 1}},
    )
    for task, changed in zip(PUBLISHED[:3], changes, strict=True):
        # The first run decides, however new the others are.
        write_scores(runs[1] / "scores", runs[1], (task,), date="2027-01-01T00:00:00+00:00", **changed)
    data = collect(runs[0], runs[0] / "scores", runs[1:])
    assert data.left_out == {
        f"{runs[1]}/scores/ucf101-video-svm-teacher-fold2.json": (
            "data_revision another (not 5f0c2a9be1d4), which the other scores of ucf101 have"
        ),
        f"{runs[1]}/scores/ucf101-video-svm-teacher-fold3.json": (
            "windows.test 1 (not 3), which the other scores of ucf101 video svm have"
        ),
    }
    assert [len(run.scores) for run in data.comparison.runs] == [3, 1]
