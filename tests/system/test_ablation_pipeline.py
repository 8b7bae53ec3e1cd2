"""pipelines/xkd_ablations.py in KFP's local runner: one table, of which a run cannot be trained at first."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.test_ablate import TINY

KFP = str(Path(sys.executable).with_name("kfp"))
PIPELINE = str(Path(__file__).resolve().parents[2] / "pipelines" / "xkd_ablations.py")


def submit(folder: Path, **parameters: str) -> subprocess.CompletedProcess[str]:
    given = {
        "table": "S5",
        "settings": json.dumps(TINY),
        "data": "data",
        "out": "out",
        "embedded_clips": "40",
    }
    words = [f"{name}={value}" for name, value in (given | parameters).items()]
    return subprocess.run(
        [KFP, "run", "submit", PIPELINE, "--local", *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=800,
    )


def scored(folder: Path) -> dict[str, bool]:
    """Return whether each preset has all of its scores."""
    with (folder / "out" / "ablations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    return {row["preset"]: all(r["mean"] for r in rows if r["preset"] == row["preset"]) for row in rows}


def test_a_table_is_made_whatever_fails_and_completed_later(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "embedded").symlink_to(prepared.parent / "source")
    foreign = tmp_path / "out" / "runs" / "projector_last_norm-seed0"
    foreign.mkdir(parents=True)
    (foreign / "notes.txt").touch()
    failed = submit(tmp_path)
    assert failed.returncode != 0
    assert "projector_last_norm-seed0 is not empty and contains no run; use another --out" in failed.stdout
    assert not scored(tmp_path)["projector_last_norm"]  # KFP's local runner may also give up on the others

    (foreign / "notes.txt").unlink()
    ended = submit(tmp_path)
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert all(scored(tmp_path).values())
    assert "## Figure S5: Normalization in the projectors" in (tmp_path / "out" / "ablations.md").read_text()


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("table", "S99", "unknown table 'S99'"),
        ("table", " ", "table: must not be empty"),
        ("scale", "smal", "unknown scale 'smal' (did you mean small?)"),
        ("seeds", "0", "seeds must be at least 1, not 0"),
    ],
)
def test_a_mistake_is_found_before_anything_is_fetched(
    tmp_path: Path, name: str, value: str, line: str
) -> None:
    failed = submit(tmp_path, **{name: value})
    assert failed.returncode != 0
    assert line in failed.stdout
    assert not (tmp_path / "data").exists()
