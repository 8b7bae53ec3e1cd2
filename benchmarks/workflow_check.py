"""Running a workflow's commands, and recomputing every number of its report."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import NamedTuple

import torch

from xkd.evaluation.evaluate import evaluate
from xkd.evaluation.features import published_hash
from xkd.evaluation.plan import make_task
from xkd.evaluation.score import Score
from xkd.rundir import ROLES

XKD = str(Path(sys.executable).with_name("xkd"))
TITLES = {"Teacher": "teacher", "Student": "student", "Random initialization": "random", "Raw input": "raw"}
"""Encoders by the titles of rows in tables.md."""
_ERROR = re.compile(r"^(?:xkd|error|ERROR|Error): \S", re.MULTILINE)


class Violation(Exception):  # noqa: N818 -- it is a finding, not a failure of this program
    """A number that is wrong, or an end that is neither a table nor one line."""


class Wanted(NamedTuple):
    """An evaluation on the embedded dataset."""

    modality: str
    protocol: str
    encoder: str

    @property
    def name(self) -> str:
        """Its name as of a score."""
        return f"embedded-{self.modality}-{self.protocol}-{self.encoder}"


def run_command(
    command: Sequence[str],
    cwd: Path,
    log: Path,
    kill: signal.Signals | None = None,
    seconds: float = 0.0,
) -> int:
    """Run a command to its end, or send it a signal after some seconds; return its exit code.

    Raises:
        Violation: it failed without one line that says why, or left a process running.
    """
    with log.open("ab") as file:
        start = file.tell()
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        process = subprocess.Popen(command, cwd=cwd, stdout=file, stderr=file, start_new_session=True)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds if kill else None)
        if process.returncode is None and kill:
            process.send_signal(kill)
        code = process.wait()
    deadline = time.monotonic() + 60
    while left := _processes_in(cwd):
        if time.monotonic() > deadline:
            raise Violation(f"{command[0]} ended with {code} and left {left[0]} running")
        time.sleep(0.2)
    text = log.read_bytes()[start:].decode(errors="replace")
    if code and not kill and ("Traceback (most recent" in text or not _ERROR.search(text)):
        raise Violation(f"{Path(command[0]).name} ended with {code}, not in one line; see {log}")
    return code


def _processes_in(folder: Path) -> list[str]:
    """Return the command lines of processes that run in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cwd").readlink().is_relative_to(folder.resolve()):
                found.append((entry / "cmdline").read_text().replace("\0", " ").strip())
    return [command for command in found if command]  # a zombie has none


class Reference:
    """The same data, trainings and scores, each made once in directories of its own with plain names.

    This process and those that it starts have one thread, so that equal work gives equal bits.
    """

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"
        self.folder = folder.resolve()
        self.prepared = self.folder / "prepared"
        self._call("fetch", "embedded", "--out=source", "--clips=40")
        self._call("prepare", "source", "--out=prepared", "--preset=toy")

    def _call(self, *words: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if run_command([XKD, *words], self.folder, self.folder / "log"):
            raise SystemExit(f"the reference failed; see {self.folder / 'log'}")

    def train(self, settings: Sequence[str]) -> Path:
        """Return the run of these settings."""
        name = "run-" + "-".join(setting.partition("=")[2] for setting in settings[-2:])
        sets = [f"--set={setting}" for setting in settings]
        if not (self.folder / name / "verdict.json").exists():
            self._call("pretrain", "--preset=toy", *sets, "--data=prepared", f"--out={name}")
        return self.folder / name

    def score(self, run: Path, task: Wanted, settings: dict[str, int]) -> Score:
        """Return the score of a task on a reference run."""
        fresh = self.folder / "scores" / "-".join([run.name, task.name, *map(str, settings.values())])
        with (self.folder / "log").open("a") as log, redirect_stderr(log):
            return evaluate(run, self.prepared, make_task("embedded", *task, settings=settings), fresh)


def check_report(
    run: Path,
    report: Path,
    wanted: Sequence[Wanted],
    training: Sequence[str],
    windows: int | None,
    reference: Reference,
) -> None:
    """Check a run and its report against fresh ones.

    Args:
        wanted: the evaluations that ended well.
        training: the settings of the run.
        windows: per clip, in every evaluation; None: any.

    Raises:
        Violation: the weights differ, an evaluation is missing, or a number is not the recomputed one.
    """
    fresh_run, means = reference.train(training), dict[Wanted, float]()
    for role in ROLES:
        for modality in ("video", "audio"):
            if published_hash(run, role, modality) != published_hash(fresh_run, role, modality):
                raise Violation(f"the {role}'s {modality} encoder is not that of {' '.join(training[-2:])}")
    for row in _rows(report / "scores.csv"):
        task = Wanted(row["modality"], row["protocol"], row["encoder"])
        settings = {name: int(row[name]) for name in ("train_windows", "test_windows", "seed")}
        if task in wanted and windows and set(settings.values()) != {windows, 0}:
            raise Violation(f"{task.name} has {settings}, not {windows} windows and seed 0")
        fresh = reference.score(fresh_run, task, settings)
        for name, value in (("score", fresh.score), ("top5", fresh.top5)):
            if row[name] != ("" if value is None else str(value)):
                raise Violation(f"{task.name}: {name} {row[name]} instead of {value}")
        means[task] = 100 * fresh.score
    if missing := [task.name for task in wanted if task not in means]:
        raise Violation(f"the report lacks {', '.join(missing)}")
    _check_tables(report, means)


def _check_tables(report: Path, means: dict[Wanted, float]) -> None:
    """Check that the tables have these means, in percent, and no other."""
    shown = {
        Wanted(row["modality"], row["protocol"], row["encoder"]): float(row["mean"])
        for row in _rows(report / "tables.csv")
        if row["mean"]
    }
    if shown != (expected := {key: round(mean, 2) for key, mean in means.items()}):
        raise Violation(f"tables.csv has {shown} instead of {expected}")
    metrics = json.loads((report / "scores.json").read_text()).get("embedded", {})
    for task, mean in means.items():
        if (value := metrics[task.encoder].get(task.modality)) != round(mean / 100, 6):
            raise Violation(f"scores.json has {value} of {task.name}, not {mean / 100}")
    counted = sum(len(values) for encoder, values in metrics.items() if encoder in TITLES.values())
    if counted != len(means):
        raise Violation(f"scores.json has {counted} scores, not {len(means)}")
    for line in (report / "tables.md").read_text().splitlines():
        title, *cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        possible = {f"{mean:.1f}" for task, mean in means.items() if task.encoder == TITLES.get(title)}
        numbers = [number[0] for cell in cells if (number := re.match(r"[\d.]+", cell))]
        if title in TITLES and not possible.issuperset(numbers):
            raise Violation(f"tables.md has {numbers} of the {title.lower()}, not {sorted(possible)}")


def _rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
