"""Runs that collapse, and the reaction to it."""

from __future__ import annotations

import itertools
import json
import os
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


def test_a_collapsed_run_that_has_ended_rolls_back_as_the_runbook_says(
    prepared: Path, tmp_path: Path
) -> None:
    kept = {"checkpoint_every": 2, "keep_checkpoints": 50}
    assert pretrain(collapsing(on_collapse="alert", **kept), prepared, tmp_path).verdict == "constant"
    rollback = collapsing(on_collapse="rollback", **kept)
    assert pretrain(rollback, prepared, tmp_path).verdict == "constant"  # nothing was trained
    assert "rollbacks" not in json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "verdict.json").unlink()
    pretrain(rollback, prepared, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["rollbacks"][0]["to"] == COLLAPSE_ONSET
