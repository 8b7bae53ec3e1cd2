"""A worker for the launcher's tests: it records its process and acts as its first argument says."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from xkd.errors import CollapsedError, RunInterruptedError, UserError
from xkd.launch.interrupts import stop_signals_collected
from xkd.launch.termination import run_worker
from xkd.rundir import Verdict


def main() -> dict[str, Any]:
    what, folder, rank = sys.argv[1], Path(sys.argv[2]), os.environ["RANK"]
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    with (folder / f"{rank}.starts").open("a") as starts:
        starts.write("started\n")
    (folder / f"{rank}.parent").write_text(str(os.getppid()))
    (folder / f"{rank}.threads").write_text(os.environ["OMP_NUM_THREADS"])
    print(f"worker {rank} of {os.environ['WORLD_SIZE']} speaks", flush=True)
    if what == "mistake":
        raise UserError("optim.lr must be positive")
    if what == "collapse":
        raise CollapsedError(Verdict("one_hot", "KD is 0", 12).to_dict())
    if (what == "save" and rank == "1") or what == "fault":
        with stop_signals_collected() as received:
            (folder / f"{rank}.ready").touch()
            while not received:
                time.sleep(0.1)
            if what == "fault":
                os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(3)
        raise RunInterruptedError("stopped and saved")
    if what == "crash":
        raise RuntimeError("the bug is here")
    if what == "killed" and rank == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if what in ("wait", "killed", "save", "stubborn"):
        (folder / f"{rank}.ready").touch()
        time.sleep(600)
    return {"spoke": what}


if __name__ == "__main__":
    run_worker(main)
