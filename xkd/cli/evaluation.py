"""Commands that evaluate runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from xkd.cli.options import Config, Data, Run, Set


def evaluate(
    run: Run,
    data: Data,
    modality: Annotated[str, typer.Option(help="video, audio or audiovisual.")],
    protocol: Annotated[
        str, typer.Option(help="svm, fc, fusion, finetune or retrieval; see the table above.")
    ],
    encoder: Annotated[
        str, typer.Option(help="teacher or student of the run; random: not pretrained; raw: no encoder.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of scores, to which one JSON file is added; default: RUN/scores."),
    ] = None,
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
      svm        a linear SVM on frozen features of one modality
      fc         a fully connected layer on frozen features
      fusion     a linear SVM on frozen features of video and audio together
      finetune   the encoder and a classification layer, trained together
      retrieval  the sound of a video among all test clips, without training

    \b
    By dataset:
      ucf101, hmdb51  video: svm finetune
      kinetics400     video: svm fc finetune; audio: svm; audiovisual: fusion retrieval
      kinetics_sound  video: svm; audio: svm; audiovisual: fusion retrieval
      esc50           audio: svm finetune
      fsd50k          audio: fc finetune
      embedded        video: svm finetune; audio: svm finetune; audiovisual: fusion retrieval

    A labeled dataset of your own: video and audio: svm fc finetune; audiovisual: fusion retrieval. With
    several labels a clip: fc finetune retrieval; without labels: retrieval.

    `--set test_windows=5` and `--set seed=1` apply to any task, `--set epochs=20` and the other settings of
    Tables S6 and S7 to fine-tuning. `xkd tasks` lists all tasks of prepared datasets.
    """  # noqa: D301 -- click reads \b as "do not rewrap this paragraph"
    from xkd.config.overrides import read_settings
    from xkd.data.shards.manifest import PreparedDataset
    from xkd.evaluation.evaluate import evaluate as score
    from xkd.evaluation.plan import make_task
    from xkd.evaluation.specs import find_eval_spec
    from xkd.launch.dvc import in_stage
    from xkd.rundir import RunDir

    settings = read_settings(config, set_ or ())
    dataset = PreparedDataset.open(data)
    find_eval_spec(dataset, modality, protocol)  # of its clips; by the name alone, one's own may have any
    task = make_task(dataset.name, modality, protocol, encoder, fold, settings)
    scores = out or RunDir(run).scores
    # The tasks of DVC's stages are those that params.yaml lists.
    score(run, data, task, scores, processes, planned=in_stage())


def tasks(
    data: Annotated[list[Path], typer.Argument(help="Prepared datasets (from xkd prepare).")],
    encoder: Annotated[
        list[str] | None, typer.Option(help="teacher, student, random or raw; repeatable; default: all.")
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="svm, fusion, fc, finetune or retrieval; repeatable; default: all."),
    ] = None,
) -> None:
    """Print all evaluations of datasets for params.yaml."""
    from xkd.config.yaml_core import dump_yaml
    from xkd.evaluation.plan import stages

    section = {"tasks": stages(data, encoder or (), protocol or ())}
    print(dump_yaml(section, default_flow_style=None, width=math.inf), end="")


def tabulate(
    run: Run,
    scores: Annotated[
        Path | None, typer.Option(help="Directory of scores (from xkd evaluate); default: RUN/scores.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the report; default: RUN/report, with --compare RUN/comparison."),
    ] = None,
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
    from xkd.rundir import RunDir

    directory = RunDir(run)
    folder = out or (directory.comparison if compare else directory.report)
    write(run, scores or directory.scores, folder, pushgateway, compare or (), tasks)
