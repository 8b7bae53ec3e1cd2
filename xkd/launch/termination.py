"""The main function of a worker, and termination messages, in the format of torchrun's error files.

A process writes a message before it exits. TorchX (on this machine) or the kubelet (as a pod's termination
message) passes it to the process that started it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xkd.errors import (
    EXIT_BAD_NODE,
    EXIT_COLLAPSED,
    EXIT_FAILURE,
    EXIT_NO_PROGRESS,
    EXIT_TRY_AGAIN,
    CollapsedError,
    RunInterruptedError,
    TrainingError,
    UserError,
    XkdError,
)
from xkd.launch.interrupts import end_with_parent

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable with the path of a process's termination message."""
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Environment variable of the processes that torchrun or our agent started."""
WORKER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that such a process has besides. Job schedulers set some of them too, and shells keep them."""
AGENT_ERROR_FILE = "XKD_AGENT_ERROR_FILE"
"""The same of the agent, for its workers: torchrun sets another file for each worker."""


@dataclass(frozen=True)
class Termination:
    """How a process ended."""

    message: str
    code: int
    """Exit code, negative for a signal."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further results: ``verdict`` has the fields of `xkd.rundir.Verdict`, ``nodes`` names bad nodes."""

    def final_error(self) -> XkdError:
        """Return the error of an exit code that another attempt would not change."""
        if self.code == EXIT_COLLAPSED and "verdict" in self.facts:
            return CollapsedError(self.facts["verdict"])
        if self.code in (EXIT_BAD_NODE, EXIT_NO_PROGRESS):
            return TrainingError(self.message, self.code)
        return RunInterruptedError(self.message) if self.code == EXIT_TRY_AGAIN else UserError(self.message)


def write_termination_message(path: str, message: str, code: int, **facts: Any) -> None:
    """Write a one-line message, the exit code and further facts."""
    extra = {"timestamp": str(int(time.time())), **facts}
    entry = {"message": message, "errorCode": code, "extraInfo": extra}
    Path(path).write_text(json.dumps({"message": entry}))


def read_termination_message(text: str | None) -> Termination | None:
    """Parse a termination message; return None if it is missing, truncated or of another format."""
    with suppress(ValueError, KeyError, TypeError):
        entry = json.loads(text or "")["message"]
        return Termination(entry["message"], entry["errorCode"], entry.get("extraInfo", {}))
    return None


def report_failure(message: str, code: int, **facts: Any) -> int:
    """Write this process's termination message, or print it where no file is set; return the exit code."""
    if path := os.environ.get(ERROR_FILE):
        write_termination_message(path, message, code, **facts)
    else:
        print(f"error: {message}", file=sys.stderr)
    return code


def worker_environment() -> tuple[int, int, int] | None:
    """Return the rank, the local rank and the number of the processes of torchrun's; None outside of it.

    Raises:
        UserError: some of its variables are missing, or are no numbers.
    """
    if TORCHRUN not in os.environ:
        return None
    values = {name: os.environ.get(name, "") for name in WORKER_VARIABLES}
    for name, value in values.items():
        if not (value.isdecimal() or (value and name == "MASTER_ADDR")):
            raise UserError(
                f"{TORCHRUN} is set, but {name} is {value or 'not set'}: start the processes with torchrun, "
                f"or unset {TORCHRUN}"
            )
    return int(values["RANK"]), int(values["LOCAL_RANK"]), int(values["WORLD_SIZE"])


def forget_torchrun() -> None:
    """Remove the variables of torchrun, which started not this process, but perhaps a parent of it."""
    for name in (TORCHRUN, ERROR_FILE, AGENT_ERROR_FILE, *WORKER_VARIABLES):
        os.environ.pop(name, None)


def run_worker(main: Callable[[], dict[str, Any]]) -> None:
    """Run `main`; report an `XkdError` as one line, and what `main` returns as the result of the job.

    The line goes to torchrun's error file, once for any number of workers; without torchrun to stderr. The
    process ends with its parent.
    """
    end_with_parent()
    try:
        result = main()
    except XkdError as error:
        facts = {"verdict": error.verdict} if isinstance(error, CollapsedError) else {}
        sys.exit(report_failure(str(error), error.exit_code, **facts))
    except Exception as error:
        if ERROR_FILE in os.environ:
            # The kubelet truncates a termination message at 4096 bytes.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000]
            report_failure(f"worker {os.environ.get('RANK', '0')} failed: {reason}", EXIT_FAILURE)
        raise
    if AGENT_ERROR_FILE in os.environ and os.environ["RANK"] == "0":
        write_termination_message(os.environ[AGENT_ERROR_FILE], "finished", 0, **result)
