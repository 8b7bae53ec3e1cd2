"""Files may come from strangers: nothing in the package may run what is inside them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = sorted(path for folder in ("xkd", "components", "pipelines") for path in (ROOT / folder).rglob("*.py"))

RISKY = re.compile(
    r"(_?pickle|cPickle|cloudpickle|jsonpickle|dill|joblib|marshal|shelve|torch\.hub|torch\.package)(\..*)?"
    r"|pandas\.read_pickle|numpy\.lib\.format\.read_array"
    r"|yaml\.((full|unsafe)_load(_all)?|C?(Full|Unsafe)?Loader)"
)
"""Modules and names whose reading runs what they read, whatever they are given."""


def risks(code: str) -> list[str]:
    """Where a module may run what is in a file that it reads, each place in a few words."""
    tree = ast.parse(code)
    known = dict(imports(tree))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.expr):
            risky = [name for name in names(node, known) if RISKY.fullmatch(name)]
            if isinstance(node, ast.Call) and is_unsafe(node, known):
                risky.append(f"{full_name(node.func, known)} as it is called")
            found += [f"line {node.lineno}: {what}" for what in risky]
    return found


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What each name that a module imports stands for, dotted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (top, top)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def names(node: ast.AST, known: dict[str, str]) -> Iterator[str]:
    """The full names that a node imports or is."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Attribute):
        yield full_name(node, known)


def full_name(node: ast.expr | None, known: dict[str, str]) -> str:
    """``np.load`` as ``numpy.load``; empty for what is no name."""
    if isinstance(node, ast.Attribute):
        return f"{full_name(node.value, known)}.{node.attr}"
    return known.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def is_unsafe(call: ast.Call, known: dict[str, str]) -> bool:
    """Return whether a function is called in an unsafe way, or in a way that cannot be verified."""
    name, arguments = full_name(call.func, known), list(call.args)
    options = {option.arg: option.value for option in call.keywords}

    def says(option: str, value: bool) -> bool:
        given = options.get(option)
        return isinstance(given, ast.Constant) and given.value is value

    if name == "torch.load":
        return not says("weights_only", True)
    if name == "numpy.load":
        return len(arguments) > 2 or ("allow_pickle" in options and not says("allow_pickle", False))
    if name in ("yaml.load", "yaml.load_all"):
        loader = options.get("Loader") or next(iter(arguments[1:]), None)
        return not full_name(loader, known).endswith("SafeLoader")
    return name in ("eval", "exec")


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_code_from_files(path: Path) -> None:
    assert risks(path.read_text()) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import joblib as j",
        "from pickle import loads",
        "def f():\n    import dill",
        "import torch\ntorch.load('a')",
        "import torch\ntorch.load('a', weights_only=False)",
        "import torch\ntorch.load('a', weights_only=flag)",
        "import torch as t\nt.load('a')",
        "from torch import load\nload('a')",
        "from torch import load as read\nread('a')",
        "import torch\ntorch.hub.load('a', 'b')",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "import numpy as np\nnp.load('a', allow_pickle=flag)",
        "import numpy as np\nnp.load('a', None, True)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import yaml\nyaml.load(text, yaml.FullLoader)",
        "from yaml import unsafe_load",
        "import yaml\nclass Mine(yaml.UnsafeLoader): ...",
        "eval(text)",
    ],
)
def test_a_risk_is_found(code: str) -> None:
    assert risks(code)


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load('a', weights_only=True)",
        "import numpy as np\nnp.load('a')",
        "import numpy as np\nnp.load('a', allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml\nclass Mine(yaml.SafeLoader): ...",
        "model.load('a')",
        "import json\njson.load(file)",
    ],
)
def test_safe_code_is_not_reported(code: str) -> None:
    assert risks(code) == []
