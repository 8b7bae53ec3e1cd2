from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from xkd.data.shards.parts import Part
from xkd.errors import UserError

SMALL_SHARDS = """
import sys
from xkd.data.shards import prepare as module

module._SHARD_CLIPS = 4
sys.argv = ["xkd", *sys.argv[1:]]
from xkd.cli import main

main()
"""
"""The command with shards of four clips, as if a small dataset were a large one."""


def start(source: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    settings = ["--set", "short_side=32", "--set", "max_fps=4", "--set", "workers=1"]
    command = [sys.executable, "-c", SMALL_SHARDS, "prepare", str(source), "--out", str(out), *settings]
    return subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    said = process.communicate()[1]
    assert process.returncode == 0, said
    return said


def hashes(out: Path) -> dict[str, str]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def whole(miniature: object, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    assert callable(miniature)
    source, out = miniature("kinetics400-mini"), tmp_path_factory.mktemp("whole") / "out"
    finish(start(source, out))
    return source, out


@pytest.mark.system
@pytest.mark.parametrize("order", [("1/3", "2/3", "3/3"), ("3/3", "1/3", "2/3")])
def test_parts_in_any_order_give_the_files_of_one_process(
    whole: tuple[Path, Path], tmp_path: Path, order: Sequence[str]
) -> None:
    source, expected = whole
    *first, last = order
    for part in first:
        said = finish(start(source, tmp_path / "out", "--part", part))
        assert f"part {part.replace('/', ' of ')} is finished" in said
        assert not (tmp_path / "out" / "dataset.json").exists()
    assert "45 clips (train 30, val 15)" in finish(start(source, tmp_path / "out", "--part", last))
    assert hashes(tmp_path / "out") == hashes(expected)
    assert "is complete, nothing to do" in finish(start(source, tmp_path / "out", "--part", last))


@pytest.mark.system
def test_parts_at_once_one_killed_and_given_again_give_the_files_of_one_process(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    """The same part is also given twice at once: one process waits for the other."""
    (source, expected), out = whole, tmp_path / "out"
    killed = start(source, out, "--part", "2/3")
    while not list(out.glob(".unfinished/*.json")) or not list(out.glob("shards/*.tar")):
        time.sleep(0.02)
        assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    said = [
        finish(process)
        for process in [start(source, out, "--part", part) for part in ("1/3", "2/3", "2/3", "3/3")]
    ]
    assert any("45 clips (train 30, val 15)" in each for each in said), said
    assert hashes(out) == hashes(expected)


@pytest.mark.system
def test_other_parts_and_a_run_without_parts_complete_what_parts_began(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    (source, expected), out = whole, tmp_path / "out"
    finish(start(source, out, "--part", "1/2"))
    finish(start(source, out, "--part", "20/20"))
    said = finish(start(source, out))
    assert "45 clips (train 30, val 15)" in said
    assert hashes(out) == hashes(expected)


def test_shards_of_parts_are_all_shards_once() -> None:
    for total in range(40):
        for count in range(1, 9):
            numbers = [number for k in range(1, count + 1) for number in Part(k, count).of(total)]
            assert numbers == list(range(total))


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "-1/3", "1/0", "a/b", "1/2/3", "1.5/3"])
def test_a_wrong_part_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="part must be a number and how many there are, such as 3/16"):
        Part.parse(text)
    assert Part.parse("3/16") == Part(3, 16)
