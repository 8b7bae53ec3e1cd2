"""A pipeline's parameters on the command line, checked before anything starts or is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from xkd.config.overrides import plain_problem
from xkd.errors import UserError, nearest

LARGEST = 2**53
"""KFP's numbers are 64-bit floats, which round the integers above."""


def read_parameters(pipeline: Any, words: Sequence[str]) -> dict[str, Any]:
    """Return a pipeline's parameters from ``name=value`` words.

    Values are read as by upstream's ``run create``, but those of strings that look like numbers stay strings.

    Raises:
        UserError: one line naming the parameter that is unknown, missing, empty though that means nothing, of
            another type than that of the pipeline's function, or which KFP would change.
    """
    inputs, hints = pipeline.component_spec.inputs or {}, get_type_hints(pipeline.pipeline_func)
    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"run submit takes parameters as name=value, not {word!r}")
        if name not in inputs:
            raise UserError(f"the pipeline has no parameter {name!r}{nearest(name, inputs)}")
        values[name] = _read(name, text, inputs[name].type, hints[name])
        if values[name] == "" and inputs[name].default != "":
            raise UserError(f"{name}: must not be empty; give a value or leave it out")
    missing = [name for name, given in inputs.items() if not given.optional and name not in values]
    if missing:
        raise UserError(f"the pipeline needs {', '.join(missing)}; give each as name=value")
    return values


def _read(name: str, text: str, kind: str, hint: Any) -> Any:
    """Read a value of a type, given by KFP's name and as Python's type."""
    from kfp.cli.utils.parsing import parse_parameter_value

    value = parse_parameter_value(text)
    if kind == "String":
        return value if isinstance(value, str) else text
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = "".join(f"[{part!r}]" for part in problem["loc"])
        write = f'; write it as JSON, for example {name}=["a", "b"]' if kind.startswith("List") else ""
        said = f"{plain_problem(problem['msg'])}, got {problem['input']!r}"
        raise UserError(f"{name}{place}: {said}{write}") from None
    for leaf in _leaves(value):
        if leaf is None:
            raise UserError(f"{name}: KFP's local runner refuses null; leave it out")
        if isinstance(leaf, int) and abs(leaf) > LARGEST:
            raise UserError(f"{name}: KFP rounds integers above 2**53, such as {leaf}")
    return value


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what is no list or dictionary."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value
