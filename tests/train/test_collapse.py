"""Runs that collapse, and the reaction to it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import COLLAPSE_ONSET, COLLAPSE_STEP, collapsing_config, tiny_config
from xkd.config import PretrainConfig
from xkd.config.overrides import to_dict, to_yaml
from xkd.errors import CollapsedError, RunInterruptedError
from xkd.launch.launcher import launch
from xkd.rundir import read_rows
from xkd.train.pretrain import pretrain
from xkd.train.run_state import RunState
from xkd.train.step import Stepper


def collapsing(**run: Any) -> PretrainConfig:
    config = collapsing_config()
    return replace(config, run=replace(config.run, **run))


def steps_and_rates(run: Path, name: str = "metrics") -> dict[int, float]:
    return {row["step"]: row["lr"] for row in read_rows(run / f"{name}.jsonl")}


def rollbacks(run: Path) -> list[dict[str, Any]]:
    recorded: list[dict[str, Any]] = json.loads((run / "run.json").read_text())["rollbacks"]
    return recorded


ROLLING_BACK = collapsing(on_collapse="rollback", checkpoint_every=2, keep_checkpoints=50)
METRICS_FILES = ("metrics_before_rollback_1", "metrics_before_rollback_2", "metrics")
INTERRUPTED = f"Interrupted: saved at step {COLLAPSE_ONSET} of 70; rerun to resume"


def test_a_collapsed_run_trains_to_its_end_by_default(prepared: Path, tmp_path: Path) -> None:
    verdict = pretrain(collapsing(), prepared, tmp_path)
    assert (verdict.verdict, verdict.step) == ("constant", 70)
    assert (tmp_path / "encoders" / "teacher_video.safetensors").is_file()


@pytest.mark.system
def test_stop_ends_the_run_and_rerunning_reports_the_same(prepared: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "run", tmp_path / "config.yaml"
    settings.write_text(to_yaml(replace(collapsing(on_collapse="stop"), preset="toy")))
    xkd = str(Path(sys.executable).with_name("xkd"))
    command = [xkd, "pretrain", f"--data={prepared}", f"--out={out}", f"--config={settings}"]
    for report in (tmp_path / "report", tmp_path / "report again"):
        done = subprocess.run([*command, f"--report={report}"], capture_output=True, text=True, check=False)
        assert done.returncode == CollapsedError.exit_code == 76
        assert (
            "xkd: the run ended as constant: in the last 10 logged rows (steps 8 to 17), median KD"
            in done.stderr.splitlines()[-1]
        )
        # Under DVC no later stage would write it.
        assert "Collapsed: constant" in (report / "report.html").read_text()
    assert max(steps_and_rates(out)) == COLLAPSE_STEP
    assert json.loads((out / "verdict.json").read_text())["step"] == COLLAPSE_STEP
    assert not (out / "encoders").exists()


@pytest.mark.system
def test_all_processes_stop_at_the_same_step(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(CollapsedError, match="constant") as caught:
        launch(collapsing(on_collapse="stop"), prepared, tmp_path / "run", processes=2)
    assert caught.value.verdict["step"] == COLLAPSE_STEP


@pytest.fixture(scope="module")
def rolled_back(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run that rolls back twice before it ends."""
    out = tmp_path_factory.mktemp("runs") / "rolled back"
    with pytest.raises(CollapsedError, match="constant"):
        pretrain(ROLLING_BACK, prepared, out)
    return out


def test_each_rollback_halves_the_learning_rate_up_to_the_maximum(rolled_back: Path) -> None:
    assert [(r["verdict"], r["step"], r["to"]) for r in rollbacks(rolled_back)] == 2 * [
        ("constant", COLLAPSE_STEP, COLLAPSE_ONSET)
    ]
    rates = [steps_and_rates(rolled_back, name) for name in METRICS_FILES]
    for number, rate in enumerate(rates):
        assert list(rate) == list(range(1, COLLAPSE_STEP + 1))
        for step in rate:
            factor = 0.5**number if step > COLLAPSE_ONSET else 1
            assert rate[step] == pytest.approx(factor * rates[0][step])


@pytest.mark.parametrize(
    ("place", "call"),
    [((Stepper, "step"), COLLAPSE_STEP), ((RunState, "record_rollback"), 1)],
    ids=["in-the-step", "in-the-rollback"],
)
def test_a_signal_as_a_run_rolls_back_ends_it_and_it_resumes(
    rolled_back: Path,
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: tuple[type, str],
    call: int,
) -> None:
    method, calls = getattr(*place), itertools.count(1)

    def signaled(*given: Any) -> Any:
        if next(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return method(*given)

    with monkeypatch.context() as patched:
        patched.setattr(*place, signaled)
        with pytest.raises(RunInterruptedError, match=INTERRUPTED):
            pretrain(ROLLING_BACK, prepared, tmp_path)
    message = f"back to step {COLLAPSE_ONSET} with the learning rate times 0.5 (rollback 1 of 2)"
    assert message in capsys.readouterr().err
    assert rollbacks(tmp_path) == rollbacks(rolled_back)[:1]
    with pytest.raises(CollapsedError, match="constant"):
        pretrain(ROLLING_BACK, prepared, tmp_path)
    assert rollbacks(tmp_path) == rollbacks(rolled_back)
    for name in METRICS_FILES:
        assert steps_and_rates(tmp_path, name) == steps_and_rates(rolled_back, name)


SIGNALED = """
import os, signal
from xkd.launch.termination import run_worker
from xkd.train.pretrain import main
from xkd.train.run_state import RunState

record = RunState.record_rollback

def signaled(*given):
    if os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGTERM)
    record(*given)

RunState.record_rollback = signaled
run_worker(main)
"""
"""A training process that receives a signal while it rolls back, if it is the second."""


@pytest.mark.system
def test_a_signal_to_one_process_as_a_run_rolls_back_ends_all(prepared: Path, tmp_path: Path) -> None:
    out, program = tmp_path / "run", tmp_path / "signaled.py"
    program.write_text(SIGNALED)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    settings = ["--settings", json.dumps(to_dict(ROLLING_BACK)), "--data", str(prepared), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, *torchrun, *settings],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr.count(f": {INTERRUPTED}\n") == 2, done.stderr
    assert len(rollbacks(out)) == 1
    assert max(steps_and_rates(out)) == COLLAPSE_STEP


def test_non_finite_values_roll_back_to_the_newest_checkpoint(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy, steps = Stepper.step, list[int]()

    def overflow_once(self: Stepper, *arguments: Any) -> dict[str, Any]:
        steps.append(len(steps) + 1)
        if steps[-1] == 17:
            with torch.no_grad():
                next(self.model.student.parameters()).fill_(torch.nan)
        return healthy(self, *arguments)

    monkeypatch.setattr(Stepper, "step", overflow_once)
    config = tiny_config()
    run = replace(config.run, on_collapse="rollback", checkpoint_every=5, keep_checkpoints=4)
    # Without distillation nothing but a non-finite value ends the run.
    config = replace(config, run=run, loss=replace(config.loss, distill=0.0))
    assert pretrain(config, prepared, tmp_path).verdict == "healthy"
    (rollback,) = rollbacks(tmp_path)
    assert rollback["verdict"] == "non_finite"
    assert (rollback["step"], rollback["to"]) == (17, 15)


def test_a_run_without_a_checkpoint_before_the_collapse_ends(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(CollapsedError, match="constant"):
        pretrain(collapsing(on_collapse="rollback", checkpoint_every=1000), prepared, tmp_path)
    assert "rollbacks" not in json.loads((tmp_path / "run.json").read_text())


RETURNING = collapsing(on_collapse="rollback", max_rollbacks=1, checkpoint_every=8, keep_checkpoints=50)


@pytest.fixture(scope="module")
def ended(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collapsed run that has ended, with a score, and is to return to the first of three checkpoints."""
    out = tmp_path_factory.mktemp("runs") / "ended"
    run = replace(RETURNING.run, on_collapse="alert", snapshots=(1, 2))  # of steps 7 and 14
    pretrain(replace(RETURNING, run=run), prepared, out)
    (out / "scores").mkdir()
    (out / "scores" / "embedded-video-svm-teacher.json").touch()
    for path in (out / "checkpoints").iterdir():
        if path.stem not in ("step_00000008", "step_00000040", "step_00000070"):
            path.unlink()
    return out


def test_a_collapsed_run_that_has_ended_rolls_back_as_the_runbook_says(
    prepared: Path, ended: Path, tmp_path: Path
) -> None:
    out, aside = tmp_path / "run", tmp_path / "run" / "before_rollback_1"
    shutil.copytree(ended, out)
    assert pretrain(RETURNING, prepared, out).verdict == "constant"  # nothing was trained
    assert "rollbacks" not in json.loads((out / "run.json").read_text())
    (out / "verdict.json").unlink()
    published = {path.name: path.stat().st_mtime_ns for path in (out / "encoders").iterdir()}
    with pytest.raises(CollapsedError, match="constant") as caught:
        pretrain(RETURNING, prepared, out)
    assert caught.value.verdict["step"] == COLLAPSE_STEP
    assert [(rollback["step"], rollback["to"]) for rollback in rollbacks(out)] == [(70, COLLAPSE_ONSET)]
    assert {path.name: path.stat().st_mtime_ns for path in (aside / "encoders").iterdir()} == published
    assert {path.name for path in aside.iterdir()} == {"encoders", "reconstruction.pt", "scores", "snapshots"}
    assert not [path for path in aside.iterdir() if path.name != "snapshots" and (out / path.name).exists()]
    assert [path.name for path in (aside / "snapshots").iterdir()] == ["epoch_2"]
    assert [path.name for path in (out / "snapshots").iterdir()] == ["epoch_1"]


KILLED = """
import itertools, json, os, shutil, sys
from pathlib import Path
from xkd.config import PretrainConfig
from xkd.config.overrides import build
from xkd.train import pretrain

settings, data, ended, runs = sys.argv[1:]
roll_back, left = pretrain._roll_back, [0]

def count(event, arguments):
    if left[0] and event in ("os.rename", "os.remove", "shutil.copyfile"):
        left[0] -= 1
        if not left[0]:
            os._exit(9)

def killed(*given):
    left[0] = number
    roll_back(*given)
    os._exit(0)

pretrain._roll_back = killed
for number in itertools.count(1):
    run = Path(runs, str(number))
    shutil.copytree(ended, run)
    (run / "verdict.json").unlink()
    if not (child := os.fork()):
        sys.addaudithook(count)
        pretrain.pretrain(build(PretrainConfig, json.loads(settings), ""), Path(data), run)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 9:
        break
"""
"""Kills copies of a run, each before another change of a rollback to its files, the last one after it."""


def describe(run: Path) -> dict[str, Any]:
    """Return what a rollback changes in a run."""
    files = [path for path in run.rglob("[!.]*") if path.is_file()]
    info = json.loads((run / "run.json").read_text())
    returned = [(rollback["step"], rollback["to"]) for rollback in info.get("rollbacks", [])]
    names = sorted(str(path.relative_to(run)) for path in files)
    return {
        "files": names,
        "rollbacks": returned,
        "open": "rolling_back" in info,
        "rows": steps_and_rates(run),
    }


class StoppedError(Exception):
    """Raised in place of the first step."""


@pytest.mark.system
def test_a_run_that_is_killed_as_it_rolls_back_finishes_that_when_it_is_resumed(
    prepared: Path, ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [json.dumps(to_dict(RETURNING)), str(prepared), str(ended), str(tmp_path)]
    subprocess.run([sys.executable, "-c", KILLED, *arguments], check=True)

    def stop(*given: Any) -> None:
        raise StoppedError

    monkeypatch.setattr(Stepper, "step", stop)
    killed, resumed = [], []
    for run in sorted(tmp_path.iterdir(), key=lambda path: int(path.name)):
        killed.append(describe(run))
        with pytest.raises(StoppedError):
            pretrain(RETURNING, prepared, run)
        resumed.append(describe(run))
    # Before and after copying rows, recording, moving (four times), deleting (twice), recording.
    assert len({str(each) for each in killed}) == len(killed) == 10
    assert resumed == 10 * resumed[-1:]
    assert resumed[0]["rollbacks"] == [(70, COLLAPSE_ONSET)]
    assert not resumed[0]["open"]
    assert list(resumed[0]["rows"]) == list(range(1, COLLAPSE_ONSET + 1))
    assert "checkpoints/step_00000040.pt" not in resumed[0]["files"]
