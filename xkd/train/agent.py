"""torchrun as the launcher starts it: it does not outlive its launcher and says in one line how it ended.

``python -m xkd.train.agent`` takes torchrun's arguments. Where torchrun ends with a traceback
of its own, this writes what the first failed worker left, the worker's exit code with it, to torchrun's
error file, from which TorchX hands it to `xkd.train.launch`.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from xkd.errors import UserError
from xkd.train.stop import ASKING

_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_PATIENCE = 600
"""Seconds that workers have to finish their step and save it."""
_AGAIN = 5.0
"""Seconds after which another signal is a second wish; sooner it is the first one, come by two ways."""


def worker(main: Callable[[], None]) -> None:
    """Run a worker's main: it ends with the process that started it, and a `UserError` is one line.

    The line goes to torchrun's error file, once for however many workers; without torchrun to stderr.
    """
    _end_with_parent()
    try:
        main()
    except UserError as error:
        if _ERROR_FILE in os.environ:
            _report(str(error), error.exit_code)
        else:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def main() -> None:
    """Entry point: torchrun's agent."""
    _end_with_parent()
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # Its errors repeat what the report below says.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.elastic.agent.server.api").setLevel(logging.CRITICAL)
    _let_workers_save()
    handled = ["--signals_to_handle", "SIGQUIT"]
    try:
        run.run(run.parse_args([*handled, *sys.argv[1:]]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        left = failure.error_file_data.get("message")
        if isinstance(left, dict):
            _report(left["message"], failure.exitcode)
        elif failure.exitcode < 0:
            _report(f"worker {rank} was ended by {failure.signal_name()}", failure.exitcode)
        else:
            _report(f"worker {rank} failed with exit code {failure.exitcode}", failure.exitcode)
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)


def _let_workers_save() -> None:
    """Pass SIGTERM and SIGINT on to the workers, and end as they do.

    torchrun would kill them 30 seconds later, in the middle of a large checkpoint. Asked again after a
    while, or after long waiting, this kills them too.
    """
    first: list[float] = []

    def asked(*_: object) -> None:
        now = time.monotonic()
        if not first:
            first.append(now)
            signal.alarm(_PATIENCE)
            if not pass_on(signal.SIGTERM):
                sys.exit(128 + signal.SIGTERM)
        elif now - first[0] > _AGAIN:
            pass_on(signal.SIGKILL)

    for number in (*ASKING, signal.SIGALRM):
        signal.signal(number, asked)


def pass_on(number: signal.Signals, to: str = "") -> int:
    """Send a signal to the processes that this one started and whose command line has `to` in it.

    Returns:
        How many there are.
    """
    count = 0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            with suppress(ProcessLookupError, FileNotFoundError):
                if to in Path(f"/proc/{child}/cmdline").read_text():
                    os.kill(int(child), number)
                    count += 1
    return count


def _report(message: str, code: int) -> None:
    """Write a failure as torchrun writes it, for the process above to read."""
    entry = {"message": message, "errorCode": code, "extraInfo": {"timestamp": str(int(time.time()))}}
    Path(os.environ[_ERROR_FILE]).write_text(json.dumps({"message": entry}))


def _end_with_parent() -> None:
    """Have Linux end this process when the one that started it ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


if __name__ == "__main__":
    main()
