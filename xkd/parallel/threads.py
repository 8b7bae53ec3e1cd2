"""Process samples in threads, each of which computes alone.

PyTorch's own threads split every small operation and synchronize after each: on a busy machine that is many
times slower than one thread. Here a thread takes whole samples instead.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController
from torch.utils.data import get_worker_info

from xkd.parallel.limits import cores

Job = TypeVar("Job")
Result = TypeVar("Result")


def limit_threads() -> None:
    """Let PyTorch and BLAS use as many threads as there are cores for this process, or fewer.

    Both count the cores that the process sees, which are those of the machine. Many threads that share few
    cores are slower than few.
    """
    torch.set_num_threads(min(torch.get_num_threads(), cores()))
    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        library.set_num_threads(min(library.num_threads, cores()))


def over_samples(work: Callable[[slice], None], count: int, device: torch.device) -> None:
    """Call work(part) for parts that cover `count` samples.

    On a CPU a part is one sample, so that it stays in the cache during many passes over it, and the samples
    are spread over as many threads as PyTorch uses; on other devices the whole batch is one part.
    """
    if device.type != "cpu":
        work(slice(0, count))
        return
    in_threads(lambda sample: work(slice(sample, sample + 1)), range(count))


def in_threads(work: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """Return [work(job) for job in jobs], computed in as many threads as PyTorch uses (one in a worker)."""
    threads = 1 if get_worker_info() else min(torch.get_num_threads(), len(jobs))
    if threads < 2:
        return [work(job) for job in jobs]
    inference = torch.is_inference_mode_enabled()

    def call(job: Job) -> Result:
        with torch.inference_mode(inference):
            return work(job)

    return list(_pool(threads).map(call, jobs))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    started = threading.Barrier(threads)
    list(pool.map(lambda _: started.wait(), range(threads)))
    # Each of those calls also set the number that new threads start with: restore it.
    torch.set_num_threads(threads)
    return pool
