"""Runs that do collapse, and what is done about it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import collapsing_config, tiny_config
from xkd.config import PretrainConfig
from xkd.config.overrides import to_yaml
from xkd.errors import CollapsedError, UserError
from xkd.launch.launcher import launch
from xkd.rundir import Row, read_rows
from xkd.train.pretrain import pretrain
from xkd.train.step import Stepper


def acting(**run: Any) -> PretrainConfig:
    config = collapsing_config()
    return replace(config, run=replace(config.run, **run))


def rows(run: Path, name: str = "metrics") -> list[Row]:
    return read_rows(run / f"{name}.jsonl")


def test_by_default_a_collapsed_run_goes_on_to_its_end(prepared: Path, tmp_path: Path) -> None:
    verdict = pretrain(collapsing_config(), prepared, tmp_path)
    assert verdict.verdict == "one_hot"
    assert verdict.step == 70
    assert (tmp_path / "encoders" / "teacher_video.safetensors").is_file()


def test_stop_ends_the_run_and_a_second_start_says_the_same(prepared: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "run", tmp_path / "config.yaml"
    settings.write_text(to_yaml(acting(on_collapse="stop")))
    xkd = str(Path(sys.executable).with_name("xkd"))
    for _ in range(2):
        command = [xkd, "pretrain", "--data", str(prepared), "--out", str(out), "--config", str(settings)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == CollapsedError.exit_code == 76
        assert "xkd: the run ended as one_hot: KD" in done.stderr.splitlines()[-1]
    ended = rows(out)[-1]["step"]
    assert 10 < ended < 70
    assert json.loads((out / "verdict.json").read_text())["step"] == ended
    assert not (out / "encoders").exists()


def test_processes_stop_together(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(CollapsedError, match="one_hot") as caught:
        launch(acting(on_collapse="stop"), prepared, tmp_path / "run", processes=2)
    assert caught.value.verdict["step"] < 70


def test_rollback_goes_back_with_half_the_learning_rate_as_often_as_it_may(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CollapsedError, match="one_hot"):
        pretrain(acting(on_collapse="rollback", checkpoint_every=2, keep_checkpoints=50), prepared, tmp_path)
    facts = json.loads((tmp_path / "run.json").read_text())
    assert [rollback["verdict"] for rollback in facts["rollbacks"]] == ["one_hot", "one_hot"]
    config = collapsing_config()
    for number, rollback in enumerate(facts["rollbacks"], 1):
        assert rollback["to"] <= rollback["step"] - 9, "not before the window that shows the collapse"
        left = rows(tmp_path, f"metrics_before_rollback_{number}")
        assert left[-1]["step"] == rollback["step"]
        assert left[-1]["lr"] <= config.optim.lr * 0.5 ** (number - 1)
    steps = [row["step"] for row in rows(tmp_path)]
    assert steps == list(range(1, steps[-1] + 1))
    first, last = facts["rollbacks"][0]["to"], facts["rollbacks"][1]["to"]
    halved = {row["step"]: row["lr"] for row in rows(tmp_path, "metrics_before_rollback_2")}
    lr = {row["step"]: row["lr"] for row in rows(tmp_path)}
    if first < last:
        assert lr[last] == halved[last]
    assert lr[last + 1] == pytest.approx(halved[last + 1] * (0.5 if last + 1 > first else 0.25))
    said = capsys.readouterr().err
    assert f"back to step {first} with the learning rate times 0.5 (rollback 1 of 2)" in said


def test_numbers_that_are_not_finite_go_back_to_the_newest_state(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = Stepper.step

    def overflow_once(self: Stepper, number: int, *arguments: Any) -> dict[str, Any]:
        if number == 17 and not json.loads((tmp_path / "run.json").read_text()).get("rollbacks"):
            with torch.no_grad():
                next(self.model.student.parameters()).fill_(torch.nan)
        return healthy(self, number, *arguments)

    monkeypatch.setattr(Stepper, "step", overflow_once)
    config = tiny_config()
    run = replace(config.run, on_collapse="rollback", checkpoint_every=5, keep_checkpoints=4)
    assert pretrain(replace(config, run=run), prepared, tmp_path).healthy
    (rollback,) = json.loads((tmp_path / "run.json").read_text())["rollbacks"]
    assert rollback["verdict"] == "non_finite"
    assert (rollback["step"], rollback["to"]) == (17, 15)


def test_a_rollback_that_would_find_no_checkpoint_is_refused(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.keep_checkpoints=2 is sometimes but 5 steps old; keep more"):
        pretrain(acting(on_collapse="rollback", checkpoint_every=5), prepared, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_checkpoint_to_go_back_to_the_run_ends(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(CollapsedError, match="one_hot"):
        pretrain(acting(on_collapse="rollback", checkpoint_every=1000), prepared, tmp_path)
    assert "rollbacks" not in json.loads((tmp_path / "run.json").read_text())
