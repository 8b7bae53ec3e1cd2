"""The ways to run the workflow: the command line, DVC and KFP, on one prepared dataset."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.workflow_check import Wanted
from xkd.data.shards.preparation import prepared_folder, resolve_prepare

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SHARED = (
    *("encoder.dim=16", "encoder.heads=2", "optim.epochs=1", "optim.batch_size=10", "optim.warmup_epochs=0"),
    *("run.workers=0", "run.metrics_port=null", "run.checkpoint_every=1"),
)
"""Settings that make the preset toy train three steps on 30 clips."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a pass asks for."""

    seed: int
    depth: int
    windows: int
    """Per clip, in training and test."""
    tasks: tuple[Wanted, ...]

    @property
    def training(self) -> list[str]:
        """The settings of pretraining, each ``name=value``."""
        return [*SHARED, f"run.seed={self.seed}", f"encoder.depth={self.depth}"]

    @property
    def evaluation(self) -> dict[str, int]:
        """The settings of every evaluation."""
        return {"train_windows": self.windows, "test_windows": self.windows, "seed": 0}


class Pass(NamedTuple):
    """How a way runs the workflow once."""

    commands: Sequence[Sequence[str]]
    """The last one writes the report."""
    tasks: Sequence[Wanted]
    """The evaluations; of several commands, those between the first and the last."""
    windows: int | None
    """Per clip; None: the default."""

    def succeeded(self, codes: Sequence[int]) -> list[Wanted]:
        """Return the evaluations that ended well, given the exit code of each command."""
        if len(codes) == 1:
            return list(self.tasks)
        return [task for task, code in zip(self.tasks, codes[1:-1], strict=True) if code == 0]


@dataclass(frozen=True)
class Place:
    """Where a case runs."""

    cwd: Path
    name: str
    run: str
    """The run directory as it is written on the command line."""
    data: Path

    @classmethod
    def make(cls, folder: Path, name: str, path: str, data: Path) -> Place:
        """Create the directories of a case."""
        shutil.rmtree(folder, ignore_errors=True)
        cwd = folder / name
        cwd.mkdir(parents=True)
        run = cwd / "runs" / name
        if path == "symlink":
            (cwd / "elsewhere").mkdir()
            (cwd / "runs").symlink_to("elsewhere")
        if path == "dot":
            run.mkdir(parents=True)
        written = {"absolute": str(run), "dot": "."}.get(path, f"runs/{name}")
        return cls(run if path == "dot" else cwd, name, written, data)

    def outputs(self, way: str) -> tuple[Path, Path]:
        """Return the directories of the run and of its report."""
        if way == "dvc":
            return self.cwd / "runs" / "dvc" / "pretrained", self.cwd / "runs" / "dvc" / "report"
        run = self.cwd / self.run
        return run, run / "report"


def by_cli(place: Place, settings: Settings) -> Pass:
    """Run one command per stage and evaluation."""
    xkd, run = str(BIN / "xkd"), f"--run={place.run}"
    sets = [f"--set={setting}" for setting in settings.training]
    windows = [f"--set={name}={value}" for name, value in settings.evaluation.items()]
    data, scores = f"--data={place.data}", f"{place.run}/scores"
    tasks = [
        (f"--modality={task.modality}", f"--protocol={task.protocol}", f"--encoder={task.encoder}")
        for task in settings.tasks
    ]
    commands = [
        [xkd, "pretrain", "--preset=toy", *sets, data, f"--out={place.run}"],
        *([xkd, "evaluate", run, data, f"--out={scores}", *task, *windows] for task in tasks),
        [xkd, "tabulate", run, f"--scores={scores}", f"--out={place.run}/report"],
    ]
    return Pass(commands, settings.tasks, settings.windows)


def by_dvc(place: Place, settings: Settings) -> Pass:
    """Write the files of a DVC repository and the parameters; reproduce it."""
    cwd = place.cwd
    if not (cwd / "dvc.yaml").exists():
        for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml"):
            (cwd / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, cwd / name)
        shutil.copytree(ROOT / "xkd", cwd / "xkd", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(place.data, cwd / "data" / f"{place.name}-prepared")
        subprocess.run(["git", "init", "--quiet"], cwd=cwd, check=True)
    data = f"data/{place.name}-prepared"
    pretrain: dict[str, Any] = {"preset": "toy"}
    for setting in settings.training:
        name, _, value = setting.partition("=")
        section, _, key = name.partition(".")
        pretrain.setdefault(section, {})[key] = yaml.safe_load(value)
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {
        "datasets": {},
        "pretrain_on": place.name,
        "pretrain": pretrain,
        "svm": settings.evaluation,
        "fusion": settings.evaluation,
        "tasks": {
            task.name: {**task._asdict(), "data": data, "dataset": "embedded", "fold": 1}
            for task in settings.tasks
        },
    }
    (cwd / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return Pass([[str(BIN / "dvc"), "repro"]], settings.tasks, settings.windows)


def by_kfp(place: Place, settings: Settings) -> Pass:
    """Run the pipeline, which evaluates the chosen encoders by the linear SVM on both modalities."""
    encoders = sorted({task.encoder for task in settings.tasks})
    data = place.cwd / "data"
    if not data.exists():
        data.mkdir()
        shutil.copytree(place.data.with_name("source"), data / "embedded")
        shutil.copytree(place.data, prepared_folder(data / "embedded", resolve_prepare("toy")))
    parameters = {
        "preset": "toy",
        "settings": json.dumps(settings.training),
        "embedded_clips": "40",
        "encoders": json.dumps(encoders),
        "protocols": '["svm"]',
        "data": "data",
        "run": place.run,
    }
    pipeline = str(ROOT / "pipelines" / "xkd_full.py")
    words = [f"{name}={value}" for name, value in parameters.items()]
    tasks = [Wanted(modality, "svm", encoder) for modality in ("video", "audio") for encoder in encoders]
    return Pass([[str(BIN / "kfp"), "run", "submit", pipeline, "--local", *words]], tasks, None)


WAYS: Mapping[str, Callable[[Place, Settings], Pass]] = {"cli": by_cli, "dvc": by_dvc, "kfp": by_kfp}
