"""The `kfp` command of this environment: upstream's, plus ``kfp run submit FILE.py``.

Upstream's ``run submit`` is a deprecated alias of ``run create``, which takes a compiled package. This one
also compiles a pipeline's Python file:

    kfp [--endpoint URL ...] run submit FILE.py [--local] [-e EXPERIMENT] [name=value ...]

With ``--local`` the pipeline runs on this machine, without a server. Without it the package goes to
upstream's ``run create``, with all other flags unchanged; the default experiment has the pipeline's name.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from xkd.errors import UserError, XkdError, extra_required, interruptions_as_errors
from xkd.launch.interrupts import handle_stop_signals, raise_stop
from xkd.launch.kfp_task import ERRORS, run_own_executor
from xkd.launch.process_group import run_in_process_group
from xkd.parallel.limits import cores

_Argument = TypeVar("_Argument")
LINE = 160
"""Longest line of the local runner's own log, characters; what tasks print is shown whole."""
_ARTIFACT = re.compile(r" +(\S+: \w+\( name|uri|metadata)=")
"""Lines about an artifact among the outputs of a task."""
_EMPTY = re.compile(r"\A(Streamed logs|Task .* (outputs:|has no outputs\Z))")
"""A record of the runner's that says nothing alone."""
TASKS_AT_A_TIME = 2
"""Tasks of a loop that KFP's local runner runs at a time at most."""
THREADS = "OMP_NUM_THREADS"
_SUBMIT = (("run", "submit"), ("runs", "submit"))


class _Submission(NamedTuple):
    """A command ``run submit FILE.py``."""

    file: Path
    parameters: list[str]
    """Words ``name=value``."""
    local: bool
    flags: dict[str, Any]
    """Given options of upstream's ``run create``, by name."""
    options: list[str]
    """Words before ``run submit``."""


def main() -> None:
    """Run the command."""
    handle_stop_signals(raise_stop)
    sys.exit(_reported(_run, sys.argv[1:]))


def _reported(run: Callable[[_Argument], None], argument: _Argument) -> int:
    """Run a function; print an error as one line; return the exit code."""
    try:
        with interruptions_as_errors():
            run(argument)
    except XkdError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _run(arguments: list[str]) -> None:
    with extra_required("kfp", "workflow"):
        import kfp  # noqa: F401
    submission = _parse(arguments)
    if submission is None:
        _run_upstream(arguments)
    elif submission.local:
        sys.exit(run_in_process_group(lambda: _reported(_run_locally, submission)))
    else:
        _create(submission)


def _parse(arguments: list[str]) -> _Submission | None:
    """Return the parts of a ``run submit FILE.py``; None for every other command.

    Raises:
        UserError: an option is wrong, or there is no file.
    """
    places = [at for at, pair in enumerate(pairwise(arguments)) if pair in _SUBMIT]
    if not places or "--help" in arguments:
        return None
    import click
    from kfp.cli import run

    options, words = arguments[: places[0]], arguments[places[0] + 2 :]
    flags = [word for word in words if word != "--local"]
    try:
        # Upstream requires the name of an experiment; an empty one stands for the pipeline's.
        context = run.create.make_context("submit", ["--experiment-name=", *flags])
    except click.UsageError as error:
        if not any(word.endswith(".py") for word in words):
            return None
        raise UserError(f"run submit: {error.format_message()}") from None
    given = {name: value for name, value in context.params.items() if value}
    if given.keys() & {"package_file", "pipeline_id", "pipeline_name", "version"}:
        return None
    parameters = list(given.pop("args", ()))
    # A path may have an equals sign, and the value of a parameter may end like a file.
    files = [word for word in parameters if word.endswith(".py")]
    found = [word for word in files if Path(word).is_file()] or [word for word in files if "=" not in word]
    if not found:
        raise UserError(f"run submit needs the file of a pipeline: {files[0] if files else 'FILE.py'}")
    parameters.remove(found[0])
    return _Submission(Path(found[0]), parameters, "--local" in words, given, options)


def _run_upstream(arguments: list[str]) -> None:
    """Run upstream's command, but print help without a connection to a server, which upstream requires."""
    from kfp.cli import __main__, cli

    if "--help" not in arguments:
        __main__.main()
        return
    if "submit" in arguments:
        print((__doc__ or "").strip(), end="\n\n")
    offline = copy.copy(cli.cli)
    offline.callback = None
    offline.main(args=arguments, prog_name="kfp", obj={})


def _create(submission: _Submission) -> None:
    """Compile the file and pass the package to upstream's ``run create``."""
    from kfp import compiler

    from xkd.launch.kfp_client import create_run
    from xkd.launch.kfp_parameters import read_parameters

    pipeline = _load(submission.file)
    parameters = read_parameters(pipeline, submission.parameters)
    words = [f"{name}={json.dumps(value)}" for name, value in parameters.items()]
    with tempfile.TemporaryDirectory(prefix="kfp-submit-") as folder:
        package = str(Path(folder) / f"{submission.file.stem}.yaml")
        compiler.Compiler().compile(pipeline, package)
        values = {
            "experiment_name": pipeline.name,
            **submission.flags,
            "package_file": package,
            "args": words,
        }
        create_run(submission.file, submission.options, values)


def _run_locally(submission: _Submission) -> None:
    """Run a pipeline on this machine; its tasks are processes of this environment."""
    from kfp import local

    from xkd.launch.kfp_parameters import read_parameters

    # Only servers have experiments, but the same command works locally.
    for name in submission.flags.keys() - {"experiment_name"}:
        raise UserError(f"--{name.replace('_', '-')} needs a server; leave it or --local out")
    pipeline = _load(submission.file)
    values = read_parameters(pipeline, submission.parameters)
    _adapt(pipeline.pipeline_spec)
    # A line is shown once a task prints it, and not lost if this process is killed.
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)
    warnings.filterwarnings("ignore", message="You may be attemp", category=RuntimeWarning)
    warnings.filterwarnings("ignore", message=r"Task .* have no effect in the current local runner")
    logging.getLogger().addFilter(_shorten)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="runs/.kfp")
    with tempfile.NamedTemporaryFile("r", prefix="kfp-submit-") as errors:
        os.environ[ERRORS] = errors.name
        try:
            pipeline(**values)
        except RuntimeError as error:
            # What ended the run is far above by now, below which other tasks have run.
            raise XkdError(" ".join([str(error), *errors.read().splitlines()[:1]])) from None


def _shorten(record: logging.LogRecord) -> bool:
    """Cut what the runner logs of each task: paths of artifacts, and long lines of other outputs.

    Returns:
        Whether something is left.
    """
    message = record.getMessage()
    lines = [line for line in message.splitlines() if line and not _ARTIFACT.match(line)]
    if len(lines) == 1 and _EMPTY.search(message):
        return False
    cut = (f"{line[:LINE]}... ({len(line)} characters)" if len(line) > LINE else line for line in lines)
    record.msg, record.args = "\n".join(cut), ()
    return True


def _adapt(spec: Any) -> None:
    """Adapt a compiled pipeline to this machine."""
    # Failed tasks fail at once: retries are for evicted pods and lost nodes.
    for component in (spec.root, *spec.components.values()):
        for task in component.dag.tasks.values():
            task.ClearField("retry_policy")
    looped = _executors_in_loops(spec)
    threads = {"name": THREADS, "value": str(max(1, cores() // TASKS_AT_A_TIME))}
    for name, executor in spec.deployment_spec["executors"].items():
        if "container" not in executor or "command" not in executor["container"]:
            continue
        # Threads of two tasks that both use all cores wait for one another, each busily.
        if name in looped and THREADS not in os.environ:
            executor["container"]["env"] = [threads]
        command = executor["container"]["command"]
        for place, word in enumerate(command):
            command[place] = run_own_executor(word)


def _executors_in_loops(spec: Any) -> set[str]:
    """Return the names of the executors whose tasks are in a loop."""
    found: set[str] = set()

    def collect(dag: Any, looped: bool) -> None:
        for task in dag.tasks.values():
            inside = looped or task.WhichOneof("iterator") is not None
            component = spec.components[task.component_ref.name]
            if component.HasField("dag"):
                collect(component.dag, inside)
            elif inside:
                found.add(component.executor_label)

    collect(spec.root.dag, looped=False)
    return found


def _load(file: Path) -> Any:
    """Return the only pipeline of a Python file."""
    from kfp.cli.compile_ import collect_pipeline_or_component_func

    if not file.is_file():
        raise UserError(f"no pipeline file {file}")
    try:
        pipeline = collect_pipeline_or_component_func(str(file), None)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    if not hasattr(pipeline, "pipeline_func"):
        raise UserError(f"{file} has a component, but no pipeline")
    return pipeline
