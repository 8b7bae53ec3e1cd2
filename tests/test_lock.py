"""The lock of a directory, between real processes, and as other hosts leave it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from xkd.errors import UserError
from xkd.lock import DirectoryLock, locked_directory

HOLD = """
import multiprocessing, sys, time
from pathlib import Path
from xkd.lock import locked_directory

def wait():
    print("locked", flush=True)
    time.sleep(600)

with locked_directory(Path(sys.argv[1])):
    if sys.argv[2:]:
        multiprocessing.get_context("fork").Process(target=wait).start()
        time.sleep(600)
    wait()
"""
ELSEWHERE = {"host": "node7", "pid": 4242, "since": "2026-01-02T03:04:05+00:00", "boot": "b", "token": "t"}


@contextmanager
def holder(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds the lock; its children end with it at last."""
    command = [sys.executable, "-c", HOLD, str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.communicate()


def elsewhere(folder: Path) -> Path:
    """Leave the file of a process on another host."""
    file = folder / ".lock"
    file.write_text(json.dumps(ELSEWHERE))
    return file


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    with holder(tmp_path) as first, pytest.raises(UserError) as caught:
        DirectoryLock(tmp_path).try_acquire()
    assert f"{tmp_path} is in use by process {first.pid} on {os.uname().nodename} since 2" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [(), ("fork",)], ids=["alone", "with a child that lives on"])
def test_a_killed_process_does_not_block_its_host(tmp_path: Path, options: tuple[str, ...]) -> None:
    with holder(tmp_path, *options) as first:
        first.kill()
        first.wait()
        lock = DirectoryLock(tmp_path)
        assert lock.try_acquire()
        lock.release()


def test_nothing_is_left_when_the_lock_is_released(tmp_path: Path) -> None:
    with locked_directory(tmp_path / "new") as lock:
        lock.check()
        assert [path.name for path in (tmp_path / "new").iterdir()] == [".lock"]
    assert not (tmp_path / "new").exists()
    with locked_directory(tmp_path):
        (tmp_path / "content").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["content"]


def test_a_process_on_another_host_that_shows_a_sign_of_life_has_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file servers do not pass locks on to other hosts."""
    monkeypatch.setattr("xkd.lock.STALE_SECONDS", 1e9)
    file, lock = elsewhere(tmp_path), DirectoryLock(tmp_path)
    assert not lock.try_acquire()
    assert not lock.try_acquire()
    os.utime(file, (1.0, 1.0))  # its clock may be wrong
    line = r"in use by process 4242 on node7 since 2026-01-02T03:04:05\+00:00; wait until it ends"
    with pytest.raises(UserError, match=line):
        lock.try_acquire()


@pytest.mark.parametrize("locked", [False, True], ids=["free", "locked by a lost host"])
def test_a_process_on_another_host_without_a_sign_of_life_loses_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], locked: bool
) -> None:
    monkeypatch.setattr("xkd.lock.STALE_SECONDS", 0.0)
    with elsewhere(tmp_path).open("a") as file:
        if locked:  # a file server keeps the lock of a host that is lost
            flock(file, LOCK_EX)
        with locked_directory(tmp_path) as lock:
            lock.check()
            with pytest.raises(UserError, match=f"in use by process {os.getpid()} on "):
                DirectoryLock(tmp_path).try_acquire()
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}/*"))
    waiting, going_on = capsys.readouterr().err.splitlines()
    assert "in use by process 4242 on node7 since 2026-01-02T03:04:05+00:00; waiting" in waiting
    assert going_on == "xkd: no sign of life from process 4242 on node7; continuing"


def test_a_process_that_lost_the_directory_is_told(tmp_path: Path) -> None:
    with locked_directory(tmp_path) as lock:
        (tmp_path / ".lock").unlink()
        with pytest.raises(UserError, match=f"{tmp_path} was deleted while it was in use"):
            lock.check()
        elsewhere(tmp_path)
        with pytest.raises(UserError, match=r"process 4242 on node7 since .*, which took over from this one"):
            lock.check()
    assert (tmp_path / ".lock").exists()
