"""The command line: a verb, its function, nothing in between."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from xkd.errors import XkdError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)

Config = Annotated[
    str | None, typer.Option(help="YAML settings, FILE or FILE:SECTION, laid over the defaults.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="One setting, dotted.name=value; repeatable.")]
Out = Annotated[Path, typer.Option(help="Directory to write.")]
Data = Annotated[Path, typer.Option(help="Prepared dataset (from xkd prepare).")]
Run = Annotated[Path, typer.Option(help="Run directory (from xkd pretrain).")]


@app.command()
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="A directory of the data registry; without one 'embedded' or a miniature: ucf101-mini, …"
        ),
    ],
    out: Out,
    repo: Annotated[str, typer.Option(help="Data registry: path or URL of a git repository with DVC.")] = "",
    rev: Annotated[
        str, typer.Option(help="Branch, tag or commit of the registry; empty: its default branch.")
    ] = "",
    clips: Annotated[int, typer.Option(help="Clips to generate, if embedded.")] = 800,
    seed: Annotated[int, typer.Option(help="Seed of the generator, if embedded.")] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="Also test that shortcuts fail and learning works.")
    ] = False,
) -> None:
    """Get a dataset in its official layout."""
    from xkd.data.fetch.fetch import fetch as run

    run(name, out, repo=repo, rev=rev, clips=clips, seed=seed, check=check)


@app.command()
def prepare(
    source: Annotated[
        Path, typer.Argument(help="Dataset in its official layout (from xkd fetch, or yours).")
    ],
    out: Out,
    dataset: Annotated[
        str, typer.Option(help="Its name, where the layout does not tell: kinetics_sound in Kinetics400.")
    ] = "",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Go on without listed files that are absent.")
    ] = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Decode every clip once and write shards with a manifest."""
    from xkd.config.overrides import resolve
    from xkd.data.shards.prepare import PrepareConfig
    from xkd.data.shards.prepare import prepare as run

    overrides = [
        *([f"dataset={dataset}"] if dataset else []),
        *(["allow_missing=true"] if allow_missing else []),
    ]
    run(source, out, resolve(PrepareConfig(), config, [*overrides, *(set_ or ())]))


@app.command()
def pretrain(
    data: Data,
    out: Out,
    preset: Annotated[str, typer.Option(help="Named configuration; see xkd presets.")] = "paper",
    config: Config = None,
    set_: Set = None,
    processes: Annotated[int, typer.Option(help="Training processes on this machine.")] = 1,
) -> None:
    """Pretrain XKD; go on where an earlier run into the same directory stopped."""
    from xkd.config.overrides import resolve
    from xkd.config.presets import get_preset
    from xkd.launch.launcher import describe, launch

    verdict = launch(resolve(get_preset(preset), config, set_ or ()), data, out, processes)
    print("verdict: {}: {}".format(*describe(verdict, out)))


@app.command()
def launch(
    data: Annotated[Path, typer.Option(help="Prepared dataset, as the cluster's pods see it.")],
    out: Annotated[Path, typer.Option(help="Run directory, as the pods see it.")],
    preset: Annotated[str, typer.Option(help="Named configuration; see xkd presets.")] = "paper",
    config: Config = None,
    set_: Set = None,
    cluster: Annotated[
        str | None, typer.Option(help="YAML settings of the cluster, FILE or FILE:SECTION.")
    ] = None,
    on: Annotated[
        list[str] | None, typer.Option("--on", help="One setting of the cluster, name=value; repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the Volcano Job and start nothing.")
    ] = False,
) -> None:
    """Pretrain on a Kubernetes cluster: start or find the job, follow it to its end."""
    import yaml

    from xkd.config.overrides import resolve
    from xkd.config.presets import get_preset
    from xkd.launch.kubernetes.config import ClusterConfig
    from xkd.launch.launcher import describe, training_job
    from xkd.launch.launcher import launch as run

    settings = resolve(get_preset(preset), config, set_ or ())
    place = resolve(ClusterConfig(), cluster, on or ())
    if dry_run:
        print(yaml.safe_dump(training_job(settings, data, out, place).manifest(), sort_keys=False), end="")
        return
    verdict = run(settings, data, out, cluster=place)
    print("verdict: {}: {}".format(*describe(verdict, out)))


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(help="Run directory (from xkd pretrain).")],
    once: Annotated[bool, typer.Option(help="Print the present state and end.")] = False,
) -> None:
    """Show how a run fares: losses, verdict, pace; live until it ends."""
    from xkd.monitor.tui import watch as show
    from xkd.rundir import RunDir

    show(RunDir(run), live=not once and sys.stdout.isatty())


@app.command()
def evaluate(
    run: Run,
    data: Data,
    out: Annotated[Path, typer.Option(help="Directory of scores; one JSON file is added.")],
    modality: Annotated[str, typer.Option(help="video, audio or audiovisual.")],
    protocol: Annotated[
        str,
        typer.Option(help="svm, fc, fusion or finetune; which the dataset has is said above."),
    ],
    encoder: Annotated[
        str, typer.Option(help="teacher or student of the run; random: never pretrained; raw: no encoder.")
    ],
    fold: Annotated[int, typer.Option(help="Which of the dataset's splits: UCF101 has 3, ESC-50 5.")] = 1,
    processes: Annotated[
        int, typer.Option(help="Processes on this machine; 0: one for each GPU, one without any.")
    ] = 0,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Score one encoder on one task; go on where an earlier attempt stopped.

    \b
    Protocols (supplement A.5, A.6):
      svm       a linear SVM on frozen features of one modality
      fc        a fully connected layer on them
      fusion    a linear SVM on those of video and audio together
      finetune  the encoder and a layer on top, trained

    \b
    By dataset:
      ucf101, hmdb51  video: svm finetune
      kinetics400     video: svm fc finetune; audio: svm; audiovisual: fusion
      kinetics_sound  video: svm; audio: svm; audiovisual: fusion
      esc50           audio: svm finetune
      fsd50k          audio: fc finetune
      embedded        video: svm finetune; audio: svm finetune; audiovisual: fusion

    `--set finetune.epochs=20` changes a setting of fine-tuning (Tables S6, S7), `--set seed=1` the seed.
    `xkd tasks` lists all tasks of prepared datasets.
    """  # noqa: D301 -- click takes the backspace for "leave the lines as they are"
    from xkd.config.overrides import resolve
    from xkd.evaluate.evaluate import evaluate as score
    from xkd.evaluate.task import Task

    chosen = {"modality": modality, "protocol": protocol, "encoder": encoder, "fold": fold}
    overrides = [*(f"{name}={value}" for name, value in chosen.items()), *(set_ or ())]
    score(run, data, resolve(Task(), config, overrides), out, processes)


@app.command()
def tasks(
    data: Annotated[list[Path], typer.Argument(help="Prepared datasets (from xkd prepare).")],
    encoder: Annotated[
        list[str] | None, typer.Option(help="teacher, student, random or raw; repeatable; none given: all.")
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="svm, fusion, fc or finetune; repeatable; none given: all.")
    ] = None,
) -> None:
    """Print every evaluation that datasets have, as the section tasks of params.yaml."""
    import yaml

    from xkd.evaluate.plan import stages

    section = {"tasks": stages(data, encoder or (), protocol or ())}
    print(yaml.safe_dump(section, default_flow_style=None, sort_keys=False, width=math.inf), end="")


@app.command()
def tabulate(
    run: Run,
    scores: Annotated[Path, typer.Option(help="Directory of scores (from xkd evaluate).")],
    out: Out,
    pushgateway: Annotated[
        str, typer.Option(envvar="XKD_PUSHGATEWAY", help="URL that gets the scores for a minute.")
    ] = "",
    beside: Annotated[
        list[Path] | None,
        typer.Option(help="Another run, with its scores in RUN/scores, to compare with; repeatable."),
    ] = None,
) -> None:
    """Turn a run and its scores into tables, curves and a report; several runs into one table."""
    from xkd.report.tabulate import tabulate as write

    report = write(run, scores, out, pushgateway, beside or ())
    print((out / "tables.md").read_text())
    print(f"report: {report}")


@app.command(name="import")
def import_weights(
    source: Annotated[Literal["authors"], typer.Argument(help="Whose weights: 'authors' released theirs.")],
    files: Annotated[list[Path], typer.Argument(help="Their *_teacher.pth.tar or *_student.pth.tar.")],
    modality: Annotated[Literal["video", "audio"], typer.Option(help="What the encoders are for.")],
    out: Out,
    preset: Annotated[str, typer.Option(help="What they were trained with.")] = "released",
    config: Config = None,
    set_: Set = None,
) -> None:
    """Turn released encoders into a run that `evaluate` and `xkd.load` read."""
    del source  # there is one
    from xkd.config.overrides import resolve
    from xkd.config.presets import get_preset
    from xkd.train.import_released import import_released

    for written in import_released(files, modality, resolve(get_preset(preset), config, set_ or ()), out):
        print(written)


@app.command()
def presets() -> None:
    """List the named configurations, with what the paper measured of them."""
    from xkd.config.presets import PRESETS

    print(f"{'preset':28}{'in the paper':18}{'HMDB51':>8}{'UCF101':>8}{'ESC50':>8}  what it is, or changes")
    for preset in PRESETS.values():
        figures = "".join(f"{figure or '':>8}" for figure in preset.paper)
        print(f"{preset.name:28}{preset.source:18}{figures}  {preset.summary}")


@app.command(name="config")
def show_config(
    preset: Annotated[str, typer.Option(help="Named configuration; see xkd presets.")] = "paper",
    config: Config = None,
    set_: Set = None,
) -> None:
    """Print the resolved configuration of a pretraining run as YAML."""
    from xkd.config.overrides import resolve, to_yaml
    from xkd.config.presets import get_preset

    print(to_yaml(resolve(get_preset(preset), config, set_ or ())), end="")


def main() -> None:
    """The ``xkd`` command: a user's mistake is one line and exit code 2."""
    try:
        app()
    except XkdError as error:
        print(f"xkd: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
