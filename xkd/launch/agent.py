"""The agent of one host: torchrun's elastic agent with other rules for restarts and signals.

TorchX starts ``python -m xkd.launch.agent`` on every host. It differs from the ``torchrun`` command in this:

- It restarts workers unless their exit code says that another attempt would end in the same way.
- On a signal to stop it gives the workers the grace period to save before they end.
- It passes on the message and the exit code of the first worker that failed, in torchrun's error file, which
  TorchX (on this machine) or the kubelet (in a pod) hands to `xkd.launch.launcher`.
- It ends with the process that started it.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    # The first process of a container gets no signal that it does not handle, and the imports take seconds.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

from xkd.errors import (
    EXIT_NO_PROGRESS,
    EXIT_PEERS_LOST,
    EXIT_SIGNAL,
    NON_RETRYABLE_EXIT_CODES,
    as_exit_code,
)
from xkd.io import one_line
from xkd.launch.attempts import Attempts
from xkd.launch.interrupts import end_with_parent, handle_stop_signals, signal_children
from xkd.launch.termination import AGENT_ERROR_FILE, ERROR_FILE, read_termination_message, report_failure

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec

SUBMISSION = "XKD_SUBMISSION"
"""Environment variable that identifies the submission of a job."""
GRACE_SECONDS = 600
"""Default time that workers have to finish their step and save it."""
_JOIN_SECONDS = 900
"""How long hosts wait for each other at first: one may have to pull its image."""
_STORE_SECONDS = 20
"""How long the rendezvous store may take to respond, once the hosts have met, before they count as lost."""
_REJOIN_SECONDS = 60
"""How long hosts wait to meet again after a failure; their workers may take half of it to end."""


def agent_command(job: str, processes: int, work: Sequence[str], options: Sequence[str] = ()) -> list[str]:
    """Return the arguments that make Python an agent, whose workers run the module and arguments `work`."""
    return ["-m", "xkd.launch.agent", "--job", job, "--processes", str(processes), *options, *work]


def main() -> None:
    """Run the agent of one host."""
    end_with_parent()
    parser = argparse.ArgumentParser(prog="python -m xkd.launch.agent", description=__doc__)
    parser.add_argument("--job", required=True, help="name shared by all hosts of the job")
    parser.add_argument("--nodes", default="1:1", help="MIN:MAX hosts; waits for MIN, admits up to MAX")
    parser.add_argument("--node", type=int, default=0, help="this host's number; host 0 runs the rendezvous")
    parser.add_argument("--rendezvous", default="localhost:0", help="HOST:PORT of host 0; 0: any free port")
    parser.add_argument("--address", help="this host's address, if the others cannot resolve its name")
    parser.add_argument("--processes", type=int, default=1, help="workers on this host")
    parser.add_argument("--restarts", type=int, default=0, help="maximum number of restarts of the workers")
    parser.add_argument("--run", type=Path, help="run directory in which host 0 counts its starts")
    parser.add_argument("--attempts", type=int, default=1, help="starts without a new checkpoint at most")
    parser.add_argument("--grace", type=int, default=GRACE_SECONDS, help="seconds workers have to save")
    parser.add_argument("module", help="command of each worker: python -m MODULE ARGUMENT ...")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    # The agent's errors repeat the termination message.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    options = parser.parse_args()
    interrupts = _Interrupts(options.grace)
    run = _run_if_attempts_are_left if options.run and options.node == 0 else _run
    sys.exit(as_exit_code(run(options, interrupts)))


class _Interrupts:
    """Passes a signal to stop on to the workers, and kills them after the grace period or another signal.

    torchrun itself would kill them after 30 seconds, possibly while they write a large checkpoint.
    """

    def __init__(self, grace: int) -> None:
        self._grace, self.received = grace, False
        handle_stop_signals(self._handle)
        signal.signal(signal.SIGALRM, lambda *_: signal_children(signal.SIGKILL))

    def _handle(self, _number: signal.Signals, first: bool) -> None:
        self.received = True
        if not first:
            signal_children(signal.SIGKILL)
            return
        signal.alarm(self._grace)
        if not signal_children(signal.SIGTERM):
            sys.exit(EXIT_SIGNAL + signal.SIGTERM)


def _run_if_attempts_are_left(options: argparse.Namespace, interrupts: _Interrupts) -> int:
    """Run the workers, unless earlier starts of the job did not get any further; return the exit code."""
    attempts = Attempts.begin(options.run, os.environ.get(SUBMISSION, ""))
    if attempts.count > options.attempts:
        reason = attempts.reason or "none of them could say why"
        line = f"no new checkpoint in {options.attempts} attempts; the last failure: {reason}"
        return report_failure(line, EXIT_NO_PROGRESS)
    code = _run(options, interrupts)
    if code:
        end = read_termination_message(Path(os.environ[ERROR_FILE]).read_text())
        replace(attempts, reason=end.message if end else f"exit code {code}").save(options.run)
    return code


def _run(options: argparse.Namespace, interrupts: _Interrupts) -> int:
    """Run the workers to their end, report it and return the exit code, negative for a signal."""
    from torch.distributed import DistError
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.rendezvous import RendezvousError

    if ERROR_FILE in os.environ:
        os.environ[AGENT_ERROR_FILE] = os.environ[ERROR_FILE]
    # A store shared by all rounds keeps the values of earlier rounds, and hosts that join later hang on them.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # torchrun insists on handling a signal: one that nobody sends, as `_Interrupts` handles the others.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGUSR2"
    try:
        handler = _join_rendezvous(options)
        spec = WorkerSpec(
            role="train",
            local_world_size=options.processes,
            rdzv_handler=handler,
            entrypoint=sys.executable,
            # torchrun expands ${local_rank} in arguments, also in paths, and turns $$ into $.
            args=("-u", "-m", options.module, *(word.replace("$", "$$") for word in options.arguments)),
            max_restarts=options.restarts,
            monitor_interval=0.1,
            local_addr=options.address,
        )
        result = _build_agent(interrupts, spec).run()
        if not interrupts.received:
            handler.shutdown()  # hosts that still wait for this one end too
    except (RendezvousError, DistError) as error:
        lost = f"lost the other hosts at {options.rendezvous}: {one_line(error)}"
        return report_failure(lost, EXIT_PEERS_LOST)
    except SignalException as error:
        return report_failure(f"terminated by {error.sigval.name}", -error.sigval)
    return _report(result)


def _join_rendezvous(options: argparse.Namespace) -> Any:
    """Return the rendezvous handler, once host 0 is reachable."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed
    from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    min_nodes, max_nodes = map(int, options.nodes.split(":"))
    parameters = RendezvousParameters(
        "c10d",
        options.rendezvous,
        options.job,
        min_nodes,
        max_nodes,
        options.address,
        is_host=options.node == 0,
        read_timeout=_STORE_SECONDS,
        join_timeout=_JOIN_SECONDS,
        last_call_timeout=15,  # how long the minimum number of hosts waits for more
    )
    retrying = Retrying(  # a host name that DNS does not know yet fails at once
        retry=retry_if_exception_type(RendezvousConnectionError),
        wait=wait_fixed(1),
        stop=stop_after_delay(_JOIN_SECONDS if options.node else 0),
        reraise=True,
    )
    return retrying(get_rendezvous_handler, parameters)


def _build_agent(interrupts: _Interrupts, spec: WorkerSpec) -> Any:
    """Return torchrun's agent, with restarts only where they may help and limits where it would hang."""
    from torch.distributed.elastic.agent.server.api import WorkerState
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs

    class Agent(LocalElasticAgent):
        def _rendezvous(self, worker_group: WorkerGroup) -> None:
            first = worker_group.group_world_size is None
            watchdog.limit(2 * _JOIN_SECONDS if first else _REJOIN_SECONDS)
            super()._rendezvous(worker_group)

        def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
            result: RunResult = super()._monitor_workers(worker_group)
            # With healthy workers the agent reads the store next; all other steps set their own limit.
            watchdog.limit(_STORE_SECONDS if result.state == WorkerState.HEALTHY else math.inf)
            codes = [failure.exitcode for failure in result.failures.values()]
            if interrupts.received or any(code in NON_RETRYABLE_EXIT_CODES for code in codes):
                self._remaining_restarts = 0
            return result

        def _restart_workers(self, worker_group: WorkerGroup) -> None:
            # When other hosts end and rejoin sooner, the workers of this one may still be saving.
            if not interrupts.received:
                super()._restart_workers(worker_group)

        def _stop_workers(self, worker_group: WorkerGroup) -> None:
            watchdog.limit(GRACE_SECONDS)
            super()._stop_workers(worker_group)

    watchdog = _Watchdog()
    watchdog.start()
    return Agent(spec, DefaultLogsSpecs())


class _Watchdog(threading.Thread):
    """Ends an agent that hangs: torch waits for the store of a lost host until TCP times out."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._deadline = math.inf

    def limit(self, seconds: float) -> None:
        """Set the time the agent has until the next call."""
        self._deadline = time.monotonic() + seconds

    def run(self) -> None:
        """Wait for the deadline."""
        while time.monotonic() < self._deadline:
            time.sleep(1)
        signal_children(signal.SIGKILL)
        os._exit(report_failure("lost the other hosts: they do not respond", EXIT_PEERS_LOST))


def _report(result: RunResult | None) -> int:
    """Report how the workers ended, by the failure that explains most; return its exit code."""
    if result is None:
        return report_failure("the other hosts continued without this one", EXIT_PEERS_LOST)
    if not result.is_failed():
        return 0
    rank, failure = min(
        result.failures.items(),
        key=lambda item: (item[1].exitcode not in NON_RETRYABLE_EXIT_CODES, item[1].timestamp),
    )
    code, entry = failure.exitcode, failure.error_file_data.get("message")
    if isinstance(entry, dict):
        return report_failure(entry["message"], code, **entry.get("extraInfo", {}))
    end = f"was terminated by {failure.signal_name()}" if code < 0 else f"failed with exit code {code}"
    return report_failure(f"worker {rank} {end}", code)


if __name__ == "__main__":
    main()
