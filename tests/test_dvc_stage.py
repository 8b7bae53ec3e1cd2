"""What a command says as the stage of a DVC pipeline."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xkd.launch.dvc import explain_resume

SAVED = "Interrupted: saved at step 3 of 9; rerun to resume"


@pytest.mark.parametrize("stage", ["pretrain", "prepare@esc50", "fetch@esc50"])
def test_an_interrupted_stage_says_that_dvc_starts_over(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    monkeypatch.setenv("DVC_STAGE", stage)
    addition = f"run the stage's command itself, then dvc commit --force {stage}"
    assert explain_resume(SAVED) == f"{SAVED} (dvc repro would start over: {addition})"
    assert explain_resume("optim.lr must be positive") == "optim.lr must be positive"


def test_what_dvc_does_not_remove_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert explain_resume(SAVED) == SAVED
    monkeypatch.setenv("DVC_STAGE", "evaluate@esc50-audio-finetune-teacher")
    assert explain_resume(SAVED) == SAVED


@pytest.mark.parametrize("root", ["/data/{y}", "/data/a}b"])
def test_a_repository_where_dvc_cannot_store_outputs_is_refused(root: str) -> None:
    command = [str(Path(sys.executable).with_name("xkd")), "presets"]
    stage = os.environ | {"DVC_STAGE": "pretrain", "DVC_ROOT": root}
    done = subprocess.run(command, env=stage, capture_output=True, text=True, check=False)
    problem = f"xkd: {root} has a brace in its path, with which DVC fails to store outputs; rename it\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", problem)
