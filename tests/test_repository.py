"""The files at the root of the repository."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.exceptions import InvalidArgumentError
from dvc.utils.hydra import apply_overrides

from xkd.config.overrides import load_file, load_yaml, read_settings
from xkd.config.presets import get_preset, resolve_pretrain
from xkd.data.shards.preparation import prepared_folder, resolve_prepare
from xkd.evaluation import plan

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PARAMS = str(ROOT / "params.yaml")


def stages() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return found


def test_dvc_pretrains_the_toy_preset() -> None:
    assert resolve_pretrain(None, f"{PARAMS}:pretrain") == get_preset("toy")


def test_parameters_that_params_yaml_does_not_list_need_a_plus(tmp_path: Path) -> None:
    texts = [(ROOT / name).read_text() for name in ("README.md", "params.yaml")]
    shown = {word for text in texts for word in re.findall(r"exp run -S ([^\s`]+=[^\s`]+)", text)}
    assert {word.startswith("+") for word in shown} == {True, False}
    params = tmp_path / "params.yaml"
    for word in shown:
        params.write_text(Path(PARAMS).read_text())
        if word.startswith("+"):
            with pytest.raises(InvalidArgumentError) as caught:
                apply_overrides(params, [word[1:]])
            assert f"append to your config use {word}" in str(caught.value.__cause__)
        apply_overrides(params, [word])
        name, _, value = word.lstrip("+").partition("=")
        section, _, name = name.partition(".")
        assert load_file(f"{params}:{section}") == read_settings(f"{PARAMS}:{section}", [f"{name}={value}"])


def test_dvc_prepares_as_the_demo_does() -> None:
    assert resolve_prepare(None, f"{PARAMS}:prepare") == resolve_prepare("toy") != resolve_prepare()
    assert resolve_prepare("toy") == resolve_prepare("small")


@pytest.mark.parametrize("name", ["Makefile", "benchmarks/collapse_lab.py", "docs/reproduce.md"])
def test_the_folder_of_the_demos_data_is_named_as_the_pipeline_names_it(name: str) -> None:
    named = set(re.findall(r"\S+/embedded-prepared\S*", (ROOT / name).read_text()))
    demo, lab = (
        prepared_folder(Path("runs/data/embedded"), resolve_prepare(name)) for name in ("toy", "lab")
    )
    assert named == {str(demo)} == {str(lab)}


def test_dvc_evaluates_every_task_of_the_embedded_dataset(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To update the section, replace it by the output of xkd tasks data/embedded-prepared.
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "embedded-prepared").symlink_to(prepared)
    monkeypatch.chdir(tmp_path)
    assert load_yaml(PARAMS, "tasks") == plan.stages([Path("data", "embedded-prepared")])


def test_dvc_stages_depend_on_folders_of_the_code_that_exist() -> None:
    for name, stage in stages().items():
        sources = [path for path in stage.get("do", stage)["deps"] if path.startswith("xkd/")]
        assert sources, name
        assert [path for path in sources if not (ROOT / path).is_dir()] == []


@pytest.mark.parametrize(
    ("stage", "module"),
    [
        ("prepare", "xkd.data.shards.prepare"),
        ("pretrain", "xkd.train.pretrain"),
        ("evaluate", "xkd.evaluation.evaluate"),
    ],
)
def test_dvc_stages_depend_on_all_code_that_makes_their_numbers(stage: str, module: str) -> None:
    given = stages()[stage]
    dependencies = given.get("do", given)["deps"]
    packages = ("xkd/data/", "xkd/evaluation/", "xkd/model/", "xkd/train/")
    used = [str(file) for file in sorted(imported(module)) if str(file).startswith(packages)]
    assert [file for file in used if not any(file.startswith(f"{name}/") for name in dependencies)] == []


def imported(module: str) -> set[Path]:
    """Return the files of this project that a module imports, directly or not."""
    found, names = set[Path](), [module]
    while names:
        name = names.pop()
        path = Path(*name.split("."))
        file = next(
            (f for f in (path.with_suffix(".py"), path / "__init__.py") if (ROOT / f).is_file()), None
        )
        if file is None or file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


TARGETS = ["help", "setup", "check", "test", "test-all", "demo", "collapse-lab", "monitor", "clean"]


@pytest.mark.parametrize("target", TARGETS)
def test_make_has_the_target(target: str) -> None:
    subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_make_monitor_prints_its_address() -> None:
    done = subprocess.run(["make", "-n", "monitor"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "http://localhost:9090/alerts" in done.stdout


def test_make_help_is_the_default_and_lists_the_targets() -> None:
    output = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"make ([\w-]+)", output) == TARGETS


def test_the_lock_pins_exact_versions_and_names_no_index() -> None:
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.+]+", line)] == []
    assert "://" not in LOCK


def test_the_lock_pins_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for name in ("bench", "gcs", "azure"):  # for benchmarks, and for the image: requirements-clouds.lock
        del extras[name]
    wanted = chain(project["dependencies"], *extras.values())
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in wanted}
    locked = {line.partition("==")[0] for line in LOCK.splitlines()}
    assert names <= locked


def test_the_library_needs_no_pipeline_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [name for name in project["dependencies"] if name.startswith(("kfp", "dvc"))]


def test_the_wheel_includes_every_file_that_is_not_python() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    listed = {
        ROOT / package.replace(".", "/") / name for package, names in packaged.items() for name in names
    }
    found = {path for path in (ROOT / "xkd").rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert found == listed


PRIVATE_WORDS = (
    r"\b(?:rooms?|lessons?|taught|tellings?|anew|beside|goes on|for want of|in vain|is none of|had best)\b"
)


def test_texts_use_no_private_vocabulary() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    allowed = {"CONTRIBUTING.md", "CHANGELOG.md", "tests/test_repository.py"}  # these quote the old words
    found = [
        f"{name}: {match[0]}"
        for name in listed.split()
        if name not in allowed and Path(name).suffix in (".py", ".md", ".yaml", ".toml", ".j2")
        for match in re.finditer(PRIVATE_WORDS, (ROOT / name).read_text(), re.IGNORECASE)
    ]
    assert found == []
