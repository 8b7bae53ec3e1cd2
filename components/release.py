"""release: cancel the jobs of a terminated pipeline run."""

from kfp.dsl import PipelineTaskFinalStatus

from components import component


@component
def release(nodes: int, cluster_settings: list[str], status: PipelineTaskFinalStatus) -> None:
    """Cancel the active jobs of this pipeline run if it was terminated.

    After a failure the job continues, for the next run of the same work. The task `pretrain` cancels its job
    too, unless Kubeflow kills it first.

    Args:
        nodes: hosts of pretraining; 0: it had no job.
        cluster_settings: as of `pretrain`.
        status: how pretraining ended; this input makes KFP run the task after a failure too.
    """
    from xkd.launch.kubernetes.from_kfp import cluster_of_task, run_id

    cluster = cluster_of_task(nodes, cluster_settings)
    if cluster and run_id():
        from xkd.launch.kubernetes.submit import release as cancel

        cancelled = cancel(run_id(), cluster.namespace)
        print(f"jobs cancelled: {', '.join(cancelled) or 'none'}")
