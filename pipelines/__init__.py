"""Pipelines: graphs of `components`, which call `xkd`."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl, kubernetes

from components.fetch import fetch
from components.prepare import prepare
from xkd.launch.kubernetes.config import ANNOTATIONS, GPU, MOUNT, TOLERATIONS, USER, VOLUME

RETRY_WINDOW = f"{365 * 24}h"
"""Time from a task's first start, after which Argo neither retries it nor lets a retry run on."""
SMALL = ("500m", "1Gi")
"""CPU and memory of a task that only waits."""
LARGE = ("1", "4Gi")
"""CPU and memory of a task that imports everything, and computes little."""
PREPARE_PARALLELISM = 2
"""Datasets that are fetched and prepared at a time."""
WEEK = 7 * 24 * 60 * 60
"""Seconds that Argo keeps an ended workflow and its pods; Kubeflow deletes it after a day by default."""
# Kubeflow's configuration of Argo has an hour for each of the three, and success and failure come first.
PIPELINE_CONFIG = dsl.PipelineConfig(
    ttl_seconds_after_finished=WEEK, ttl_seconds_after_success=WEEK, ttl_seconds_after_failure=WEEK
)


def set_resources(task: dsl.PipelineTask, cpu: str, memory: str) -> dsl.PipelineTask:
    """Set a task's CPU and memory, as requests and as limits: by the limits it sizes pools of processes."""
    return set_limits(task, cpu, memory).set_cpu_request(cpu).set_memory_request(memory)


def set_limits(task: dsl.PipelineTask, cpu: str, memory: str) -> dsl.PipelineTask:
    """Set the limits of a task's CPU and memory."""
    # KFP does not register these parameters, which a loop then does not pass on.
    task.register_pipeline_channels([size for size in (cpu, memory) if not isinstance(size, str)])
    return task.set_cpu_limit(cpu).set_memory_limit(memory)


def configure_task(task: dsl.PipelineTask, image: str, cpu: str, memory: str) -> dsl.PipelineTask:
    """Set a task's image, resources, volumes, user, label, annotations and retries.

    KFP never reuses its result: the key has neither the contents of the volume nor the uid of its claim, and
    every command keeps what it would compute again.
    """
    task.set_container_image(image).set_caching_options(enable_caching=False)
    set_resources(task, cpu, memory)
    kubernetes.mount_pvc(task, pvc_name=VOLUME, mount_path=MOUNT)
    # Decoding processes pass batches through shared memory, of which containers have only 64 MiB by default.
    kubernetes.empty_dir_mount(task, "dshm", mount_path="/dev/shm", medium="Memory")  # noqa: S108
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "xkd")  # the network policies select it
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    # An autoscaler that moved the pod would end an attempt.
    for annotation, value in ANNOTATIONS.items():
        kubernetes.add_pod_annotation(task, annotation, value)
    # Nodes are drained and fail. Every command resumes its work, and pretraining attaches to its job.
    return task.set_retry(
        num_retries=2, backoff_duration="60s", backoff_factor=2, backoff_max_duration=RETRY_WINDOW
    )


def get_dataset(
    name: str,
    expected_revision: str,
    *,
    data: str,
    origin: Mapping[str, Any],
    preset: str,
    settings: list[str],
    image: str,
    fetch_size: tuple[str, str],
    prepare_size: tuple[str, str],
) -> tuple[dsl.PipelineTask, dsl.PipelineTask]:
    """Add the tasks that fetch and prepare a dataset, and return them.

    Args:
        data: directory of the datasets.
        origin: further arguments of `fetch`.
        preset, settings: of `prepare`.
        fetch_size, prepare_size: CPU and memory of each.
    """
    source = f"{data}/{name}"
    fetched = fetch(name=name, out=source, expected_revision=expected_revision, **origin)
    prepared = prepare(source=source, name=name, revision=fetched.output, preset=preset, settings=settings)
    return configure_task(fetched, image, *fetch_size), configure_task(prepared, image, *prepare_size)


def request_gpus(task: dsl.PipelineTask, gpus: str) -> dsl.PipelineTask:
    """Set a task's GPUs, a string; "0" for none."""
    task.set_accelerator_type(GPU).set_accelerator_limit(gpus)
    task.register_pipeline_channels([gpus])  # as in `set_resources`
    return task


def configure_pretraining(
    task: dsl.PipelineTask,
    image: str,
    cpu: str,
    memory: str,
    node_selector: dict[str, str],
    tolerations: list[dict[str, Any]],
) -> dsl.PipelineTask:
    """Configure a task `pretrain`: it requests only what following a job takes.

    Args:
        cpu, memory: limits, for training without a job.
        node_selector, tolerations: of the job's nodes, not of the task itself (see the component).
    """
    set_limits(configure_task(with_run_id(task), image, *SMALL), cpu, memory)
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", "pretrain")
    # The usual tolerations are no default of the parameter: KFP writes the keys of a dictionary in another
    # order each time, and the same pipeline would be another file.
    kubernetes.add_toleration_json(task, list(TOLERATIONS))
    return place(task, node_selector, tolerations)


def with_run_id(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Pass the id of the pipeline run to a task, in its environment: it is a label of the pod."""
    return kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")


def place(
    task: dsl.PipelineTask, node_selector: dict[str, str], tolerations: list[dict[str, Any]]
) -> dsl.PipelineTask:
    """Set the nodes that a task may run on."""
    kubernetes.add_toleration_json(task, tolerations)
    kubernetes.add_node_selector_json(task, node_selector)
    return task
