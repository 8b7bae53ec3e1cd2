"""Run workers on this machine through TorchX and torchrun's agent."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchx.runner import Runner
from torchx.schedulers.local_scheduler import CWDImageProvider, LocalScheduler, ReplicaParam, SignalException
from torchx.specs import AppDef, AppState, AppStatus, Role

from xkd.errors import (
    EXIT_COLLAPSED,
    EXIT_FAILURE,
    EXIT_TRY_AGAIN,
    EXIT_USER_ERROR,
    TrainingError,
    UserError,
    XkdError,
    as_exit_code,
)
from xkd.io import make_folder
from xkd.launch.agent import agent_command
from xkd.launch.interrupts import handle_stop_signals, raise_stop, signal_children, signal_handlers_restored
from xkd.launch.termination import Termination, read_termination_message
from xkd.parallel.limits import cores


@dataclass(frozen=True)
class Hosts:
    """Where several hosts train together without Kubernetes, each by its own command."""

    count: int
    """Number of hosts."""
    number: int
    """Of this host, from 0."""
    rendezvous: str
    """HOST:PORT of host 0."""

    def __post_init__(self) -> None:
        host, _, port = self.rendezvous.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise UserError(f"--rendezvous must be HOST:PORT of the first host, not {self.rendezvous!r}")
        if not 0 <= self.number < self.count:
            raise UserError(
                f"--host must be 0 to {self.count - 1} for --hosts {self.count}, not {self.number}"
            )


def run_locally(
    work: Sequence[str],
    processes: int,
    idle_cores: int = 0,
    hosts: Hosts | None = None,
    log: Path | None = None,
) -> None:
    """Run workers on this machine to their end; none is left when this returns or raises.

    Args:
        work: the module that each worker runs, and its arguments.
        idle_cores: cores per worker for its child processes; it has a thread for each of the others, unless
            the environment sets OMP_NUM_THREADS.
        hosts: that train together; None: this one alone.
        log: file for the workers' output, which replaces an earlier one; None: this process's.

    Raises:
        XkdError: as `xkd.launch.launcher.launch` does.
        KeyboardInterrupt, SystemExit: on SIGINT and other signals to stop, after the workers ended without
            saving.
    """
    threads = max(1, cores() // processes - idle_cores)
    env = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    # TorchX expands variables in arguments, also in paths, and turns $$ into $.
    options = []
    if hosts:
        options = ["--nodes", f"{hosts.count}:{hosts.count}", "--node", str(hosts.number)]
        options += ["--rendezvous", hosts.rendezvous]
    command = agent_command("xkd", processes, [word.replace("$", "$$") for word in work], options)

    if log:  # TorchX refuses to write to one that exists
        make_folder(log.parent)
        log.unlink(missing_ok=True)
    output = str(log) if log else None

    class ImageProvider(CWDImageProvider):  # type: ignore[misc]
        """Gives the workers `log`, or this process's stdout and stderr, so that progress bars work."""

        def get_replica_param(self, img_root: str, role: Role, *_files: str | None) -> ReplicaParam:
            return super().get_replica_param(img_root, role, None, output)

    def scheduler(session_name: str, **_: Any) -> LocalScheduler:
        return LocalScheduler(session_name, image_provider_class=ImageProvider)

    role = Role(name="train", image="", entrypoint=sys.executable, args=command, env=env)
    with signal_handlers_restored(), Runner("xkd", {"local_cwd": scheduler}) as runner:
        job = ""
        try:
            job = runner.run(AppDef(name="xkd", roles=[role]), "local_cwd")
            handle_stop_signals(_raise)  # TorchX handles two of them, and has just overridden other handlers
            status = runner.wait(job, wait_interval=0.5)
        except SignalException as error:
            # Workers finish their step and save; a second signal ends them at once.
            signal_children(signal.SIGTERM, command="xkd.launch.agent")
            end = None
            with suppress(SignalException):
                end = _termination(runner.wait(job, wait_interval=0.5)) if job else None
            # Workers that are still starting have nothing to save, and end by the signal.
            if end and end.code != -signal.SIGTERM:
                raise _error(end, f" after {error.sigval.name}, before it saved", log) from None
            raise_stop(error.sigval)
    if status is None or status.state is not AppState.SUCCEEDED:
        end = _termination(status) or Termination("torchrun failed", EXIT_FAILURE)
        raise _error(end, ", likely out of memory" if end.code == -signal.SIGKILL else "", log)


def _error(end: Termination, circumstances: str, log: Path | None) -> XkdError:
    """Return the error of workers that did not finish."""
    if end.code in (EXIT_USER_ERROR, EXIT_COLLAPSED, EXIT_TRY_AGAIN):
        return end.final_error()
    hint = f"see {log or 'the output above'}, and rerun the command to resume"
    return TrainingError(f"{end.message}{circumstances}; {hint}", as_exit_code(end.code))


def _raise(number: signal.Signals, _first: bool) -> None:
    raise SignalException(f"got {number.name}", number)


def _termination(status: AppStatus | None) -> Termination | None:
    """Return how the agent ended, if it could say so."""
    return read_termination_message(status.structured_error_msg if status else None)
