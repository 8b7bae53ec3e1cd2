"""Lists and tars of one's own: labels, splits, times, and what is wrong with them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.data.layouts import places, write_list
from tests.data.own import labels, read, write_clip, write_clips
from xkd.errors import UserError


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


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
