"""``make setup`` with small packages of the locked names, from indexes that are folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = [
    "torch==2.10.0",
    "torchaudio==2.10.0",
    "torchvision==0.25.0",
    "triton==3.6.0",
    "nvidia-nccl-cu12==2.27.5",
]
LOCK += ["cuda-bindings==12.9.4", "timm==1.0.0"]
PROJECT = """
[project]
name = "xkd"
version = "0.1.0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import shutil
def build_editable(folder, settings=None, metadata=None):
    shutil.copy("xkd-0.1.0-py3-none-any.whl", folder)
    return "xkd-0.1.0-py3-none-any.whl"
"""


def add_wheel(folder: Path, name: str, version: str) -> None:
    """Write a package without modules."""
    folder.mkdir(parents=True, exist_ok=True)
    name = name.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def index(folder: Path, packages: list[str], local: str = "") -> str:
    """Write a package index (PEP 503) and return its address."""
    for name, version in (package.split("==") for package in packages):
        add_wheel(folder / name, name, version + local)
        links = [f'<a href="{wheel.name}">{wheel.name}</a>' for wheel in (folder / name).glob("*.whl")]
        (folder / name / "index.html").write_text(f"<!DOCTYPE html><html><body>{links[0]}</body></html>")
    return folder.as_uri()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements.lock").write_text("# Packages.\n" + "\n".join(LOCK) + "\n")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    add_wheel(folder, "xkd", "0.1.0")
    return folder


@pytest.mark.system
@pytest.mark.parametrize("installer", ["uv", "pip"])
@pytest.mark.parametrize("torch_index", [False, True])
def test_setup_installs_the_lock_or_without_cuda_if_torch_has_an_index(
    installer: str, torch_index: bool, checkout: Path, tmp_path: Path
) -> None:
    path = os.environ["PATH"]
    if installer == "pip":  # a PATH without uv
        programs = tmp_path / "programs"
        programs.mkdir()
        (programs / "python3.11").symlink_to(Path(sys.base_prefix, "bin", "python3"))
        for name in ("grep", "touch"):
            (programs / name).symlink_to(str(shutil.which(name)))
        path = str(programs)
    elif not shutil.which("uv"):
        pytest.skip("needs uv")
    pypi = index(tmp_path / "pypi", LOCK)
    words = [f"TORCH_INDEX={index(tmp_path / 'cpu', LOCK[:3], '+cpu')}"] if torch_index else []
    environment = {**os.environ, "PATH": path, "PIP_INDEX_URL": pypi, "UV_DEFAULT_INDEX": pypi}
    command = [str(shutil.which("make")), "setup", *words]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = distributions(path=[str(next((checkout / ".venv").glob("lib/*/site-packages")))])
    installed = {f"{each.name}=={each.version}".replace("_", "-") for each in found}
    expected = {f"{name}+cpu" for name in LOCK[:3]} | {LOCK[-1]} if torch_index else set(LOCK)
    own = {name for name in installed if name.startswith(("pip==", "setuptools=="))}
    assert installed - own == expected | {"xkd==0.1.0"}
