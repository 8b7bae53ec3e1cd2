"""The main function of a worker process, as torchrun's agent starts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from xkd.errors import EXIT_FAILURE, CollapsedError, XkdError
from xkd.launch.interrupts import end_with_parent
from xkd.launch.termination import ERROR_FILE, report_failure, write_termination_message

AGENT_ERROR_FILE = "XKD_AGENT_ERROR_FILE"
"""Environment variable with the agent's own error file; torchrun sets another file for each worker."""
_MAX_MESSAGE = 1000
"""Characters of an error; the kubelet truncates a termination message at four times as many."""


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
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_MAX_MESSAGE]
            report_failure(f"worker {os.environ['RANK']} failed: {reason}", EXIT_FAILURE)
        raise
    if AGENT_ERROR_FILE in os.environ and os.environ["RANK"] == "0":
        write_termination_message(os.environ[AGENT_ERROR_FILE], "finished", 0, **result)
