from __future__ import annotations

import ast
from pathlib import Path

import pytest

import components

FILES = sorted(path for path in Path(components.__path__[0]).glob("*.py") if path.name != "__init__.py")
COMMANDS = ["evaluate", "fetch", "prepare", "pretrain", "tabulate"]


def body_of(path: Path) -> ast.FunctionDef:
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions] == [path.stem]
    return functions[0]


def test_the_five_commands_their_checks_planning_and_cleanup_are_components() -> None:
    ablations = ["plan_ablations", "evaluate_run", "tabulate_ablations"]
    assert [path.stem for path in FILES] == sorted([*COMMANDS, "check", "plan", "release", *ablations])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_component_is_thin(path: Path) -> None:
    statements = [node for node in ast.walk(body_of(path)) if isinstance(node, ast.stmt)]
    assert len(statements) - 2 <= 12  # neither the function itself nor its docstring


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_component_uses_only_names_of_its_own_source(path: Path) -> None:
    function = body_of(path)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assigned = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    parameters = {argument.arg for argument in function.args.args}
    used = {
        node.id for statement in function.body for node in ast.walk(statement) if isinstance(node, ast.Name)
    }
    builtins = {"int", "len", "print", "str"}
    assert used <= imported | assigned | parameters | builtins
