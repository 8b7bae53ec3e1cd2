"""The endpoint and the file, on a real port and a real disk."""

from __future__ import annotations

import json
import math
import multiprocessing
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from xkd.config import RunConfig
from xkd.config.presets import get_preset
from xkd.errors import UserError
from xkd.model.terms import DIRECTIONS
from xkd.monitor.collapse import WINDOW, CollapseThresholds
from xkd.monitor.exporter import Telemetry
from xkd.monitor.metrics import METRICS, page
from xkd.rundir import Row, read_rows


def row(step: int, kd: float = 5.0, kld: float = 2.0) -> Row:
    values: Row = {
        "step": step,
        "time": 1000.0 + step,
        "loss": 9.0,
        "skipped_unreadable": 3,
        "skipped_steps": 2,
    }
    for d in DIRECTIONS:
        values |= {f"kd_{d}": kd, f"kld_{d}": kld, f"information_{d}": 1.0}
    return values


def scrape(telemetry: Telemetry) -> dict[tuple[str, ...], float]:
    """Samples by name, run and the value of the other label."""
    with urllib.request.urlopen(str(telemetry.address)) as answer:
        text = answer.read().decode()
    return {
        (sample.name, sample.labels.pop("run"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_gauges_are_nan_and_counters_zero_until_the_first_row(tmp_path: Path) -> None:
    run, kd = tmp_path.name, ("xkd_kd_nats", tmp_path.name, "video_to_audio")
    telemetry = Telemetry(
        tmp_path, 0, CollapseThresholds(1024, 32), constants={"steps": 50}, info={"preset": "toy"}
    )
    before = scrape(telemetry)
    assert math.isnan(before[kd])
    assert math.isnan(before["xkd_verdict", run, "one_hot"])
    assert before["xkd_skipped_steps_total", run] == 0
    assert before["xkd_steps_planned", run] == 50
    assert before["xkd_largest_entropy_nats", run] == pytest.approx(math.log(1024))
    assert {metric.name for metric in METRICS} <= {name for name, *_ in before}
    assert any(sample[:2] == ("xkd_run_info", run) and "toy" in sample for sample in before)
    telemetry.log(row(1))
    after = scrape(telemetry)
    assert after[kd] == 5
    assert after["xkd_verdict", run, "healthy"] == 1
    assert after["xkd_skipped_clips_total", run, "unreadable"] == 3
    telemetry.close()


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    first = Telemetry(tmp_path, None, CollapseThresholds(1024, 32))
    for step in range(1, 30):
        first.log(row(step, kd=float(step)))
    again = Telemetry(tmp_path, 0, CollapseThresholds(1024, 32), resume_step=20)
    shown = scrape(again)
    assert shown["xkd_kd_nats", tmp_path.name, "video_to_audio"] == 20
    assert shown["xkd_skipped_steps_total", tmp_path.name] == 2
    assert again.skipped_clips == 3
    assert [r["step"] for r in again.rows] == list(range(11, 21))
    assert [r["step"] for r in read_rows(tmp_path / "metrics.jsonl")] == list(range(1, 21))
    again.close()


def test_a_process_that_goes_on_is_neither_stalled_nor_does_a_counter_fall(tmp_path: Path) -> None:
    first = Telemetry(tmp_path, None, CollapseThresholds(1024, 32))
    for step in range(1, 30):
        counted = {"skipped_unreadable": step, "skipped_steps": step // 2}
        first.log(row(step) | counted | {"time": 100.0, "checkpoint_time": 90.0})
    began = time.time()
    again = Telemetry(tmp_path, 0, CollapseThresholds(1024, 32), resume_step=20)
    shown = scrape(again)
    assert shown["xkd_logged_timestamp_seconds", tmp_path.name] >= began
    assert shown["xkd_checkpoint_timestamp_seconds", tmp_path.name] >= began
    assert again.skipped_clips == shown["xkd_skipped_clips_total", tmp_path.name, "unreadable"] == 29
    assert shown["xkd_skipped_steps_total", tmp_path.name] == 14
    later = time.time() + 60
    again.log(row(21) | {"skipped_unreadable": 30, "time": later, "checkpoint_time": 90.0})
    shown = scrape(again)
    assert shown["xkd_logged_timestamp_seconds", tmp_path.name] == later
    assert shown["xkd_checkpoint_timestamp_seconds", tmp_path.name] < later
    assert shown["xkd_skipped_clips_total", tmp_path.name, "unreadable"] == 30
    again.close()


def test_a_forked_process_does_not_keep_the_port(tmp_path: Path) -> None:
    telemetry = Telemetry(tmp_path, 0, CollapseThresholds(1024, 32))
    port = int(str(telemetry.address).rsplit(":", 1)[1].split("/")[0])
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
    child.start()
    telemetry.close()
    Telemetry(tmp_path, port, CollapseThresholds(1024, 32)).close()
    child.kill()
    child.join()


def test_a_taken_port_costs_a_run_that_is_there_no_rows(tmp_path: Path) -> None:
    living = Telemetry(tmp_path, 0, CollapseThresholds(1024, 32))
    for step in range(1, 5):
        living.log(row(step))
    port = int(str(living.address).rsplit(":", 1)[1].split("/")[0])
    with pytest.raises(UserError, match="in use"):
        Telemetry(tmp_path, port, CollapseThresholds(1024, 32), resume_step=2)
    assert [r["step"] for r in read_rows(living.path)] == [1, 2, 3, 4]
    living.close()


def test_the_verdict_is_shown_as_it_falls(tmp_path: Path) -> None:
    telemetry = Telemetry(tmp_path, 0, CollapseThresholds(1024, 32))
    for step in range(1, 2 * WINDOW):
        judged = telemetry.log(row(step, *((5.0, 2.0) if step <= WINDOW else (0.01, 0.005))))
    assert judged.verdict == "one_hot"
    shown = scrape(telemetry)
    assert shown["xkd_verdict", tmp_path.name, "one_hot"] == 1
    assert shown["xkd_verdict", tmp_path.name, "healthy"] == 0
    telemetry.close()


def test_an_ended_run_waits_for_a_prometheus_that_came_before(tmp_path: Path) -> None:
    alone = Telemetry(tmp_path, 0, CollapseThresholds(1024, 32))
    began = time.monotonic()
    alone.await_final_scrape(alone.log(row(1)))
    assert time.monotonic() - began < 1
    scrape(alone)
    ended = threading.Thread(target=alone.await_final_scrape, args=(alone.judge(),))
    ended.start()
    ended.join(timeout=0.5)
    assert ended.is_alive()
    scrape(alone)
    ended.join(timeout=5)
    assert not ended.is_alive()
    alone.close()


def test_a_taken_port_is_one_line_and_a_closed_one_is_free(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"run\.metrics_port {port}: .*in use; choose another port"):
            Telemetry(tmp_path, port, CollapseThresholds(1024, 32))
    for _ in range(2):
        Telemetry(tmp_path, port, CollapseThresholds(1024, 32)).close()


def test_it_listens_where_the_settings_say(tmp_path: Path) -> None:
    """The whole of 127.0.0.0/8 is this machine, so another address of it is another interface, in effect."""
    for host, heard in (("127.0.0.1", False), ("0.0.0.0", True)):
        telemetry = Telemetry(tmp_path, 0, CollapseThresholds(1024, 32), host=host)
        assert telemetry.address
        port = int(telemetry.address.rpartition(":")[2].removesuffix("/metrics"))
        with socket.socket() as client:
            assert (client.connect_ex(("127.0.0.2", port)) == 0) is heard
        telemetry.close()
    with pytest.raises(UserError, match=r"at run\.metrics_host 203\.0\.113\.1$"):
        Telemetry(tmp_path, 0, CollapseThresholds(1024, 32), host="203.0.113.1")


def test_small_presets_are_heard_by_their_machine_alone_and_pods_by_all() -> None:
    assert {get_preset(name).run.metrics_host for name in ("toy", "embedded")} == {"127.0.0.1"}
    assert get_preset("paper").run.metrics_host == "0.0.0.0"


def test_a_port_that_cannot_be_is_named() -> None:
    with pytest.raises(ValidationError, match="metrics_port 70000 must be between 0 and 65535"):
        RunConfig(metrics_port=70000)


def test_a_torn_line_is_reported_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n{"st')
    for _ in range(2):
        assert [r["step"] for r in read_rows(path)] == [1, 3]
    said = capsys.readouterr().err
    assert said.splitlines() == [f"xkd: line {n} of {path} is torn and left out" for n in (2, 4)]


def test_a_full_disk_does_not_end_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    telemetry = Telemetry(tmp_path, None, CollapseThresholds(1024, 32))
    telemetry.path.unlink()
    telemetry.path.symlink_to("/dev/full")
    assert telemetry.log(row(7)).healthy
    said = capsys.readouterr().err
    assert said == f"xkd: the row of step 7 is not in {telemetry.path}: No space left on device\n"


def test_a_half_written_row_takes_no_other_with_it(tmp_path: Path) -> None:
    telemetry = Telemetry(tmp_path, None, CollapseThresholds(1024, 32))
    telemetry.log(row(1))
    whole = telemetry.path.read_text()
    telemetry.path.unlink()
    telemetry.path.symlink_to("/dev/full")
    telemetry.log(row(2))
    telemetry.path.unlink()
    telemetry.path.write_text(whole + '{"step": 2, "lo')  # as a disk that fills up leaves it
    telemetry.log(row(3))
    telemetry.log(row(4))
    assert [r["step"] for r in read_rows(telemetry.path)] == [1, 3, 4]


def test_numbers_that_are_not_finite_stay_in_the_file(tmp_path: Path) -> None:
    telemetry = Telemetry(tmp_path, None, CollapseThresholds(1024, 32))
    telemetry.log(row(1) | {"loss": math.nan})
    assert math.isnan(json.loads(telemetry.path.read_text())["loss"])


def test_the_page_of_metrics_is_the_tables() -> None:
    """``python -m xkd.monitor.metrics > docs/metrics.md``."""
    assert Path("docs/metrics.md").read_text() == page()
