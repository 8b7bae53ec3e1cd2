"""One host's part of a job: torchrun's agent, which keeps this host's workers going and ends in one line.

``python -m xkd.launch.agent`` is started on every host by TorchX. It differs from the ``torchrun``
command in what it does when something ends:

- it restarts workers that may succeed the next time, and none that made a mistake or collapsed;
- asked to stop, it has the workers save before they end, however long that takes;
- it leaves the first failed worker's own message, the worker's exit code with it, in torchrun's error file,
  from which TorchX (on this machine) or the kubelet (on a cluster) hands it to `xkd.launch.launcher`;
- it ends with the process that started it.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xkd.errors import XkdError

if __name__ == "__main__":
    # A pod's first process takes no signal that it does not handle, and what follows takes seconds to import.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

from xkd.errors import CollapsedError, UserError
from xkd.launch.interrupts import ASKING
from xkd.launch.termination import write_termination_message

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec

LOST = 69
"""Exit code of an agent that lost the other hosts; EX_UNAVAILABLE of sysexits.h."""
FINAL = (UserError.exit_code, CollapsedError.exit_code)
"""Exit codes of workers that would end the same way the next time."""

_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_REPORT_FILE = "XKD_REPORT_FILE"
"""Names the agent's own error file to its workers, for which torchrun sets another one."""
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_PATIENCE = 600
"""Seconds that workers have to finish their step and save it, where nobody says otherwise."""
_AGAIN = 5.0
"""Seconds after which another signal is a second wish; sooner it is the first one, come by two ways."""
_POLL = 0.1
_LONGEST = 1000
"""Characters of an error; the kubelet keeps four times as much of a termination message."""
_MEET_SECONDS = 900
"""How long hosts wait for each other: one may have to get its image first."""
_LAST_CALL_SECONDS = 15
"""How long enough hosts wait for more."""
_ANSWER_SECONDS = 20
"""How long an agent waits for a word from the others once they have met; then it has lost them."""
_RETURN_SECONDS = 60
"""How long hosts that had met wait to meet again; their workers may take half of it to end."""


def worker(main: Callable[[], dict[str, Any]]) -> None:
    """Run a worker's main: it ends with the process that started it, and a `UserError` is one line.

    The line goes to torchrun's error file, once for however many workers; without torchrun to stderr. What
    `main` returns is left beside it, as the job's result.
    """
    _end_with_parent()
    try:
        result = main()
    except XkdError as error:
        facts = {"verdict": error.verdict} if isinstance(error, CollapsedError) else {}
        sys.exit(_report_failure(str(error), error.exit_code, **facts))
    except Exception as error:
        if _ERROR_FILE in os.environ:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST]
            write_termination_message(
                os.environ[_ERROR_FILE], f"worker {os.environ['RANK']} failed: {reason}", 1
            )
        raise
    if _REPORT_FILE in os.environ and os.environ["RANK"] == "0":
        write_termination_message(os.environ[_REPORT_FILE], "finished", 0, **result)


def main() -> None:
    """Entry point: the agent of one host."""
    _end_with_parent()
    parser = argparse.ArgumentParser(prog="python -m xkd.launch.agent", description=__doc__)
    parser.add_argument("--job", required=True, help="name that all hosts of the job share")
    parser.add_argument("--nodes", default="1:1", help="MIN:MAX hosts; it waits for MIN and lets in MAX")
    parser.add_argument("--node", type=int, default=0, help="this host's number; 0 is where the others meet")
    parser.add_argument("--rendezvous", default="localhost:0", help="HOST:PORT of host 0, port 0 any")
    parser.add_argument("--address", help="this host's address, where the others cannot resolve its name")
    parser.add_argument("--processes", type=int, default=1, help="workers on this host")
    parser.add_argument("--restarts", type=int, default=0, help="how often workers are restarted")
    parser.add_argument("--grace", type=int, default=_PATIENCE, help="seconds that workers have to save")
    parser.add_argument("module", help="what each worker runs: python -m MODULE ARGUMENT ...")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    # The agent's errors repeat what the report says.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    given = parser.parse_args()
    code = _run(given, _let_workers_save(given.grace))
    if code:
        sys.exit(code if code > 0 else 128 - code)


def _run(given: argparse.Namespace, asked: list[float]) -> int:
    """Keep the workers going to their end, and report it.

    Args:
        given: the arguments.
        asked: when the first signal to stop came; empty until then.

    Returns:
        The exit code of the first worker that failed, negative for a signal; 0 for success.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.rendezvous import RendezvousError

    if _ERROR_FILE in os.environ:
        os.environ[_REPORT_FILE] = os.environ[_ERROR_FILE]
    # A store that all rounds share keeps what earlier ones wrote, and hosts that join later never find it.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # Signals are handled above; this one is for torchrun to take, which insists on one.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    try:
        handler = _rendezvous(given)
        spec = WorkerSpec(
            role="train",
            local_world_size=given.processes,
            rdzv_handler=handler,
            entrypoint=sys.executable,
            args=("-u", "-m", given.module, *given.arguments),
            max_restarts=given.restarts,
            monitor_interval=_POLL,
            local_addr=given.address,
        )
        result = _agent(asked, spec).run()
        if not asked:
            handler.shutdown()  # hosts that wait for this one need not
    except (RendezvousError, DistError) as error:
        reason = " ".join(str(error).split())
        return _report_failure(f"lost the other hosts at {given.rendezvous}: {reason}", LOST)
    except SignalException as error:
        return _report_failure(f"ended by {error.sigval.name}", -error.sigval)
    return _explain(result)


def _rendezvous(given: argparse.Namespace) -> Any:
    """Where the hosts meet, as soon as host 0 is there."""
    from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    fewest, most = map(int, given.nodes.split(":"))
    options = {"is_host": given.node == 0, "read_timeout": _ANSWER_SECONDS}
    options |= {"join_timeout": _MEET_SECONDS, "last_call_timeout": _LAST_CALL_SECONDS}
    where = RendezvousParameters("c10d", given.rendezvous, given.job, fewest, most, given.address, **options)
    begin = time.monotonic()
    while True:
        try:
            return get_rendezvous_handler(where)
        except RendezvousConnectionError:
            if given.node == 0 or time.monotonic() - begin > _MEET_SECONDS:
                raise
            time.sleep(1)  # a name that is not known yet fails at once


def _agent(asked: list[float], spec: WorkerSpec) -> Any:
    """The agent of torchrun, but that it gives up where going on is in vain, or not wanted."""
    from torch.distributed.elastic.agent.server.api import WorkerState
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs

    class Agent(LocalElasticAgent):
        def _rendezvous(self, worker_group: WorkerGroup) -> None:
            first = worker_group.group_world_size is None
            watchdog.expect(2 * _MEET_SECONDS if first else _RETURN_SECONDS)
            super()._rendezvous(worker_group)

        def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
            result: RunResult = super()._monitor_workers(worker_group)
            # The agent asks the store next, if all is well; what else may follow has limits of its own.
            watchdog.expect(_ANSWER_SECONDS if result.state == WorkerState.HEALTHY else math.inf)
            codes = [failure.exitcode for failure in result.failures.values()]
            if asked or any(code in FINAL for code in codes):
                self._remaining_restarts = 0
            return result

        def _restart_workers(self, worker_group: WorkerGroup) -> None:
            # Where others were quicker to end and meet again, this host's workers are saving still.
            if not asked:
                super()._restart_workers(worker_group)

        def _stop_workers(self, worker_group: WorkerGroup) -> None:
            watchdog.expect(_PATIENCE)
            super()._stop_workers(worker_group)

    watchdog = _Watchdog()
    watchdog.start()
    return Agent(spec, DefaultLogsSpecs())


class _Watchdog(threading.Thread):
    """Ends an agent that hangs: torch waits for the store of a host that is gone until TCP gives it up."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._until = math.inf

    def expect(self, seconds: float) -> None:
        """Have another word from the agent within so long, or else end it."""
        self._until = time.monotonic() + seconds

    def run(self) -> None:
        """Wait."""
        while time.monotonic() < self._until:
            time.sleep(1)
        pass_on(signal.SIGKILL)
        os._exit(_report_failure("lost the other hosts: they do not answer", LOST))


def _explain(result: RunResult | None) -> int:
    """Report how the workers ended, by the failure that says most."""
    if result is None:
        return _report_failure("the other hosts went on without this one", LOST)
    if not result.is_failed():
        return 0
    failures = result.failures
    rank = min(failures, key=lambda rank: (failures[rank].exitcode not in FINAL, failures[rank].timestamp))
    failure = failures[rank]
    left = failure.error_file_data.get("message")
    if isinstance(left, dict):
        return _report_failure(left["message"], failure.exitcode, **left.get("extraInfo", {}))
    if failure.exitcode < 0:
        return _report_failure(f"worker {rank} was ended by {failure.signal_name()}", failure.exitcode)
    return _report_failure(f"worker {rank} failed with exit code {failure.exitcode}", failure.exitcode)


def _let_workers_save(grace: int) -> list[float]:
    """Pass SIGTERM and SIGINT on to the workers, and end as they do.

    torchrun would kill them 30 seconds later, in the middle of a large checkpoint. Asked again after a
    while, or after `grace` seconds, this kills them too.

    Returns:
        When the first such signal came; empty until then.
    """
    first: list[float] = []

    def asked(number: int, _frame: object) -> None:
        now = time.monotonic()
        if not first:
            first.append(now)
            signal.alarm(grace)
            if not pass_on(signal.SIGTERM):
                sys.exit(128 + signal.SIGTERM)
        elif number == signal.SIGALRM or now - first[0] > _AGAIN:
            pass_on(signal.SIGKILL)

    for number in (*ASKING, signal.SIGALRM):
        signal.signal(number, asked)
    return first


def pass_on(number: signal.Signals, to: str = "") -> int:
    """Send a signal to the processes that this one started and whose command line has `to` in it.

    Returns:
        How many there are.
    """
    count = 0
    for child in _children():
        with suppress(ProcessLookupError, FileNotFoundError):
            if to in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(child, number)
                count += 1
    return count


def _children() -> Iterator[int]:
    """The processes that this one started, by whichever of its threads."""
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError, FileNotFoundError):  # it may end meanwhile
            yield from map(int, (thread / "children").read_text().split())


def _report_failure(message: str, code: int, **extra: Any) -> int:
    """Report a failure to the process above, or on stderr where there is none."""
    if _ERROR_FILE in os.environ:
        write_termination_message(os.environ[_ERROR_FILE], message, code, **extra)
    else:
        print(f"error: {message}", file=sys.stderr)
    return code


def _end_with_parent() -> None:
    """Have Linux end this process when the one that started it ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


if __name__ == "__main__":
    main()
