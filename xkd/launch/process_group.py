"""A function in a process group, which ends together."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from xkd.errors import EXIT_FAILURE, EXIT_SIGNAL, as_exit_code
from xkd.launch.interrupts import end_with_parent, handle_stop_signals, stop_signals
from xkd.parallel.processes import STOP_SIGNALS, stop_signals_held


def run_in_process_group(run: Callable[[], int]) -> int:
    """Run a function in a process that leads a new group; return its exit code once the group has ended.

    The first signal to stop reaches every process of the group, as SIGINT or SIGTERM; the function starts no
    process after that, and this returns 128 plus the signal's number. The same happens if this process is
    killed.
    """
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER of prctl(2): wait for grandchildren too

    def forward(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    with stop_signals_held():  # until both processes handle them
        child = os.fork()
        if child == 0:
            os._exit(_lead_group(run))
        for number in stop_signals():
            signal.signal(number, forward)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(ProcessLookupError):  # it may have been killed
        os.killpg(child, signal.SIGTERM)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-child, 0)
    return as_exit_code(code)


def _lead_group(run: Callable[[], int]) -> int:
    """Run a function in a new process group, and return its exit code."""
    os.setpgid(0, 0)
    received, codes = list[signal.Signals](), list[int]()

    def forward(number: signal.Signals, _first: bool) -> None:
        received.append(number)
        os.killpg(0, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def start_nothing(event: str, _arguments: Any) -> None:
        if received and event == "subprocess.Popen":
            sys.exit()  # of the thread

    handle_stop_signals(forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    end_with_parent()
    sys.addaudithook(start_nothing)
    # In a thread, which reads the output of processes until they end, also while a signal is handled here.
    thread = threading.Thread(target=lambda: codes.append(run()), daemon=True)
    thread.start()
    thread.join()
    if received:
        return EXIT_SIGNAL + received[0]
    return codes[0] if codes else EXIT_FAILURE
