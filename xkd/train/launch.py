"""Start pretraining through TorchX and torchrun, follow it to its end, leave nothing running.

TorchX's ``local_cwd`` scheduler starts one torchrun on this machine, which starts the workers
(``python -m xkd.train.pretrain``). Their output goes straight to this process's console.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from torchx.runner import Runner
from torchx.schedulers.local_scheduler import CWDImageProvider, LocalScheduler, ReplicaParam, SignalException
from torchx.specs import AppDef, AppState, AppStatus, Role, macros

from xkd.config import PretrainConfig
from xkd.errors import UserError
from xkd.settings import to_yaml
from xkd.train.agent import pass_on
from xkd.train.run import read_json
from xkd.train.stop import CollapsedError, StoppedError
from xkd.watch.collapse import Verdict

_POLL = 0.5


class TrainingError(UserError):
    """A worker ended before its work was done; the same command resumes from the last checkpoint."""

    exit_code = 1


def launch(config: PretrainConfig, data: Path, out: Path, processes: int = 1) -> Verdict:
    """Pretrain on this machine, in `processes` workers, and wait for the end.

    A run directory of the same configuration is resumed from its last checkpoint.

    Returns:
        How the finished run was judged; also if it ended by that, before its last step.

    Raises:
        UserError: a mistake to mend first, as a worker found it.
        TrainingError: a worker crashed or was killed.
        StoppedError: SIGINT or SIGTERM came and the state was saved.
        KeyboardInterrupt, SystemExit: after the workers were stopped, on SIGINT and SIGTERM.
    """
    if processes < 1:
        raise UserError(f"processes must be at least 1, not {processes}")
    with NamedTemporaryFile("w", prefix="xkd-", suffix=".yaml") as file:
        file.write(to_yaml(config))
        file.flush()
        arguments = ["--config", file.name, "--data", str(data.resolve()), "--out", str(out.resolve())]
        # What the loader's workers decode on is not there for computing.
        threads = len(os.sched_getaffinity(0)) // processes - config.run.workers
        follow(appdef("xkd.train.pretrain", arguments, processes, max(1, threads)))
    return Verdict(**read_json(out / "verdict.json"))


def appdef(module: str, arguments: Sequence[str], processes: int, threads: int) -> AppDef:
    """The job: torchrun of ``-m module`` with this many workers, each computing on so many threads."""
    torchrun = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--rdzv-id", macros.app_id]
    workers = ["--nnodes", "1", "--nproc-per-node", str(processes), "--max-restarts", "0"]
    role = Role(
        name="train",
        image="",
        entrypoint=sys.executable,
        args=["-m", "xkd.train.agent", *torchrun, *workers, "-m", module, *arguments],
        env={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))},
    )
    return AppDef(name="xkd", roles=[role])


def follow(app: AppDef) -> None:
    """Run a job to its end on this machine, be it by its verdict. It is gone when this returns or raises.

    Raises:
        UserError, TrainingError, KeyboardInterrupt, SystemExit: as `launch` does.
    """
    with _signals_restored(), Runner("xkd", {"local_cwd": _local_scheduler}) as runner:
        job = runner.run(app, "local_cwd")
        try:
            status = runner.wait(job, wait_interval=_POLL)
        except SignalException as error:
            # Workers finish their step and save; a second signal ends them at once.
            pass_on(signal.SIGTERM, to="xkd.train.agent")
            with suppress(SignalException):
                status = runner.wait(job, wait_interval=_POLL)
                report = _read(status)
                if report["errorCode"] == StoppedError.exit_code:
                    raise StoppedError(report["message"]) from None
            if error.sigval is signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + error.sigval) from None
    if status is None or status.state is not AppState.SUCCEEDED:
        report = _read(status)
        if report["errorCode"] != CollapsedError.exit_code:
            raise _failure(report)


def _read(status: AppStatus | None) -> dict[str, Any]:
    """What torchrun's agent wrote of its end (`xkd.train.agent`), if it could write."""
    try:
        report: dict[str, Any] = json.loads(status.structured_error_msg if status else "")["message"]
    except (ValueError, KeyError):
        report = {"message": "torchrun failed", "errorCode": 1}
    return report


def _failure(entry: Mapping[str, Any]) -> UserError:
    """The error to raise for the agent's report."""
    for kind in (UserError, StoppedError):
        if entry["errorCode"] == kind.exit_code:
            return kind(entry["message"])
    hint = ", often for want of memory" if entry["errorCode"] == -signal.SIGKILL else ""
    return TrainingError(
        f"pretraining failed: {entry['message']}{hint}; the lines above say more, and the same command "
        "resumes from the last checkpoint"
    )


class _Console(CWDImageProvider):  # type: ignore[misc]
    """Gives the workers this process's stdout and stderr: progress bars stay bars."""

    def get_replica_param(self, img_root: str, role: Role, *_files: str | None) -> ReplicaParam:
        return super().get_replica_param(img_root, role)


def _local_scheduler(session_name: str, **_: Any) -> LocalScheduler:
    return LocalScheduler(session_name, image_provider_class=_Console)


@contextmanager
def _signals_restored() -> Iterator[None]:
    """TorchX's local scheduler takes SIGINT and SIGTERM for good; give them back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
