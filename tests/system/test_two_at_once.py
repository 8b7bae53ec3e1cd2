"""Two of each command at once in one directory: one proceeds, the other waits or is refused in one line."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.tiny import tiny_config
from xkd.config.overrides import to_yaml
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.sources.source import open_source
from xkd.evaluation.score import Score
from xkd.rundir import RunDir

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    printed: str


def at_once(folder: Path, *commands: Sequence[object], refusal: str = "") -> list[Ended]:
    """Run commands at the same time; all must succeed, but those that `refusal` explains in one line."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [str(BIN / str(words[0])), *map(str, words[1:])],
            cwd=folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for words in commands
    ]
    printed = [process.communicate()[0] for process in started]
    ended = [Ended(process.returncode, text) for process, text in zip(started, printed, strict=True)]
    for code, text in ended:
        assert "Traceback" not in text
        assert code == 0 or (refusal and refusal in text.splitlines()[-1]), text
    assert 0 in [code for code, _ in ended], ended
    return ended


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset that two processes fetched."""
    folder = tmp_path_factory.mktemp("fetched")
    at_once(
        folder,
        *[("xkd", "fetch", "embedded", "--clips", 40, "--out", "data")] * 2,
    )
    return folder / "data"


@pytest.fixture(scope="module")
def data(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return that dataset as two processes prepared it."""
    folder = tmp_path_factory.mktemp("prepared")
    at_once(
        folder,
        *[("xkd", "prepare", source, "--out", "data", "--preset", "toy", "--set", "short_side=32")] * 2,
    )
    return folder / "data"


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that two processes trained."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(to_yaml(tiny_config()).replace("preset: tiny\n", "preset: toy\n"))
    command = ("xkd", "pretrain", "--config", "tiny.yaml", "--data", data, "--out", "run")
    at_once(folder, command, command, refusal="xkd: ")
    return folder / "run"


def test_fetched_by_two(source: Path) -> None:
    assert len(open_source(source).clips) == 40
    assert not (source / ".unfinished").exists()


def test_prepared_by_two(data: Path) -> None:
    dataset = PreparedDataset.open(data)
    assert (len(dataset.clips), dataset.skipped) == (40, 0)
    assert (dataset.settings["short_side"], dataset.settings["max_fps"]) == (32, 8)
    assert not (data / ".unfinished").exists()


def test_trained_by_two(run: Path) -> None:
    steps = [row["step"] for row in RunDir(run).metrics()]
    assert steps == list(range(1, RunDir(run).info()["steps"] + 1))
    assert RunDir(run).outcome()


def test_evaluated_by_two(run: Path, data: Path, tmp_path: Path) -> None:
    task = ("--modality", "audio", "--protocol", "svm", "--encoder", "teacher", "--set", "train_windows=1")
    command = ("xkd", "evaluate", "--run", run, "--data", data, *task)
    at_once(tmp_path, *[(*command, "--out", "scores")] * 2)
    at_once(tmp_path, command)  # into RUN/scores
    score, alone = (
        Score.read(folder / "embedded-audio-svm-teacher.json")
        for folder in (tmp_path / "scores", RunDir(run).scores)
    )
    assert (score.score, score.encoder_hash, score.C) == (alone.score, alone.encoder_hash, alone.C)
    assert not list((tmp_path / "scores").glob("*.failed"))


def test_pipelines_share_their_data_whatever_their_presets(tmp_path: Path) -> None:
    """The first of them is the command in README, with fewer clips and steps."""
    settings = [
        *("encoder.dim=16", "encoder.depth=1", "encoder.heads=2"),
        *("decoder.dim=16", "decoder.depth=1", "decoder.heads=2", "projector.out_dim=64"),
        *("optim.epochs=1", "optim.warmup_epochs=0", "optim.batch_size=10"),
        *("run.workers=1", "run.metrics_port=null"),
    ]
    small = ("data=data", "embedded_clips=40", 'encoders=["raw"]', 'protocols=["svm"]')
    (readme,) = re.findall(r"^kfp (.*--local.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    words = shlex.split(readme.replace("pipelines/", f"{ROOT}/pipelines/"))
    assert [word for word in words if "=" in word] == ["preset=toy", "run=runs/pipeline"]
    submit = ["kfp", *(word for word in words if "=" not in word)]
    runs = {"one": "toy", "two": "paper"}
    at_once(
        tmp_path,
        *[
            (*submit, f"preset={preset}", f"run={name}", *small, f"settings={json.dumps(settings)}")
            for name, preset in runs.items()
        ],
    )
    for name in runs:
        assert (tmp_path / name / "report" / "tables.md").is_file()
    for folder, side in (("embedded-prepared-short_side-64-max_fps-8", 64), ("embedded-prepared", 128)):
        prepared = PreparedDataset.open(tmp_path / "data" / folder)
        assert (len(prepared.clips), prepared.skipped, prepared.settings["short_side"]) == (40, 0, side)
