"""``xkd watch`` as its user sees it."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.tiny import tiny_config
from xkd.config.overrides import to_yaml
from xkd.io import write_text
from xkd.monitor.tui import LEVELS, sparkline

XKD = str(Path(sys.executable).with_name("xkd"))


def watch_once(run: Path) -> subprocess.CompletedProcess[str]:
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


def test_a_collapsing_run_shows_its_state_verdict_and_curves(run: Path) -> None:
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps(row(step, 2.0 if step < 10 else 0.001)) + "\n" for step in range(1, 25))
    )
    shown = watch_once(run)
    assert shown.returncode == 0, shown.stderr
    assert "step 24 of 28" in shown.stdout
    assert "0:01:15 left" in shown.stdout
    assert "waiting for data 25%" in shown.stdout
    assert "one_hot: in the last 10 logged rows" in shown.stdout
    assert "median KD video_to_audio is 0.011" in " ".join(shown.stdout.split())
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("video → audio")]
    assert line.split()[3:5] == ["KD", "0.011"]
    assert line.rstrip().endswith(LEVELS[0])
    assert LEVELS[-1] in line


def test_a_finished_run_shows_its_final_verdict(run: Path) -> None:
    (run / "metrics.jsonl").write_text(json.dumps(row(28, 0.5)) + "\n")
    verdict = {"verdict": "constant", "reason": "the final one", "step": 28}
    (run / "verdict.json").write_text(json.dumps(verdict))
    assert "constant: the final one" in watch_once(run).stdout


def test_a_run_without_metrics_and_a_directory_without_a_run_are_reported(run: Path, tmp_path: Path) -> None:
    assert "no metrics yet" in watch_once(run).stdout
    shown = watch_once(tmp_path / "nowhere")
    assert shown.returncode == 2
    assert shown.stderr.strip() == (
        f"xkd: no run in {tmp_path}/nowhere: it has no config.yaml; give a directory that xkd pretrain wrote"
    )


def test_the_live_view_follows_the_run_until_it_ends(run: Path) -> None:
    """On a pseudo-terminal."""
    path = run / "metrics.jsonl"
    path.write_text(json.dumps(row(7, 2.0)) + "\n")
    screen, terminal = pty.openpty()
    command, environment = [XKD, "watch", str(run)], os.environ | {"COLUMNS": "120", "TERM": "xterm"}
    with (
        subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as watching,
        ExitStack() as cleanup,
    ):
        cleanup.callback(watching.kill)  # or a failure below would wait for it forever
        os.close(terminal)
        shown = read_until(screen, "step 7 of 28")
        with path.open("a") as file:
            file.write(json.dumps(row(14, 2.0)) + "\n")
        shown += read_until(screen, "step 14 of 28")
        assert watching.poll() is None
        verdict = {"verdict": "healthy", "reason": "as it ended", "step": 28}
        write_text(run / "verdict.json", json.dumps(verdict))  # atomically, as runs do
        shown += read_until(screen, "as it ended")
        assert watching.wait(timeout=60) == 0
    os.close(screen)
    assert "Traceback" not in shown


def read_until(screen: int, text: str) -> str:
    shown, end = "", time.monotonic() + 60
    while text not in shown:
        assert time.monotonic() < end, shown
        if select.select([screen], [], [], 0.2)[0]:
            shown += os.read(screen, 65536).decode(errors="replace")
    return shown


def test_a_sparkline_is_scaled_thinned_and_robust_to_spikes() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([0, 0, 0], 10) == LEVELS[0] * 3
    assert sparkline([0, 7, float("nan"), 7], 10) == f"{LEVELS[0]}{LEVELS[-1]}·{LEVELS[-1]}"
    assert len(sparkline(list(range(1000)), 40)) == 40
    spike = [1.0] * 40 + [100.0] + [1.0] * 40
    assert sparkline(spike, 100)[0] == LEVELS[-1]  # one spike does not flatten the curve


def test_a_loss_far_above_zero_shows_its_shape() -> None:
    falling = [5.0 - 0.01 * step for step in range(8)]
    assert sparkline(falling, 10, from_zero=False) == "██▇▆▅▃▂▁"
    assert set(sparkline(falling, 10)) == {LEVELS[-1]}
    assert sparkline([3.0, 3.0], 10, from_zero=False) == LEVELS[0] * 2
