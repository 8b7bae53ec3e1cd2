"""The measurements on a GPU, run small on the processor, so that no minute on a GPU is lost."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
OF_TORCH = (
    *("torch*", "functorch", "nvidia", "triton", "numpy*", "sympy", "mpmath", "networkx", "jinja2"),
    *("markupsafe", "filelock", "fsspec", "cuda"),
)

MODULES = {"pyyaml": "*yaml", "pillow": "[Pp][Ii][Ll]"}
"""Of packages that have another name."""


def run(out: Path, *options: str, path: str = "") -> dict[str, dict[str, dict[str, Any]]]:
    """Run the kit and return its rows; with a path, in an environment that has only the packages there."""
    bare = ["-S"] if path else []
    command = [
        sys.executable,
        *bare,
        "benchmarks/gpu.py",
        "--tiny",
        "--device",
        "cpu",
        "--out",
        str(out),
        *options,
    ]
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows: dict[str, dict[str, dict[str, Any]]] = json.loads(out.with_suffix(".json").read_text())["rows"]
    return rows


def test_the_kit_runs_to_its_end_with_the_packages_collected_for_it(tmp_path: Path) -> None:
    script = (ROOT / "benchmarks" / "gpu_packages.sh").read_text()
    (names,) = re.findall(r"names='(.+)'", script)
    site = Path(torch.__file__).parents[1]
    collected = [MODULES.get(name, name.replace("-", "_")) for name in names.split("|")]
    for pattern in (*OF_TORCH, *(f"{name}*" for name in collected)):
        for found in site.glob(pattern):
            link = tmp_path / "packages" / found.name
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(found)
    rows = run(tmp_path / "kit", path=str(tmp_path / "packages"))
    assert set(rows) == {"correctness", "peak", "step", "part of the step", "other work"}
    blank = [name for section in rows.values() for name, row in section.items() if "not measured" in row]
    assert all("fp16" in name or "CUDA graph" in name for name in blank), blank
    assert rows["step"]["fp32, 4 clips"]["ms"] > 0
    assert "| step | ms | clips/s |" in (tmp_path / "kit.md").read_text()


def test_what_has_no_time_left_is_blank(tmp_path: Path) -> None:
    rows = run(tmp_path / "kit", "--minutes", "0")
    assert {row["not measured"] for row in rows["other work"].values()} == {"no time left"}
