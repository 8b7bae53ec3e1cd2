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
from components.tabulate import tabulate

TASKS = [
    {"modality": modality, "protocol": protocol, "encoder": encoder}
    for encoder in ("teacher", "student", "random", "raw")
    for modality, protocol in (("video", "svm"), ("audio", "svm"), ("audiovisual", "fusion"))
]
"""The fan-out of `xkd.evaluate.task.TASKS`, spelled out so that compiling needs no torch."""

VOLUME = "xkd"
"""The claim of the volume that all tasks share, mounted where the image works: at /workspace/runs."""


def place(task: dsl.PipelineTask, image: str) -> dsl.PipelineTask:
    """Where a task runs: in this image, with the shared volume."""
    task.set_container_image(image)
    return kubernetes.mount_pvc(task, pvc_name=VOLUME, mount_path="/workspace/runs")


@dsl.pipeline(name="xkd-full", description="Pretrain XKD, judge the run, evaluate its frozen encoders.")
def xkd_full(
    preset: str = "toy",
    overrides: list[str] = [],  # noqa: B006 -- KFP reads the default, nobody appends to it
    dataset: str = "embedded",
    clips: int = 800,
    seed: int = 0,
    revision: str = "",
    preparation: list[str] = [],  # noqa: B006
    tasks: list[dict[str, str]] = TASKS,
    processes: int = 1,
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
        clips: clips of the embedded dataset.
        seed: seed of the embedded dataset.
        revision: revision the dataset must have; empty takes what there is.
        preparation: settings of the preparation, for example ``["short_side=64", "max_fps=8"]``.
        tasks: what to evaluate, fields of `xkd.evaluate.task.Task`.
        processes: training processes.
        data: directory of datasets, which runs may share.
        run: the run directory; scores and report go there too.
        pushgateway: URL of a Prometheus Pushgateway that gets the scores for a minute; empty: none.
        image: image of every task.
    """
    source, prepared = f"{data}/{dataset}", f"{data}/{dataset}-prepared"
    fetched = place(fetch(name=dataset, out=source, clips=clips, seed=seed, revision=revision), image)
    ready = place(prepare(source=source, revision=fetched.output, overrides=preparation, out=prepared), image)
    judged = place(
        pretrain(
            preset=preset,
            overrides=overrides,
            data=prepared,
            revision=fetched.output,
            out=run,
            processes=processes,
        ),
        image,
    ).after(ready)
    # Its metrics say whose they are. An input would do that too, but would be another one in each run, and
    # nothing would be taken from KFP's cache.
    kubernetes.use_field_path_as_env(judged, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
    with dsl.If(judged.outputs["verdict"] == "healthy"):
        with dsl.ParallelFor(tasks) as task:
            scored = place(evaluate(run=run, data=prepared, task=task, out=f"{run}/scores"), image)
        scores = dsl.Collected(scored.outputs["score"])
        place(tabulate(run=run, out=f"{run}/report", pushgateway=pushgateway, scores=scores), image)
    with dsl.Else():
        place(tabulate(run=run, out=f"{run}/report", pushgateway=""), image)
