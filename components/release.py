"""release: nothing of a run is left on the cluster."""

from kfp.dsl import PipelineTaskFinalStatus

from components import component


@component
def release(nodes: int, cluster: list[str], status: PipelineTaskFinalStatus) -> None:
    """Cancel the jobs that this pipeline's run started and that still go on, whatever became of pretraining.

    KFP may end a terminated run before this begins. Then it is the task `pretrain` that cancels its job, when
    it gets SIGTERM; and an ended job has a time to live.

    Args:
        nodes: hosts of pretraining; 0: it had no job.
        cluster: settings of `xkd.launch.kubernetes.config.ClusterConfig`, each ``name=value``.
        status: how pretraining ended; it is by this input that KFP knows a task that follows a failure too.
    """
    import os

    from xkd.launch.kubernetes.follow import release as cancel
    from xkd.launch.kubernetes.from_kfp import from_task

    place, run_id = from_task(nodes, "", cluster), os.environ.get("KFP_RUN_ID", "")
    cancelled = cancel(run_id, place.namespace) if place and run_id else []
    print(f"jobs cancelled: {', '.join(cancelled) or 'none'}")
