"""Run a task over many jobs in processes that may crash or hang without affecting the other jobs.

Not a library's pool: `concurrent.futures` gives up all jobs when a process crashes, and so does pebble 5.2
when a process is killed while it sends a result, as the kernel does when out of memory, because its processes
share one pipe. Here each process has its own pipe.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

from xkd.io import one_line

Job = TypeVar("Job")
Result = TypeVar("Result")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals of a scheduler, of Ctrl-C, of a terminal that is closed and of Ctrl-\\."""
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Failure:
    """The reason why a job has no result."""

    reason: str


def run_each(
    task: Callable[[Job], Result], jobs: Sequence[Job], workers: int, limit: float
) -> Generator[Result | Failure, None, None]:
    """Yield task(job) for every job, in order, computed in `workers` processes.

    An exception, a crash of the process, or more than `limit` seconds result in a `Failure` of that job
    alone; a crashed or killed process is replaced.
    """
    crew: list[_Worker[Job, Result]] = []
    done: dict[int, Result | Failure] = {}
    upcoming = 0
    try:
        for number in range(len(jobs)):
            while number not in done:
                crew = [worker for worker in crew if worker.process.is_alive() or worker.job is not None]
                while len(crew) < min(workers, len(jobs)):
                    crew.append(_Worker(task, [worker.pipe for worker in crew]))
                # Few jobs start before the oldest one ends: results wait in memory.
                last = min(len(jobs), number + 8 * workers)
                for worker in crew:
                    if worker.job is None and upcoming < last:
                        worker.start(upcoming, jobs[upcoming], limit)
                        upcoming += 1
                busy = [worker for worker in crew if worker.job is not None]
                timeout = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
                ready = wait([worker.pipe for worker in busy], timeout)
                for worker in busy:
                    if worker.pipe in ready or time.monotonic() > worker.deadline:
                        job, outcome = worker.finish(limit)
                        done[job] = outcome
            yield done.pop(number)
    finally:
        for worker in crew:
            worker.stop()


@contextmanager
def stop_signals_held() -> Iterator[None]:
    """Hold back `STOP_SIGNALS` while a process forks: Python ignores exceptions in what it calls then.

    The new process inherits that, so that the parent alone handles them, and ends the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker(Generic[Job, Result]):
    """A process and its current job."""

    def __init__(self, task: Callable[[Job], Result], others: list[Connection]) -> None:
        self.pipe, end = _FORK.Pipe()
        self.job: int | None = None
        self.deadline = 0.0
        # A child that kept its siblings' pipes open would keep them alive after the parent's death.
        self.process = _FORK.Process(target=_serve, args=(task, end, [*others, self.pipe]), daemon=True)
        with stop_signals_held():
            self.process.start()
        end.close()

    def start(self, number: int, job: Job, limit: float) -> None:
        self.job, self.deadline = number, time.monotonic() + limit
        with suppress(OSError):  # killed while idle: `finish` reports it
            self.pipe.send(job)

    def finish(self, limit: float) -> tuple[int, Result | Failure]:
        """Return the result of a worker that answered, crashed or exceeded the limit."""
        assert self.job is not None
        job, self.job = self.job, None
        if not self.pipe.poll():
            self.stop()
            return job, Failure(f"took longer than {limit:g} s")
        try:
            outcome: Result | Failure = self.pipe.recv()
        except (EOFError, OSError):  # OSError: killed while it sent the result
            self.process.join()
            return job, Failure(f"the process crashed (exit status {self.process.exitcode})")
        return job, outcome

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def _serve(task: Callable[[Job], Result], pipe: Connection, inherited: list[Connection]) -> None:
    """Compute jobs until the parent closes its end of the pipe."""
    for other in inherited:
        other.close()
    # What the process starts with stays: a garbage collection need not look at it, nor copy its pages.
    gc.freeze()
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            outcome: Result | Failure = task(job)
        except Exception as error:
            outcome = Failure(one_line(error))
        try:
            pipe.send(outcome)
        except OSError:  # the parent has died
            return
