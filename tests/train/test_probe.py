"""Evaluation during training."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.tiny import tiny_config
from xkd.config import PretrainConfig
from xkd.config.overrides import to_dict
from xkd.monitor.metrics import KNN, VALIDATION_LOSS
from xkd.monitor.tui import render
from xkd.rundir import Row, RunDir
from xkd.train.pretrain import pretrain
from xkd.train.probe import knn_accuracy


def test_the_nearest_of_each_class_decide() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    labels = ["right", "right", "up", "up"]
    queries = torch.tensor([[5.0, 1.0], [1.0, 5.0], [2.0, 0.1], [0.1, 2.0]])
    assert knn_accuracy(bank, labels, queries, ["right", "up", "up", "up"]) == 0.75
    assert knn_accuracy(bank, labels, queries, ["a label without clips"] * 4) == 0.0


def test_a_clip_does_not_vote_for_itself() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    labels = ["right", "right", "up"]  # nothing else points up
    assert knn_accuracy(bank, labels, bank, labels) == 1.0
    assert knn_accuracy(bank, labels, bank, labels, leave_one_out=True) == pytest.approx(2 / 3)


def probing(every: int = 2) -> PretrainConfig:
    config = tiny_config()
    return replace(config, run=replace(config.run, log_every=5, probe_every=every))


def probed(run: Path) -> dict[int, Row]:
    """Return the probes of a run by step, and check that they are in no other row."""
    names = (VALIDATION_LOSS, *KNN.values())
    found = {row["step"]: {name: row[name] for name in names if name in row} for row in RunDir(run).metrics()}
    return {step: row for step, row in found.items() if row}


@pytest.fixture(scope="module")
def run(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 28 steps that is probed every second epoch."""
    out = tmp_path_factory.mktemp("probe") / "run"
    pretrain(probing(), prepared, out)
    return out


@pytest.mark.system
def test_probes_are_logged_and_change_nothing(run: Path, prepared: Path, tmp_path: Path) -> None:
    rows = probed(run)
    assert list(rows) == [14, 28]
    for row in rows.values():
        assert set(row) == {VALIDATION_LOSS, *KNN.values()}
        assert all(0 <= row[name] <= 1 for name in KNN.values())
    assert rows[28][VALIDATION_LOSS] != rows[14][VALIDATION_LOSS]
    config = tiny_config()
    pretrain(replace(config, run=replace(config.run, log_every=5)), prepared, tmp_path / "plain")
    losses = {row["step"]: row["loss"] for row in RunDir(run).metrics()}
    for row in RunDir(tmp_path / "plain").metrics():
        assert losses[row["step"]] == row["loss"]


@pytest.mark.system
def test_the_time_of_a_probe_is_not_that_of_steps(run: Path) -> None:
    rows = {row["step"]: row for row in RunDir(run).metrics()}
    assert rows[15]["step_seconds"] < (rows[15]["time"] - rows[14]["time"]) / 2


@pytest.mark.system
def test_probes_are_shown(run: Path) -> None:
    console = Console(width=100)
    with console.capture() as shown:
        console.print(render(RunDir(run), 100))
    (line,) = (line for line in shown.get().splitlines() if "validation" in line)
    assert f"{probed(run)[28][VALIDATION_LOSS]:.4g}" in line
    assert "kNN, video" in shown.get()


@pytest.mark.system
def test_without_labels_or_held_out_clips_less_is_measured(prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    manifest = data / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",val,", ",unused,"))
    pretrain(probing(4), data, tmp_path / "run")
    assert {step: set(row) for step, row in probed(tmp_path / "run").items()} == {28: set(KNN.values())}


@pytest.mark.system
def test_two_processes_measure_the_same_clips(run: Path, prepared: Path, tmp_path: Path) -> None:
    """The networks differ by rounding after two epochs, the accuracies by a clip at most."""
    settings = json.dumps(to_dict(probing()))
    arguments = ["--settings", settings, "--data", str(prepared), "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, "-m", "xkd.train.pretrain", *arguments], check=True)
    ours, theirs = probed(tmp_path / "run")[14], probed(run)[14]
    for name in KNN.values():
        assert ours[name] == pytest.approx(theirs[name], abs=0.101)
