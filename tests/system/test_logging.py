"""Pretraining that logs to TensorBoard's files and to a real MLflow server, which may be away."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tests.monitor.logs import assert_equal, logged, read_mlflow, read_tensorboard
from tests.ports import free_port, refusing_port
from tests.system.test_launch import wait_for
from tests.tiny import tiny_config
from tests.train.test_pretrain import SIGNALED, TWO_PROCESSES, train
from xkd.config import PretrainConfig
from xkd.rundir import RunDir

KILLED_AT = 16


def config(uri: str) -> PretrainConfig:
    tiny = tiny_config()
    return replace(tiny, run=replace(tiny.run, checkpoint_every=10, tensorboard=True, mlflow=uri))


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """Run MLflow's server with a database, and give its URI."""
    uri, place = f"http://127.0.0.1:{port}", ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command = ["mlflow", "server", *place, "--artifacts-destination", str(folder), "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    # Without its queues of jobs, which would be eight more processes.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True
        )

    def answers() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    try:
        wait_for(answers, seconds=600)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_every_row_of_a_run_that_was_killed_and_resumed_is_read_back_once(
    prepared: Path, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    with mlflow_server(tmp_path, free_port()) as uri:
        killed = train(
            config(uri), prepared, run.path, "-c", SIGNALED, signal.SIGKILL, KILLED_AT, check=False
        )
        assert killed.returncode == -signal.SIGKILL
        assert run.metrics()[-1]["step"] == KILLED_AT - 1
        train(config(uri), prepared, run.path)
        ((found, curves),) = read_mlflow(uri)
    rows = run.metrics()
    assert [row["step"] for row in rows] == list(range(1, rows[-1]["step"] + 1))
    assert_equal(read_tensorboard(run.tensorboard), rows, rel=1e-6)
    assert found.info.status == "FINISHED"
    assert found.data.tags["verdict"] == run.verdict().verdict
    expected = logged(rows)
    assert curves.keys() == expected.keys()
    for name, curve in curves.items():
        assert curve.keys() == expected[name].keys()
        if "second" not in name:  # repeated steps take another time
            assert curve == expected[name], name


def test_a_server_that_is_away_costs_no_row_and_gets_them_when_the_command_is_run_again(
    prepared: Path, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    with refusing_port() as port:
        uri = f"http://127.0.0.1:{port}"
        done = train(config(uri), prepared, run.path, *TWO_PROCESSES)
    assert not run.verdict().failed
    ours = [line for line in done.stderr.splitlines() if "xkd: MLflow" in line]
    assert len(ours) == 2
    assert "its rows wait in" in ours[0]
    assert "lacks the rows after step 0; rerun the command" in ours[1]
    with mlflow_server(tmp_path, port):
        train(config(uri), prepared, run.path)
        ((found, curves),) = read_mlflow(uri)
    assert found.info.status == "FINISHED"
    assert_equal(curves, run.metrics())
