"""Commands that pretrain, and that show runs and their settings."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml

from xkd.cli.options import Config, Data, Extend, Out, Preset, Set
from xkd.errors import CollapsedError, UserError, extra_required


def pretrain(
    data: Data,
    out: Out,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    processes: Annotated[int, typer.Option(help="Number of training processes on this machine.")] = 1,
    init: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Start from the weights of another run (setting init).")
    ] = None,
    extend: Extend = False,
    hosts: Annotated[
        int, typer.Option(help="Number of hosts that train together, each by this command.")
    ] = 1,
    host: Annotated[int, typer.Option(help="Number of this host, from 0 (with --hosts).")] = 0,
    rendezvous: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Where the hosts meet: host 0 and a free port (with --hosts)."
        ),
    ] = "",
    report: Annotated[
        Path | None, typer.Option(help="Directory for a report if the run ends in a collapse.")
    ] = None,
) -> None:
    """Pretrain on this machine; rerun the command to resume."""
    from xkd.config.presets import resolve_pretrain
    from xkd.launch.launcher import describe
    from xkd.launch.launcher import launch as run
    from xkd.launch.local import Hosts
    from xkd.rundir import RunDir

    try:
        settings = resolve_pretrain(preset, config, set_ or ())
        if init:
            settings = replace(settings, init=str(init))
        several = Hosts(hosts, host, rendezvous) if hosts != 1 or host or rendezvous else None
        verdict = run(settings, data, out, processes, extend=extend, hosts=several)
    except CollapsedError:
        if report:
            from xkd.report.tabulate import tabulate as write

            write(out, RunDir(out).scores, report)
        raise
    print("verdict: {}: {}".format(*describe(verdict, out)))


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
    extend: Extend = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start the job without following it.")] = False,
    cancel: Annotated[
        str, typer.Option(metavar="JOB", help="Cancel a job instead; needs no --data and --out.")
    ] = "",
) -> None:
    """Pretrain on a Kubernetes cluster; rerun to reattach to the job."""
    from xkd.config.overrides import resolve
    from xkd.config.presets import resolve_pretrain

    with extra_required("xkd launch", "workflow"):
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
        job = training_job(settings, data, out, where, extend=extend)
        print(yaml.safe_dump(job.manifest(), sort_keys=False), end="")
    elif detach:
        submit.submit(training_job(settings, data, out, where, extend=extend))
    else:
        verdict = run(settings, data, out, cluster=where, extend=extend)
        print("verdict: {}: {}".format(*describe(verdict, out)))


def watch(
    run: Annotated[Path, typer.Argument(help="Run directory (from xkd pretrain).")],
    once: Annotated[bool, typer.Option("--once", help="Print the current state and exit.")] = False,
) -> None:
    """Show a run's losses, verdict and throughput while it trains."""
    from xkd.monitor.tui import watch as show
    from xkd.rundir import RunDir

    with suppress(KeyboardInterrupt):  # how it is ended before the run is
        show(RunDir(run), live=not once and sys.stdout.isatty())


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


def presets() -> None:
    """List the presets with the paper's results."""
    from xkd.config.presets import PRESETS, get_prepare_settings

    rows = [("preset", "in the paper", "HMDB51", "UCF101", "ESC50", "description")]
    for preset in PRESETS.values():
        hmdb51, ucf101, esc50 = (f"{percent or ''}" for percent in preset.paper)
        prepared = " ".join(f"{key}={value}" for key, value in get_prepare_settings(preset.name).items())
        description = f"{preset.summary} Prepared with {prepared}." if prepared else preset.summary
        rows.append((preset.name, preset.source, hmdb51, ucf101, esc50, description))
    name, source = (max(len(row[column]) for row in rows) for column in (0, 1))
    print("The paper's results are top-1 accuracies in %, of a linear SVM on frozen features.\n")
    for row in rows:
        print(f"{row[0]:{name}}  {row[1]:{source}}  {row[2]:>6}  {row[3]:>6}  {row[4]:>5}  {row[5]}")


def show_config(
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    describe: Annotated[
        bool, typer.Option("--describe", help="Explain each setting: its value, type and meaning.")
    ] = False,
) -> None:
    """Print the resolved configuration of a pretraining run."""
    from xkd.config.describe import describe as explain
    from xkd.config.describe import to_text
    from xkd.config.overrides import to_yaml
    from xkd.config.presets import resolve_pretrain

    settings = resolve_pretrain(preset, config, set_ or ())
    print(to_text(explain(settings)) if describe else to_yaml(settings), end="")
