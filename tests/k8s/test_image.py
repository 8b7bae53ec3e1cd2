"""Checks of the Dockerfile without a build, and of the package built from the build context."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their arguments."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    split = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(name, " ".join(given.split())) for name, given in split]


def given(name: str) -> list[str]:
    return [value for instruction, value in instructions() if instruction == name]


def sources() -> list[str]:
    """Return the paths copied from the checkout, in order."""
    return [word for copied in given("COPY") if "--from" not in copied for word in copied.split()[:-1]]


def is_sent(path: str) -> bool:
    """Return whether .dockerignore sends a file to the builder: its last matching pattern decides."""
    parts, sent = path.split("/"), True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            places = parts if pattern.startswith("**/") else parts[:1]
            name = pattern.removeprefix("**/")
            assert "/" not in name, "no longer patterns are understood here"
            if any(fnmatch(place, name) for place in places):
                sent = line.startswith("!")
    return sent


def checked_in() -> list[str]:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.splitlines() if (ROOT / path).exists()]


def test_the_base_image_is_pinned_by_digest() -> None:
    stages = [stage.partition(" AS ") for stage in given("FROM")]
    base, *others = [base for base, _, _ in stages]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert set(others) <= {name for _, _, name in stages}


def stage(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a stage, without those of the stage that it starts from."""
    found: list[tuple[str, str]] = []
    inside = False
    for instruction, value in instructions():
        if instruction == "FROM":
            inside = value.endswith(f" AS {name}")
        elif inside:
            found.append((instruction, value))
    assert found, name
    return found


def names(lock: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==[\w.+]+$", (ROOT / lock).read_text(), re.MULTILINE))


def closure(requirements: list[str]) -> set[str]:
    """Return the names of installed packages that these requirements need, directly or not."""
    found: dict[tuple[str, str], None] = {}
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in found:
                found[name, wanted] = None
                waiting += [(Requirement(text), wanted) for text in metadata.requires(name) or []]
    return {name for name, _ in found}


def test_the_image_has_exactly_the_locked_packages_that_its_commands_need() -> None:
    """None of pytest, mypy, ruff, moto and theirs."""
    runtime = names("requirements-runtime.lock")
    extras = PROJECT["optional-dependencies"]
    logging = [*extras["tensorboard"], *extras["mlflow"]]
    assert runtime == closure([*PROJECT["dependencies"], *extras["workflow"], *logging, "setuptools"])
    assert not runtime & {Requirement(text).name for text in [*extras["dev"], *extras["bench"]]}
    locked = set((ROOT / "requirements.lock").read_text().splitlines())
    pinned = [f for f in (ROOT / "requirements-runtime.lock").read_text().splitlines() if "==" in f]
    assert set(pinned) <= locked
    assert len(pinned) == len(runtime)


def test_the_image_has_the_remotes_of_all_clouds() -> None:
    clouds = names("requirements-clouds.lock")
    for extra in ("gcs", "azure"):
        assert {Requirement(text).name for text in PROJECT["optional-dependencies"][extra]} <= clouds
    assert not clouds & names("requirements.lock")  # so that no version differs
    assert "://" not in (ROOT / "requirements-clouds.lock").read_text()


def test_only_the_locked_packages_are_installed() -> None:
    files = r"(-r /opt/(requirements-runtime|requirements-clouds|torch|cpu)\.lock ?)+"
    for run in given("RUN"):
        for install in re.findall(r"pip install (.*?)(?: &&|$)", run):
            if re.fullmatch(files, install.replace("--no-deps ", "")):
                continue
            assert install.startswith("--no-deps "), install
        assert not re.search(r"curl|wget|git ", run)
        assert "apt-get" not in run or run in [value for _, value in stage("runtime")]


def test_nccl_finds_the_libraries_of_infiniband() -> None:
    """Debian's packages, by what NCCL opens: libibverbs.so.1, and libmlx5.so.1 of the providers."""
    (install,) = re.findall(r"apt-get install (.*?) &&", " && ".join(given("RUN")))
    assert install == "-y --no-install-recommends libibverbs1 ibverbs-providers"
    nccl = (Path(torch.__file__).parents[1] / "nvidia" / "nccl" / "lib" / "libnccl.so.2").read_bytes()
    assert {b"libibverbs.so.1", b"libmlx5.so.1"} <= set(re.findall(rb"lib\w+\.so\.1", nccl))


def test_the_cpu_image_has_no_library_of_cuda() -> None:
    """The shell commands of its stage split the lock: torch on one side, all but CUDA on the other."""
    (split,) = [value for _, value in stage("stack-cpu") if "grep" in value]
    chosen, excluded = re.findall(r"grep -v?E '([^']*)'", split)
    lines = [f"{name}==1" for name in names("requirements-runtime.lock")]
    torch = {line for line in lines if re.search(chosen, line)}
    rest = {line for line in lines if not re.search(excluded, line)}
    assert torch == {"torch==1", "torchvision==1"}
    left_out = {line.removesuffix("==1") for line in lines} - {
        line.removesuffix("==1") for line in torch | rest
    }
    assert "triton" in left_out
    assert len(left_out) > 10
    assert all(name == "triton" or name.startswith(("nvidia-", "cuda-")) for name in left_out)


def test_the_large_layers_depend_only_on_the_locks() -> None:
    base = stage("base")
    copied = [value for name, value in base if name == "COPY"]
    assert copied == ["requirements-runtime.lock requirements-clouds.lock /opt/"]
    for name in ("stack", "stack-cpu"):
        assert not [value for instruction, value in stage(name) if instruction == "COPY"]
    assert not [value for _, value in [*base, *stage("stack"), *stage("stack-cpu")] if "REVISION" in value]
    starts = dict(value.split(" AS ")[::-1] for value in given("FROM"))
    assert (starts["runtime"], starts["cpu"]) == ("stack", "stack-cpu")
    assert given("FROM")[-1].endswith(" AS runtime")  # what docker builds by default


def test_the_image_runs_as_an_unprivileged_user() -> None:
    for target in ("runtime", "cpu"):
        (user,) = [value for name, value in stage(target) if name == "USER"]
        assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert "HOME=/tmp" in " ".join(given("ENV"))


def test_the_entry_point_is_xkd() -> None:
    assert given("ENTRYPOINT") == ['["xkd"]']
    assert {"xkd", "kfp"} <= PROJECT["scripts"].keys()
    # Components run as `python3 -m kfp.dsl.executor_main`; kfp must be installed.
    assert re.search(r"^kfp==", (ROOT / "requirements-runtime.lock").read_text(), re.MULTILINE)


def test_the_image_has_its_labels() -> None:
    text = " ".join(value for name, value in [*stage("base"), *stage("runtime")] if name == "LABEL")
    assert dict(stage("cpu"))["LABEL"] == dict(stage("runtime"))["LABEL"]
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', text))
    assert labels.keys() == {"title", "description", "licenses", "version", "revision"}
    assert labels["title"] == PROJECT["name"]
    assert labels["version"] == PROJECT["version"]
    assert labels["licenses"] == PROJECT["license"]
    assert labels["revision"] == "$REVISION"


def test_every_copied_path_exists_and_is_in_the_build_context() -> None:
    for source in sources():
        assert (ROOT / source).exists(), source
        assert is_sent(source), source


def test_the_build_context_has_nothing_else() -> None:
    sent = [path for path in checked_in() if is_sent(path)]
    assert sent
    assert [path for path in sent if not any(path == s or path.startswith(f"{s}/") for s in sources())] == []
    for path in (
        ".git/config",
        ".dvc/config.local",
        ".env",
        ".venv/bin/python",
        "runs/demo/run.json",
        "data/clip.mp4",
        "xkd.yaml",
        "xkd/__pycache__/cli.cpython-311.pyc",
        "xkd/train/__pycache__/run.cpython-311.pyc",
    ):
        assert not is_sent(path), path


def test_the_build_context_makes_a_complete_package(tmp_path: Path) -> None:
    context, wheels = tmp_path / "context", tmp_path / "wheels"
    wheels.mkdir()
    sent = [path for path in checked_in() if is_sent(path)]
    for path in sent:
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, context / path)
    # As `pip wheel --no-build-isolation` does.
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    made = subprocess.run(
        [sys.executable, "-c", build, wheels], cwd=context, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    (wheel,) = wheels.glob("xkd-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entries = next(name for name in names if name.endswith("entry_points.txt"))
        scripts = archive.read(entries).decode()
    modules = {path for path in sent if path.startswith("xkd/")}
    assert {name for name in names if ".dist-info/" not in name} == modules
    assert set(re.findall(r"^(\w+) = ", scripts, re.MULTILINE)) == {"xkd", "kfp"}
