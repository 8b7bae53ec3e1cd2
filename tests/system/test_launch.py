"""The local launcher, with real torchrun agents of tests/system/worker.py."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.tiny import tiny_config
from xkd.config.overrides import to_yaml
from xkd.config.presets import get_preset
from xkd.errors import TrainingError, UserError
from xkd.launch.launcher import launch
from xkd.launch.local import run_locally
from xkd.rundir import read_rows

LAUNCHER = (
    "import sys; from xkd.launch.local import run_locally; "
    "run_locally(['tests.system.worker', *sys.argv[1:3]], int(sys.argv[3]))"
)


@pytest.fixture(autouse=True)
def _from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def run(what: str, folder: Path, processes: int = 1) -> None:
    run_locally(["tests.system.worker", what, str(folder)], processes)


def start(what: str, folder: Path, processes: int) -> subprocess.Popen[str]:
    """Start a launcher in another process and wait until all its workers run."""
    command = [sys.executable, "-c", LAUNCHER, what, str(folder), str(processes)]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: all((folder / f"{rank}.ready").exists() for rank in range(processes)), launcher)
    return launcher


def wait_for(condition: object, launcher: subprocess.Popen[str] | None = None, seconds: float = 300) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert launcher is None or launcher.poll() is None, launcher.communicate()[0]
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)


def running(folder: Path) -> list[int]:
    """Return the workers and their agents that still run."""
    texts = [path.read_text() for pattern in ("*.pid", "*.parent") for path in folder.glob(pattern)]
    # A worker that was killed while it wrote its file leaves an empty one.
    return [int(text) for text in texts if text and alive(int(text))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_share_the_cores_and_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run("speak", tmp_path, processes=2)
    said = capfd.readouterr().out
    assert "worker 0 of 2 speaks" in said
    assert "worker 1 of 2 speaks" in said
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {path.read_text() for path in tmp_path.glob("*.threads")} == {str(threads)}


def test_nothing_in_a_path_is_expanded(tmp_path: Path) -> None:
    folder = tmp_path / "$HOME $$ $$$(PATH) ${app_id} ${img_root} $"
    folder.mkdir()
    run("speak", folder)
    assert (folder / "0.pid").exists()


def test_a_user_error_of_a_worker_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^optim\.lr must be positive$") as caught:
        run("mistake", tmp_path, processes=2)
    assert caught.value.exit_code == 2
    assert capfd.readouterr().err == ""


def test_a_crash_prints_its_traceback_and_adds_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingError, match="worker 0 failed: RuntimeError: the bug is here") as caught:
        run("crash", tmp_path)
    assert caught.value.exit_code == 1
    said = capfd.readouterr().err
    assert "RuntimeError: the bug is here" in said
    assert "ChildFailedError" not in said


def test_a_killed_worker_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match="worker 0 was terminated by SIGKILL, likely out of memory"
    ) as caught:
        run("killed", tmp_path, processes=2)
    assert caught.value.exit_code == 137
    assert running(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)],
)
def test_a_signal_ends_every_process(tmp_path: Path, number: signal.Signals, code: int) -> None:
    launcher = start("wait", tmp_path, processes=2)
    launcher.send_signal(number)
    launcher.communicate(timeout=120)
    assert launcher.returncode == code
    assert running(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_crash_on_a_signal_is_reported(tmp_path: Path, number: signal.Signals) -> None:
    launcher = start("fault", tmp_path, processes=1)
    launcher.send_signal(number)
    said, _ = launcher.communicate(timeout=120)
    assert f"worker 0 was terminated by SIGSEGV after {number.name}, before it saved; see the output" in said
    assert running(tmp_path) == []


def pretrain(prepared: Path, out: Path, *options: str) -> list[str]:
    """Return a command that trains longer than any test waits for it."""
    config, file = tiny_config(), out.with_suffix(".yaml")
    config = replace(config, preset="toy", optim=replace(config.optim, epochs=10_000),
                     run=replace(config.run, workers=1, checkpoint_every=10**6))  # fmt: skip
    file.write_text(to_yaml(config))
    command = [sys.executable, "-c", "from xkd.cli import main; main()", "pretrain", *options]
    return [*command, *map(str, ["--config", file, "--data", prepared, "--out", out])]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_saves_first(prepared: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Test the whole chain from the command down to the loader's workers, which the last step needs.

    A shell and the kernel both send SIGHUP when a terminal is closed.
    """
    out = tmp_path / "run"
    launcher = subprocess.Popen(
        pretrain(prepared, out, "--processes", "2"), stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(read_rows(out / "metrics.jsonl")) >= 2, launcher)
    launcher.send_signal(number)
    time.sleep(0.1)
    launcher.send_signal(number)
    _, said = launcher.communicate(timeout=120)
    assert launcher.returncode == 75, said
    assert not (out / ".lock").exists()
    assert "xkd: Interrupted: saved at step" in said
    assert len(list((out / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_run_that_dvc_started_ends_with_dvc(
    prepared: Path, tmp_path: Path, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test it with a shell that is replaced by the command, as bash is, and with one that is not, as dash."""
    monkeypatch.setenv("SHELL", shell)
    out, repository = tmp_path / "run", tmp_path / "repository"
    repository.mkdir()
    stage = {"cmd": shlex.join(pretrain(prepared, out, "--processes", "2"))}
    (repository / "dvc.yaml").write_text(json.dumps({"stages": {"pretrain": stage}}))
    dvc = str(Path(sys.executable).with_name("dvc"))
    subprocess.run([dvc, "init", "--no-scm", "--quiet"], cwd=repository, check=True)
    run = subprocess.Popen([dvc, "repro"], cwd=repository, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(read_rows(out / "metrics.jsonl")) >= 2, run)
    run.terminate()
    said = run.communicate(timeout=120)[1]  # of the command too, which ends later
    assert re.search(
        r"saved at step .* to resume \(dvc repro would start over: .* dvc commit --force pretrain", said
    )
    assert len(list((out / "checkpoints").iterdir())) == 1


def test_one_run_directory_has_one_training(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = pretrain(prepared, out, "--processes", "2")
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(read_rows(out / "metrics.jsonl")) >= 2, first)
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    (line,) = second.stderr.splitlines()
    assert line.startswith(f"xkd: {out} is in use by process ")
    assert f" on {socket.gethostname()} since " in line
    # Workers that outlive their launcher for a moment keep the directory until they have saved.
    first.kill()
    first.communicate(timeout=120)
    wait_for(lambda: not (out / ".lock").exists())
    third = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    saved = len(read_rows(out / "metrics.jsonl"))
    wait_for(lambda: len(read_rows(out / "metrics.jsonl")) > saved, third)
    third.send_signal(signal.SIGTERM)
    assert third.wait(timeout=120) == 75
    steps = [row["step"] for row in read_rows(out / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a process with its parent")
def test_nothing_outlives_a_killed_launcher(tmp_path: Path) -> None:
    launcher = start("wait", tmp_path, processes=2)
    launcher.kill()
    launcher.communicate(timeout=120)
    wait_for(lambda: running(tmp_path) == [])


def test_signal_handlers_are_restored(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run("speak", tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_missing_data_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere") as caught:
        launch(get_preset("toy"), tmp_path / "nowhere", tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_hosts_train_together(prepared: Path, tmp_path: Path) -> None:
    """Test two hosts on one machine, each with its command, and that both stop when one gets a signal."""
    out = tmp_path / "run"
    command = pretrain(prepared, out, "--hosts", "2", "--rendezvous", f"localhost:{free_port()}")
    hosts = [
        subprocess.Popen([*command, "--host", str(number)], stderr=subprocess.PIPE, text=True)
        for number in range(2)
    ]
    wait_for(lambda: len(read_rows(out / "metrics.jsonl")) >= 2, hosts[0])
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    hosts[1].send_signal(signal.SIGTERM)
    for host in hosts:
        _, said = host.communicate(timeout=120)
        assert host.returncode == 75, said
        assert "xkd: Interrupted: saved at step" in said


def test_processes_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="processes must be at least 1, not 0"):
        launch(get_preset("toy"), tmp_path, tmp_path / "run", processes=0)
