"""`xkd suggest` measures on this machine, and its command trains."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from xkd.rundir import RunDir

XKD = [sys.executable, "-c", "from xkd.cli import main; main()"]


def test_the_suggested_command_trains(prepared: Path, tmp_path: Path) -> None:
    ask = [*XKD, "suggest", "--data", str(prepared), "--hours", "0.003"]
    done = subprocess.run(ask, cwd=tmp_path, capture_output=True, text=True, check=True)
    facts, _, command = done.stdout.partition("\n\n")
    names = [line.split()[0] for line in facts.splitlines()]
    assert names == ["data", "device", "preset", "batch", "epochs", "time", "memory", "not", "not", "not"]
    words = shlex.split(command)
    assert words[:4] == ["xkd", "pretrain", "--preset", "embedded"]
    subprocess.run([*XKD, *words[1:]], cwd=tmp_path, check=True)
    run = RunDir(tmp_path / "runs" / "prepared")
    assert run.ended
    assert run.config().optim.batch_size == 4  # of 40 clips, about 30 are for training
