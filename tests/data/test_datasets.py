"""The readers, on the miniatures: real files in the official layouts."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.samples import KINETICS, write_table
from xkd.data.sources.kinetics import KINETICS_SOUND
from xkd.data.sources.source import LAYOUTS, open_source
from xkd.data.synthetic.miniatures import MINIATURES
from xkd.errors import UserError


@pytest.fixture
def copy(miniature: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A miniature that a test may damage."""
    return lambda name: Path(shutil.copytree(miniature(f"{name}-mini"), tmp_path / name))


COUNTS = {
    "kinetics400": (5, [{"train": 30, "val": 15}]),
    "audioset": (0, [{"train": 24, "test": 6}]),
    "ucf101": (5, [{"train": 30, "test": 15}] * 3),
    "hmdb51": (5, [{"train": 25, "test": 15, "unused": 5}] * 3),
    "esc50": (5, [{"train": 60, "test": 15}] * 5),
    "fsd50k": (7, [{"train": 48, "val": 12, "test": 16}]),
}


@pytest.mark.system
@pytest.mark.parametrize("name", COUNTS)
def test_clips_folds_and_classes_are_counted(miniature: Callable[[str], Path], name: str) -> None:
    source = open_source(miniature(f"{name}-mini"))
    classes, folds = COUNTS[name]
    assert source.name == name
    assert not source.missing
    assert len({label for clip in source.clips for label in clip.labels}) == classes
    assert [Counter(clip.splits[fold] for clip in source.clips) for fold in range(len(folds))] == folds
    assert {len(clip.splits) for clip in source.clips} == {len(folds)}
    assert len({clip.id for clip in source.clips}) == len(source.clips)
    assert all(clip.file and clip.file.path.stat().st_size == clip.file.size for clip in source.clips)


def test_every_dataset_has_a_reader_and_a_miniature() -> None:
    same_reader = {"kinetics600", "kinetics700"}
    assert {f"{name}-mini" for name in LAYOUTS.keys() - same_reader} == set(MINIATURES)
    assert set(COUNTS) | {"kinetics_sound"} | same_reader == set(LAYOUTS)


def test_class_folders_named_by_other_tools_are_accepted(miniature: Callable[[str], Path]) -> None:
    source = open_source(miniature("kinetics400-mini"))
    label = "massaging person's head"
    folders = {clip.place.rpartition("/")[0] for clip in source.clips if clip.labels == (label,)}
    assert folders == {"train/massaging_person's_head", "val/massaging_persons_head"}


def test_kinetics_sound_is_a_part_of_kinetics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(label, f"{number:011d}", 0, 10, "train", 0) for number, label in enumerate(KINETICS_SOUND)]
    rows.append(("yoga", "yoga-------", 0, 10, "train", 0))
    write_table(tmp_path / "train.csv", [KINETICS, *rows])
    held_out = ("blowing nose", "v", 0, 10, "val", 0)
    write_table(tmp_path / "val.csv", [KINETICS, held_out])
    for label, name, _, _, split, _ in (*rows, held_out):
        path = tmp_path / split / label.replace(" ", "_") / f"{name}_000000_000010.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert open_source(tmp_path).name == "kinetics400"
    source = open_source(tmp_path, "kinetics_sound")
    assert (source.name, len(source.clips)) == ("kinetics_sound", 33)
    assert {clip.labels[0] for clip in source.clips} == set(KINETICS_SOUND)
    write_table(tmp_path / "train.csv", [KINETICS, *rows[1:]])
    assert len(open_source(tmp_path, "kinetics_sound").clips) == 31
    assert "no clip of 1 of the 32 classes (blowing nose)" in capsys.readouterr().err
    write_table(tmp_path / "train.csv", [KINETICS, rows[-1]])
    with pytest.raises(
        UserError, match="lists no clip of Kinetics-Sound's classes; use the whole Kinetics400"
    ):
        open_source(tmp_path, "kinetics_sound")


def test_the_class_of_a_ucf101_clip_is_its_folder(miniature: Callable[[str], Path]) -> None:
    source = open_source(miniature("ucf101-mini"))
    (clip,) = (clip for clip in source.clips if clip.id == "v_HandStandPushups_g02_c01")
    assert clip.labels == ("HandstandPushups",)
    assert clip.splits == ("train", "test", "train")


def test_names_and_tags_of_hmdb51_are_read(miniature: Callable[[str], Path]) -> None:
    source = open_source(miniature("hmdb51-mini"))
    splits = {clip.id: clip.splits for clip in source.clips if clip.labels == ("cartwheel",)}
    assert splits["(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0"] == ("train", "train", "test")
    assert splits["(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_8"] == ("unused", "train", "train")


def test_esc50_fold_is_the_test_set(miniature: Callable[[str], Path]) -> None:
    clip = open_source(miniature("esc50-mini")).clips[-1]
    assert clip.id.startswith("5-")
    assert clip.splits == ("train", "train", "train", "train", "test")


def test_labels_of_fsd50k_include_ancestors(miniature: Callable[[str], Path]) -> None:
    assert open_source(miniature("fsd50k-mini")).clips[0].labels == ("Acoustic_guitar", "Guitar", "Music")


@pytest.mark.parametrize(
    "stem",
    [
        "-abcdefghij",
        "Y-abcdefghij",
        "-abcdefghij_30",
        "-abcdefghij_30_40",
        "-abcdefghij_000030_000040",
        "-abcdefghij_30000",
        "-abcdefghij_30000_40000",
        "Y-abcdefghij_30.000_40.000",
    ],
)
def test_audioset_files_named_by_downloaders_are_found(tmp_path: Path, stem: str) -> None:
    head = "# Segments csv created\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"
    (tmp_path / "eval_segments.csv").write_text(head + '-other00000, 0.000, 10.000, "/m/0"\n')
    (tmp_path / "balanced_train_segments.csv").write_text(
        head + '-abcdefghij, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
    )
    media = tmp_path / "anywhere" / "deep"
    media.mkdir(parents=True)
    (media / f"{stem}.mp4").write_bytes(b"x")
    (media / "-other00000.wav").write_bytes(b"x")
    source = open_source(tmp_path)
    assert [(clip.id, clip.splits) for clip in source.clips] == [
        ("-abcdefghij", ("train",)),
        ("-other00000", ("test",)),
    ]


@pytest.mark.parametrize("name", ["kinetics400", "ucf101"])
def test_media_may_stay_in_tars(copy: Callable[[str], Path], name: str) -> None:
    """Write one tar next to each leaf folder, as docs/data.md packs them."""
    root = copy(name)
    before = open_source(root)
    for folder in {(root / clip.place).parent for clip in before.clips}:
        with tarfile.open(folder.with_suffix(".tar"), "w") as tar:
            tar.add(folder, folder.name)
        shutil.rmtree(folder)
    after = open_source(root)
    assert after.revision == before.revision
    for ours, theirs in zip(after.clips, before.clips, strict=True):
        assert ours.file
        assert ours.file.offset
        assert theirs.file
        assert (ours.id, ours.place, ours.file.size) == (theirs.id, theirs.place, theirs.file.size)
    tar_path = after.clips[0].file and after.clips[0].file.path
    assert tar_path
    tar_path.write_bytes(tar_path.read_bytes()[:-20000])
    with pytest.raises(UserError, match=r"is truncated or not an uncompressed tar .*; fetch it again"):
        open_source(root)


def test_links_inside_a_tar_are_resolved(copy: Callable[[str], Path]) -> None:
    root = copy("kinetics400")
    before = open_source(root)
    folder = root / "train" / "bowling"
    first, second, third, *_ = sorted(folder.iterdir())
    sizes = first.stat().st_size
    for path, link in ((second, os.link), (third, os.symlink)):
        path.unlink()
        link(first if link is os.link else first.name, path)
    with tarfile.open(folder.with_suffix(".tar"), "w") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)
    places = {clip.place: clip.file for clip in open_source(root).clips}
    assert len(places) == len(before.clips)
    assert {places[str(path.relative_to(root))].size for path in (first, second, third)} == {sizes}  # type: ignore[union-attr]


def test_linked_folders_are_followed_and_cycles_are_not(copy: Callable[[str], Path], tmp_path: Path) -> None:
    root = copy("kinetics400")
    before = open_source(root)
    (root / "train").rename(tmp_path / "elsewhere")
    (root / "train").symlink_to(tmp_path / "elsewhere")
    (root / "val" / "again").symlink_to(root)
    assert open_source(root).revision == before.revision


def test_embedded_root_reads_its_layouts(copy: Callable[[str], Path]) -> None:
    root = copy("kinetics400")
    about = {"name": "embedded", "revision": "r7", "layouts": {"kinetics400": root.name}}
    (root.parent / "dataset.json").write_text(json.dumps(about))
    source = open_source(root.parent)
    assert (source.name, source.revision, len(source.clips)) == ("embedded", "r7", 45)
    assert open_source(root.parent, "kinetics400").name == "kinetics400"
    with pytest.raises(UserError, match=r"has no layout esc50; it has kinetics400"):
        open_source(root.parent, "esc50")


def test_revision_follows_files_splits_and_labels(copy: Callable[[str], Path]) -> None:
    root = copy("ucf101")
    revisions = [open_source(root).revision]
    assert open_source(root).revision == revisions[0]
    path = next((root / "UCF-101" / "YoYo").iterdir())
    path.write_bytes(path.read_bytes() + b"longer")
    revisions.append(open_source(root).revision)
    lists = root / "ucfTrainTestlist"
    line = (lists / "testlist01.txt").read_text().splitlines()[0]
    (lists / "testlist01.txt").write_text((lists / "testlist01.txt").read_text().replace(line + "\n", ""))
    revisions.append(open_source(root).revision)
    assert len(set(revisions)) == 3


def test_fetched_dataset_has_the_revision_of_its_registry(copy: Callable[[str], Path]) -> None:
    root = copy("esc50")
    files = [path for path in root.rglob("*") if path.is_file()]
    about = {"name": "esc50", "repo": "R", "rev": "c0ffee", "hash": "abc.dir"}
    about |= {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}  # type: ignore[dict-item]
    (root / "fetched.json").write_text(json.dumps(about))
    source = open_source(root)
    assert source.revision == "abc.dir"
    assert source.origin == {"repo": "R", "rev": "c0ffee", "hash": "abc.dir"}
    files[-1].write_bytes(b"other")
    with pytest.raises(UserError, match=r"was changed after .* rerun the same xkd fetch to repair it"):
        open_source(root)
    (root / ".unfinished").mkdir()
    with pytest.raises(UserError, match="is unfinished: rerun the command that writes it"):
        open_source(root)


def test_a_wrong_root_is_refused(miniature: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    known = r"no media by name \(first notes\.txt\)\) and no known layout \(kinetics400 has train\.csv; aud"
    with pytest.raises(UserError, match=known):
        open_source(tmp_path)
    with pytest.raises(UserError, match="is not a directory"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"dataset: unknown layout ucf11 \(did you mean ucf101\?\)"):
        open_source(tmp_path, "ucf11")
    root = miniature("ucf101-mini")
    with pytest.raises(UserError, match=rf"is not the root of a dataset; did you mean {root}\?"):
        open_source(root / "UCF-101")
    (tmp_path / "manifest.csv").touch()
    with pytest.raises(UserError, match="is already prepared; pass it to xkd pretrain"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("ucf101", "ucfTrainTestlist/testlist03.txt"),
        ("hmdb51", "testTrainMulti_7030_splits/pour_test_split2.txt"),
        ("fsd50k", "FSD50K.ground_truth/eval.csv"),
    ],
)
def test_missing_annotation_file_is_named(copy: Callable[[str], Path], name: str, missing: str) -> None:
    root = copy(name)
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(UserError, match=f"{Path(missing).name}.* is missing"):
        open_source(root)


def test_missing_files_are_reported_by_class(copy: Callable[[str], Path]) -> None:
    root = copy("ucf101")
    for path in sorted((root / "UCF-101").rglob("*_g01_c01.avi"))[:2]:
        path.unlink()
    (root / "UCF-101" / "YoYo" / "v_YoYo_g04_c01.avi").unlink()
    (root / "UCF-101" / "YoYo" / "v_YoYo_g05_c01.avi").unlink()
    expected = r"4 of 45 listed files are missing \(by class: YoYo 2, ApplyEyeMakeup 1, BoxingSpeedBag 1\)"
    with pytest.raises(UserError, match=rf"{expected}, first .*g01_c01\.avi; .* --allow-missing"):
        open_source(root)
    source = open_source(root, allow_missing=True)
    assert (len(source.clips), len(source.missing)) == (41, 4)
    assert source.revision != open_source(copy("hmdb51")).revision
    shutil.rmtree(root / "UCF-101")
    with pytest.raises(UserError, match=r"45 of 45 listed files are missing") as caught:
        open_source(root, allow_missing=True)
    assert "--allow-missing" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "table", "line", "message"),
    [
        ("kinetics400", "train.csv", "bowling,b,zero,10,train,0", "time_start 'zero' is not a number"),
        ("kinetics400", "train.csv", "bowling,b", "fewer than 4 fields"),
        ("kinetics400", "train.csv", "bowling,b,0,inf,train,0", "time_end 'inf' is not a number"),
        ("ucf101", "ucfTrainTestlist/trainlist02.txt", "YoYoo/v_g01_c01.avi 5", "unknown class YoYoo"),
        (
            "ucf101",
            "ucfTrainTestlist/testlist01.txt",
            "YoYo/v_YoYo_g02_c01.avi",
            "is test and train in split 1",
        ),
        (
            "hmdb51",
            "testTrainMulti_7030_splits/sit_test_split1.txt",
            "a.avi 3",
            r"or 0 \(unused\), found '3'",
        ),
        ("esc50", "meta/esc50.csv", "6-1-A-0.wav,6,0,dog,True,1,A", "expected fold 1 to 5, found 6"),
        ("esc50", "meta/esc50.csv", "5-1-A-0.wav,5,0,cat,True,1,A", "unknown class cat; target 0 is dog"),
        ("fsd50k", "FSD50K.ground_truth/eval.csv", '99,"Banjo,Music","/m/2"', "unknown class Banjo"),
        (
            "fsd50k",
            "FSD50K.ground_truth/dev.csv",
            "98,Music,/m/2,valid",
            "expected split train or val, found 'valid'",
        ),
        ("kinetics400", "train.csv", 'bowling,"b,0,10,train,0', "invalid CSV: unexpected end of data"),
    ],
)
def test_damaged_line_is_named(
    copy: Callable[[str], Path], name: str, table: str, line: str, message: str
) -> None:
    root = copy(name)
    path = root / table
    path.write_text(path.read_text() + line + "\n")
    number = len(path.read_text().splitlines())
    with pytest.raises(UserError, match=message) as caught:
        open_source(root)
    assert f"{path} line {number}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_audioset_lists_are_compared_with_their_headers(
    copy: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = copy("audioset")
    table = root / "balanced_train_segments.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:-1], "abc, then, 10.0, /m/0"]))
    with pytest.raises(UserError, match=rf"{table} line 11: start_seconds 'then' is not a number"):
        open_source(root)
    table.write_text("\n".join(lines[:-1]))
    assert len(open_source(root).clips) == 29
    assert f"{table.name} lists 7 segments, of 8 that its header counts" in capsys.readouterr().err
    table.unlink()
    assert len(open_source(root).clips) == 22
    assert f"{root}: no {table.name}\n" in capsys.readouterr().err


def test_an_empty_split_list_is_refused_and_a_class_without_lists_is_told(
    copy: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = copy("ucf101")
    (root / "ucfTrainTestlist" / "testlist02.txt").write_text("")
    with pytest.raises(UserError, match=r"testlist02\.txt is empty"):
        open_source(root)
    root = copy("hmdb51")
    for path in (root / "testTrainMulti_7030_splits").glob("wave_*"):
        path.unlink()
    assert len(open_source(root).clips) == 4 * 9
    assert f"{root}: other files: 9, first HMDB-51/wave/" in capsys.readouterr().err


def test_clip_that_is_listed_twice_is_refused(copy: Callable[[str], Path]) -> None:
    root = copy("kinetics400")
    line = (root / "train.csv").read_text().splitlines()[1]
    (root / "train.csv").write_text((root / "train.csv").read_text() + line + "\n")
    with pytest.raises(
        UserError, match=r"clip t-\w+_\d+_\d+ \(train/.*\) is listed twice; remove one of its rows"
    ):
        open_source(root)


@pytest.mark.parametrize(
    ("name", "table", "content", "message"),
    [
        ("kinetics400", "train.csv", b"name,id\n", "has no column label"),
        ("esc50", "meta/esc50.csv", b"filename,fold,target,category,esc10,src_file,take\n", "lists no clips"),
        ("esc50", "meta/esc50.csv", b"filename\xff\n", "is not UTF-8 text"),
    ],
)
def test_damaged_table_is_refused(
    copy: Callable[[str], Path], name: str, table: str, content: bytes, message: str
) -> None:
    root = copy(name)
    (root / table).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_source(root)


def test_byte_order_mark_and_windows_line_ends_are_accepted(copy: Callable[[str], Path]) -> None:
    root = copy("kinetics400")
    before = open_source(root)
    for split in ("train", "val"):
        text = (root / f"{split}.csv").read_text()
        (root / f"{split}.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert open_source(root).revision == before.revision
