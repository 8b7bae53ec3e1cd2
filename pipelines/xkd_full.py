"""The whole of XKD: fetch, prepare, pretrain, evaluate in a fan-out, tabulate.

kfp run submit pipelines/xkd_full.py --local
kfp --endpoint URL run submit pipelines/xkd_full.py preset=paper run=runs/paper
kfp dsl compile --py pipelines/xkd_full.py --output xkd_full.yaml
"""

from kfp import dsl, kubernetes

from components import IMAGE
from components.check import check
from components.fetch import fetch
from components.prepare import prepare
from components.pretrain import pretrain
from components.release import release
from components.tabulate import tabulate
from pipelines import place, place_on_gpus, xkd_evaluations
from xkd.launch.kubernetes.node_types import TOLERATIONS

PREPARED_AT_ONCE = 2
"""Datasets that are fetched and prepared at a time."""

WEEK = 7 * 24 * 60 * 60
"""Seconds that Argo keeps an ended workflow and its pods; what Kubeflow Pipelines knows of the run stays."""


def told_its_run(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """A task that knows the pipeline's run that it belongs to.

    An input would do that too, but would be another one in each run, and nothing would be taken from KFP's
    cache.
    """
    return kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")


@dsl.pipeline(
    name="xkd-full",
    description="Pretrain XKD, judge the run, evaluate its encoders.",
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
    downstream: list[str] = [],  # noqa: B006
    encoders: list[str] = [],  # noqa: B006
    protocols: list[str] = [],  # noqa: B006
    finetune: list[str] = [],  # noqa: B006
    processes: int = 1,
    nodes: int = 0,
    gpus: str = "8",
    evaluation_gpus: str = "0",
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
        dataset: dataset to pretrain on.
        repo: data registry that has the datasets, a git repository with DVC; empty: they are made here, the
            embedded dataset and miniatures.
        rev: branch, tag or commit of the registry; empty: its default branch.
        clips: clips of the embedded dataset.
        seed: seed of the embedded dataset.
        revision: revision that the dataset of the pretraining must have; empty takes what there is.
        preparation: settings of every preparation, for example ``["short_side=64", "max_fps=8"]``.
        downstream: datasets to evaluate on, for example ``["ucf101", "esc50"]``; empty: the pretraining's.
        encoders: which to evaluate (`xkd.evaluate.plan.ENCODERS`); empty: all.
        protocols: by which (`xkd.evaluate.plan.PROTOCOLS`); empty: all that a dataset has.
        finetune: settings of every fine-tuning, laid over its dataset's, for example ``["accumulate=2"]``.
        processes: training processes, if no job is started.
        nodes: hosts of a job that trains; 0: no job is started, the task itself trains, without a GPU.
        gpus: GPUs of each host. A string, because KFP ignores a limit that is a number.
        evaluation_gpus: GPUs of each evaluation, all of which it uses; "0": the CPU.
        node_type: a GPU node by name (`xkd.launch.kubernetes.node_types`); it sets what is not set here.
        node_selector: labels that the nodes of the job and of the evaluations must have.
        tolerations: taints that these may have.
        cluster: settings of `xkd.launch.kubernetes.config.ClusterConfig` that override these, for example
            ``["restarts=10"]``.
        data: directory of datasets, which runs may share.
        run: the run directory; scores and report go there too.
        pushgateway: URL of a Prometheus Pushgateway that gets the scores for a minute; empty: none.
        image: image of every task.
    """

    def get(name: str, revision: str) -> tuple[dsl.PipelineTask, dsl.PipelineTask]:
        """A dataset that is fetched, and prepared."""
        source = f"{data}/{name}"
        fetched = place(
            fetch(name=name, out=source, repo=repo, rev=rev, clips=clips, seed=seed, revision=revision), image
        )
        # A branch of the registry moves, which no input tells. Fetching what is there transfers nothing.
        fetched.set_caching_options(enable_caching=False)
        ready = prepare(
            source=source,
            name=name,
            revision=fetched.output,
            overrides=preparation,
            out=f"{source}-prepared",
        )
        return fetched, place(ready, image)

    fetched, ready = get(dataset, revision)
    with dsl.ParallelFor(downstream, parallelism=PREPARED_AT_ONCE) as name:
        also_fetched, also_ready = get(name, "")
        # The dataset of the pretraining may be among them, and would be written twice at a time.
        also_fetched.after(ready)
    # What is misspelled or broken is found before GPUs are busy for days, not after.
    asked = place(
        check(
            data=data,
            dataset=dataset,
            downstream=downstream,
            encoders=encoders,
            protocols=protocols,
            finetune=finetune,
        ),
        image,
    ).after(ready, also_ready)
    asked.set_caching_options(enable_caching=False)
    judged = place(
        pretrain(
            preset=preset,
            overrides=overrides,
            data=f"{data}/{dataset}-prepared",
            revision=fetched.output,
            out=run,
            processes=processes,
            nodes=nodes,
            image=image,
            node_type=node_type,
            cluster=cluster,
        ),
        image,
    ).after(ready, asked)
    # These are the job's, not the task's own (see the component).
    place_on_gpus(told_its_run(judged), gpus, node_selector, tolerations)
    # KFP's backend makes the same hook of this as of a dsl.ExitHandler. That would go around the loop too,
    # where some backends fail (kubeflow/pipelines issue 12390), and would wait for the last evaluation.
    left = place(release(nodes=nodes, cluster=cluster), image).after(judged).ignore_upstream_failure()
    told_its_run(left).set_caching_options(enable_caching=False)
    with dsl.If(judged.outputs["verdict"] == "healthy"):
        scored = xkd_evaluations.xkd_evaluations(
            run=run,
            data=data,
            dataset=dataset,
            downstream=downstream,
            encoders=encoders,
            protocols=protocols,
            finetune=finetune,
            gpus=evaluation_gpus,
            node_selector=node_selector,
            tolerations=tolerations,
            image=image,
        )
        # The tables show what there is, which no input tells, and why the rest is not. In KFP's backend this
        # too is a hook, which a loop cannot have: that is why the evaluations are a pipeline of their own.
        shown = place(
            tabulate(run=run, scores=f"{run}/scores", out=f"{run}/report", pushgateway=pushgateway), image
        )
        shown.after(scored).ignore_upstream_failure().set_caching_options(enable_caching=False)
    with dsl.Else():
        told = place(tabulate(run=run, scores=f"{run}/scores", out=f"{run}/report", pushgateway=""), image)
        told.set_caching_options(enable_caching=False)
