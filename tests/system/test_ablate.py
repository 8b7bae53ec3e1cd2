"""`xkd ablate` as a program: it is stopped, given again, and makes the table."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import until
from xkd.rundir import RunDir

XKD = str(Path(sys.executable).with_name("xkd"))
TINY = (
    *("optim.epochs=4", "optim.batch_size=8", "optim.warmup_epochs=1", "encoder.depth=1", "run.workers=0"),
    *("run.log_every=1", "video.patch=[8,16,16]", "audio.patch=[16,56]", "video.local_view=[16,16,16]"),
)


@pytest.fixture
def command(prepared: Path, tmp_path: Path) -> list[str]:
    settings = [word for setting in TINY for word in ("--set", setting)]
    return [XKD, "ablate", "S13", "--data", str(prepared), "--out", str(tmp_path / "out"), *settings]


def test_a_stopped_table_is_completed_without_repeating_anything(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second = (RunDir(out / "runs" / f"{name}-seed0") for name in ("ablation", "align_across"))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: first.ended)
        until(second.metrics)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert errors.splitlines()[-1].startswith("xkd: align_across-seed0: Interrupted: saved at step ")
    assert "ablate: " in errors
    done = [first.verdict_file, first.metrics_file, *first.scores.glob("*.json")]
    assert len(done) == 6
    times = [file.stat().st_mtime_ns for file in done]
    began = second.info()["id"]

    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert times == [file.stat().st_mtime_ns for file in done]
    assert second.info()["id"] == began
    assert "## Table S13: Pairs that are aligned" in finished.stdout
    assert finished.stdout.splitlines()[-1] == f"results: {out / 'ablations.html'}"
    rows = (out / "ablations.csv").read_text().splitlines()[1:]
    assert len(rows) == 8
    assert all(",0:" in row for row in rows)  # a score of seed 0 in every cell

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.stdout == finished.stdout
    assert times == [file.stat().st_mtime_ns for file in done]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (["--scale", "paper"], "has runs of scale small, not paper; use another --out"),
        (["--set", "optim.lr=0.5"], "has runs of settings ['audio.patch="),
    ],
)
def test_a_folder_has_runs_of_one_kind(
    command: list[str], tmp_path: Path, changed: list[str], line: str, prepared: Path
) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until((out / "ablations.json").exists)
        process.terminate()
    found = subprocess.run([*command, *changed], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1
    assert line in found.stderr
