"""Folders of one's own, with labels and without, through the pipeline and through DVC to their reports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.registries import isolated_settings
from tests.system.kfp_command import FULL, KFP
from tests.system.test_dvc import checkout, run, task
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.preparation import prepared_folder, resolve_prepare
from xkd.data.shards.prepare import PrepareConfig, prepare

TINY = {
    "encoder": {"dim": 16, "depth": 1, "heads": 2},
    "decoder": {"dim": 16, "heads": 2},
    "optim": {"epochs": 1, "batch_size": 10, "warmup_epochs": 0},
}
RETRIEVAL = "audiovisual_retrieval"
SPLITS = ("train", "val")

# DVC uses a deprecated API of the package pygtrie.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")


@pytest.fixture(scope="module")
def folders(miniature: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the same clips by split and class, and without either."""
    folder, source = tmp_path_factory.mktemp("own"), miniature("kinetics400-mini")
    for path in source.rglob("*.mp4"):
        split, label = path.relative_to(source).parts[-3:-1]
        assert split in SPLITS
        for target in (folder / "mine" / split / label, folder / "plain" / "phone"):
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (folder / "plain" / "notes.txt").write_text("mine")
    return folder


def flags(values: dict[str, dict[str, Any]]) -> str:
    return json.dumps(
        [f"{part}.{name}={value}" for part, each in values.items() for name, value in each.items()]
    )


def columns(report: Path) -> dict[str, set[str]]:
    """Return the names of a report's columns by dataset, without those of top-5."""
    values = json.loads((report / "scores.json").read_text())
    return {
        name: {column for column in rows["teacher"] if not column.endswith("_top5")}
        for name, rows in values.items()
        if isinstance(rows, dict) and "teacher" in rows
    }


def test_the_pipeline_pretrains_without_labels_and_evaluates_with_them(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders, tmp_path / "data")
    parameters = {
        "dataset": "plain",
        "downstream": '["mine"]',
        "encoders": '["teacher"]',
        "protocols": '["svm", "retrieval"]',
        "settings": flags(TINY),
        "data": "data",
        "run": "run",
    }
    done = subprocess.run(
        [KFP, "run", "submit", FULL, "--local", *(f"{name}={text}" for name, text in parameters.items())],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert columns(tmp_path / "run" / "report") == {"mine": {"video", "audio", RETRIEVAL}}
    plain = PreparedDataset.open(prepared_folder(tmp_path / "data" / "plain", resolve_prepare("toy")))
    assert plain.classes == ()
    assert {"train", "test"} == set(plain.counts)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[None]:
    with isolated_settings(tmp_path / "home"):
        yield


def test_dvc_reports_what_a_folder_without_labels_has(folders: Path, tmp_path: Path, settings: None) -> None:
    name = "plain-audiovisual-retrieval-teacher"

    def change(params: dict[str, Any]) -> None:
        data = "data/plain-prepared"
        params |= {"datasets": {}, "pretrain_on": "plain", "pretrain": {"preset": "toy", **TINY}}
        params["tasks"] = {name: task(data, "plain", "audiovisual", "retrieval", "teacher")}

    mine = checkout(tmp_path / "mine", change)
    prepare(folders / "plain", mine / "data" / "plain-prepared", PrepareConfig(short_side=32, max_fps=8))
    run(mine, "dvc", "repro")
    assert columns(mine / "runs" / "dvc" / "report") == {"plain": {RETRIEVAL}}
