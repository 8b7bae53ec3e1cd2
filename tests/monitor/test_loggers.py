"""TensorBoard's and MLflow's logs of a run, read back by their own libraries."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.monitor.logs import assert_equal, read_mlflow, read_tensorboard
from tests.tiny import tiny_config
from tests.waiting import until
from xkd.config import RunConfig
from xkd.config.overrides import build, to_yaml
from xkd.errors import UserError
from xkd.monitor.follower import End, Follower
from xkd.monitor.loggers import require_loggers
from xkd.monitor.metrics import series
from xkd.monitor.mlflow_log import MlflowLog
from xkd.monitor.tensorboard_log import TensorBoardLog
from xkd.rundir import Row, RunDir, Verdict

HEALTHY = End("FINISHED", Verdict("healthy", "all is well", 40))
INFO = {"id": "f00d", "preset": "tiny", "commit": "0123"}


def row(step: int, loss: float = 2.0) -> Row:
    kd = {"kd_video_to_audio": 5.0 + step, "kd_audio_to_video": math.nan if step == 2 else 1e-3}
    ranks = {"seconds_forward_by_rank": [0.25, 0.5]}
    return (
        {"step": step, "time": 1000.0 + step, "loss": loss, "skipped_steps": 1, "reconstruct": 3.0}
        | kd
        | ranks
    )


def write(run: RunDir, rows: Sequence[Row]) -> RunDir:
    run.path.mkdir(exist_ok=True)
    run.config_file.write_text(to_yaml(tiny_config()))
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def append(run: RunDir, rows: Sequence[Row]) -> None:
    with run.metrics_file.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def tensorboard_log(run: RunDir, resume_step: int = 0) -> Follower:
    return Follower(run.metrics_file, TensorBoardLog(run.tensorboard, resume_step))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


def mlflow_log(run: RunDir, uri: str, rollbacks: int = 0) -> Follower:
    info = {**INFO, "rollbacks": [{}] * rollbacks}
    return Follower(run.metrics_file, MlflowLog(uri, run.name, tiny_config(), info))


def test_names_are_those_of_the_metrics_with_the_label_behind_a_slash() -> None:
    assert dict(series(row(1))) == {
        "xkd_kd_nats/video_to_audio": 6.0,
        "xkd_kd_nats/audio_to_video": 1e-3,
        "xkd_loss": 2.0,
        "xkd_skipped_steps_total": 1,
        "xkd_rank_forward_seconds/0": 0.25,
        "xkd_rank_forward_seconds/1": 0.5,
    }


def test_tensorboard_reads_back_every_row(tmp_path: Path) -> None:
    rows = [row(step) for step in range(1, 251)]
    run = write(RunDir(tmp_path / "run"), rows[:100])
    log = tensorboard_log(run)
    append(run, rows[100:])
    log.notify()
    log.close(HEALTHY, 60)
    assert_equal(read_tensorboard(run.tensorboard), rows, rel=1e-6)
    points = EventAccumulator(str(run.tensorboard)).Reload().Scalars("xkd_loss")
    assert [point.wall_time for point in points] == [each["time"] for each in rows]


def test_tensorboard_shows_the_newer_values_of_steps_that_were_repeated(
    tmp_path: Path,
) -> None:
    rows = [row(step) for step in range(1, 30)]
    run = write(RunDir(tmp_path / "run"), rows)
    tensorboard_log(run).close(End("FAILED"), 60)
    kept, again = rows[:20], [row(step, loss=7.0) for step in range(21, 41)]
    write(run, kept)
    log = tensorboard_log(run, resume_step=20)
    append(run, again)
    log.close(HEALTHY, 60)
    assert_equal(read_tensorboard(run.tensorboard), [*kept, *again], rel=1e-6)


def test_tensorboard_gets_the_rows_of_before_it_was_asked_for(tmp_path: Path) -> None:
    rows = [row(step) for step in range(1, 40)]
    run = write(RunDir(tmp_path / "run"), rows)
    tensorboard_log(run, resume_step=20).close(HEALTHY, 60)
    assert_equal(read_tensorboard(run.tensorboard), rows, rel=1e-6)
    files = sorted(run.tensorboard.iterdir())
    tensorboard_log(run, resume_step=40).close(HEALTHY, 60)
    assert sorted(run.tensorboard.iterdir()) == files  # nothing was missing


def test_mlflow_reads_back_every_row(tmp_path: Path, uri: str) -> None:
    rows = [row(step) for step in range(1, 151)]
    run = write(RunDir(tmp_path / "mine"), rows[:100])
    log = mlflow_log(run, uri)
    append(run, rows[100:])
    log.notify()
    log.close(HEALTHY, 60)
    ((found, curves),) = read_mlflow(uri)
    assert_equal(curves, rows)
    assert found.info.run_name == "mine"
    assert found.info.status == "FINISHED"
    assert found.data.params["optim.lr"] == "0.001"
    assert found.data.params["run.seed"] == "0"
    assert "run.workers" not in found.data.params
    assert {
        "commit": "0123",
        "verdict": "healthy",
        "verdict_reason": "all is well",
    }.items() <= found.data.tags.items()


def test_a_resumed_run_continues_the_same_run_of_mlflow_and_repeats_no_step(tmp_path: Path, uri: str) -> None:
    rows = [row(step) for step in range(1, 30)]
    run = write(RunDir(tmp_path / "mine"), rows)
    mlflow_log(run, uri).close(End("KILLED"), 60)
    ((found, _),) = read_mlflow(uri)
    assert found.info.status == "KILLED"
    write(run, rows[:20])  # the rest was after the checkpoint
    log = mlflow_log(run, uri)
    append(run, [row(step, loss=7.0) for step in range(21, 41)])
    log.close(HEALTHY, 60)
    ((found, curves),) = read_mlflow(uri)
    assert found.info.status == "FINISHED"
    assert_equal(curves, [*rows, *(row(step, loss=7.0) for step in range(30, 41))])


def test_after_a_rollback_there_is_a_new_run_of_mlflow(tmp_path: Path, uri: str) -> None:
    rows = [row(step) for step in range(1, 30)]
    run = write(RunDir(tmp_path / "mine"), rows)
    mlflow_log(run, uri).close(End("FAILED"), 60)
    again = [*rows[:10], *(row(step, loss=7.0) for step in range(11, 30))]
    write(run, again)
    mlflow_log(run, uri, rollbacks=1).close(HEALTHY, 60)
    (undone, first), (kept, second) = read_mlflow(uri)
    assert (undone.info.status, kept.info.status) == ("FAILED", "FINISHED")
    assert_equal(first, rows)
    assert_equal(second, again)


def test_a_log_that_fails_gets_every_row_once_it_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("xkd.monitor.follower.RETRY_SECONDS", 0.01)
    shown = ""

    def says(text: str) -> bool:
        nonlocal shown
        shown += capsys.readouterr().err
        return text in shown

    run = write(RunDir(tmp_path / "run"), [row(step) for step in range(1, 4)])
    run.tensorboard.write_text("a file where the folder should be")
    log = tensorboard_log(run)
    until(lambda: says("its rows wait"))
    for step in range(4, 10):
        append(run, [row(step)])
        log.notify()
    time.sleep(0.1)
    run.tensorboard.unlink()
    until(lambda: says("TensorBoard has all rows again"))
    assert shown.count("\n") == 2  # one warning, however often it was tried
    log.close(HEALTHY, 60)
    assert_equal(read_tensorboard(run.tensorboard), [row(step) for step in range(1, 10)], rel=1e-6)


def test_a_log_that_is_away_at_the_end_is_named_and_gets_its_rows_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(step) for step in range(1, 4)]
    run = write(RunDir(tmp_path / "run"), rows)
    run.tensorboard.write_text("a file where the folder should be")
    tensorboard_log(run).close(HEALTHY, 60)
    assert "xkd: TensorBoard lacks the rows after step 0; rerun the command" in capsys.readouterr().err
    run.tensorboard.unlink()
    tensorboard_log(run, resume_step=4).close(HEALTHY, 60)
    assert_equal(read_tensorboard(run.tensorboard), rows, rel=1e-6)


def test_a_row_that_is_being_written_is_waited_for_and_a_truncated_one_left_out(tmp_path: Path) -> None:
    run = write(RunDir(tmp_path / "run"), [row(1)])
    text = json.dumps(row(2))
    with run.metrics_file.open("a") as file:
        file.write('{"step": 99, "lo\n' + text[:20])
    log = tensorboard_log(run)
    until(run.tensorboard.is_dir)
    with run.metrics_file.open("a") as file:
        file.write(text[20:] + "\n")
    log.close(HEALTHY, 60)
    assert_equal(read_tensorboard(run.tensorboard), [row(1), row(2)], rel=1e-6)


def test_a_password_in_a_uri_is_refused() -> None:
    with pytest.raises(UserError, match=r"mlflow must not contain a password.*MLFLOW_TRACKING_PASSWORD"):
        build(RunConfig, {"mlflow": "https://me:secret@mlflow.example.org"}, "configuration")


def test_a_uri_that_mlflow_cannot_open_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^run.mlflow 'gopher://x': .*gopher"):
        require_loggers(RunConfig(mlflow="gopher://x"))


@pytest.mark.parametrize(
    ("package", "setting", "message"),
    [
        (
            "tensorboard",
            "tensorboard=True",
            "run.tensorboard needs tensorboard: pip install 'xkd[tensorboard]'",
        ),
        ("mlflow", "mlflow='http://x'", "run.mlflow needs mlflow: pip install 'xkd[mlflow]'"),
    ],
)
def test_without_a_package_the_error_names_the_extra(
    package: str, setting: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError(name='{package}')")
    code = f"from xkd.monitor.loggers import *; require_loggers(RunConfig({setting}))"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == f"xkd.errors.UserError: {message}"
