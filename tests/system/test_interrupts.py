"""Signals to commands: one line, 128 plus the signal's number, and a rerun completes the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.waiting import handles, until
from xkd.config.overrides import to_yaml
from xkd.config.presets import get_preset
from xkd.errors import UserError
from xkd.output import require_finished

XKD = str(Path(sys.executable).with_name("xkd"))
SIGNALS = [(signal.SIGINT, ""), (signal.SIGTERM, " by SIGTERM"), (signal.SIGHUP, " by SIGHUP")]


def interrupt(
    words: Iterable[object], number: signal.Signals, ready: Callable[[int], object]
) -> tuple[int, list[str]]:
    """Run a command until it is ready, and signal its group as a terminal does; return its code and lines."""
    command = [XKD, *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until(lambda: ready(process.pid))
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=300)
    return process.returncode, said.splitlines()


@pytest.mark.parametrize(("number", "by"), SIGNALS)
@pytest.mark.parametrize("command", ["fetch", "prepare"])
def test_an_interrupted_command_ends_with_one_line_and_is_completed_by_another_run(
    command: str, number: signal.Signals, by: str, miniature: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["ucf101-mini"] if command == "fetch" else [str(miniature("kinetics400-mini"))]
    words = [command, *words, "--out", str(out)]
    file = "*.avi" if command == "fetch" else "shards"
    code, (*before, last) = interrupt(words, number, lambda _: next(out.rglob(file), None) is not None)
    expected = f"xkd: interrupted{by}; {out} is unfinished: rerun the command to resume"
    assert (code, last) == (128 + number, expected)
    assert not [line for line in before if "Traceback" in line or "Interrupt" in line]
    with pytest.raises(UserError, match="is unfinished"):
        require_finished(out)
    subprocess.run([XKD, *words], check=True, capture_output=True)
    require_finished(out)


@pytest.mark.parametrize(("number", "by"), SIGNALS)
@pytest.mark.parametrize("command", ["embed", "evaluate", "pretrain"])
def test_a_command_that_has_hardly_begun_ends_with_one_line(
    command: str, number: signal.Signals, by: str, prepared: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(get_preset("toy")))
    words = {
        "embed": ["--run", run, "--out", tmp_path / "table.parquet", prepared.with_name("source")],
        "evaluate": ["--run", run, "--data", prepared, "--modality", "video", "--protocol", "svm",
                     "--encoder", "random"],
        "pretrain": ["--preset", "toy", "--data", prepared, "--out", run],
    }  # fmt: skip
    ended = interrupt([command, *words[command]], number, lambda pid: handles(pid, signal.SIGQUIT))
    assert ended == (128 + number, [f"xkd: interrupted{by}; rerun the command to resume"])
