"""The whole pipeline in KFP's local runner, on miniatures of three datasets, one with a broken fold."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from xkd.data.shards.preparation import prepared_folder, resolve_prepare
from xkd.data.shards.prepare import prepare

KFP = str(Path(sys.executable).with_name("kfp"))
PIPELINE = str(Path(__file__).resolve().parents[2] / "pipelines" / "xkd_full.py")
TINY = [
    *("encoder.dim=16", "encoder.depth=1", "encoder.heads=2", "decoder.dim=16", "decoder.heads=2"),
    *("optim.epochs=1", "optim.warmup_epochs=0", "optim.batch_size=10"),
]
PARAMETERS = {
    "preset": "toy",
    "settings": json.dumps(TINY),
    "dataset": "kinetics400-mini",
    "downstream": '["ucf101-mini", "esc50-mini"]',
    "encoders": '["raw"]',
    "protocols": '["svm"]',
    "data": "data",
    "run": "run",
}


class Ended(NamedTuple):
    """The result of a pipeline run."""

    code: int
    said: str
    run: Path


@pytest.fixture(scope="module")
def ended(miniature: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Run the pipeline on an ESC-50 whose third fold has no test clips."""
    folder = tmp_path_factory.mktemp("fan_out")
    (folder / "data").mkdir()
    for name in ("kinetics400-mini", "ucf101-mini", "esc50-mini"):
        (folder / "data" / name).symlink_to(miniature(name))
    config = resolve_prepare("toy")
    broken = prepared_folder(folder / "data" / "esc50-mini", config)
    prepare(miniature("esc50-mini"), broken, config)
    break_fold(broken / "manifest.csv", 3)
    done = subprocess.run(
        [KFP, "run", "submit", PIPELINE, "--local", *(f"{name}={text}" for name, text in PARAMETERS.items())],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    return Ended(done.returncode, done.stdout, folder / "run")


def break_fold(table: Path, fold: int) -> None:
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for row in rows:
        splits = row["splits"].split(";")
        splits[fold - 1] = "train"
        row["splits"] = ";".join(splits)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_failed_evaluation_fails_the_run_but_not_the_others(ended: Ended) -> None:
    assert ended.code == 1, ended.said[-3000:]
    assert sorted(path.name for path in (ended.run / "scores").glob("*.*")) == [
        "esc50-audio-svm-raw-fold2.json",
        "esc50-audio-svm-raw-fold3.failed",
        "esc50-audio-svm-raw-fold4.json",
        "esc50-audio-svm-raw-fold5.json",
        "esc50-audio-svm-raw.json",
        "ucf101-video-svm-raw-fold2.json",
        "ucf101-video-svm-raw-fold3.json",
        "ucf101-video-svm-raw.json",
    ]


def test_the_tables_have_the_available_scores_and_the_reasons_for_failures(ended: Ended) -> None:
    with (ended.run / "report" / "scores.csv").open() as file:
        folds = sorted((row["dataset"], row["fold"]) for row in csv.DictReader(file))
    assert folds == [("esc50", fold) for fold in "1245"] + [("ucf101", fold) for fold in "123"]
    tables = (ended.run / "report" / "tables.md").read_text()
    assert "data/esc50-mini-prepared-short_side-64-max_fps-8 has no split test" in tables
