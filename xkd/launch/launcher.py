"""Start pretraining on this machine or on a cluster, and wait until it ends."""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from xkd.config import PretrainConfig, check_division
from xkd.config.overrides import to_dict
from xkd.errors import (
    EXIT_PEERS_LOST,
    EXIT_SIGNAL,
    EXIT_TRY_AGAIN,
    NON_RETRYABLE_EXIT_CODES,
    TrainingError,
    UserError,
    XkdError,
    prefixed,
)
from xkd.launch.kubernetes.config import ClusterConfig
from xkd.launch.local import Hosts, run_locally
from xkd.rundir import RunDir, Verdict

if TYPE_CHECKING:
    from xkd.launch.kubernetes.job import Job


def launch(
    config: PretrainConfig,
    data: Path,
    out: Path,
    processes: int = 1,
    cluster: ClusterConfig | None = None,
    run_id: str = "",
    extend: bool = False,
    hosts: Hosts | None = None,
    log: Path | None = None,
) -> Verdict | None:
    """Pretrain, on this machine or on a cluster, and wait for the end.

    A run directory of the same configuration is resumed from its last checkpoint. On a cluster, an existing
    job of the same name is followed.

    Args:
        data: the prepared dataset. On a cluster, this and `out` are paths in the pods.
        out: the run directory.
        processes: workers on this machine.
        cluster: settings of the job on a cluster; None: train on this machine.
        run_id: the pipeline run that the job on a cluster belongs to.
        extend: continue a run for more epochs.
        hosts: that train together, each by this function; they share `data` and `out`.
        log: file for the output of training on this machine; None: shown.

    Returns:
        The verdict on the finished run; None if a job completed and no verdict can be read from here.

    Raises:
        CollapsedError: the run ended before its last step because of its verdict.
        UserError: a mistake that a worker or the cluster found.
        TrainingError: a worker or the job failed.
        LaunchError: the job was deleted, or passed a deadline.
        ApiUnavailableError: requests to the Kubernetes API fail; the job continues.
        RunInterruptedError: SIGINT or SIGTERM came and the state was saved.
        KeyboardInterrupt, SystemExit: on SIGINT and SIGTERM, after everything on this machine was stopped.
            Whether a job on a cluster is cancelled, `xkd.launch.kubernetes.follow.run` says.
    """
    if cluster:
        return _launch_job(training_job(config, data, out, cluster, run_id, extend))
    _check_processes(config, processes)
    # The data loader's workers need cores too.
    work = _work(config, data.resolve(), out.resolve(), extend)
    run_locally(work, processes, idle_cores=config.run.workers, hosts=hosts, log=log)
    return RunDir(out).outcome()


def check_launch(config: PretrainConfig, out: Path, processes: int, cluster: ClusterConfig | None) -> None:
    """Check the arguments of `launch`, which has no data yet.

    Raises:
        UserError: the node type is unknown, or the batch does not divide among the processes.
    """
    if cluster:
        training_job(config, Path(), out, cluster)
        return
    _check_processes(config, processes)


def _check_processes(config: PretrainConfig, processes: int) -> None:
    if processes < 1:
        raise UserError(f"processes must be at least 1, not {processes}")
    with prefixed("optim."):
        check_division(config.optim.batch_size, processes, config.run.accumulate)


def describe(verdict: Verdict | None, out: Path) -> tuple[str, str]:
    """Return a verdict of `launch` and its reason; "unknown" and where to find it if there is none."""
    if verdict:
        return verdict.verdict, verdict.reason
    place = f"{RunDir(out).verdict_file} on the cluster's volume"
    return "unknown", f"the job completed; its verdict is in {place}"


def training_job(
    config: PretrainConfig,
    data: Path,
    out: Path,
    cluster: ClusterConfig,
    run_id: str = "",
    extend: bool = False,
) -> Job:
    """Return the job that pretrains on a cluster; arguments as of `launch`. The same work has the same name.

    Raises:
        UserError: the node type is unknown, or the batch does not divide among the processes.
    """
    from xkd.launch.kubernetes.job import Job, job_name

    network = cluster.network
    cluster = cluster.resolved()
    for nodes in range(cluster.min_nodes or cluster.nodes, cluster.nodes + 1):
        # A worker would find this out only after the job got its nodes.
        with prefixed("optim."):
            check_division(config.optim.batch_size, nodes * cluster.workers, config.run.accumulate)
    work = _work(config, data, out, extend)
    preflight = ["--preflight", "cuda" if cluster.gpus else "cpu"]
    return Job(
        name=job_name(out.name, work[1:], cluster.image, cluster.nodes),
        work=[*work, *preflight],
        out=out,
        cluster=cluster,
        threads=max(0, cluster.cores // cluster.workers - config.run.workers),
        run_id=run_id,
        metrics_port=config.run.metrics_port or 0,
        network=network,
    )


def _work(config: PretrainConfig, data: Path, out: Path, extend: bool) -> list[str]:
    """Return a worker's module and arguments, with the settings as text: pods see no file of this machine."""
    settings = json.dumps(to_dict(config))
    work = ["xkd.train.pretrain", "--settings", settings, "--data", str(data), "--out", str(out)]
    return [*work, "--extend"] if extend else work


def _launch_job(job: Job) -> Verdict | None:
    """Follow a job to its end; return or raise as the most informative of its pods says."""
    from xkd.launch.kubernetes.follow import run
    from xkd.launch.kubernetes.status import SUCCEEDED

    outcome = run(job, lambda: _progress(job.out))
    if outcome.phase == SUCCEEDED:
        for end in outcome.ends.values():
            if "verdict" in end.facts:
                return Verdict(**end.facts["verdict"])
        # The pods may be deleted, and the kubelet truncates long termination messages.
        run_dir = RunDir(job.out)
        return run_dir.verdict() if run_dir.ended else None
    for end in outcome.ends.values():
        if end.code in NON_RETRYABLE_EXIT_CODES:
            raise end.final_error()
    failures = {pod: outcome.ends[pod] for pod in sorted(outcome.ends) if outcome.ends[pod].code}
    reasons = "; ".join(f"{pod}: {end.message}" for pod, end in failures.items())
    # When one host fails, the others lose it, or are stopped with it.
    follows = (EXIT_PEERS_LOST, EXIT_TRY_AGAIN, EXIT_SIGNAL + signal.SIGTERM)
    codes = sorted(
        (end.code for end in failures.values()),
        key=lambda code: follows.index(code) if code in follows else -1,
    )
    rerun = "another run of the pipeline resumes" if job.run_id else "rerun the command to resume"
    raise TrainingError(
        f"pretraining failed: job {job.name} is {outcome.phase} after {outcome.restarts} restart(s): "
        f"{reasons or 'none of its pods is left to report the reason'}; {rerun} from the last checkpoint",
        *codes[:1],
    )


def _progress(out: Path) -> str:
    """Return how far a run is, for a log line; empty where its directory cannot be read from here."""
    run = RunDir(out)
    with suppress(OSError, ValueError, LookupError, XkdError):
        checkpoint, steps = run.newest_checkpoint(), run.info()["steps"]
        name = checkpoint.name if checkpoint else "none"
        return f"; step {run.metrics()[-1]['step']} of {steps}, last checkpoint: {name}"
    return ""
