"""`dvc repro` from a data registry to the tables, and prepared shards through a remote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.registries import Registry, isolated_settings
from xkd.data.shards.manifest import PreparedDataset

ROOT = Path(__file__).resolve().parents[2]

# DVC uses a deprecated API of the package pygtrie.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[None]:
    with isolated_settings(tmp_path / "home"):
        yield


def run(folder: Path, *command: str, code: int = 0) -> str:
    """Run a program of this environment, check its exit code and return what it printed."""
    return execute(folder, *command, code=code).stdout


def fail(folder: Path, *command: str) -> str:
    """Run a program that must fail as DVC does, and return its errors."""
    return execute(folder, *command, code=255).stderr


def execute(folder: Path, *command: str, code: int) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment and check its exit code."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=environment, timeout=600
    )
    assert done.returncode == code, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done


def checkout(to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy the files of this repository that DVC reads, with other parameters."""
    shutil.copytree(ROOT / "xkd", to / "xkd", ignore=shutil.ignore_patterns("__pycache__"))
    settings = (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")
    for name in (*settings, "dvc.yaml", "ablations/dvc.yaml", "params.yaml"):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, to / name)
    params = yaml.safe_load((to / "params.yaml").read_text())
    change(params)
    (to / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run(to, "git", "init", "--quiet")
    return to


def task(
    data: str, dataset: str, modality: str, protocol: str, encoder: str, fold: int = 1
) -> dict[str, Any]:
    names = ("data", "dataset", "modality", "protocol", "encoder", "fold")
    return dict(zip(names, (data, dataset, modality, protocol, encoder, fold), strict=True))


def test_repro_runs_from_a_registry_to_the_tables(
    miniature: Callable[[str], Path], tmp_path: Path, settings: None
) -> None:
    source = miniature("kinetics400-mini")
    registry = Registry.create(tmp_path / "registry", {"url": str(tmp_path / "store")})
    files = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    registry.track({"kinetics400": files}, "v1")
    registry.forget()

    def change(params: dict[str, Any]) -> None:
        """Train a small model for an epoch; evaluate two datasets, one of them also on a missing fold."""
        params["datasets"] = {
            "kinetics400": {"repo": str(registry.root), "rev": "v1", "layout": ""},
            "esc50-mini": {"repo": "", "rev": "", "layout": "esc50"},
        }
        params["pretrain_on"] = "kinetics400"
        for protocol in ("svm", "fusion"):
            params[protocol] |= {"train_windows": 1, "test_windows": 1}
        params["pretrain"] = {
            "preset": "toy",
            "encoder": {"dim": 16, "depth": 1, "heads": 2},
            "optim": {"epochs": 1, "batch_size": 10, "warmup_epochs": 0},
        }
        kinetics, esc50 = "data/kinetics400-prepared", "data/esc50-mini-prepared"
        params["tasks"] = {
            "kinetics400-video-svm-teacher": task(kinetics, "kinetics400", "video", "svm", "teacher"),
            "kinetics400-audiovisual-fusion-random": task(
                kinetics, "kinetics400", "audiovisual", "fusion", "random"
            ),
            "esc50-audio-svm-raw-fold9": task(esc50, "esc50", "audio", "svm", "raw", fold=9),
            "esc50-audio-svm-raw-fold2": task(esc50, "esc50", "audio", "svm", "raw", fold=2),
        }

    mine = checkout(tmp_path / "mine", change)
    run(mine, "dvc", "repro", "--keep-going", code=255)
    scores = mine / "runs" / "dvc" / "scores"
    assert sorted(path.name for path in scores.glob("*.*")) == [
        "esc50-audio-svm-raw-fold2.json",
        "esc50-audio-svm-raw-fold9.failed",
        "kinetics400-audiovisual-fusion-random.json",
        "kinetics400-video-svm-teacher.json",
    ]
    assert "no fold 9" in (scores / "esc50-audio-svm-raw-fold9.failed").read_text()
    run(mine, "dvc", "repro", "--single-item", "tabulate")

    manifest = PreparedDataset.open(mine / "data" / "kinetics400-prepared")
    commit = registry.git("rev-parse", "v1^{commit}")
    assert manifest.origin == {"repo": str(registry.root), "rev": commit, "hash": manifest.revision}
    assert manifest.revision.endswith(".dir")
    assert manifest.counts == {"train": 30, "val": 15}
    report = mine / "runs" / "dvc" / "report"
    assert {"kinetics400", "esc50"} <= set(json.loads((report / "scores.json").read_text()))
    assert manifest.revision[:12] in (report / "report.html").read_text()
    assert f"{registry.root} at {commit}" in (report / "report.html").read_text()
    facts = json.loads((mine / "runs" / "dvc" / "pretrained" / "run.json").read_text())
    assert facts["data_revision"] == manifest.revision
    assert "didn't change" in run(mine, "dvc", "repro", "fetch", "prepare")

    # The prepared shards can be pushed to a remote and pulled elsewhere.
    run(mine, "dvc", "remote", "add", "--default", "shards", str(tmp_path / "shards"))
    run(mine, "dvc", "push", "--quiet", "prepare")
    shutil.rmtree(mine / "data")
    shutil.rmtree(mine / ".dvc" / "cache")
    run(mine, "dvc", "pull", "--quiet", "prepare")
    assert PreparedDataset.open(mine / "data" / "kinetics400-prepared") == manifest
    assert run(mine, "dvc", "status", "prepare").count("data/kinetics400-prepared") == 0


def test_names_and_revisions_reach_the_commands_as_they_are_written(tmp_path: Path, settings: None) -> None:
    registry = Registry.create(tmp_path / 'bob\'s $HOME `id` "registry"', {"url": str(tmp_path / "store")})
    name = 'a b$HOME"`id`'
    for tag in ("1.10", "1.1", "0012345"):
        registry.track({name: {"tag": tag.encode()}}, tag)

    def change(params: dict[str, Any]) -> None:
        params["datasets"] = {name: {"repo": str(registry.root), "rev": "1.10", "layout": ""}}
        params |= {"pretrain_on": name, "tasks": {}}

    mine = checkout(tmp_path / "mine", change)
    file, text = mine / "params.yaml", (mine / "params.yaml").read_text()
    for rev, found in (("'1.10'", "1.10"), ("'1.1'", "1.1"), ("", "0012345"), ("'0012345'", "0012345")):
        file.write_text(text.replace("rev: '1.10'", f"rev: {rev}"))
        run(mine, "dvc", "repro", "fetch")
        assert (mine / "data" / name / "tag").read_text() == found
    for rev, shown in (("1.10", "1.1"), ("0012345", "12345"), ("1234e5", "123400000"), ("true", "True")):
        file.write_text(text.replace("rev: '1.10'", f"rev: {rev}"))
        error = fail(mine, "dvc", "repro", "fetch")
        assert f"xkd: configuration: rev: must be a string, got {shown}; quote it\n" in error
