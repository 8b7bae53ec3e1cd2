"""Names, files and commands in the documentation exist and are accepted."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import xkd
from xkd.cli import app
from xkd.config import FinetuneConfig, PretrainConfig
from xkd.config.describe import describe
from xkd.config.overrides import read_settings, resolve
from xkd.config.presets import PRESETS, get_preset, resolve_pretrain
from xkd.data.shards.preparation import resolve_prepare
from xkd.errors import UserError
from xkd.evaluation.plan import make_task
from xkd.evaluation.specs import EVAL_SPECS
from xkd.launch.kubernetes.config import ClusterConfig
from xkd.monitor.metrics import METRICS, SCORE

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = {f"xkd.{name}" for name in xkd.__all__}
PAGES = sorted(
    path for folder in (".", "docs", "docs/adr", "examples") for path in (ROOT / folder).glob("*.md")
)
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


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_relative_links_and_their_anchors_resolve(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
        if "://" not in target:
            path = page.parent / target if target else page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), (target, anchor)


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", code(page))) <= targets


@each_page
def test_commands_and_their_options_exist(page: Path) -> None:
    text = re.sub(r"\$\(.*?\)", "", code(page))
    used = re.findall(r"(?<![=/\w-])xkd ([a-z]+)([^\n|&]*)", text)
    assert {command for command, _ in used} <= COMMANDS.keys()
    if page.name != "CHANGELOG.md":  # names former options
        for command, words in used:
            known = {name for option in COMMANDS[command].params for name in option.opts}
            assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", words)) <= known | {"--help"}, words


@each_page
def test_command_lines_and_their_settings_are_accepted(page: Path) -> None:
    for line in command_lines(page):
        if line.startswith("xkd "):
            command, *arguments = shlex.split(line, comments=True)[1:]
            given = COMMANDS[command].make_context(command, arguments).params
            if command == "prepare":
                resolve_prepare(given["preset"], None, given["set_"] or ())
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
def test_commands_name_all_that_they_need(page: Path) -> None:
    lacking = []
    for line in code(page).splitlines():
        needed: tuple[str, ...] = ()
        if re.search(r"\bxkd ablate (?:all|[BS]\d)", line):
            needed = ("--data ", "--out ")
        elif "run submit pipelines/xkd_full.py" in line and " dataset=" in line:
            needed = (" preset=", " run=")  # by default the demo's
        elif "launch --cancel JOB" in line and page.name != "CHANGELOG.md":
            needed = ("--cluster-set namespace=",)  # by default the kubeconfig's
        elif "docker build --" in line:
            needed = ("--build-arg REVISION=$(git rev-parse HEAD)",)
        lacking += [f"{line}: {words}" for words in needed if words not in line]
    assert lacking == []


@each_page
def test_options_of_benchmarks_exist(page: Path) -> None:
    common = (ROOT / "benchmarks" / "common.py").read_text()
    for script, words in re.findall(r"python (benchmarks/\w+\.py)([^\n`#]*)", page.read_text()):
        source = (ROOT / script).read_text() + common
        assert [name for name in re.findall(r"(?<=\s)--[a-z-]+", words) if f'"{name}"' not in source] == []


@each_page
def test_nothing_is_installed_from_an_index_before_there_is_a_release(page: Path) -> None:
    assert not re.search(r"pip install '?xkd\b", page.read_text())


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
    tops = r"(?:benchmarks|components|docs|examples|findings|k8s|pipelines|tests|xkd)"
    named = re.findall(rf"(?<![\w./-])({tops}/[\w./-]+|requirements[\w.-]*)", code(page))
    assert [path for path in named if not (ROOT / path).exists() and path != "findings/NAME.sh"] == []


@each_page
def test_metrics_settings_and_presets_exist(page: Path) -> None:
    text = code(page)
    pipelines = {path.stem for path in (ROOT / "pipelines").glob("*.py")}
    metrics = {metric.name for metric in METRICS} | {SCORE, "xkd_run_info"}
    assert set(re.findall(r"(?<![\w/])xkd_[a-z_]+\b(?!\.)", text)) <= metrics | pipelines | PRESETS.keys()
    sections = "audio|clip|decoder|loss|optim|projector|refine|run|video|views"
    used = set(re.findall(rf"(?<![\w./-])(?:{sections})(?:\.[a-z]\w*)+", text)) - {"run.json"}
    known = names_of_settings(PretrainConfig()) | names_of_settings(FinetuneConfig())
    assert [name for name in used if not any(f"{k}.".startswith(f"{name}.") for k in known)] == []
    assert set(re.findall(r"[Pp]resets? `(\w+)`", page.read_text())) <= PRESETS.keys()


@cache
def names_of_settings(settings: object) -> set[str]:
    return {setting.name for section in describe(settings) for setting in section.settings}


def test_the_number_of_settings_is_right() -> None:
    page = ROOT / "docs" / "adr" / "0001-typed-settings-and-presets-as-data.md"
    stated = re.search(r"has more than (\d+) settings", page.read_text())
    assert stated
    assert 0 < len(names_of_settings(PretrainConfig())) - int(stated[1]) <= 10


@pytest.mark.skipif(not find_spec("nvidia"), reason="the sizes are those of the CUDA build of torch")
def test_the_sizes_of_the_installation_are_right() -> None:
    locked, in_image = (
        re.findall(r"^([\w.-]+)==", (ROOT / name).read_text(), re.MULTILINE)
        for name in ("requirements.lock", "requirements-runtime.lock")
    )
    sizes = {}  # without bytecode
    for name in locked:
        record = distribution(name).read_text("RECORD") or ""
        sizes[name] = sum(int(size) for size in re.findall(r",(\d+)$", record, re.MULTILINE))

    def gib(names: Iterable[str]) -> str:
        return f"{sum(sizes[name] for name in names) / 2**30:.1f}"

    whole, runtime = gib(locked), gib(in_image)
    nvidia = gib(name for name in in_image if name.startswith(("nvidia", "cuda")))
    gpu = gib(name for name in in_image if name.startswith(("nvidia", "cuda", "triton")))
    image, kubernetes, readme = (
        " ".join((ROOT / name).read_text().split())
        for name in ("Dockerfile", "docs/kubernetes.md", "README.md")
    )
    assert f"{runtime} GiB: NVIDIA's libraries {nvidia}, torch" in image
    assert f"with all packages of requirements.lock, it would be {whole} GiB" in image
    assert (
        f"have {runtime} GiB, of which {gpu} are NVIDIA's libraries and triton; those of the whole"
        in kubernetes
    )
    assert f"whole lock have {whole}. The target `cpu` leaves out these {gpu} GiB" in kubernetes
    with_bytecode = 1.05 * float(whole) * 1.024**3  # GB
    assert f"about {with_bytecode:.0f} GB of disk space" in readme


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
