"""The whole of XKD: fetch, prepare, pretrain, evaluate in a fan-out, tabulate.

kfp run submit pipelines/xkd_full.py --local
kfp --endpoint URL run submit pipelines/xkd_full.py preset=paper run=runs/paper
kfp dsl compile --py pipelines/xkd_full.py --output xkd_full.yaml
"""

from kfp import dsl, kubernetes

from components import IMAGE
from components.evaluate import evaluate
from components.fetch import fetch
from components.prepare import prepare
from components.pretrain import pretrain
from components.release import release
from components.tabulate import tabulate
from xkd.cluster.config import MOUNT, USER, VOLUME
from xkd.cluster.nodes import TOLERATIONS

TASKS = [
    {"modality": modality, "protocol": protocol, "encoder": encoder}
    for encoder in ("teacher", "student", "random", "raw")
    for modality, protocol in (("video", "svm"), ("audio", "svm"), ("audiovisual", "fusion"))
]
"""The fan-out of `xkd.evaluate.task.TASKS`, spelled out so that compiling needs no torch."""

GPU = "nvidia.com/gpu"

WEEK = 7 * 24 * 60 * 60
"""Seconds that Argo keeps an ended workflow and its pods; what Kubeflow Pipelines knows of the run stays."""


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


def told_its_run(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """A task that knows the pipeline's run that it belongs to.

    An input would do that too, but would be another one in each run, and nothing would be taken from KFP's
    cache.
    """
    return kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")


@dsl.pipeline(
    name="xkd-full",
    description="Pretrain XKD, judge the run, evaluate its frozen encoders.",
    pipeline_config=dsl.PipelineConfig(ttl_seconds_after_finished=WEEK),
)
def xkd_full(
    preset: str = "toy",
    overrides: list[str] = [],  # noqa: B006 -- KFP reads the default, nobody appends to it
    dataset: str = "embedded",
    repo: str = "",
    rev: str = "",
    clips: int = 800,
    seed: int = 0,
    revision: str = "",
    preparation: list[str] = [],  # noqa: B006
    tasks: list[dict[str, str]] = TASKS,
    processes: int = 1,
    nodes: int = 0,
    gpus: str = "8",
    node_type: str = "",
    node_selector: dict[str, str] = {},  # noqa: B006
    tolerations: list[dict[str, str]] = list(TOLERATIONS),  # noqa: B006
    cluster: list[str] = [],  # noqa: B006
    data: str = "runs/data",
    run: str = "runs/demo",
    pushgateway: str = "",
    image: str = IMAGE,
) -> None:
    """The graph.

    Args:
        preset: named configuration of the pretraining.
        overrides: settings laid over the preset, for example ``["optim.lr=1e-4"]``.
        dataset: dataset to pretrain and evaluate on.
        repo: data registry that has it, a git repository with DVC; empty for the embedded dataset.
        rev: branch, tag or commit of the registry; empty: its default branch.
        clips: clips of the embedded dataset.
        seed: seed of the embedded dataset.
        revision: revision the dataset must have; empty takes what there is.
        preparation: settings of the preparation, for example ``["short_side=64", "max_fps=8"]``.
        tasks: what to evaluate, fields of `xkd.evaluate.task.Task`.
        processes: training processes, if no job is started.
        nodes: hosts of a job that trains; 0: no job is started, the task itself trains, without a GPU.
        gpus: GPUs of each host. A string, because KFP ignores a limit that is a number.
        node_type: a GPU node by name (`xkd.cluster.nodes`), which gives all that is not given here.
        node_selector: labels that the job's nodes must have.
        tolerations: taints that they may have.
        cluster: settings of `xkd.cluster.config.ClusterConfig` over these, for example ``["restarts=10"]``.
        data: directory of datasets, which runs may share.
        run: the run directory; scores and report go there too.
        pushgateway: URL of a Prometheus Pushgateway that gets the scores for a minute; empty: none.
        image: image of every task.
    """
    source, prepared = f"{data}/{dataset}", f"{data}/{dataset}-prepared"
    fetched = place(
        fetch(name=dataset, out=source, repo=repo, rev=rev, clips=clips, seed=seed, revision=revision),
        image,
    )
    # A branch of the registry moves, which no input tells. Fetching what is there already transfers nothing.
    fetched.set_caching_options(enable_caching=False)
    ready = place(prepare(source=source, revision=fetched.output, overrides=preparation, out=prepared), image)
    judged = place(
        pretrain(
            preset=preset,
            overrides=overrides,
            data=prepared,
            revision=fetched.output,
            out=run,
            processes=processes,
            nodes=nodes,
            image=image,
            node_type=node_type,
            cluster=cluster,
        ),
        image,
    ).after(ready)
    # These are the job's, not the task's own (see the component).
    told_its_run(judged).set_accelerator_type(GPU).set_accelerator_limit(gpus)
    kubernetes.add_toleration_json(judged, tolerations)
    kubernetes.add_node_selector_json(judged, node_selector)
    # KFP's backend makes the same hook of this as of a dsl.ExitHandler. That would go around the loop too,
    # where some backends fail (kubeflow/pipelines issue 12390), and would wait for the last evaluation.
    left = place(release(nodes=nodes, cluster=cluster), image).after(judged).ignore_upstream_failure()
    told_its_run(left).set_caching_options(enable_caching=False)
    with dsl.If(judged.outputs["verdict"] == "healthy"):
        with dsl.ParallelFor(tasks) as task:
            scored = place(evaluate(run=run, data=prepared, task=task, out=f"{run}/scores"), image)
        scores = dsl.Collected(scored.outputs["score"])
        place(tabulate(run=run, out=f"{run}/report", pushgateway=pushgateway, scores=scores), image)
    with dsl.Else():
        place(tabulate(run=run, out=f"{run}/report", pushgateway=""), image)
