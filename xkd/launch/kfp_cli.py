"""The `kfp` command of this environment: upstream's, and ``kfp run submit FILE.py``.

Upstream's ``run submit`` is a deprecated alias of ``run create``, which wants a compiled package. Here it
also takes a pipeline's Python file and compiles it first:

    kfp [--endpoint URL ...] run submit FILE.py [--local] [-e EXPERIMENT] [name=value ...]

With ``--local`` the pipeline runs on this machine, without a server. Without it the package goes to
upstream's ``run create``, with all other flags as given; the experiment is named after the pipeline
unless ``-e`` says otherwise. Everything else is upstream's own.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from xkd.errors import UserError, XkdError, nearest

LOCAL_ROOT = Path("runs/.kfp")
"""Where a local run keeps the small artifacts that tasks hand on."""


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    try:
        submission = _submission(arguments)
        if submission is None:
            _upstream(arguments)
            return
        before, file, after = submission
        if not file.is_file():
            raise UserError(f"no pipeline file {file}")
        if "--local" in after:
            after.remove("--local")
            sys.exit(_in_own_group(file, after))
        _create(before, file, after)
    except XkdError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _submission(arguments: Sequence[str]) -> tuple[list[str], Path, list[str]] | None:
    """The words before ``run submit``, the Python file and the words after; None for all other commands."""
    for start, words in enumerate(pairwise(arguments)):
        if words in (("run", "submit"), ("runs", "submit")):
            after = list(arguments[start + 2 :])
            file = next((word for word in after if word.endswith(".py") and "=" not in word), None)
            if file is None or "--help" in after:
                return None
            after.remove(file)
            return list(arguments[:start]), Path(file), after
    return None


def _upstream(arguments: list[str]) -> None:
    """Upstream's command line, which ends the process as it does there.

    Upstream connects to a server before it reads further, even for ``run create --help``; help comes
    without that here.
    """
    from kfp.cli import __main__, cli

    if "--help" not in arguments:
        __main__.main()
        return
    if "submit" in arguments:
        print((__doc__ or "").strip(), end="\n\n")
    offline = copy.copy(cli.cli)
    offline.callback = None
    offline.main(args=arguments, prog_name="kfp", obj={})


def _create(before: list[str], file: Path, after: list[str]) -> None:
    """Compile the file and hand the package to upstream's ``run create``."""
    from kfp import compiler
    from kfp.cli import cli
    from urllib3.exceptions import HTTPError

    pipeline = _load(file)
    after = _with_strings(pipeline, after)
    if not any(word.startswith(("-e", "--experiment-name")) for word in after):
        after = ["-e", pipeline.name, *after]
    warnings.filterwarnings("ignore", category=FutureWarning, module="kfp")
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="kfp-submit-") as folder:
        package = str(Path(folder) / f"{file.stem}.yaml")
        compiler.Compiler().compile(pipeline, package)
        try:
            with redirect_stdout(_Without(sys.stdout, r"Failed to load kube config\.")):
                cli.cli.main(
                    [*before, "run", "create", "-f", package, *after], "kfp", obj={}, auto_envvar_prefix="KFP"
                )
        except HTTPError as error:
            raise UserError(
                "no Kubeflow Pipelines server answers "
                f"({' '.join(str(getattr(error, 'reason', error)).split())}); name one with "
                f"`kfp --endpoint URL run submit {file}`, or run on this machine with "
                f"`kfp run submit {file} --local`"
            ) from None


def _in_own_group(file: Path, arguments: list[str]) -> int:
    """Run a pipeline here in a process group of its own, so that stopping this command stops its tasks too.

    Returns:
        The exit code: 0 when the pipeline succeeded.
    """
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        # What a shell starts in the background ignores SIGINT, and hands that on to the tasks.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            os._exit(_run_here(file, arguments))
        except XkdError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(error.exit_code)
        except KeyboardInterrupt:
            os._exit(130)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: os.killpg(child, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def _run_here(file: Path, arguments: list[str]) -> int:
    """Run a pipeline on this machine; its tasks are processes of this environment."""
    from kfp import local

    pipeline = _load(file)
    values = _values(pipeline, arguments)
    _never_retry(pipeline)
    warnings.filterwarnings("ignore", message="You may be attemp", category=RuntimeWarning)
    warnings.filterwarnings("ignore", message=r"Task .* have no effect in the current local runner")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(LOCAL_ROOT))
    # The executor repeats its whole input; what a task itself says should not drown in that.
    with redirect_stdout(_Without(sys.stdout, r"""\s*(\[KFP Executor .* INFO\]|["{}\]])""")):
        try:
            pipeline(**values)
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


def _load(file: Path) -> Any:
    """The one pipeline of a Python file."""
    from kfp.cli.compile_ import collect_pipeline_or_component_func

    try:
        return collect_pipeline_or_component_func(str(file), None)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


def _never_retry(pipeline: Any) -> None:
    """Have a task that fails fail at once: what retries are for, evicted pods and lost nodes, is not here."""
    spec = pipeline.pipeline_spec
    for component in (spec.root, *spec.components.values()):
        for task in component.dag.tasks.values():
            task.ClearField("retry_policy")


def _values(pipeline: Any, arguments: Sequence[str]) -> dict[str, Any]:
    """The pipeline's parameters from ``name=value`` words, read as upstream's ``run create`` reads them."""
    from kfp.cli.utils.parsing import parse_parameter_value

    known = pipeline.component_spec.inputs or {}
    values = {}
    words = iter(_with_strings(pipeline, arguments))
    for word in words:
        if word in ("-e", "--experiment-name"):
            next(words, None)  # experiments are a server's; the same command line works in both places
            continue
        name, equals, text = word.partition("=")
        if not equals or word.startswith("-"):
            raise UserError(f"run submit --local takes parameters as name=value, not {word!r}")
        if name not in known:
            raise UserError(f"the pipeline has no parameter {name!r}{nearest(name, known)}")
        values[name] = parse_parameter_value(text)
    return values


def _with_strings(pipeline: Any, arguments: Sequence[str]) -> list[str]:
    """The same words, with quotes around strings that upstream would read as numbers and a server refuse."""
    from kfp.cli.utils.parsing import parse_parameter_value

    known = pipeline.component_spec.inputs or {}
    words = []
    for word in arguments:
        name, equals, text = word.partition("=")
        is_string = equals and name in known and known[name].type == "String"
        quote = is_string and not isinstance(parse_parameter_value(text), str)
        words.append(f"{name}={json.dumps(text)}" if quote else word)
    return words


class _Without(io.TextIOBase):
    """A text stream that leaves out the lines that begin with a pattern."""

    def __init__(self, stream: TextIO, pattern: str) -> None:
        self._stream, self._pattern, self._line = stream, re.compile(pattern), ""

    def write(self, text: str) -> int:
        """Write whole lines on; keep the rest until its end comes."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if not self._pattern.match(line):
                self._stream.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        """Flush the stream; an unfinished line stays here."""
        self._stream.flush()


if __name__ == "__main__":
    main()
