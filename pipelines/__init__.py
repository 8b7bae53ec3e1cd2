"""Graphs of the components; what a task does is in `components`, how it does it in `xkd`."""

from kfp import dsl, kubernetes

from xkd.launch.kubernetes.config import MOUNT, USER, VOLUME

GPU = "nvidia.com/gpu"


def place(task: dsl.PipelineTask, image: str) -> dsl.PipelineTask:
    """Where and as whom a task runs: in this image, with the shared volume, within the network's policies."""
    task.set_container_image(image)
    kubernetes.mount_pvc(task, pvc_name=VOLUME, mount_path=MOUNT)
    # Decoding processes hand over their batches in shared memory, of which a container by itself has 64 MiB.
    kubernetes.empty_dir_mount(task, "dshm", mount_path="/dev/shm", medium="Memory")  # noqa: S108
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "xkd")
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    # Pods are evicted and nodes go. Each verb goes on from what it finds, and pretraining finds its job.
    return task.set_retry(num_retries=2, backoff_duration="60s", backoff_factor=2, backoff_max_duration="10m")


def place_on_gpus(
    task: dsl.PipelineTask, gpus: str, node_selector: dict[str, str], tolerations: list[dict[str, str]]
) -> dsl.PipelineTask:
    """The GPUs that a task is given, and the nodes it may be on; ``gpus`` is a string, and "0" is none."""
    task.set_accelerator_type(GPU).set_accelerator_limit(gpus)
    # KFP does so by itself for all that is set here but for the limit, which a loop then does not know.
    task.register_pipeline_channels([gpus])
    kubernetes.add_toleration_json(task, tolerations)
    kubernetes.add_node_selector_json(task, node_selector)
    return task
