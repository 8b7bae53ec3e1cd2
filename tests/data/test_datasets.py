from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.data.samples import KINETICS, write_table
from xkd.data.datasets import open_source
from xkd.errors import UserError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


@pytest.fixture
def kinetics(tmp_path: Path) -> Path:
    """Class folders spelled as different tools spell them."""
    root = tmp_path / "k400"
    rows = [
        ("massaging person's head", "-a_", 3, 13, "train", 0),
        ("hurling (sport)", "b", 0, 10, "train", 1),
    ]
    write_table(root / "train.csv", [KINETICS, *rows])
    write_table(root / "val.csv", [KINETICS, ("hurling (sport)", "c", 7, 17, "val", 0)])
    touch(root / "train" / "massaging_persons_head" / "-a__000003_000013.mp4")
    touch(root / "train" / "hurling_(sport)" / "b_000000_000010.avi")
    touch(root / "val" / "hurling (sport)" / "c_000007_000017.mp4")
    return root


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    root = tmp_path / "esc"
    columns = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    rows = [(f"{fold}-100-A-0.wav", fold, 0, "dog", True, 100, "A") for fold in range(1, 6)]
    write_table(root / "meta" / "esc50.csv", [columns, *rows])
    for row in rows:
        touch(root / "audio" / str(row[0]))
    return root


@pytest.fixture
def fsd50k(tmp_path: Path) -> Path:
    root = tmp_path / "fsd"
    truth = root / "FSD50K.ground_truth"
    write_table(truth / "vocabulary.csv", [(0, "Guitar", "/m/0"), (1, "Music", "/m/1")])
    dev = [(64760, "Guitar,Music", "/m/0,/m/1", "train"), (7, "Music", "/m/1", "val")]
    write_table(truth / "dev.csv", [("fname", "labels", "mids", "split"), *dev])
    write_table(truth / "eval.csv", [("fname", "labels", "mids"), (99, "Guitar", "/m/0")])
    for part, name in (("dev", 64760), ("dev", 7), ("eval", 99)):
        touch(root / f"FSD50K.{part}_audio" / f"{name}.wav")
    return root


def test_kinetics(kinetics: Path) -> None:
    source = open_source(kinetics)
    assert (source.name, source.has_video) == ("kinetics400", True)
    first = source.clips[0]
    assert (first.id, first.split, first.labels) == (
        "-a__000003_000013",
        "train",
        ("massaging person's head",),
    )
    assert [clip.path.suffix for clip in source.clips] == [".mp4", ".avi", ".mp4"]
    assert Counter(clip.split for clip in source.clips) == {"train": 2, "val": 1}


def test_esc50(esc50: Path) -> None:
    source = open_source(esc50)
    assert (source.name, source.has_video) == ("esc50", False)
    assert [clip.fold for clip in source.clips] == [1, 2, 3, 4, 5]
    assert {clip.labels for clip in source.clips} == {("dog",)}


def test_fsd50k(fsd50k: Path) -> None:
    source = open_source(fsd50k)
    assert [(clip.id, clip.split, clip.labels) for clip in source.clips] == [
        ("64760", "train", ("Guitar", "Music")),
        ("7", "val", ("Music",)),
        ("99", "test", ("Guitar",)),
    ]


def test_embedded_root_reads_its_audio_visual_layout(kinetics: Path) -> None:
    about = {"name": "embedded", "revision": "r7", "layouts": {"kinetics400": "k400"}}
    (kinetics.parent / "dataset.json").write_text(json.dumps(about))
    source = open_source(kinetics.parent)
    assert (source.name, source.revision, len(source.clips)) == ("embedded", "r7", 3)


def test_revision_follows_the_files(kinetics: Path) -> None:
    before = open_source(kinetics).revision
    assert open_source(kinetics).revision == before
    (kinetics / "train" / "hurling_(sport)" / "b_000000_000010.avi").write_bytes(b"longer")
    assert open_source(kinetics).revision != before


def test_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is in no known layout \(kinetics400 has train\.csv"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="is not a directory"):
        open_source(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["val.csv", "val"])
def test_missing_part(kinetics: Path, name: str) -> None:
    (kinetics / name).rename(kinetics / "elsewhere")
    with pytest.raises(UserError, match=f"{name}.* is missing"):
        open_source(kinetics)


def test_absent_file(kinetics: Path) -> None:
    (kinetics / "val" / "hurling (sport)" / "c_000007_000017.mp4").unlink()
    with pytest.raises(UserError, match=r"1 of 3 listed files are absent, first .*c_000007_000017\.mp4"):
        open_source(kinetics)


def test_listed_twice(kinetics: Path) -> None:
    with (kinetics / "train.csv").open("a") as file:
        file.write("hurling (sport),b,0,10,train,1\n")
    with pytest.raises(UserError, match="clip b_000000_000010 is listed twice"):
        open_source(kinetics)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,id\n", "has no column label"),
        (",".join(KINETICS) + "\nhurling,b\n", "line 2: fewer than 6 fields"),
        (",".join(KINETICS) + "\nhurling,b,zero,10,train,0\n", "time_start 'zero' is not a whole number"),
    ],
)
def test_damaged_table(kinetics: Path, text: str, message: str) -> None:
    (kinetics / "train.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        open_source(kinetics)


def test_empty_listing(esc50: Path) -> None:
    table = esc50 / "meta" / "esc50.csv"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="lists no clips"):
        open_source(esc50)


def test_unknown_label(fsd50k: Path) -> None:
    table = fsd50k / "FSD50K.ground_truth" / "eval.csv"
    write_table(table, [("fname", "labels", "mids"), (99, "Banjo", "/m/2")])
    with pytest.raises(UserError, match=r"label Banjo of 99 is not in vocabulary\.csv"):
        open_source(fsd50k)
