"""The Prometheus endpoint and metrics.jsonl, on a real port and a real disk."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from xkd.config import RunConfig
from xkd.config.presets import get_preset
from xkd.config.pretrain import WINDOW
from xkd.errors import UserError
from xkd.model.terms import DIRECTIONS, INFORMATION, KD, KLD
from xkd.monitor.collapse import CollapseThresholds
from xkd.monitor.exporter import MetricsExporter
from xkd.monitor.metrics import METRICS, RANK
from xkd.monitor.run_monitor import RunMonitor
from xkd.rundir import Row, RunDir, read_rows


def row(step: int, kd: float = 5.0, kld: float = 2.0) -> Row:
    counts = {"skipped_unreadable": 3, "skipped_steps": 2}
    values: Row = {"step": step, "time": 1000.0 + step, "loss": 9.0, **counts}
    for d in DIRECTIONS:
        values |= {KD[d]: kd, KLD[d]: kld, INFORMATION[d]: 1.0}
    return values


def start(
    run: Path,
    port: int | None = 0,
    *,
    resume_step: int = 0,
    host: str = "127.0.0.1",
    values: Mapping[str, Any] | None = None,
) -> RunMonitor:
    exporter = MetricsExporter(run.name, {"preset": "toy"}, values or {})
    if port is not None:
        exporter.serve(host, port)
    return RunMonitor(RunDir(run), CollapseThresholds(1024, 32), exporter, resume_step)


def port_of(monitor: RunMonitor) -> int:
    assert monitor.exporter.address
    return int(monitor.exporter.address.rpartition(":")[2].removesuffix("/metrics"))


def scrape(monitor: RunMonitor) -> dict[tuple[str, ...], float]:
    """Samples by name, run and the value of the other label."""
    with urllib.request.urlopen(str(monitor.exporter.address)) as answer:
        text = answer.read().decode()
    return {
        (sample.name, sample.labels.pop("run"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_gauges_are_nan_and_counters_zero_until_the_first_row(tmp_path: Path) -> None:
    run, kd = tmp_path.name, ("xkd_kd_nats", tmp_path.name, "video_to_audio")
    monitor = start(tmp_path, values={"steps": 50})
    before = scrape(monitor)
    assert math.isnan(before[kd])
    assert math.isnan(before["xkd_verdict", run, "one_hot"])
    assert before["xkd_skipped_steps_total", run] == 0
    assert before["xkd_steps_planned", run] == 50
    assert before["xkd_largest_entropy_nats", run] == pytest.approx(math.log(1024))
    by_rank = {
        metric.name for metric in METRICS if metric.label == RANK
    }  # the number of processes is not known
    assert {metric.name for metric in METRICS} - by_rank <= {name for name, *_ in before}
    assert any(sample[:2] == ("xkd_run_info", run) and "toy" in sample for sample in before)
    monitor.log(row(1) | {"seconds_forward_by_rank": [0.5, 0.75]})
    after = scrape(monitor)
    assert [after["xkd_rank_forward_seconds", run, rank] for rank in "01"] == [0.5, 0.75]
    assert after[kd] == 5
    assert after["xkd_verdict", run, "undecided"] == 1
    assert after["xkd_verdict", run, "healthy"] == 0
    assert after["xkd_skipped_clips_total", run, "unreadable"] == 3
    monitor.exporter.close()


def test_a_resumed_run_continues_from_its_checkpoint(tmp_path: Path) -> None:
    first = start(tmp_path, None)
    for step in range(1, 30):
        first.log(row(step, kd=float(step)))
    resumed = start(tmp_path, resume_step=20)
    exported = scrape(resumed)
    assert exported["xkd_kd_nats", tmp_path.name, "video_to_audio"] == 20
    assert exported["xkd_skipped_steps_total", tmp_path.name] == 2
    assert resumed.skipped_clips == 3
    assert [r["step"] for r in resumed.rows] == list(range(11, 21))
    assert [r["step"] for r in RunDir(tmp_path).metrics()] == list(range(1, 21))
    resumed.exporter.close()


def test_a_resumed_run_has_fresh_timestamps_and_its_counters_do_not_decrease(tmp_path: Path) -> None:
    first = start(tmp_path, None)
    for step in range(1, 30):
        counts = {"skipped_unreadable": step, "skipped_steps": step // 2}
        first.log(row(step) | counts | {"time": 100.0, "checkpoint_time": 90.0})
    resume_time = time.time()
    resumed = start(tmp_path, resume_step=20)
    exported = scrape(resumed)
    assert exported["xkd_logged_timestamp_seconds", tmp_path.name] >= resume_time
    assert exported["xkd_checkpoint_timestamp_seconds", tmp_path.name] >= resume_time
    assert resumed.skipped_clips == exported["xkd_skipped_clips_total", tmp_path.name, "unreadable"] == 29
    assert exported["xkd_skipped_steps_total", tmp_path.name] == 14
    later = time.time() + 60
    resumed.log(row(21) | {"skipped_unreadable": 30, "time": later, "checkpoint_time": 90.0})
    exported = scrape(resumed)
    assert exported["xkd_logged_timestamp_seconds", tmp_path.name] == later
    assert exported["xkd_checkpoint_timestamp_seconds", tmp_path.name] < later
    assert exported["xkd_skipped_clips_total", tmp_path.name, "unreadable"] == 30
    resumed.exporter.close()


def test_a_forked_process_does_not_keep_the_port(tmp_path: Path) -> None:
    monitor = start(tmp_path)
    context = multiprocessing.get_context("fork")
    runs, end = context.Event(), context.Event()

    def wait() -> None:
        runs.set()
        end.wait(30)

    child = context.Process(target=wait)
    child.start()
    assert runs.wait(60)  # by then it has closed what it inherited
    monitor.exporter.close()
    start(tmp_path, port_of(monitor)).exporter.close()
    end.set()
    child.join()


def test_a_taken_port_does_not_cost_the_other_process_its_rows(tmp_path: Path) -> None:
    other = start(tmp_path)
    for step in range(1, 5):
        other.log(row(step))
    with pytest.raises(UserError, match="in use"):
        start(tmp_path, port_of(other), resume_step=2)
    assert [r["step"] for r in RunDir(tmp_path).metrics()] == [1, 2, 3, 4]
    other.exporter.close()


def test_a_collapse_is_exported_with_the_row_that_shows_it(tmp_path: Path) -> None:
    monitor = start(tmp_path)
    for step in range(1, 2 * WINDOW):
        verdict = monitor.log(row(step, *((5.0, 2.0) if step <= WINDOW else (0.01, 0.005))))
    assert verdict.verdict == "one_hot"
    exported = scrape(monitor)
    assert exported["xkd_verdict", tmp_path.name, "one_hot"] == 1
    assert exported["xkd_verdict", tmp_path.name, "healthy"] == 0
    monitor.exporter.close()


def test_the_exporter_has_no_series_for_a_stall_because_a_stalled_process_cannot_report_it(
    tmp_path: Path,
) -> None:
    monitor = start(tmp_path)
    monitor.log(row(1))
    verdicts = {sample[2] for sample in scrape(monitor) if sample[0] == "xkd_verdict"}
    assert verdicts == {"healthy", "undecided", "one_hot", "constant", "non_finite"}
    monitor.exporter.close()


def test_a_finished_run_waits_for_a_last_scrape_if_it_was_scraped_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = start(tmp_path)
    monkeypatch.setattr("xkd.monitor.exporter.DEFAULT_SCRAPE_SECONDS", 1e9)
    monitor.await_final_scrape(monitor.log(row(1)))
    scrape(monitor)
    waiting = threading.Thread(target=monitor.await_final_scrape, args=(monitor.judge(),), daemon=True)
    waiting.start()
    waiting.join(timeout=0.5)
    assert waiting.is_alive()
    scrape(monitor)
    waiting.join(timeout=60)
    assert not waiting.is_alive()
    monitor.exporter.close()


def test_an_interrupted_run_exports_it_until_the_next_scrape(tmp_path: Path) -> None:
    monitor = start(tmp_path)
    monitor.log(row(1))
    interrupted = ("xkd_interrupted_timestamp_seconds", tmp_path.name)
    assert math.isnan(scrape(monitor)[interrupted])
    waiting = threading.Thread(target=monitor.await_scrape_of_interruption, daemon=True)
    begin = time.time()
    waiting.start()
    while waiting.is_alive():
        when = scrape(monitor)[interrupted]
    assert when >= begin
    monitor.exporter.close()


def test_a_taken_port_is_reported_in_one_line_and_a_closed_port_is_free(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"run\.metrics_port {port}: .*in use; choose another port"):
            start(tmp_path, port)
    for _ in range(2):
        start(tmp_path, port).exporter.close()


def test_the_endpoint_listens_only_at_the_configured_address(tmp_path: Path) -> None:
    """All of 127.0.0.0/8 is this machine, so another address of it stands for another interface."""
    for host, reachable in (("127.0.0.1", False), ("0.0.0.0", True)):
        monitor = start(tmp_path, host=host)
        with socket.socket() as client:
            assert (client.connect_ex(("127.0.0.2", port_of(monitor))) == 0) is reachable
        monitor.exporter.close()


@pytest.mark.parametrize(
    ("host", "printed"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("localhost", r"(127\.0\.0\.1|\[::1\])"),
        ("0.0.0.0", "localhost"),
        ("::", "localhost"),
        ("::1", r"\[::1\]"),
    ],
)
def test_the_address_that_is_printed_answers(tmp_path: Path, host: str, printed: str) -> None:
    if ":" in host and not Path("/proc/net/if_inet6").exists():
        pytest.skip("needs IPv6")
    monitor = start(tmp_path, host=host)
    assert re.fullmatch(rf"http://{printed}:\d+/metrics", str(monitor.exporter.address))
    assert scrape(monitor)
    monitor.exporter.close()


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid", "a..b", ""])
def test_an_address_of_another_machine_is_one_line(tmp_path: Path, host: str) -> None:
    with pytest.raises(UserError, match=rf"^run\.metrics_host '{host}': .*; give an address of this machine"):
        start(tmp_path, host=host)


def test_small_presets_listen_on_loopback_and_the_published_ones_on_all_interfaces() -> None:
    assert {get_preset(name).run.metrics_host for name in ("toy", "embedded")} == {"127.0.0.1"}
    assert get_preset("paper").run.metrics_host == "0.0.0.0"


def test_an_invalid_port_is_named() -> None:
    with pytest.raises(ValidationError, match=r"(?s)metrics_port.*65535"):
        RunConfig(metrics_port=70000)


def test_a_truncated_line_is_reported_once_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n{"st')
    for _ in range(2):
        assert [r["step"] for r in read_rows(path)] == [1, 3]
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"xkd: line {n} of {path} is truncated and left out" for n in (2, 4)]


def test_a_full_disk_does_not_end_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor, path = start(tmp_path, None), RunDir(tmp_path).metrics_file
    path.unlink()
    path.symlink_to("/dev/full")
    assert monitor.log(row(7)).verdict == "undecided"
    message = capsys.readouterr().err
    assert message == f"xkd: cannot write the row of step 7 to {path}: No space left on device\n"


def test_a_partly_written_row_does_not_damage_the_next(tmp_path: Path) -> None:
    monitor, path = start(tmp_path, None), RunDir(tmp_path).metrics_file
    monitor.log(row(1))
    complete = path.read_text()
    path.unlink()
    path.symlink_to("/dev/full")
    monitor.log(row(2))
    path.unlink()
    path.write_text(complete + '{"step": 2, "lo')  # as a disk that becomes full leaves it
    monitor.log(row(3))
    monitor.log(row(4))
    assert [r["step"] for r in RunDir(tmp_path).metrics()] == [1, 3, 4]


def test_nan_is_written_to_the_file(tmp_path: Path) -> None:
    start(tmp_path, None).log(row(1) | {"loss": math.nan})
    assert math.isnan(json.loads(RunDir(tmp_path).metrics_file.read_text())["loss"])
