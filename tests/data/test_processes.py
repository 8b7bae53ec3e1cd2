from __future__ import annotations

import os
import time

from xkd.parallel.processes import Failure, run_each


def square(job: int) -> int:
    if job == 3:
        os._exit(11)
    if job == 5:
        time.sleep(60)
    if job == 7:
        raise ValueError("seven\nis odd")
    time.sleep(0.01 * (job % 3))
    return job * job


def test_each_failure_stays_alone_and_order_is_kept() -> None:
    began = time.monotonic()
    outcomes = list(run_each(square, range(20), workers=2, limit=1.0))
    assert time.monotonic() - began < 20
    for job, outcome in enumerate(outcomes):
        if job not in (3, 5, 7):
            assert outcome == job * job
    assert outcomes[3] == Failure("the decoder crashed (exit status 11)")
    assert outcomes[5] == Failure("took longer than 1 s")
    assert outcomes[7] == Failure("seven is odd")


def test_no_jobs() -> None:
    assert list(run_each(square, [], workers=2, limit=1.0)) == []


def test_stopping_early_leaves_no_process() -> None:
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
