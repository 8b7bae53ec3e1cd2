"""The processes of a training run: a single one, or those that torchrun started."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from xkd.errors import UserError
from xkd.launch.termination import worker_environment

T = TypeVar("T")


@dataclass(frozen=True)
class DistributedContext:
    """Rank, device and groups of one of the processes of a run."""

    rank: int
    size: int
    device: torch.device
    cpu_group: dist.ProcessGroup | None = None
    """For small messages that must not wait for a GPU; None: the default group."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files, logs and shows progress."""
        return self.rank == 0

    def all_reduce_mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes, on every process."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

    def all_reduce_max(self, value: int) -> int:
        """Return the maximum over all processes; does not wait for a GPU."""
        if self.size == 1:
            return value
        highest = torch.tensor(value)
        dist.all_reduce(highest, dist.ReduceOp.MAX, group=self.cpu_group)
        return int(highest)

    def broadcast_flag(self, look: Callable[[], bool]) -> bool:
        """Return the main process's result of `look` on every process; only that one calls it.

        Raises:
            UserError: `look` raised it; every process does, so that none waits for the main one.
        """
        result: list[bool | UserError] = [False]
        if self.is_main:
            try:
                result = [look()]
            except UserError as error:
                result = [error]
        if self.size > 1:
            dist.broadcast_object_list(result, group=self.cpu_group)
        if isinstance(result[0], UserError):
            raise result[0]
        return result[0]

    def all_gather(self, value: T) -> list[T]:
        """Return every process's value, in the order of their ranks; does not wait for a GPU."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self.cpu_group)
        return values

    def barrier(self) -> None:
        """Wait for every process."""
        if self.size > 1:
            dist.barrier()


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for reuse: every layer allocates and frees activations.

    Memory returned to Linux comes back as page faults, which cost a tenth of a step on a CPU.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX of mallopt(3)
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD


@contextmanager
def distributed_context(patience: int = 300) -> Iterator[DistributedContext]:
    """Join the processes that torchrun started, or run as a single one.

    Each process uses the GPU of its local rank; without GPUs all run on the CPU. A process that waits for the
    others for more than `patience` seconds fails.

    Raises:
        UserError: the variables of torchrun are incomplete.
    """
    rank, local_rank, size = worker_environment() or (0, 0, 1)
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        keep_freed_memory()
    cpu_group = None
    if size > 1:
        timeout = timedelta(seconds=patience)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
        if device.type == "cuda":
            cpu_group = dist.new_group(backend="gloo", timeout=timeout)
    context = DistributedContext(rank, size, device, cpu_group)
    try:
        yield context
        # Gloo's threads need the interpreter to release their last tensors. Collect what still uses the group
        # and wait for the threads here, or both deadlock at the end of the process.
        gc.collect()
        context.barrier()
    finally:
        if size > 1:
            dist.destroy_process_group()
