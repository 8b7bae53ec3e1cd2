"""Pipelines: graphs of `components`, which call `xkd`."""

from typing import Any

from kfp import dsl, kubernetes

from xkd.launch.kubernetes.config import MOUNT, TOLERATIONS, USER, VOLUME

GPU = "nvidia.com/gpu"


def configure_task(task: dsl.PipelineTask, image: str, cache: bool = True) -> dsl.PipelineTask:
    """Set a task's image, volumes, user, label, retries, and whether KFP may reuse its result (`cache`)."""
    task.set_container_image(image).set_caching_options(enable_caching=cache)
    kubernetes.mount_pvc(task, pvc_name=VOLUME, mount_path=MOUNT)
    # Decoding processes pass batches through shared memory, of which containers have only 64 MiB by default.
    kubernetes.empty_dir_mount(task, "dshm", mount_path="/dev/shm", medium="Memory")  # noqa: S108
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "xkd")  # the network policies select it
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    # Pods are evicted and nodes fail. Every command resumes its work, and pretraining attaches to its job.
    return task.set_retry(num_retries=2, backoff_duration="60s", backoff_factor=2, backoff_max_duration="10m")


def request_gpus(
    task: dsl.PipelineTask, gpus: str, node_selector: dict[str, str], tolerations: list[dict[str, Any]]
) -> dsl.PipelineTask:
    """Set a task's GPUs (a string; "0" for none) and the nodes it may run on.

    The usual tolerations are no default of the pipelines' parameter: KFP writes the keys of a dictionary in
    another order each time, and the same pipeline would be another file.
    """
    task.set_accelerator_type(GPU).set_accelerator_limit(gpus)
    # KFP registers the parameters of all setters but this one, which a loop then does not pass on.
    task.register_pipeline_channels([gpus])
    for toleration in TOLERATIONS:
        kubernetes.add_toleration(task, **toleration)
    kubernetes.add_toleration_json(task, tolerations)
    kubernetes.add_node_selector_json(task, node_selector)
    return task
