from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

from xkd.data.shards.reader import load_batches
from xkd.parallel.processes import STOP_SIGNALS, Failure, run_each


def square(job: int) -> int:
    if job == 3:
        os._exit(11)
    if job == 5:
        time.sleep(600)
    if job == 7:
        raise ValueError("seven\nis odd")
    time.sleep(0.01 * (job % 3))
    return job * job


def test_a_failure_affects_its_job_alone_and_results_keep_their_order() -> None:
    outcomes = list(run_each(square, range(20), workers=2, limit=3.0))
    for job, outcome in enumerate(outcomes):
        if job not in (3, 5, 7):
            assert outcome == job * job
    assert outcomes[3] == Failure("the process crashed (exit status 11)")
    assert outcomes[5] == Failure("took longer than 3 s")
    assert outcomes[7] == Failure("seven is odd")


def test_an_empty_list_of_jobs_gives_no_results() -> None:
    assert list(run_each(square, [], workers=2, limit=1.0)) == []


def test_closing_early_leaves_no_process() -> None:
    outcomes = run_each(_pid, range(10), workers=2, limit=5.0)
    pids = {next(outcomes), next(outcomes)}
    outcomes.close()
    for pid in pids:
        assert isinstance(pid, int)
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        raise AssertionError(f"process {pid} is still there")


def _pid(job: int) -> int:
    return os.getpid()


def die_while_sending(job: int) -> bytes:
    if job % 5 == 2:
        # The parent reads slowly enough for the signal to arrive in the middle of the message.
        threading.Timer(0.002, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return bytes(200_000_000)
    return bytes(1000)


def test_a_process_killed_while_it_sends_fails_its_job_alone() -> None:
    outcomes = list(run_each(die_while_sending, range(20), workers=2, limit=30.0))
    for job, outcome in enumerate(outcomes):
        if job % 5 == 2:
            assert outcome == Failure("the process crashed (exit status -9)")
        else:
            assert outcome == bytes(1000)


class Pids:
    """Items that say which process reads them."""

    def __getitem__(self, key: int) -> dict[str, int]:
        return {"pid": os.getpid()}


def test_signals_to_stop_end_no_worker_of_a_loader_but_its_parent_does() -> None:
    pids: Any = Pids()
    batches: Iterator[Any] = load_batches(pids, [[key] for key in range(20)], workers=1)
    pid = int(next(batches)["pid"])
    for number in STOP_SIGNALS:
        # From another process: the kernel says who sends a signal.
        subprocess.run(["kill", f"-{number.value}", str(pid)], check=True)
    assert [int(batch["pid"]) for batch in batches] == [pid] * 19
    stuck = load_batches(pids, [[key] for key in range(20)], workers=1)
    next(stuck)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    worker.join(60)
    assert worker.exitcode == 0
