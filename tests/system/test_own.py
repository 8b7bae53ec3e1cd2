"""A dataset of one's own is scored like the official one with the same clips."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.report.synthetic import write_run
from tests.tiny import tiny_config
from xkd.config.overrides import to_dict
from xkd.data.fetch.fetch import fetch
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.evaluation.evaluate import evaluate
from xkd.evaluation.plan import make_task
from xkd.evaluation.score import Score

CONFIG = PrepareConfig(short_side=32, max_fps=8)
TUNING = {"epochs": 1, "warmup_epochs": 0, "batch_size": 6, "label_smoothing": 0.0, "test_windows": 2}
FEW = {"train_windows": 2, "test_windows": 2}
EQUAL = (
    "metric",
    "score",
    "chance",
    "classes",
    "per_class",
    "confusion",
    "C",
    "sweep",
    "curve",
    "encoder_hash",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded dataset prepared by its official layout, and by a list of the same clips in this order."""
    folder = tmp_path_factory.mktemp("own")
    fetch("embedded", folder / "source", clips=24)
    root = folder / "source" / "kinetics400"
    rows = [("path", "label", "split")]
    for split in ("train", "val"):
        for row in csv.DictReader((root / f"{split}.csv").read_text().splitlines()):
            name = f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}.mp4"
            rows.append((f"{split}/{row['label']}/{name}", row["label"], split))
    with (root / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    prepare(folder / "source", folder / "official", CONFIG)
    prepare(root / "mine.csv", folder / "mine", CONFIG)
    # By the name of its layout, the same clips are scored by a linear layer too.
    shutil.copytree(folder / "official", folder / "kinetics")
    values = json.loads((folder / "kinetics" / "dataset.json").read_text())
    (folder / "kinetics" / "dataset.json").write_text(json.dumps(values | {"name": "kinetics400"}))
    write_run(folder / "run", tiny_config())
    return folder


def score(folder: Path, data: str, modality: str, protocol: str, encoder: str) -> Score:
    settings: dict[str, Any] = FEW
    if protocol == "finetune":
        settings = TUNING | {"video": {"resolution": 32}}
    task = make_task(PreparedDataset.open(folder / data).name, modality, protocol, encoder, settings=settings)
    return evaluate(folder / "run", folder / data, task, folder / "scores")


def test_the_prepared_clips_are_those_of_the_official_layout(folder: Path) -> None:
    official, mine = (PreparedDataset.open(folder / name) for name in ("official", "mine"))
    assert (official.name, mine.name) == ("embedded", "mine")
    assert mine.clips == official.clips
    assert mine.classes == official.classes
    shard = "shards/000000.tar"
    assert (folder / "mine" / shard).read_bytes() == (folder / "official" / shard).read_bytes()


@pytest.mark.parametrize(
    ("official", "modality", "protocol", "encoder"),
    [
        ("official", "video", "svm", "raw"),
        ("official", "audio", "svm", "teacher"),
        ("official", "audiovisual", "fusion", "raw"),
        ("kinetics", "video", "fc", "raw"),
        ("official", "video", "finetune", "student"),
        ("official", "audio", "finetune", "student"),
    ],
)
def test_every_protocol_gives_the_score_of_the_official_layout(
    folder: Path, official: str, modality: str, protocol: str, encoder: str
) -> None:
    expected, mine = (
        to_dict(score(folder, data, modality, protocol, encoder)) for data in (official, "mine")
    )
    assert {name: mine[name] for name in EQUAL} == {name: expected[name] for name in EQUAL}
    assert 0 <= mine["score"] <= 1
