"""A local pipeline that is stopped: its tasks save, nothing else starts, and nothing is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PIPELINE = """
from kfp import dsl

@dsl.component(base_image="xkd", install_kfp_package=False)
def train(folder: str) -> None:
    import os, pathlib, signal, sys, time
    def stop(*_):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("saving", flush=True)
        time.sleep(2)
        print("saved", flush=True)
        pathlib.Path(folder, "saved").touch()
        sys.exit(75)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    pathlib.Path(folder, "pid").write_text(str(os.getpid()))
    time.sleep(600)

@dsl.component(base_image="xkd", install_kfp_package=False)
def tabulate(folder: str) -> None:
    import pathlib
    pathlib.Path(folder, "tabulated").touch()

@dsl.pipeline(name="two")
def two(folder: str):
    tabulate(folder=folder).after(train(folder=folder)).ignore_upstream_failure()
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> list[str]:
    """Return the command that runs the pipeline."""
    (tmp_path / "two.py").write_text(PIPELINE)
    kfp = str(Path(sys.executable).with_name("kfp"))
    return [kfp, "run", "submit", str(tmp_path / "two.py"), "--local", f"folder={tmp_path}"]


def wait_for(path: Path) -> str:
    end = time.monotonic() + 300
    while not (path.exists() and (path.name != "pid" or path.read_text())):
        assert time.monotonic() < end, f"timed out waiting for {path.name}"
        time.sleep(0.1)
    return path.read_text()


@contextmanager
def running(pipeline: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a pipeline until its first task is ready; end it after a failure too."""
    run = subprocess.Popen(pipeline, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(folder / "pid")
        yield run
    finally:
        run.kill()
        run.communicate()


def is_alive(pid: str) -> bool:
    return Path(f"/proc/{pid}/cmdline").exists()


@pytest.mark.parametrize(
    "number",
    [signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGINT],
    ids=lambda number: number.name,
)
def test_a_stopped_pipeline_ends_after_its_tasks(
    pipeline: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    with running(pipeline, tmp_path) as run:
        run.send_signal(number)
        said, _ = run.communicate(timeout=300)
        assert run.returncode == 128 + number
    assert (tmp_path / "saved").exists()
    assert "saved" in said  # its output is shown to the end
    assert not is_alive((tmp_path / "pid").read_text())
    assert not (tmp_path / "tabulated").exists()


def test_nothing_outlives_a_killed_pipeline(pipeline: list[str], tmp_path: Path) -> None:
    with running(pipeline, tmp_path):
        pass
    wait_for(tmp_path / "saved")
    end = time.monotonic() + 300
    while is_alive((tmp_path / "pid").read_text()):
        assert time.monotonic() < end, "the task is still running"
        time.sleep(0.1)
    assert not (tmp_path / "tabulated").exists()


def test_nohup_still_works(pipeline: list[str], tmp_path: Path) -> None:
    with running(["nohup", *pipeline], tmp_path) as run:
        run.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert run.poll() is None
        run.terminate()
        run.communicate(timeout=300)
        assert run.returncode == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()
