"""What a command says as the stage of a DVC pipeline."""

from __future__ import annotations

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
