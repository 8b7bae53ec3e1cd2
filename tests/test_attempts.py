"""The budget of restarts: what a new checkpoint and a new submission give back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.tiny import tiny_config
from xkd.launch.attempts import Attempts
from xkd.rundir import RunDir


def checkpoint(run: Path, step: int) -> None:
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / f"step_{step:08d}.pt").touch()


def test_starts_are_counted_until_there_is_a_new_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert [Attempts.begin(run, "a").count for _ in range(3)] == [1, 2, 3]
    checkpoint(run, 10)
    assert [Attempts.begin(run, "a").count for _ in range(2)] == [1, 2]
    checkpoint(run, 20)
    assert Attempts.begin(run, "a").count == 1


def test_another_submission_starts_anew(tmp_path: Path) -> None:
    assert [Attempts.begin(tmp_path, job).count for job in ("a", "a", "b", "b")] == [1, 2, 1, 2]


def test_the_last_reason_is_kept(tmp_path: Path) -> None:
    replace(Attempts.begin(tmp_path, "a"), reason="NCCL error").save(tmp_path)
    Attempts.begin(tmp_path, "a")
    assert Attempts.begin(tmp_path, "a") == Attempts("a", "", 3, "NCCL error")


def test_a_damaged_file_ends_no_run(tmp_path: Path) -> None:
    for damage in ("{", '{"other": 1}', "[]"):
        RunDir(tmp_path).attempts_file.write_text(damage)
        assert Attempts.begin(tmp_path, "a").count == 1


def test_a_directory_with_only_a_count_can_be_claimed(tmp_path: Path) -> None:
    Attempts.begin(tmp_path, "a")
    assert RunDir(tmp_path).claim(tiny_config()) is False
