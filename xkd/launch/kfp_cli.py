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
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from xkd.errors import UserError, XkdError, nearest
from xkd.launch.process_group import run_in_process_group

_EXECUTOR = "kfp.dsl.executor_main"


class _Submission(NamedTuple):
    """A command ``run submit FILE.py``."""

    options: list[str]
    """Words before ``run submit``."""
    file: Path
    words: list[str]
    """Words after it, without the file."""


def main() -> None:
    """Run the command."""
    submission = _parse(sys.argv[1:])
    if submission is None:
        _run_upstream(sys.argv[1:])
    elif "--local" in submission.words:
        submission.words.remove("--local")
        sys.exit(run_in_process_group(lambda: _reported(_run_locally, submission)))
    else:
        sys.exit(_reported(_create, submission))


def _reported(run: Callable[[_Submission], None], submission: _Submission) -> int:
    """Run a submission; print an error as one line; return the exit code."""
    try:
        run(submission)
    except XkdError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _parse(arguments: Sequence[str]) -> _Submission | None:
    """Return the parts of a ``run submit FILE.py``; None for every other command."""
    for start, pair in enumerate(pairwise(arguments)):
        if pair in (("run", "submit"), ("runs", "submit")):
            words = list(arguments[start + 2 :])
            file = next((word for word in words if word.endswith(".py") and "=" not in word), None)
            if file is None or "--help" in words:
                return None
            words.remove(file)
            return _Submission(list(arguments[:start]), Path(file), words)
    return None


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
    from kfp.cli import cli
    from urllib3.exceptions import HTTPError

    pipeline = _load(submission.file)
    words = _quote_strings(pipeline, submission.words)
    if not any(word.startswith(("-e", "--experiment-name")) for word in words):
        words = ["-e", pipeline.name, *words]
    warnings.filterwarnings("ignore", category=FutureWarning, module="kfp")
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="kfp-submit-") as folder:
        package = str(Path(folder) / f"{submission.file.stem}.yaml")
        compiler.Compiler().compile(pipeline, package)
        command = [*submission.options, "run", "create", "-f", package, *words]
        try:
            with redirect_stdout(_LineFilter(sys.stdout, r"Failed to load kube config\.")):
                cli.cli.main(command, "kfp", obj={}, auto_envvar_prefix="KFP")
        except HTTPError as error:
            reason = " ".join(str(getattr(error, "reason", error)).split())
            raise UserError(
                f"no Kubeflow Pipelines server responds ({reason}); give its address with "
                f"`kfp --endpoint URL run submit {submission.file}`, or run on this machine with "
                f"`kfp run submit {submission.file} --local`"
            ) from None


def _run_locally(submission: _Submission) -> None:
    """Run a pipeline on this machine; its tasks are processes of this environment."""
    from kfp import local

    pipeline = _load(submission.file)
    values = _parameters(pipeline, submission.words)
    _adapt(pipeline.pipeline_spec)
    # A line is shown once a task prints it, and not lost if this process is killed.
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)
    warnings.filterwarnings("ignore", message="You may be attemp", category=RuntimeWarning)
    warnings.filterwarnings("ignore", message=r"Task .* have no effect in the current local runner")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="runs/.kfp")
    try:
        pipeline(**values)
    except RuntimeError as error:
        raise XkdError(str(error)) from None


def _adapt(spec: Any) -> None:
    """Adapt a compiled pipeline to this machine."""
    # Failed tasks fail at once: retries are for evicted pods and lost nodes.
    for component in (spec.root, *spec.components.values()):
        for task in component.dag.tasks.values():
            task.ClearField("retry_policy")
    for executor in spec.deployment_spec["executors"].fields.values():
        command = executor.struct_value["container"]["command"]
        # The local runner requires the name of KFP's executor, which ours ignores.
        for place, word in enumerate(command):
            command[place] = word.replace(f"-m {_EXECUTOR} ", f"-m xkd.launch.kfp_task {_EXECUTOR} ")


def _load(file: Path) -> Any:
    """Return the only pipeline of a Python file."""
    from kfp.cli.compile_ import collect_pipeline_or_component_func

    if not file.is_file():
        raise UserError(f"no pipeline file {file}")
    try:
        return collect_pipeline_or_component_func(str(file), None)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


def _parameters(pipeline: Any, words: Sequence[str]) -> dict[str, Any]:
    """Return the pipeline's parameters from ``name=value`` words, parsed as by upstream's ``run create``."""
    from kfp.cli.utils.parsing import parse_parameter_value

    known = pipeline.component_spec.inputs or {}
    values = {}
    remaining = iter(_quote_strings(pipeline, words))
    for word in remaining:
        if word in ("-e", "--experiment-name"):
            next(remaining, None)  # only servers have experiments; the same command works locally
            continue
        name, equals, text = word.partition("=")
        if not equals or word.startswith("-"):
            raise UserError(f"run submit --local takes parameters as name=value, not {word!r}")
        if name not in known:
            raise UserError(f"the pipeline has no parameter {name!r}{nearest(name, known)}")
        values[name] = parse_parameter_value(text)
    return values


def _quote_strings(pipeline: Any, words: Sequence[str]) -> list[str]:
    """Quote strings that upstream would parse as numbers, which the server would reject."""
    from kfp.cli.utils.parsing import parse_parameter_value

    strings = {name for name, of in (pipeline.component_spec.inputs or {}).items() if of.type == "String"}
    quoted = []
    for word in words:
        name, equals, text = word.partition("=")
        parsed = parse_parameter_value(text) if equals and name in strings else ""
        quoted.append(word if isinstance(parsed, str) else f"{name}={json.dumps(text)}")
    return quoted


class _LineFilter(io.TextIOBase):
    """A text stream without the lines that start with a pattern."""

    def __init__(self, stream: TextIO, pattern: str) -> None:
        self._stream, self._pattern, self._line = stream, re.compile(pattern), ""

    def write(self, text: str) -> int:
        """Write complete lines; keep the rest."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if not self._pattern.match(line):
                self._stream.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        """Flush the stream; an incomplete line stays."""
        self._stream.flush()
