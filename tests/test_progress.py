"""Progress on a terminal, in a log, and on the other ranks of a run."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from xkd import progress as module
from xkd.progress import progress

WORK = """
from xkd.progress import progress

with progress("count", 10, done=4, show={show}) as bar:
    for number in range(6):
        bar.note(f"loss {{number}}")
        bar.advance()
"""
NESTED = """
from xkd.progress import progress

with progress("runs", 2) as runs:
    for _ in range(2):
        with progress("features", 3) as bar:
            for _ in range(3):
                bar.advance()
        runs.advance()
"""
TIME = r"0:00:\d\d"
"""However slow the machine is."""


def on_terminal(work: str) -> str:
    """The output of work on a pseudo-terminal."""
    screen, terminal = pty.openpty()
    environment = os.environ | {"COLUMNS": "120", "TERM": "xterm"}
    command = [sys.executable, "-c", work]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        try:
            while part := os.read(screen, 65536):
                shown += part
        except OSError:  # Linux ends a pseudo-terminal with an error
            pass
        assert process.wait() == 0
    os.close(screen)
    return shown.decode()


def test_a_terminal_shows_a_bar_with_the_time_left_the_count_and_the_note() -> None:
    shown = on_terminal(WORK.format(show=True))
    assert "━" in shown
    assert re.search(rf"count .*100%.* .*{TIME}.* .*10/10.* .*loss 5", shown)


def test_work_within_other_work_has_a_line_below_it_until_it_ends() -> None:
    *_, last = re.split(r"\x1b\[1A", on_terminal(NESTED))  # where the cursor goes up to draw again
    assert re.search(r"runs .*2/2", last)
    assert "features" not in last


def test_a_log_has_a_line_every_interval_with_resumed_counts_times_and_note(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", (0.0, 0.0))
    with progress("count", 10, done=4) as bar:
        bar.advance()
        bar.note("loss 0.5")
        bar.advance(2)
    first, second = capfd.readouterr().err.splitlines()
    assert re.fullmatch(rf"count: 5/10, {TIME} elapsed, {TIME} left", first)
    assert re.fullmatch(rf"count: 7/10, {TIME} elapsed, {TIME} left, loss 0\.5", second)


def test_after_a_minute_lines_are_rarer(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("xkd.progress.time.monotonic", lambda: now)
    with progress("count", 1000) as bar:
        for second in range(1, 200):
            now = float(second)
            bar.advance()
    counts = [int(line.split("/")[0].split()[1]) for line in capfd.readouterr().err.splitlines()]
    assert counts == [15, 30, 45, 105, 165]


def test_short_work_logs_only_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        subprocess.run([sys.executable, "-c", WORK.format(show=True)], stderr=file, check=True)
    assert re.fullmatch(rf"count: 10/10, {TIME} elapsed, {TIME} left, loss 5\n", log.read_text())


def test_the_time_left_follows_from_the_items_of_this_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", (0.0, 0.0))
    with progress("count", 1000, done=500) as bar:
        bar._bars.tasks[0].start_time = bar._bars.get_time() - 100
        bar.advance(50)
    assert re.search(r"0:01:4\d elapsed, 0:1[56]:\d\d left", capfd.readouterr().err)


def test_other_ranks_show_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("count", 1, show=False) as bar:
        bar.note("loss 1")
        bar.advance()
    assert capfd.readouterr() == ("", "")
    assert on_terminal(WORK.format(show=False)) == ""
