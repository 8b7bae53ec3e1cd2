"""The agent of one host: its restarts, its signals and its termination message."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import handles
from xkd.errors import RunInterruptedError
from xkd.launch.interrupts import signal_children

ROOT = Path(__file__).resolve().parents[2]


def start(what: str, folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "xkd.launch.agent", "--job", "job", "--processes", "1", *options]
    return subprocess.Popen(
        [*command, "tests.system.worker", what, str(folder)],
        cwd=ROOT,
        env=os.environ | {"TORCHELASTIC_ERROR_FILE": str(folder / "termination-log")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def left(folder: Path) -> tuple[str, int, dict[str, Any]]:
    """Return the termination message: the line, the exit code and further facts."""
    entry = json.loads((folder / "termination-log").read_text())["message"]
    extra = {
        name: value for name, value in entry["extraInfo"].items() if name not in ("timestamp", "py_callstack")
    }
    return entry["message"], entry["errorCode"], extra


def starts(folder: Path, rank: int = 0) -> int:
    return len((folder / f"{rank}.starts").read_text().splitlines())


@pytest.mark.parametrize(
    ("what", "code", "times", "message", "extra"),
    [
        ("speak", 0, 1, "finished", {"spoke": "speak"}),
        ("mistake", 2, 1, "optim.lr must be positive", {}),
        (
            "collapse",
            76,
            1,
            "the run ended as one_hot: KD is 0",
            {"verdict": {"verdict": "one_hot", "reason": "KD is 0", "step": 12}},
        ),
        ("crash", 1, 3, "worker 0 failed: RuntimeError: the bug is here", {}),
        ("killed", 137, 3, "worker 0 was terminated by SIGKILL", {}),
    ],
)
def test_only_failures_that_may_pass_are_restarted(
    tmp_path: Path, what: str, code: int, times: int, message: str, extra: dict[str, Any]
) -> None:
    agent = start(what, tmp_path, "--restarts", "2")
    said = agent.communicate(timeout=120)[1]
    assert agent.returncode == code, said
    assert starts(tmp_path) == times
    line, reported, more = left(tmp_path)
    assert (line, reported if reported >= 0 else 128 - reported, more) == (message, code, extra)


def await_file(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"timed out waiting for {path.name}"
        time.sleep(0.1)


def test_workers_are_not_restarted_after_a_signal(tmp_path: Path) -> None:
    agent = start("wait", tmp_path, "--restarts", "2")
    await_file(tmp_path / "0.ready")
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(timeout=30) == 128 + signal.SIGTERM
    assert starts(tmp_path) == 1
    assert left(tmp_path)[:2] == ("worker 0 was terminated by SIGTERM", -signal.SIGTERM)


def test_workers_are_killed_after_the_grace_period(tmp_path: Path) -> None:
    agent = start("stubborn", tmp_path, "--restarts", "2", "--grace", "2")
    await_file(tmp_path / "0.ready")
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(timeout=30) == 128 + signal.SIGKILL
    assert left(tmp_path)[0] == "worker 0 was terminated by SIGKILL"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_signal_during_the_imports_ends_the_agent(tmp_path: Path) -> None:
    """The first process of a container ignores signals that it does not handle."""
    agent = start("wait", tmp_path)
    process = Path(f"/proc/{agent.pid}")
    while not handles(agent.pid, signal.SIGTERM):
        assert agent.poll() is None
        imports = "/pydantic" in (process / "maps").read_text()
        assert handles(agent.pid, signal.SIGTERM) or not imports, "not handled before the imports"
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(timeout=60) == 128 + signal.SIGTERM


def test_signals_are_passed_on_while_threads_end() -> None:
    end = time.monotonic() + 1
    while time.monotonic() < end:
        threads = [threading.Thread(target=time.sleep, args=(0.001,)) for _ in range(50)]
        for thread in threads:
            thread.start()
        assert signal_children(signal.SIGTERM, command="nobody") == 0
        for thread in threads:
            thread.join()


def test_an_interrupted_host_leaves_while_the_others_rejoin(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folders, hosts = [tmp_path / "0", tmp_path / "1"], []
    for node, folder in enumerate(folders):
        folder.mkdir()
        place = ["--rendezvous", f"localhost:{port}", "--address", f"127.0.0.{node + 1}"]
        options = ["--nodes", "2:2", "--node", str(node), "--restarts", "5", *place]
        hosts.append(start("save", folder, *options))
    try:
        for number, folder in enumerate(folders):
            await_file(folder / f"{number}.ready")
        hosts[1].send_signal(signal.SIGTERM)
        os.kill(int((folders[0] / "0.pid").read_text()), signal.SIGKILL)
        assert hosts[1].wait(timeout=30) == RunInterruptedError.exit_code
        assert left(folders[1])[:2] == ("stopped and saved", RunInterruptedError.exit_code)
        assert starts(folders[1], 1) == 1
    finally:
        for host in hosts:
            host.kill()
            host.communicate()


def test_a_job_that_does_not_get_any_further_is_given_up_with_the_last_reason(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for count in (1, 2):
        assert start("crash", tmp_path, "--run", str(run), "--attempts", "2").wait(60) == 1
        assert starts(tmp_path) == count
    reason = left(tmp_path)[0]
    assert start("crash", tmp_path, "--run", str(run), "--attempts", "2").wait(60) == 70
    assert left(tmp_path) == (f"no new checkpoint in 2 attempts; the last failure: {reason}", 70, {})
    assert starts(tmp_path) == 2
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "step_00000010.pt").touch()
    assert start("crash", tmp_path, "--run", str(run), "--attempts", "2").wait(60) == 1
