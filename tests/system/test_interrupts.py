"""Ctrl-C in commands that fill a directory: one line, exit code 130, and a rerun completes the directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.waiting import until
from xkd.errors import UserError
from xkd.io import require_finished

XKD = str(Path(sys.executable).with_name("xkd"))


@pytest.mark.parametrize("command", ["fetch", "prepare"])
def test_an_interrupted_command_ends_with_one_line_and_is_completed_by_another_run(
    command: str, miniature: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["ucf101-mini"] if command == "fetch" else [str(miniature("kinetics400-mini"))]
    words = [XKD, command, *words, "--out", str(out)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until(lambda: next(out.rglob("*.avi" if command == "fetch" else "shards"), None) is not None)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=300)
    *before, last = said.splitlines()
    assert (process.returncode, last) == (
        130,
        f"xkd: interrupted; {out} is unfinished: rerun the command to resume",
    )
    assert not [line for line in before if "Traceback" in line or "Interrupt" in line]
    with pytest.raises(UserError, match="is unfinished"):
        require_finished(out)
    subprocess.run(words, check=True, capture_output=True)
    require_finished(out)
