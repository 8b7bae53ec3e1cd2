"""``xkd watch`` as a person sees it."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import tiny_config
from xkd.config.overrides import to_yaml
from xkd.io import write_text
from xkd.monitor.tui import LEVELS, sparkline

XKD = str(Path(sys.executable).with_name("xkd"))


def show(run: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [XKD, "watch", str(run), "--once"],
        capture_output=True,
        text=True,
        check=False,
    )


def row(step: int, kld: float) -> dict[str, float]:
    values = {"step": step, "epoch": step / 7, "time": time.time() - 3, "loss": 9.0, "eta_seconds": 75.0}
    values |= {"samples_per_second": 50.0, "step_seconds": 0.2, "seconds_data_wait": 0.05}
    for d in ("video_to_audio", "audio_to_video"):
        values |= {
            f"kd_{d}": kld + 0.01,
            f"kld_{d}": kld,
            f"teacher_entropy_{d}": 0.01,
            f"information_{d}": kld,
        }
    return values


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(to_yaml(tiny_config()))
    (tmp_path / "run.json").write_text(json.dumps({"steps": 28, "dataset": "embedded"}))
    return tmp_path


def test_a_running_collapsing_run(run: Path) -> None:
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps(row(step, 2.0 if step < 10 else 0.001)) + "\n" for step in range(1, 25))
    )
    said = show(run)
    assert said.returncode == 0, said.stderr
    assert "step 24 of 28" in said.stdout
    assert "0:01:15 left" in said.stdout
    assert "waiting for data 25%" in said.stdout
    assert "one_hot: KD video_to_audio is 0.011" in said.stdout.replace("\n", " ")
    (line,) = [line for line in said.stdout.splitlines() if line.startswith("video → audio")]
    assert line.split()[3:5] == ["KD", "0.011"]
    assert line.rstrip().endswith(LEVELS[0])
    assert LEVELS[-1] in line


def test_a_finished_run_keeps_its_verdict(run: Path) -> None:
    (run / "metrics.jsonl").write_text(json.dumps(row(28, 0.5)) + "\n")
    verdict = {"verdict": "constant", "reason": "as it was judged", "step": 28}
    (run / "verdict.json").write_text(json.dumps(verdict))
    assert "constant: as it was judged" in show(run).stdout


def test_before_the_first_numbers_and_without_a_run(run: Path, tmp_path: Path) -> None:
    assert "no numbers yet" in show(run).stdout
    said = show(tmp_path / "nowhere")
    assert said.returncode == 2
    assert said.stderr.strip() == (
        f"xkd: {tmp_path}/nowhere holds no run (no config.yaml); give the directory of xkd pretrain --out"
    )


def test_live_it_keeps_up_until_the_run_ends(run: Path) -> None:
    """On a terminal, which a pseudo-terminal is."""
    path = run / "metrics.jsonl"
    path.write_text(json.dumps(row(7, 2.0)) + "\n")
    screen, terminal = pty.openpty()
    with subprocess.Popen(
        [XKD, "watch", str(run)], stdout=terminal, stderr=terminal, env=os.environ | {"COLUMNS": "120"}
    ) as watching:
        os.close(terminal)
        shown = read_until(screen, "step 7 of 28")
        with path.open("a") as file:
            file.write(json.dumps(row(14, 2.0)) + "\n")
        shown += read_until(screen, "step 14 of 28")
        assert watching.poll() is None
        verdict = {"verdict": "healthy", "reason": "as it ended", "step": 28}
        write_text(run / "verdict.json", json.dumps(verdict))  # at once, as runs do
        shown += read_until(screen, "as it ended")
        assert watching.wait(timeout=20) == 0
    os.close(screen)
    assert "Traceback" not in shown


def read_until(screen: int, text: str) -> str:
    shown, end = "", time.monotonic() + 30
    while text not in shown:
        assert time.monotonic() < end, shown
        if select.select([screen], [], [], 0.2)[0]:
            shown += os.read(screen, 65536).decode(errors="replace")
    return shown


def test_sparkline() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([0, 0, 0], 10) == LEVELS[0] * 3
    assert sparkline([0, 7, float("nan"), 7], 10) == f"{LEVELS[0]}{LEVELS[-1]}·{LEVELS[-1]}"
    assert len(sparkline(list(range(1000)), 40)) == 40
    spike = [1.0] * 40 + [100.0] + [1.0] * 40
    assert sparkline(spike, 100)[0] == LEVELS[-1]  # one spike does not flatten the rest
