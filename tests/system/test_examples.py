"""Every script under examples/ runs, in less than two minutes of processor time."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from xkd.config import load_config
from xkd.config.presets import get_preset
from xkd.data.synthetic.files import Plan, write_video

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ACTIONS = 3
COUNTS = {"train": 10, "test": 4}
"""Clips of each action."""


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 120
    return said


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per split and action, with a silent clip and one of which the end is missing."""
    root = tmp_path_factory.mktemp("examples") / "clips"
    for split, count in COUNTS.items():
        for number in range(ACTIONS * count):
            plan = Plan(5, "train" if split == "train" else "val", number // ACTIONS * 10 + number % ACTIONS)
            path = root / split / plan.action / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, plan.frames(), None if (split, number) == ("train", 1) else plan.waveform())
    damaged = path.with_name("damaged.mp4")
    damaged.write_bytes(path.read_bytes()[:5000])
    return root


@pytest.fixture(scope="module")
def out(clips: Path) -> Path:
    out = clips.parent / "out"
    assert run("own_folder.py", clips, out).endswith(f"report: {out}/report/report.html\n")
    return out


def test_a_folder_becomes_a_report_with_retrieval(out: Path) -> None:
    tables = (out / "report" / "tables.md").read_text()
    assert "## Scores on clips" in tables
    assert "retrieval (recall@1)" in tables
    assert (out / "report" / "report.html").is_file()


def test_the_page_of_neighbors_shows_other_clips(clips: Path, out: Path) -> None:
    page = out / "neighbors.html"
    assert run("neighbors.py", out / "run", clips, page).endswith(f"page: {page}\n")
    head, *rows = page.read_text().split("<tr>")[1:]
    assert head.count("<th") == 4
    assert 5 <= len(rows) <= 10
    for row in rows:
        clip, *found = re.findall(r'src="file://([^"]+)#t=1"', row)
        assert len(found) == 9
        assert clip not in found
        assert all(Path(path).is_file() for path in (clip, *found))


def test_few_labels_fine_tune_both_encoders(clips: Path, out: Path) -> None:
    said = run("few_labels.py", out / "run", clips, out / "few")
    lines = re.findall(r"^(\w+), (\w+): [\d.]+% \(by chance 33\.3%\)$", said, re.MULTILINE)
    assert lines == [*product(("video", "audio"), ("teacher", "random"))]
    assert len(list((out / "few" / "scores" / "finetuned").rglob("*.safetensors"))) == 4


def test_a_custom_preset_is_a_valid_configuration(tmp_path: Path) -> None:
    run("custom_preset.py", tmp_path / "variant.yaml")
    config = load_config(tmp_path / "variant.yaml")
    assert config.audio.local_views == 2
    assert config.encoder == get_preset("paper").encoder


def test_every_example_is_tested_and_described() -> None:
    tested, described = Path(__file__).read_text(), (EXAMPLES / "README.md").read_text()
    for script in EXAMPLES.glob("*.py"):
        assert f'"{script.name}"' in tested
        assert f"python examples/{script.name} " in described
