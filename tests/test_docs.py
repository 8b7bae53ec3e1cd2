"""Names, files and commands in the documentation exist and are accepted."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import xkd
from xkd.cli import app
from xkd.config.overrides import read_settings, resolve
from xkd.config.presets import get_preset, resolve_pretrain
from xkd.data.shards.prepare import PrepareConfig
from xkd.errors import UserError
from xkd.evaluation.plan import make_task
from xkd.evaluation.specs import EVAL_SPECS
from xkd.launch.kubernetes.config import ClusterConfig

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = {f"xkd.{name}" for name in xkd.__all__}
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def command_lines(page: Path) -> list[str]:
    return [line for block in blocks(page) for line in block.splitlines()]


def code(page: Path) -> str:
    """Return all code of a page, in blocks and in lines."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*command_lines(page), *re.findall(r"`([^`]+)`", text)])


def names_in(module: Path) -> Iterator[str]:
    """Yield the top-level names of a module and, dotted, the methods of its classes."""
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
            members: list[ast.stmt] = node.body if isinstance(node, ast.ClassDef) else []
            yield from (f"{node.name}.{m.name}" for m in members if isinstance(m, ast.FunctionDef))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


@each_page
def test_relative_links_resolve(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", code(page))) <= targets


@each_page
def test_commands_exist(page: Path) -> None:
    assert set(re.findall(r"(?<![=/\w-])xkd ([a-z]+)", code(page))) <= COMMANDS.keys()


@each_page
def test_command_lines_and_their_settings_are_accepted(page: Path) -> None:
    for line in command_lines(page):
        if line.startswith("xkd "):
            command, *arguments = shlex.split(line, comments=True)[1:]
            given = COMMANDS[command].make_context(command, arguments).params
            if command == "prepare":
                resolve(PrepareConfig(), None, given["set_"] or ())
            elif command == "evaluate":
                names = given["modality"], given["protocol"]
                dataset = next(d for d, specs in EVAL_SPECS.items() if names in [s[:2] for s in specs])
                settings = read_settings(None, given["set_"] or ())
                make_task(dataset, *names, given["encoder"], settings=settings)
            elif "preset" in given:
                resolve_pretrain(given["preset"], None, given["set_"] or ())
            resolve(ClusterConfig(), None, given.get("cluster_set") or ())


@each_page
def test_pipeline_parameters_exist(page: Path) -> None:
    for line in command_lines(page):
        if "run submit" in line and line.startswith("kfp "):
            words = shlex.split(line, comments=True)
            file = next(word for word in words if word.endswith(".py"))
            functions = [
                n for n in ast.parse((ROOT / file).read_text()).body if isinstance(n, ast.FunctionDef)
            ]
            known = {a.arg for f in functions if f.name == Path(file).stem for a in f.args.args}
            assert {word.partition("=")[0] for word in words if "=" in word} <= known


@each_page
def test_names_in_the_code_exist(page: Path) -> None:
    for name in re.findall(r"`(xkd(?:\.\w+)+)`", page.read_text()):
        parts = name.split(".")
        depth = max(n for n in range(1, len(parts) + 1) if exists(parts[:n]))
        rest = ".".join(parts[depth:])
        path = ROOT.joinpath(*parts[:depth])
        module = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        assert not rest or name in PUBLIC or rest in names_in(module), name


def exists(parts: list[str]) -> bool:
    path = ROOT.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").is_file()


@each_page
def test_files_exist(page: Path) -> None:
    tops = r"(?:xkd|components|pipelines|docs|tests)"
    named = re.findall(rf"`({tops}(?:/[\w.-]+)*)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists() and path != "xkd"] == []


@each_page
def test_python_is_valid(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


def test_the_readme_shows_how_to_load_an_encoder() -> None:
    assert any("xkd.load(" in block for block in blocks(ROOT / "README.md", "python"))


def test_settings_in_decisions_exist() -> None:
    page = ROOT / "docs" / "adr" / "0002-text-over-code.md"
    for name in re.findall(r"`(loss\.\w+)", page.read_text()):
        with pytest.raises(UserError, match=rf"^configuration: {name}"):  # known, but of another type
            resolve(get_preset("paper"), None, [f"{name}=[wrong]"])


def test_packages_import_only_what_the_architecture_allows() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## Packages")[2]
    rows = re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", text.partition("\n## ")[0], re.MULTILINE)
    allowed = {package: set(re.findall(r"`(\w+)`", cell)) for package, cell in rows}
    found: dict[str, set[str]] = {}
    for path in (ROOT / "xkd").rglob("*.py"):
        if path != ROOT / "xkd" / "__init__.py":
            package = path.relative_to(ROOT / "xkd").parts[0].removesuffix(".py")
            imports = set(re.findall(r"^\s*from xkd\.(\w+)", path.read_text(), re.MULTILINE)) - {package}
            found[package] = found.get(package, set()) | imports
    assert found == allowed
