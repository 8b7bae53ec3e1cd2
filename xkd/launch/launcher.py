"""Start pretraining through TorchX and torchrun, follow it to its end, leave nothing running.

The same `AppDef` serves every place. TorchX's ``local_cwd`` scheduler starts one agent (`agent`) on
this machine, which starts the workers (``python -m xkd.train.pretrain``); their output goes straight to this
process's console. Its Kubernetes scheduler starts an agent a pod, as a Volcano Job (`xkd.launch.kubernetes`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchx.runner import Runner
from torchx.schedulers.local_scheduler import CWDImageProvider, LocalScheduler, ReplicaParam, SignalException
from torchx.specs import AppDef, AppState, AppStatus, Role, macros

from xkd.config import PretrainConfig, check_division
from xkd.config.overrides import to_dict
from xkd.errors import CollapsedError, RunInterruptedError, TrainingError, UserError, XkdError
from xkd.launch.agent import FINAL, pass_on
from xkd.launch.kubernetes.config import ClusterConfig
from xkd.launch.termination import read_termination_message
from xkd.rundir import RunDir, Verdict

if TYPE_CHECKING:
    from xkd.launch.kubernetes.job import Job

RENDEZVOUS_PORT = 29400
IN_PLACE = 1
"""How often an agent on a cluster restarts its workers, before the whole job is begun anew."""
POD_ENV = {
    # The root file system is read-only; what wants a home finds one on a volume of the pod's own.
    "HOME": "/tmp",  # noqa: S108
    # The kubelet hands this file's text to whoever reads the pod's status.
    "TORCHELASTIC_ERROR_FILE": "/dev/termination-log",
    "NCCL_DEBUG": "WARN",
    "PYTHONUNBUFFERED": "1",
}
_WORKSPACE = Path("/workspace")
"""Where the image works; see the Dockerfile."""
_POLL = 0.5


class UnjudgedError(UserError):
    """A job completed, and its verdict is where this process sees no file; the message says where."""

    exit_code = 0


def launch(
    config: PretrainConfig,
    data: Path,
    out: Path,
    processes: int = 1,
    cluster: ClusterConfig | None = None,
    run_id: str = "",
) -> Verdict:
    """Pretrain, on this machine or on a cluster, and wait for the end.

    A run directory of the same configuration is resumed from its last checkpoint. On a cluster, a job that
    already does the same work is found and followed.

    Args:
        config: what is trained.
        data: the prepared dataset.
        out: the run directory. On a cluster both are paths in the pods.
        processes: workers on this machine.
        cluster: where on a cluster; none: on this machine.
        run_id: the pipeline's run that asks for it, on a cluster.

    Returns:
        How the finished run was judged; also if it ended by that, before its last step.

    Raises:
        UserError: a mistake to mend first, as a worker or the cluster found it.
        TrainingError: a worker crashed or was killed, or the job failed, is gone or took too long.
        UnjudgedError: the job completed, but nothing within reach tells its verdict.
        RunInterruptedError: SIGINT or SIGTERM came and the state was saved.
        KeyboardInterrupt, SystemExit: after everything was stopped, on SIGINT and SIGTERM.
    """
    if cluster:
        return _on_cluster(training_job(config, data, out, cluster, run_id), out)
    if processes < 1:
        raise UserError(f"processes must be at least 1, not {processes}")
    # What the loader's workers decode on is not there for computing.
    threads = len(os.sched_getaffinity(0)) // processes - config.run.workers
    arguments = _arguments(config, data.resolve(), out.resolve())
    follow(appdef("xkd.train.pretrain", arguments, processes, max(1, threads)))
    return RunDir(out).verdict()


def launch_workers(module: str, arguments: Sequence[str], processes: int) -> None:
    """Have several processes of this machine do one piece of work together, and wait for the end.

    Raises:
        UserError, TrainingError, KeyboardInterrupt, SystemExit: as `launch` does.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    follow(appdef(module, arguments, processes, threads), "the work")


def training_job(
    config: PretrainConfig, data: Path, out: Path, cluster: ClusterConfig, run_id: str = ""
) -> Job:
    """Pretraining as a cluster's job; arguments as of `launch`. Its name is the same for the same work.

    Raises:
        UserError: there is no such node type, or the batch does not divide among the processes.
    """
    from xkd.launch.kubernetes.job import Job, job_name

    cluster = cluster.resolved()
    for nodes in range(cluster.min_nodes or cluster.nodes, cluster.nodes + 1):
        # Now, rather than in a job that waited for its nodes.
        check_division(config.optim.batch_size, nodes * cluster.workers, config.run.accumulate)
    arguments = _arguments(config, data, out)
    name = job_name(out.name, run_id, arguments, cluster.image, cluster.nodes)
    threads = max(0, cluster.cores // cluster.workers - config.run.workers)
    app = appdef("xkd.train.pretrain", arguments, cluster.workers, threads, cluster, name)
    if run_id:
        app.roles[0].env["KFP_RUN_ID"] = run_id
    ports = {"rendezvous": RENDEZVOUS_PORT}
    if config.run.metrics_port:
        ports["metrics"] = config.run.metrics_port
    writes = os.path.normpath(_WORKSPACE / out)
    return Job(name, app, cluster, FINAL, run_id, ports, writes, lambda: _progress(out))


def _progress(out: Path) -> str:
    """Return how far a run is, from its directory; empty where that cannot be read from here."""
    run = RunDir(out)
    with suppress(OSError, ValueError, LookupError, XkdError):
        newest, steps = run.newest_checkpoint(), run.info()["steps"]
        last = newest.name if newest else "none"
        return f"; step {run.metrics()[-1]['step']} of {steps}, last checkpoint: {last}"
    return ""


def _arguments(config: PretrainConfig, data: Path, out: Path) -> list[str]:
    """What each worker is told; the settings themselves, because pods see no file of the launcher's."""
    return ["--settings", json.dumps(to_dict(config)), "--data", str(data), "--out", str(out)]


def appdef(
    module: str,
    arguments: Sequence[str],
    processes: int,
    threads: int,
    cluster: ClusterConfig | None = None,
    name: str = "xkd",
) -> AppDef:
    """The job: on each host an agent (`xkd.launch.agent`) with its workers, ``python -m module``.

    Args:
        module: what each worker runs.
        arguments: the worker's arguments.
        processes: workers on each host.
        threads: threads that each worker computes on; 0: as many as torch takes.
        cluster: where on a cluster; none: on this machine.
        name: names the hosts' rendezvous.
    """
    env = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    agent = ["-m", "xkd.launch.agent", "--job", name, "--processes", str(processes)]
    work = [module, *arguments]
    if cluster is None:
        env |= {name: os.environ[name] for name in env if name in os.environ}
        role = Role(name="train", image="", entrypoint=sys.executable, args=[*agent, *work], env=env)
        return AppDef(name="xkd", roles=[role])
    fewest = cluster.min_nodes or cluster.nodes
    agent += ["--nodes", f"{fewest}:{cluster.nodes}", "--restarts", str(IN_PLACE)]
    agent += ["--grace", str(cluster.grace_seconds)]
    # The kubelet expands $(...). Volcano sets these variables in all pods, TorchX another in the first. By
    # these names host 0 comes first when torch numbers the hosts: the first process is in the first pod.
    agent += ["--node", macros.replica_id, "--address", f"$$(VC_TRAIN_{macros.replica_id}_HOSTS)"]
    agent += ["--rendezvous", f"$$({macros.rank0_env}):{RENDEZVOUS_PORT}"]
    role = Role(
        name="train",  # a hyphen would break the variable that is made of it
        image=cluster.image,
        entrypoint="python",
        args=[*agent, *work],
        env=env | POD_ENV,
        num_replicas=cluster.nodes,
        min_replicas=fewest,
    )
    return AppDef(name="xkd", roles=[role])


def _on_cluster(job: Job, out: Path) -> Verdict:
    """Follow a job on a cluster to its end; of its pods, the one that knows most says what it was worth."""
    from xkd.launch.kubernetes.follow import run

    outcome = run(job)
    ends = sorted(outcome.ends, key=lambda end: end.code not in FINAL)
    verdict = next((Verdict(**end.facts["verdict"]) for end in ends if "verdict" in end.facts), None)
    if outcome.succeeded:
        # Its pods may be gone, and of long words the kubelet keeps but the first.
        if verdict is None and not (out / "verdict.json").exists():
            raise UnjudgedError(
                f"job {outcome.name} completed; none of its pods is left to tell the verdict, which is in "
                f"{out / 'verdict.json'} on the cluster's volume"
            )
        return verdict or RunDir(out).verdict()
    if verdict and ends[0].code == CollapsedError.exit_code:
        return verdict
    if ends and ends[0].code in FINAL:
        raise UserError(ends[0].message)
    why = "; ".join(str(end) for end in ends if end.code) or "none of its pods is left to say why"
    again = "another run of the pipeline" if job.run_id else "the same command"
    raise TrainingError(
        f"pretraining failed: job {outcome.name} is {outcome.phase} after {outcome.restarts} restart(s): "
        f"{why}; {again} resumes from the last checkpoint"
    )


def follow(app: AppDef, what: str = "pretraining") -> None:
    """Run a job to its end on this machine, be it by its verdict. It is gone when this returns or raises.

    Args:
        app: the job.
        what: it is, for the error's line.

    Raises:
        UserError, TrainingError, KeyboardInterrupt, SystemExit: as `launch` does.
    """
    with _signals_restored(), Runner("xkd", {"local_cwd": _local_scheduler}) as runner:
        job = runner.run(app, "local_cwd")
        try:
            status = runner.wait(job, wait_interval=_POLL)
        except SignalException as error:
            # Workers finish their step and save; a second signal ends them at once.
            pass_on(signal.SIGTERM, to="xkd.launch.agent")
            with suppress(SignalException):
                status = runner.wait(job, wait_interval=_POLL)
                report = _read(status)
                if report["errorCode"] == RunInterruptedError.exit_code:
                    raise RunInterruptedError(report["message"]) from None
            if error.sigval is signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + error.sigval) from None
    if status is None or status.state is not AppState.SUCCEEDED:
        report = _read(status)
        if report["errorCode"] != CollapsedError.exit_code:
            raise _failure(report, what)


def _read(status: AppStatus | None) -> dict[str, Any]:
    """What torchrun's agent wrote of its end (`xkd.launch.agent`), if it could write."""
    left = read_termination_message(status.structured_error_msg if status else None)
    return {"message": "torchrun failed", "errorCode": 1} | left


def _failure(entry: Mapping[str, Any], what: str) -> XkdError:
    """The error to raise for the agent's report."""
    for kind in (UserError, RunInterruptedError):
        if entry["errorCode"] == kind.exit_code:
            return kind(entry["message"])
    hint = ", often for want of memory" if entry["errorCode"] == -signal.SIGKILL else ""
    return TrainingError(
        f"{what} failed: {entry['message']}{hint}; the lines above say more, and the same command "
        "resumes from what is saved"
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
