"""Folders and lists of one's own: which layout they have, their clips, splits and segments."""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.layouts import places, write
from tests.data.own import labels, read, write_clip, write_clips
from xkd.data.fetch.fetch import fetch
from xkd.data.shards.dry_run import dry_run
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.errors import UserError


def test_a_nested_folder_is_read_without_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_clips(tmp_path / "my clips", "a/x.mp4", "a/b/x.mp4", "c.mp4")
    for name in ("notes.md", "more.zip"):
        (root / name).write_text("mine")
    (root / "gone.mp4").symlink_to("nowhere")
    write(root, "a/._x.mp4", ".trash/y.mp4", "__MACOSX/z.mp4")
    source = read(root)
    assert (source.name, source.kind) == ("my_clips", "audiovisual")
    assert places(source) == {"a_b_x": "a/b/x.mp4", "a_x": "a/x.mp4", "c": "c.mp4"}
    assert source.own is not None
    assert source.own["layout"] == "folder"
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        f"{root}: recognized as folder: 3 files (.mp4 3), no labels; "
        "--dataset list, webdataset or classes reads it differently"
    )
    assert f"{root}: 3 videos with sound" in said
    assert [line.removeprefix(f"{root}: left out: ") for line in said if "left out" in line] == [
        "3 files, hidden (first .trash/y.mp4)",
        "1 file, no regular files, or links to none (first gone.mp4)",
        "1 file, compressed: unpack them (first more.zip)",
        "1 file, no media by name (first notes.md)",
    ]


@pytest.mark.parametrize("split", ["", "train/"])
def test_a_folder_per_class_gives_labels(tmp_path: Path, split: str) -> None:
    paths = [f"{split}{label}/{number}.mp4" for label in ("dog", "rain") for number in range(2)]
    paths += ["test/dog/9.mp4", "test/rain/9.mp4"] if split else []
    source = read(write_clips(tmp_path, *paths))
    assert labels(source) == {path: (path.split("/")[-2],) for path in sorted(paths)}
    assert source.own is not None
    assert source.own["split"]["by"] == ("classes" if split else "content")
    if split:
        assert {clip.place: clip.splits for clip in source.clips}["test/dog/9.mp4"] == ("test",)


def test_folders_that_are_no_classes_give_no_labels(tmp_path: Path) -> None:
    assert set(labels(read(write_clips(tmp_path / "one", "a/1.mp4", "b/1.mp4"))).values()) == {()}
    deep = read(write_clips(tmp_path / "deep", "d/a/1.mp4", "d/a/2.mp4", "d/b/1.mp4", "e/3.mp4"))
    assert set(labels(deep).values()) == {()}
    source = read(write_clips(tmp_path / "split", "train/1.mp4", "train/2.mp4", "test/3.mp4", "test/4.mp4"))
    assert {clip.place: clip.splits[0] for clip in source.clips}["test/3.mp4"] == "test"
    assert set(labels(source).values()) == {()}
    forced = read(tmp_path / "deep", "classes")
    assert labels(forced)["d/b/1.mp4"] == ("d",)
    with pytest.raises(UserError, match=r"1\.mp4 is in no class's folder; move it, or use --dataset folder"):
        read(write_clips(tmp_path / "flat", "1.mp4"), "classes")


def test_files_of_equal_content_are_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clips(tmp_path, "a.mp4", "b.mp4")
    write_clip(tmp_path / "other" / "copy.mp4", 2)
    # Longer than the blocks that are compared first, and different only between them.
    big = bytearray(write_clip(tmp_path / "big.mp4", 5).read_bytes()) + bytes(2**19)
    (tmp_path / "big.mp4").write_bytes(big)
    big[150_000] ^= 1
    (tmp_path / "big2.mp4").write_bytes(big)
    source = read(tmp_path)
    assert sorted(places(source).values()) == ["a.mp4", "b.mp4", "big.mp4", "big2.mp4"]
    assert source.left_out == (("other/copy.mp4", "same content as b.mp4"),)
    said = capsys.readouterr().err
    assert "left out: 1 file, same content as another file (first other/copy.mp4 = b.mp4)" in said
    by_place = {clip.place: clip.splits for clip in source.clips}
    assert by_place["big.mp4"] == by_place["big2.mp4"]


def test_the_split_depends_on_the_content_and_the_seed_alone(tmp_path: Path) -> None:
    root = write_clips(tmp_path / "a", *(f"{number}.mp4" for number in range(40)))
    before = {clip.id: clip.splits[0] for clip in read(root).clips}
    assert set(before.values()) == {"train", "test"}
    for number in range(40):
        (root / f"{number}.mp4").rename(root / f"renamed {number}.mp4")
    write_clip(root / "added.mp4", 99)
    after = {clip.id: clip.splits[0] for clip in read(root).clips}
    assert {
        name.removeprefix("renamed "): split for name, split in after.items() if name != "added"
    } == before
    assert {clip.id: clip.splits[0] for clip in read(root, split_seed=1).clips} != after
    folds = [clip.splits for clip in read(root, folds=3).clips]
    assert {(len(splits), splits.count("test")) for splits in folds} == {(3, 1)}
    assert len(set(folds)) == 3


def test_long_videos_are_cut_and_their_segments_stay_together(tmp_path: Path) -> None:
    for number, seconds in enumerate((1.4, 1.6, 3.4, 3.6)):
        write_clip(tmp_path / f"{number}.mp4", number, seconds=seconds)
    source = read(tmp_path, segment_seconds=1, test_share=0.5)
    found: dict[str, list[tuple[float, float] | None]] = {}
    for clip in source.clips:
        found.setdefault(clip.place, []).append(clip.segment)
    assert found["0.mp4"] == [None]
    assert [segment[0] for segment in found["1.mp4"] if segment] == [0, 1]
    assert [segment[0] for segment in found["2.mp4"] if segment] == [0, 1, 2]
    assert [segment[0] for segment in found["3.mp4"] if segment] == [0, 1, 2, 3]
    assert all(len({clip.splits for clip in source.clips if clip.place == place}) == 1 for place in found)
    assert source.own is not None
    assert source.own["cut"]["files"] == 3


def test_files_of_one_modality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = read(write_clips(tmp_path / "sound", "a.wav", "b.wav"))
    assert (sound.kind, len(sound.clips)) == ("audio", 2)
    assert (
        "no video has sound: pretrain on one modality, with --set modalities=[audio]"
        in capsys.readouterr().err
    )
    for number in range(2):
        write_clip(tmp_path / "silent" / f"{number}.mp4", number, audio=False)
    silent = read(tmp_path / "silent")
    assert (silent.kind, len(silent.clips)) == ("video", 2)
    assert "2 videos without sound" in capsys.readouterr().err
    both = read(write_clips(tmp_path / "both", "a.mp4", "b.wav"))
    assert (both.kind, places(both)) == ("audiovisual", {"a": "a.mp4"})
    assert both.left_out == (("b.wav", "sound without video"),)


def test_a_folder_without_media_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no media files \(it is empty\) and no known layout"):
        read(tmp_path)
    write(tmp_path, "clips.zip", "readme.md")
    with pytest.raises(
        UserError, match=r"has no media files: left out: 1 file, compressed: unpack them \(first clips\.zip"
    ):
        read(tmp_path, "folder")


def test_a_table_that_is_no_list_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clips(tmp_path, "a.mp4")
    (tmp_path / "labels.csv").write_text("file,class\na.mp4,dog\n")
    assert labels(read(tmp_path)) == {"a.mp4": ()}
    line = f"{tmp_path}: labels.csv is not read as a list: its first line does not name the column path"
    assert line in capsys.readouterr().err.splitlines()


def test_too_many_unreadable_files_are_all_listed_before_the_work(tmp_path: Path) -> None:
    root = write_clips(tmp_path / "mine", *(f"{number}.mp4" for number in range(4)))
    (root / "empty.mp4").touch()
    (root / "empty too.mp4").touch()
    (root / "text.mp4").write_text("no film")
    said = r"3 of 7 clips failed, more than max_skipped=0\.05 allows \(last text\.mp4: not a known container"
    with pytest.raises(UserError, match=said):
        prepare(root, tmp_path / "out", PrepareConfig(workers=1))
    rows = list(csv.DictReader((tmp_path / "out" / "skipped.csv").read_text().splitlines()))
    assert [row["clip"] for row in rows] == ["empty too", "empty", "text"]
    assert [row["path"] for row in rows] == ["empty too.mp4", "empty.mp4", "text.mp4"]
    for path in root.glob("[0-9].mp4"):
        path.unlink()
    first, lost = dry_run(root, PrepareConfig(workers=1)).splitlines()
    assert first == "mine: nothing to prepare"
    assert lost.startswith("unreadable: 3 files, would be skipped (first empty too.mp4: empty file); more ")


def test_no_name_is_an_official_dataset_s(tmp_path: Path) -> None:
    for name, expected in (("esc50", "esc50_folder"), ("embedded", "embedded_folder"), ("a b.c", "a_b_c")):
        assert read(write_clips(tmp_path / name, "x.mp4", "y.mp4")).name == expected


def test_names_of_other_encodings_are_escaped(tmp_path: Path) -> None:
    write_clips(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "a.mp4").rename(tmp_path / os.fsdecode(b"\xe9t\xe9.mp4"))
    ids = [clip.id for clip in read(tmp_path).clips]
    assert sorted(ids) == [r"\udce9t\udce9", "b"]
    assert json.loads(json.dumps(ids).encode().decode()) == ids


def test_fetch_uses_files_that_are_there(tmp_path: Path) -> None:
    root = write_clips(tmp_path / "mine", "a.mp4", "b.mp4")
    revision = fetch("mine", root)
    assert revision == fetch("mine", root)
    write_clip(root / "b.mp4", 3)
    assert fetch("mine", root) != revision
    with pytest.raises(UserError, match=r"no dataset mine; .* and files of your own in .*nowhere"):
        fetch("mine", tmp_path / "nowhere")


@pytest.mark.system
def test_what_is_left_out_is_named_and_counted(tmp_path: Path) -> None:
    root = write_clips(tmp_path / "mine", *(f"{number}.mp4" for number in range(8)), "sound.wav")
    write_clip(root / "copy.mp4", 1)
    write_clip(root / "long.mp4", 50, seconds=3.2)
    (root / "broken.mp4").write_bytes(b"no film")
    config = PrepareConfig(short_side=32, segment_seconds=2, max_skipped=0.2, workers=1)
    said = dry_run(root, config).splitlines()
    assert re.fullmatch(r"mine: 10 clips of 9 files \(.*\), 0.00 h, no labels", said[0])
    assert said[1] == "codecs: h264 + aac 9"
    assert said[2].startswith("unreadable: 1 file, would be skipped (first broken.mp4: not a known container")
    assert said[3:5] == [
        "left out: copy.mp4, same content as 0.mp4",
        "left out: sound.wav, sound without video",
    ]
    assert "MB of disk space (measured on " in said[5]
    summary = prepare(root, tmp_path / "out", config)
    assert " h, no labels, 0 without audio, 1 skipped, 2 left out; " in str(summary)
    found = summary.dataset
    assert (len(found.clips), found.skipped) == (10, 1)
    assert found.own is not None
    assert found.own["left_out"] == {"same content as another file": 1, "sound without video": 1}
    assert found.own["cut"]["files"] == 1
    rows = csv.DictReader((tmp_path / "out" / "skipped.csv").read_text().splitlines())
    found_rows = [(row["clip"], row["path"]) for row in rows]
    assert found_rows == [("broken", "broken.mp4"), ("", "copy.mp4"), ("", "sound.wav")]
    seconds = {clip.id: clip.duration for clip in found.clips if clip.id.startswith("long")}
    assert [round(value, 1) for value in seconds.values()] == [2.0, 1.2]
    with pytest.raises(UserError, match=r"more than max_skipped=0 allows .* or set a larger max_skipped"):
        prepare(root, tmp_path / "other", replace(config, max_skipped=0))
