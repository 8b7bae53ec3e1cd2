"""The ``xkd`` command: each subcommand calls one function of the library."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml

from xkd.errors import CollapsedError, UserError, XkdError
from xkd.launch.dvc import end_with_dvc, explain_resume
from xkd.launch.termination import forget_torchrun

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)

Preset = Annotated[
    str | None,
    typer.Option(help="Preset (see xkd presets); default: the file's preset, or paper."),
]
Config = Annotated[
    str | None, typer.Option(metavar="FILE[:SECTION]", help="YAML file with settings, or a section of one.")
]
DatasetEntry = Annotated[
    str | None,
    typer.Option(metavar="FILE[:SECTION]", help="YAML file with the dataset's repo, rev and layout."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting, such as optim.lr=1e-4; repeatable."),
]
Out = Annotated[Path, typer.Option(help="Output directory.")]
Data = Annotated[Path, typer.Option(help="Prepared dataset (from xkd prepare).")]
Run = Annotated[Path, typer.Option(help="Run directory (from xkd pretrain).")]


@app.command()
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="Directory in the data registry; without --repo: embedded, or a miniature (ucf101-mini)."
        ),
    ],
    out: Out,
    repo: Annotated[
        str | None, typer.Option(help="Data registry: path or URL of a git repository with DVC.")
    ] = None,
    rev: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the registry; empty: its default.")
    ] = None,
    clips: Annotated[int | None, typer.Option(help="Number of clips of the embedded dataset.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the embedded dataset.")] = None,
    dataset_config: DatasetEntry = None,
    config: Config = None,
) -> None:
    """Fetch or generate a dataset in its official layout."""
    from xkd.config.overrides import resolve
    from xkd.data.fetch.fetch import DatasetConfig, FetchConfig
    from xkd.data.fetch.fetch import fetch as run

    entry = resolve(DatasetConfig(), dataset_config, repo=repo, rev=rev)
    settings = resolve(FetchConfig(), config, clips=clips, seed=seed)
    run(name, out, repo=entry.repo, rev=entry.rev, clips=settings.clips, seed=settings.seed)


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="Dataset in its official layout (e.g. from xkd fetch).")],
    out: Out,
    dataset: Annotated[
        str | None,
        typer.Option(help="Layout of the source, if ambiguous: kinetics_sound for Kinetics400."),
    ] = None,
    allow_missing: Annotated[
        bool | None, typer.Option("--allow-missing", help="Skip listed files that are missing.")
    ] = None,
    dataset_config: DatasetEntry = None,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Decode every clip once; write shards and a manifest."""
    from xkd.config.overrides import resolve
    from xkd.data.fetch.fetch import DatasetConfig
    from xkd.data.shards.prepare import PrepareConfig
    from xkd.data.shards.prepare import prepare as run

    if dataset is None:
        dataset = resolve(DatasetConfig(), dataset_config).layout or None
    options = {"dataset": dataset, "allow_missing": allow_missing}
    run(source, out, resolve(PrepareConfig(), config, set_ or (), **options))


@app.command()
def pretrain(
    data: Data,
    out: Out,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    processes: Annotated[int, typer.Option(help="Number of training processes on this machine.")] = 1,
    report: Annotated[
        Path | None, typer.Option(help="Directory for a report if the run ends in a collapse.")
    ] = None,
) -> None:
    """Pretrain on this machine; rerun the command to resume."""
    from xkd.config.presets import resolve_pretrain
    from xkd.launch.launcher import describe
    from xkd.launch.launcher import launch as run
    from xkd.rundir import RunDir

    try:
        verdict = run(resolve_pretrain(preset, config, set_ or ()), data, out, processes)
    except CollapsedError:
        if report:
            from xkd.report.tabulate import tabulate as write

            write(out, RunDir(out).scores, report)
        raise
    print("verdict: {}: {}".format(*describe(verdict, out)))


@app.command()
def launch(
    data: Annotated[
        Path | None, typer.Option(help="Prepared dataset, as a path in the cluster's pods.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory, as a path in the pods.")] = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="FILE[:SECTION]", help="YAML file with cluster settings.")
    ] = None,
    cluster_set: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A cluster setting, such as nodes=2; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the Volcano job instead of starting it.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start the job without following it.")] = False,
    cancel: Annotated[
        str, typer.Option(metavar="JOB", help="Cancel a job instead; needs no --data and --out.")
    ] = "",
) -> None:
    """Pretrain on a Kubernetes cluster; rerun to reattach to the job."""
    from xkd.config.overrides import resolve
    from xkd.config.presets import resolve_pretrain
    from xkd.launch.kubernetes import submit
    from xkd.launch.kubernetes.config import ClusterConfig
    from xkd.launch.launcher import describe, training_job
    from xkd.launch.launcher import launch as run

    where = resolve(ClusterConfig(), cluster, cluster_set or ())
    if cancel:
        submit.cancel(cancel, where.namespace)
        return
    if data is None or out is None:
        raise UserError("launch needs --data and --out, or --cancel with the name of a job")
    settings = resolve_pretrain(preset, config, set_ or ())
    if dry_run:
        print(yaml.safe_dump(training_job(settings, data, out, where).manifest(), sort_keys=False), end="")
    elif detach:
        submit.submit(training_job(settings, data, out, where))
    else:
        print("verdict: {}: {}".format(*describe(run(settings, data, out, cluster=where), out)))


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(help="Run directory (from xkd pretrain).")],
    once: Annotated[bool, typer.Option("--once", help="Print the current state and exit.")] = False,
) -> None:
    """Show a run's losses, verdict and throughput while it trains."""
    from xkd.monitor.tui import watch as show
    from xkd.rundir import RunDir

    show(RunDir(run), live=not once and sys.stdout.isatty())


@app.command()
def evaluate(
    run: Run,
    data: Data,
    out: Annotated[Path, typer.Option(help="Directory of scores, to which one JSON file is added.")],
    modality: Annotated[str, typer.Option(help="video, audio or audiovisual.")],
    protocol: Annotated[str, typer.Option(help="svm, fc, fusion or finetune; see the table above.")],
    encoder: Annotated[
        str, typer.Option(help="teacher or student of the run; random: not pretrained; raw: no encoder.")
    ],
    fold: Annotated[int, typer.Option(help="Fold of the dataset: UCF101 has 3, ESC-50 has 5.")] = 1,
    processes: Annotated[
        int, typer.Option(help="Processes on this machine; 0: one per GPU, or a single one.")
    ] = 0,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Score one encoder on one task; rerun the command to resume.

    \b
    Protocols (supplement A.5, A.6):
      svm       a linear SVM on frozen features of one modality
      fc        a fully connected layer on frozen features
      fusion    a linear SVM on frozen features of video and audio together
      finetune  the encoder and a classification layer, trained together

    \b
    By dataset:
      ucf101, hmdb51  video: svm finetune
      kinetics400     video: svm fc finetune; audio: svm; audiovisual: fusion
      kinetics_sound  video: svm; audio: svm; audiovisual: fusion
      esc50           audio: svm finetune
      fsd50k          audio: fc finetune
      embedded        video: svm finetune; audio: svm finetune; audiovisual: fusion

    `--set test_windows=5` and `--set seed=1` apply to any task, `--set epochs=20` and the other settings of
    Tables S6 and S7 to fine-tuning. `xkd tasks` lists all tasks of prepared datasets.
    """  # noqa: D301 -- click reads \b as "do not rewrap this paragraph"
    from xkd.config.overrides import read_settings
    from xkd.data.shards.manifest import dataset_name
    from xkd.evaluation.evaluate import evaluate as score
    from xkd.evaluation.plan import make_task

    settings = read_settings(config, set_ or ())
    task = make_task(dataset_name(data), modality, protocol, encoder, fold, settings)
    score(run, data, task, out, processes)


@app.command()
def tasks(
    data: Annotated[list[Path], typer.Argument(help="Prepared datasets (from xkd prepare).")],
    encoder: Annotated[
        list[str] | None, typer.Option(help="teacher, student, random or raw; repeatable; default: all.")
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="svm, fusion, fc or finetune; repeatable; default: all.")
    ] = None,
) -> None:
    """Print all evaluations of datasets for params.yaml."""
    from xkd.config.yaml_core import dump_yaml
    from xkd.evaluation.plan import stages

    section = {"tasks": stages(data, encoder or (), protocol or ())}
    print(dump_yaml(section, default_flow_style=None, width=math.inf), end="")


@app.command()
def tabulate(
    run: Run,
    scores: Annotated[Path, typer.Option(help="Directory of scores (from xkd evaluate).")],
    out: Out,
    pushgateway: Annotated[
        str,
        typer.Option(envvar="XKD_PUSHGATEWAY", help="URL of a Prometheus Pushgateway that gets the scores."),
    ] = "",
    compare: Annotated[
        list[Path] | None,
        typer.Option(help="Another run to compare with; its scores are in RUN/scores; repeatable."),
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Like params.yaml: show its tasks alone; default: every score."),
    ] = None,
) -> None:
    """Write tables, figures and a report for one or several runs."""
    from xkd.report.tabulate import tabulate as write

    write(run, scores, out, pushgateway, compare or (), tasks)


@app.command(name="import")
def import_weights(
    files: Annotated[list[Path], typer.Argument(help="The authors' *_teacher.pth.tar or *_student.pth.tar.")],
    modality: Annotated[Literal["video", "audio"], typer.Option(help="Modality of the encoders.")],
    out: Out,
    preset: Annotated[str, typer.Option(help="Preset they were trained with.")] = "released",
    config: Config = None,
    set_: Set = None,
) -> None:
    """Import the authors' released encoders as a run directory."""
    from xkd.config.presets import resolve_pretrain
    from xkd.train.import_released import import_released

    for path in import_released(files, modality, resolve_pretrain(preset, config, set_ or ()), out):
        print(path)


@app.command()
def presets() -> None:
    """List the presets with the paper's results."""
    from xkd.config.presets import PRESETS

    print(f"{'preset':28}{'in the paper':18}{'HMDB51':>8}{'UCF101':>8}{'ESC50':>8}  description")
    for preset in PRESETS.values():
        results = "".join(f"{percent or '':>8}" for percent in preset.paper)
        print(f"{preset.name:28}{preset.source:18}{results}  {preset.summary}")


@app.command(name="config")
def show_config(preset: Preset = None, config: Config = None, set_: Set = None) -> None:
    """Print the resolved configuration of a pretraining run."""
    from xkd.config.overrides import to_yaml
    from xkd.config.presets import resolve_pretrain

    print(to_yaml(resolve_pretrain(preset, config, set_ or ())), end="")


def main() -> None:
    """Run the command line; an error is one line on stderr, and its exit code."""
    forget_torchrun()
    end_with_dvc()
    try:
        app(prog_name="xkd")
    except XkdError as error:
        print(f"xkd: {explain_resume(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
