"""Run a task over many files in processes that may crash or hang without taking the others along."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

_FORK = multiprocessing.get_context("fork")
_AHEAD = 8
"""Jobs a worker may be ahead of the oldest unfinished one; bounds the results held in memory."""


@dataclass(frozen=True)
class Failure:
    """Why a job has no result."""

    reason: str


def run_each(
    task: Callable[[Job], Result], jobs: Sequence[Job], workers: int, limit: float
) -> Generator[Result | Failure, None, None]:
    """Yield task(job) for every job, in the jobs' order, computed in `workers` processes.

    An exception, a crash of the process, or more than `limit` seconds give a `Failure` for that job
    alone; a crashed or stopped process is replaced. (`concurrent.futures` gives up the whole pool.)
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
                for worker in crew:
                    if worker.job is None and upcoming < min(len(jobs), number + _AHEAD * workers):
                        worker.start(upcoming, jobs[upcoming], limit)
                        upcoming += 1
                busy = [worker for worker in crew if worker.job is not None]
                patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
                ready = wait([worker.pipe for worker in busy], patience)
                for worker in busy:
                    if worker.pipe in ready or time.monotonic() > worker.deadline:
                        job, outcome = worker.finish(limit)
                        done[job] = outcome
            yield done.pop(number)
    finally:
        for worker in crew:
            worker.stop()


class _Worker(Generic[Job, Result]):
    """One process and the job it is at."""

    def __init__(self, task: Callable[[Job], Result], others: list[Connection]) -> None:
        self.pipe, end = _FORK.Pipe()
        self.job: int | None = None
        self.deadline = 0.0
        # A child that kept its siblings' pipes open would keep them alive after the parent's death.
        self.process = _FORK.Process(target=_serve, args=(task, end, [*others, self.pipe]), daemon=True)
        self.process.start()
        end.close()

    def start(self, number: int, job: Job, limit: float) -> None:
        self.job, self.deadline = number, time.monotonic() + limit
        self.pipe.send(job)

    def finish(self, limit: float) -> tuple[int, Result | Failure]:
        """Take the result of a worker that answered, died or is out of time."""
        assert self.job is not None
        job, self.job = self.job, None
        if not self.pipe.poll():
            self.stop()
            return job, Failure(f"took longer than {limit:g} s")
        try:
            outcome: Result | Failure = self.pipe.recv()
        except EOFError:
            self.process.join()
            return job, Failure(f"the decoder crashed (exit status {self.process.exitcode})")
        return job, outcome

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def _serve(task: Callable[[Job], Result], pipe: Connection, inherited: list[Connection]) -> None:
    for other in inherited:
        other.close()
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            outcome: Result | Failure = task(job)
        except Exception as error:
            outcome = Failure(" ".join(str(error).split()) or type(error).__name__)
        try:
            pipe.send(outcome)
        except OSError:  # whoever asked is gone
            return
