"""The preflight of a job on a cluster: each worker checks its device, and a failure names the node.

A restart on the same nodes would meet the same GPU. So the job ends, and its launcher submits it without
it (`xkd.launch.kubernetes.submit`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

from xkd.errors import EXIT_BAD_NODE, EXIT_FAILURE, EXIT_PEERS_LOST
from xkd.io import one_line
from xkd.launch.distributed import DistributedContext
from xkd.launch.termination import report_failure, worker_environment
from xkd.log import get_logger

NODE_NAME = "NODE_NAME"
"""Environment variable with the name of a pod's node."""
_CHECK_SECONDS = 24.0
"""Time that all checks may take together."""
_EXCHANGE_SECONDS = 5.0
"""Time that the processes may take after that to exchange their results."""

T = TypeVar("T")
Check = Callable[[DistributedContext], str]
"""Returns what is wrong, or an empty string."""

log = get_logger(__name__)


def require_gpu() -> None:
    """End this process if its GPU is missing or does not respond; torch would use the CPU, or fail."""
    _, local_rank, _ = worker_environment() or (0, 0, 1)
    try:
        _within(_CHECK_SECONDS, lambda: torch.ones(1, device=f"cuda:{local_rank}").item())
    except Exception as error:
        _end([(_node(), f"GPU {local_rank}", _describe_error(error))])


def check_devices(context: DistributedContext, checks: Mapping[str, Check] | None = None) -> None:
    """Check every process's device, within half a minute; end all processes if a check fails on any of them.

    They end at once: what follows at the end of a process may hang on a broken GPU. The exit code is
    `EXIT_BAD_NODE` if nodes are to blame, which the termination message then lists as ``nodes``. A check that
    fails on each of several nodes, as when the network between them is down, is an ordinary failure.
    """
    device = _describe_device(context.device)
    begin = time.monotonic()

    def left() -> float:
        return begin + _CHECK_SECONDS - time.monotonic()

    for name, check in (checks or _checks(context)).items():
        try:
            failure = _within(left(), partial(check, context))
        except Exception as error:
            failure = _describe_error(error)
        mine = (_node(), device, failure and f"{name}: {failure}")
        try:
            results = _within(left() + _EXCHANGE_SECONDS, partial(context.all_gather, mine))
        except TimeoutError:
            os._exit(report_failure("preflight: the other processes do not respond", EXIT_PEERS_LOST))
        if any(failure for _, _, failure in results):
            _end(results)
    if context.is_main:
        log.info("preflight: %d device(s) checked in %.1f s", context.size, time.monotonic() - begin)


def _checks(context: DistributedContext) -> dict[str, Check]:
    """Return the checks by name: on one device, among those of a host, among all."""
    checks: dict[str, Check] = {"matrix product": _check_product}
    if context.size > 1:
        # The first of these tells which node is to blame; in the second, a broken one affects all.
        checks |= {"all-reduce on the node": _check_host, "all-reduce": _check_all_reduce}
    return checks


def _check_product(context: DistributedContext) -> str:
    """Check a matrix product of small integers, which is exact in every precision, and its repetitions."""
    is_gpu = context.device.type == "cuda"
    # On a GPU in half precision, for which it has units of its own; sums stay below 2048.
    size, dtype, repetitions = (4096, torch.float16, 100) if is_gpu else (256, torch.float32, 2)
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randint(-1, 2, (2, size, size), generator=generator, dtype=torch.int8).to(dtype)
    vector = torch.randint(-1000, 1001, (size,), generator=generator).double()
    on_device = left.to(context.device), right.to(context.device)
    product = on_device[0] @ on_device[1]
    # Multiplied by a vector, the product is known without computing it again on the CPU.
    if not torch.equal(product.cpu().double() @ vector, left.double() @ (right.double() @ vector)):
        return "wrong result"
    for _ in range(repetitions):
        if not torch.equal(on_device[0] @ on_device[1], product):
            return "the result changes"
    return ""


def _check_host(context: DistributedContext) -> str:
    """Check an all-reduce among the processes of this host."""
    size = int(os.environ["LOCAL_WORLD_SIZE"])
    timeout = timedelta(seconds=_CHECK_SECONDS)
    group, _ = dist.new_subgroups(size, timeout=timeout)  # type: ignore[no-untyped-call]
    failure = _check_sum(context, group, size)
    dist.destroy_process_group(group)
    return failure


def _check_all_reduce(context: DistributedContext) -> str:
    """Check an all-reduce among all processes."""
    return _check_sum(context, None, context.size)


def _check_sum(context: DistributedContext, group: dist.ProcessGroup | None, size: int) -> str:
    """Check a sum of integers over the processes of a group, which is exact."""
    numbers = torch.arange(1 << 20).remainder(8).float()
    values = (numbers * (dist.get_rank(group) + 1)).to(context.device)
    dist.all_reduce(values, group=group)
    return "" if torch.equal(values.cpu(), numbers * (size * (size + 1) // 2)) else "wrong result"


def _within(seconds: float, function: Callable[[], T]) -> T:
    """Return the result of a function that may hang, computed in a thread.

    Raises:
        TimeoutError: it takes too long; its thread continues.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(max(0.0, seconds))


def _end(results: Sequence[tuple[str, str, str]]) -> NoReturn:
    """End this process with the failures among results: node, device and failure of each process."""
    failures = [(node, device, failure) for node, device, failure in results if failure]
    nodes, bad = {node for node, _, _ in results}, {node for node, _, _ in failures}
    line = "; ".join(f"node {node}, {device}: {failure}" for node, device, failure in failures)
    line = f"preflight failed: {line}"[:1000]  # the kubelet truncates a termination message at 4096 bytes
    if bad == nodes and len(nodes) > 1:
        os._exit(report_failure(line, EXIT_FAILURE))
    os._exit(report_failure(line, EXIT_BAD_NODE, nodes=sorted(bad)))


def _node() -> str:
    return os.environ.get(NODE_NAME) or socket.gethostname()


def _describe_device(device: torch.device) -> str:
    if device.type != "cuda":
        return "CPU"
    properties = torch.cuda.get_device_properties(device)
    return f"GPU {device.index} ({properties.name}, GPU-{properties.uuid})"


def _describe_error(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no result in time"
    return f"{type(error).__name__}: {one_line(error)}"
