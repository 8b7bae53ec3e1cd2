from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from xkd.data.shards.clips import Clip, Clips
from xkd.data.shards.manifest import WRITER, PreparedDataset
from xkd.errors import UserError

SEEN = Clip(
    id="a_000000_000005",
    splits=("train", "test"),
    labels=("clapping", "playing organ"),
    shard="shards/000000.tar",
    video_offset=512,
    video_size=10,
    audio_offset=1536,
    audio_size=44,
    duration=4.875,
)
HEARD = Clip(
    id="é",
    splits=("test", "unused"),
    labels=("dog",),
    shard="shards/000000.tar",
    video_offset=None,
    video_size=None,
    audio_offset=0,
    audio_size=9,
    duration=5.0,
)


@pytest.fixture
def manifest(tmp_path: Path) -> PreparedDataset:
    (tmp_path / "shards").mkdir()
    (tmp_path / SEEN.shard).write_bytes(bytes(2048))
    found = PreparedDataset(
        root=tmp_path,
        name="mine",
        revision="r1",
        classes=("clapping", "dog", "playing organ"),
        clips=Clips.of((SEEN, HEARD)),
        settings={"short_side": 32, "writer": WRITER},
        skipped=1,
        missing=2,
        origin={"repo": "R", "rev": "c0ffee", "hash": "abc.dir"},
    )
    found.write()
    return found


def test_open_returns_the_written_dataset(manifest: PreparedDataset) -> None:
    assert PreparedDataset.open(manifest.root) == manifest
    assert not HEARD.has("video")
    assert SEEN.has("video")


def test_a_directory_of_an_earlier_version_opens_with_the_same_clips(manifest: PreparedDataset) -> None:
    (manifest.root / "manifest.arrow").unlink()
    assert PreparedDataset.open(manifest.root) == manifest


def test_a_preparation_keeps_the_name_that_scores_of_earlier_versions_have(manifest: PreparedDataset) -> None:
    assert manifest.preparation == "b026b3fe9d8f"


@pytest.mark.parametrize("label", ["cat", "horse"])
def test_an_edited_csv_file_is_read(manifest: PreparedDataset, label: str) -> None:
    rows = manifest.root / "manifest.csv"
    rows.write_text(rows.read_text().replace("dog", label))
    assert PreparedDataset.open(manifest.root).clips[1].labels == (label,)


def test_columns_are_mapped_while_the_csv_file_is_the_same(manifest: PreparedDataset) -> None:
    """A broken row shows which of the files is read; the time of a copy is later."""
    rows = manifest.root / "manifest.csv"
    before = rows.stat()
    rows.write_bytes(rows.read_bytes())
    assert PreparedDataset.open(manifest.root) == manifest
    text = rows.read_text().replace(",9,5.000000", ",x,5.000000")
    rows.write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json is damaged"):
        PreparedDataset.open(manifest.root)
    os.utime(rows, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert PreparedDataset.open(manifest.root) == manifest


def test_columns_are_in_the_documented_order(manifest: PreparedDataset) -> None:
    header, first = (manifest.root / "manifest.csv").read_text().splitlines()[:2]
    assert header == ("id,splits,labels,shard,video_offset,video_size,audio_offset,audio_size,duration")
    assert (
        first == "a_000000_000005,train;test,clapping;playing organ,shards/000000.tar,512,10,1536,44,4.875000"
    )


def test_dataset_json_has_counts(manifest: PreparedDataset) -> None:
    about = json.loads((manifest.root / "dataset.json").read_text())
    assert about["splits"] == {
        "fold 1 test": 1,
        "fold 1 train": 1,
        "fold 2 test": 1,
        "fold 2 unused": 1,
    }
    assert about["seconds"] == 9.875
    assert (about["skipped"], about["absent"]) == (1, 2)
    assert about["origin"]["rev"] == "c0ffee"
    assert about["without_audio"] == 0


def test_split_selects_clips_of_a_fold(manifest: PreparedDataset) -> None:
    assert manifest.split("train") == [SEEN]
    assert manifest.split("test", 2) == [SEEN]
    with pytest.raises(UserError, match="no split val; it has test, train"):
        manifest.split("val")
    with pytest.raises(UserError, match="no fold 3; the number of folds is 2"):
        manifest.split("train", 3)


def test_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist: make it with `xkd prepare"):
        PreparedDataset.open(tmp_path / "nowhere")


def test_unprepared_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not prepared: run `xkd prepare"):
        PreparedDataset.open(tmp_path)


def test_missing_shard_is_reported(manifest: PreparedDataset) -> None:
    (manifest.root / SEEN.shard).unlink()
    with pytest.raises(UserError, match=r"000000\.tar is missing"):
        PreparedDataset.open(manifest.root)


def test_truncated_shard_is_reported(manifest: PreparedDataset) -> None:
    (manifest.root / SEEN.shard).write_bytes(bytes(1579))
    with pytest.raises(UserError, match=r"000000\.tar is truncated; prepare .* again"):
        PreparedDataset.open(manifest.root)


@pytest.mark.parametrize(("name", "text"), [("manifest.csv", "id,split\na,train\n"), ("dataset.json", "{")])
def test_damage_is_one_line(manifest: PreparedDataset, name: str, text: str) -> None:
    (manifest.root / name).write_text(text)
    with pytest.raises(UserError, match="is damaged") as caught:
        PreparedDataset.open(manifest.root)
    assert "\n" not in str(caught.value)


def damage(root: Path, how: str) -> None:
    path = root / "manifest.arrow"
    data = path.read_bytes()
    if how == "foreign":
        with pa.ipc.new_file(str(path), pa.schema([("id", pa.string())])) as writer:
            writer.write_batch(pa.record_batch({"id": ["a"]}))
    elif how == "offset":  # of the first text: 15 bytes, the id
        place = data.index(np.array([0, 15, 17], np.int32).tobytes())
        path.write_bytes(data[: place + 4] + b"\xff\xff\xff\x7f" + data[place + 8 :])
    else:
        path.write_bytes({"empty": b"", "truncated": data[:-100], "text": b"id,splits\n" * 100}[how])


@pytest.mark.parametrize("how", ["empty", "truncated", "text", "foreign", "offset"])
def test_damaged_columns_are_one_line(manifest: PreparedDataset, how: str) -> None:
    damage(manifest.root, how)
    with pytest.raises(UserError, match=r"cannot read .*manifest\.arrow: .*; delete it, and") as caught:
        PreparedDataset.open(manifest.root)
    assert "\n" not in str(caught.value)
    (manifest.root / "manifest.arrow").unlink()
    assert PreparedDataset.open(manifest.root) == manifest


def test_missing_manifest_is_reported(manifest: PreparedDataset) -> None:
    (manifest.root / "manifest.csv").unlink()
    with pytest.raises(UserError, match=r"cannot read .*manifest\.csv"):
        PreparedDataset.open(manifest.root)


def test_clips_that_another_version_prepared_are_refused(manifest: PreparedDataset) -> None:
    replace(manifest, settings={"short_side": 32, "writer": WRITER - 1}).write()
    with pytest.raises(UserError, match="another version of xkd, whose colors and times differ; prepare"):
        PreparedDataset.open(manifest.root)
