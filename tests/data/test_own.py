"""Folders and lists of one's own: which layout they have, their clips, splits and segments."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.data.layouts import places, write, write_list
from tests.data.own import write_clip, write_clips
from xkd.data.fetch.fetch import fetch
from xkd.data.shards.dry_run import dry_run
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.data.sources.dataset import Source
from xkd.data.sources.own import OwnConfig
from xkd.data.sources.source import open_source
from xkd.errors import UserError


def read(root: Path, name: str = "", **settings: Any) -> Source:
    return open_source(root, name, config=OwnConfig(**settings))


def labels(source: Source) -> dict[str, tuple[str, ...]]:
    return {clip.place: clip.labels for clip in source.clips}


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_a_nested_folder_is_read_without_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_clips(tmp_path / "my clips", "a/x.mp4", "a/b/x.mp4", "c.mp4")
    (root / "notes.md").write_text("mine")
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


def test_a_list_gives_labels_splits_and_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_clips(tmp_path, "media/a b.mp4", "media/c.mp4", "media/unlisted.mp4")
    write_list(
        root / "clips.csv",
        "path,start,end,label,label_2,split,title",
        "media/a b.mp4,0,0.5,dog,loud,train,x",
        "media/a b.mp4,0.5,,dog,,train,x",
        '"media/c.mp4",,,rain,,test,"a, b"',
    )
    for given in (root, root / "clips.csv"):
        source = read(given)
        assert [(clip.id, clip.labels, clip.splits, clip.segment) for clip in source.clips] == [
            ("a b_00000000_00000500", ("dog", "loud"), ("train",), (0.0, 0.5)),
            ("a b_00000500_00001501", ("dog",), ("train",), (0.5, 1.501)),
            ("c", ("rain",), ("test",), None),
        ]
        assert source.own is not None
        assert (source.own["layout"], source.own["split"]) == ("list", {"by": "list"})
    assert f"{root}: clips.csv: column title is not read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("clips.tsv", ("path\tlabel", "a.mp4\t0", "b c.mp4\t12")),
        ("kinetics400_train_list_videos.txt", ("a.mp4 0", "b c.mp4 12")),
        ("train.csv", ("a.mp4 0", "b c.mp4 12")),
        ("train.csv", ("path,label", "a.mp4,0", "b c.mp4,12")),
        ("list.csv", ("a.mp4,0", "b c.mp4,12")),
    ],
)
def test_lists_of_other_libraries_are_read(tmp_path: Path, name: str, lines: tuple[str, ...]) -> None:
    write_clips(tmp_path, "a.mp4", "b c.mp4")
    write_list(tmp_path / name, *lines)
    assert labels(read(tmp_path)) == {"a.mp4": ("0",), "b c.mp4": ("12",)}


def test_lists_named_by_their_split_are_read_together(tmp_path: Path) -> None:
    write_clips(tmp_path, "a.mp4", "b.mp4")
    write_list(tmp_path / "train.csv", "a.mp4 0")
    write_list(tmp_path / "val.csv", f"{tmp_path / 'b.mp4'} 0")
    assert {clip.place: clip.splits for clip in read(tmp_path).clips} == {
        "a.mp4": ("train",),
        "b.mp4": ("val",),
    }
    assert labels(read(tmp_path / "train.csv")) == {"a.mp4": ("0",)}
    (tmp_path / "val.csv").rename(tmp_path / "more.csv")
    with pytest.raises(UserError, match=r"has several lists .* give one of them, or name them train"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ("file,class", "a.mp4,0"),
            r"has no column path: its first line must name path .* but is 'file,class'",
        ),
        (("path,lable", "a.mp4,0"), r"has a column lable \(did you mean label\?\); rename it"),
        (("path,label", "a.mp4"), "line 2: 1 fields, but the first line names 2 columns"),
        (("path,label", "../a.mp4,0"), r"line 2: \.\./a\.mp4 is outside of .*; move the list"),
        (("path,label", "/somewhere/a.mp4,0"), "line 2: /somewhere/a.mp4 is outside of "),
        (("path,start,end", "a.mp4,1,x"), "line 2: end 'x' is not a number"),
        (("path,start,end", "a.mp4,2,1"), r"line 2: expected 0 <= start < end, found start 2 and end 1"),
        (("path,split", "a.mp4,both"), "line 2: expected split train, val, test or unused, found 'both'"),
        (("path,split", "a.mp4,train", "b.mp4,"), "line 3: the split is empty, but other rows have one"),
        (("path", "a.mp4", "a.mp4"), r"line 3: a\.mp4 is listed twice, also in line 2"),
        (
            ("path", "a.mp4", "none.mp4"),
            r"1 of 2 listed files are missing, first .*none\.mp4; .*--allow-missing",
        ),
        (
            ("path", "none.mp4"),
            r"1 of 1 listed files are missing, first .*none\.mp4; add them or correct the list$",
        ),
        (("a.mp4,0,10,dog",), "line 1: more than a path and a label: name the columns"),
        (("a.mp4 0", "dog"), "line 2: expected a path and a label, found 'dog'"),
        ((), r"clips\.csv is empty; list a path on each line"),
    ],
)
def test_a_wrong_list_is_a_one_line_error(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    write_clips(tmp_path, "a.mp4", "b.mp4")
    write_list(tmp_path / "clips.csv", *lines)
    with pytest.raises(UserError, match=said) as caught:
        read(tmp_path / "clips.csv")
    assert "\n" not in str(caught.value)


def test_samples_of_tars_have_labels(tmp_path: Path) -> None:
    clip = [write_clip(tmp_path / "clip.mp4", number).read_bytes() for number in range(4)]
    (tmp_path / "clip.mp4").unlink()
    root = tmp_path / "shards"
    write_tar(
        root / "train-0.tar",
        {"0.cls": b"3\n", "0.mp4": clip[0], "1.mp4": clip[1], "1.json": b'{"label": "dog"}'},
    )
    write_tar(
        root / "test-0.tar", {"0.mp4": clip[2], "0.txt": b"dog\nrain\n", "1.mp4": clip[3], "1.cls": b"3"}
    )
    source = read(root)
    assert source.own is not None
    assert source.own["layout"] == "webdataset"
    assert {clip.place: (clip.labels, *clip.splits) for clip in source.clips} == {
        "test-0.tar/0.mp4": (("dog", "rain"), "test"),
        "test-0.tar/1.mp4": (("3",), "test"),
        "train-0.tar/0.mp4": (("3",), "train"),
        "train-0.tar/1.mp4": (("dog",), "train"),
    }
    assert len({clip.id for clip in source.clips}) == 4


def test_captions_are_not_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = {}
    for number in range(3):
        members[f"{number}.mp4"] = write_clip(tmp_path / "clip.mp4", number).read_bytes()
        members[f"{number}.txt"] = f"a caption of number {number}".encode()
    (tmp_path / "clip.mp4").unlink()
    write_tar(tmp_path / "0.tar", members)
    assert set(labels(read(tmp_path)).values()) == {()}
    assert "no label of 3 occurs twice: they are read as captions, not as labels" in capsys.readouterr().err


def test_tars_without_labels_are_folders(tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / "clip.mp4", number).read_bytes() for number in range(2)]
    (tmp_path / "clip.mp4").unlink()
    for number, clip in enumerate(clips):
        write_tar(tmp_path / f"{number}.tar", {"0.mp4": clip})
    assert sorted(places(read(tmp_path)).values()) == ["0.mp4", "1.tar/0.mp4"]


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
    assert "left out: 1 files, same content as another file (first other/copy.mp4 = b.mp4)" in said
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


def test_a_row_behind_the_end_of_its_file_is_left_out(tmp_path: Path) -> None:
    write_clips(tmp_path, "a.mp4")
    write_list(tmp_path / "clips.csv", "path,start,end", "a.mp4,0,1", "a.mp4,50,60")
    source = read(tmp_path)
    assert len(source.clips) == 1
    assert source.left_out == (("a.mp4 from 50 s", "begins behind the end of the file"),)


def test_labels_in_one_split_only_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clips(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    write_list(tmp_path / "clips.csv", "path,label,split", "a.mp4,x,train", "b.mp4,,test", "c.mp4,y,train")
    assert len(read(tmp_path).clips) == 3
    assert (
        "labels only in train, none in test (1 clips without labels): label both" in capsys.readouterr().err
    )


def test_a_folder_without_media_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no media files and has no known layout .*; it has nothing"):
        read(tmp_path)
    write(tmp_path, "clips.zip", "readme.md")
    with pytest.raises(
        UserError, match=r"has no media files: found compressed files to unpack: 1, first clips\.zip"
    ):
        read(tmp_path, "folder")


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
    assert said[0].startswith("mine: 10 clips of 9 files (")
    assert said[1] == "codecs: h264 + aac 9"
    assert said[2].startswith(
        "unreadable: 1 files, would be skipped (first broken.mp4: not a known container"
    )
    assert said[3:5] == [
        "left out: copy.mp4, same content as 0.mp4",
        "left out: sound.wav, sound without video",
    ]
    assert "MB of disk space (measured on " in said[5]
    found = prepare(root, tmp_path / "out", config).dataset
    assert (len(found.clips), found.skipped) == (10, 1)
    assert found.own is not None
    assert found.own["left_out"] == {"same content as another file": 1, "sound without video": 1}
    assert found.own["cut"]["files"] == 1
    rows = csv.DictReader((tmp_path / "out" / "skipped.csv").read_text().splitlines())
    assert [row["clip"] for row in rows] == ["broken", "copy.mp4", "sound.wav"]
    seconds = {clip.id: clip.duration for clip in found.clips if clip.id.startswith("long")}
    assert [round(value, 1) for value in seconds.values()] == [2.0, 1.2]
    with pytest.raises(UserError, match=r"more than max_skipped=0 allows .* or set a larger max_skipped"):
        prepare(root, tmp_path / "other", replace(config, max_skipped=0))
