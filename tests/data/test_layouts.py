"""Datasets of video as people have them: other names, folders, containers, shorter lists than usual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.data.layouts import places, write, write_list
from xkd.data.sources.source import open_source
from xkd.errors import UserError

KINETICS = "label,youtube_id,time_start,time_end,split,is_cc"


def kinetics(root: Path, train: str = "train.csv", val: str = "val.csv", columns: str = KINETICS) -> Path:
    """Write lists of two training clips and one of validation."""
    more = columns.removeprefix("label,youtube_id,time_start,time_end").count(",")
    rows = [
        f"{label},{name},10,20{',x' * more}" for label, name in (("bowling", "a" * 11), ("yoga", "b" * 11))
    ]
    write_list(root / train, columns, *rows)
    if val:
        write_list(root / val, columns, f"yoga,{'c' * 11},10,20{',x' * more}")
    return root


def stem(letter: str) -> str:
    return f"{letter * 11}_000010_000020"


FILES = (f"train/bowling/{stem('a')}.mp4", f"train/yoga/{stem('b')}.mp4", f"val/yoga/{stem('c')}.mp4")


@pytest.mark.parametrize(
    ("train", "val", "name"),
    [
        ("train.csv", "validate.csv", "kinetics400"),
        ("annotations/train.csv", "annotations/val.csv", "kinetics400"),
        ("annotations/kinetics_train.csv", "annotations/kinetics_val.csv", "kinetics400"),
        ("kinetics-400_train.csv", "kinetics-400_val.csv", "kinetics400"),
        ("kinetics_600_train.csv", "kinetics_600_val.csv", "kinetics600"),
        ("kinetics600/train.csv", "kinetics600/validate.csv", "kinetics600"),
        ("kinetics700_2020/train.csv", "kinetics700_2020/validate.csv", "kinetics700"),
        ("k700_train.csv", "k700_validation.csv", "kinetics700"),
        ("Train.CSV", "Val.CSV", "kinetics400"),
    ],
)
def test_lists_of_kinetics_have_several_names(tmp_path: Path, train: str, val: str, name: str) -> None:
    source = open_source(write(kinetics(tmp_path, train, val), *FILES))
    assert source.name == name
    assert [clip.splits for clip in source.clips] == [("train",), ("train",), ("val",)]


@pytest.mark.parametrize(
    "pattern",
    [
        "{split}/{stem}.mp4",
        "videos_{split}/{label}/{stem}.mp4",
        "k400/{split}/part_0/{stem}.mp4",
        "{split}/{label}/{stem}.MP4",
        "{split}/{label}/{stem}.mov",
        "{split}/{label}/{stem}.mkv",
        "{split}/{label}/{stem}.webm",
        "{split}/{label}/{stem}.mp4.mkv",
        "{split}/{label}/{stem}.mp4.webm",
    ],
)
def test_files_of_kinetics_lie_anywhere_in_any_container(tmp_path: Path, pattern: str) -> None:
    clips = [("train", "bowling", stem("a")), ("train", "yoga", stem("b")), ("val", "yoga", stem("c"))]
    files = [pattern.format(split=split, label=label, stem=name) for split, label, name in clips]
    source = open_source(write(kinetics(tmp_path), *files))
    assert places(source) == dict(zip(map(stem, "abc"), files, strict=True))
    assert {clip.segment for clip in source.clips} == {None}


@pytest.mark.parametrize(
    "columns", ["label,youtube_id,time_start,time_end,split", KINETICS.rpartition(",split")[0]]
)
def test_columns_that_are_not_used_may_be_absent(tmp_path: Path, columns: str) -> None:
    assert len(open_source(write(kinetics(tmp_path, columns=columns), *FILES)).clips) == 3


def test_times_may_be_written_with_a_point(tmp_path: Path) -> None:
    write_list(tmp_path / "train.csv", KINETICS, f"yoga,{'a' * 11},10.0,20.0,train,0")
    assert places(open_source(write(tmp_path, f"train/yoga/{stem('a')}.mp4"))).keys() == {stem("a")}


def test_a_split_or_classes_may_be_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(kinetics(tmp_path, val=""), *FILES)
    assert {clip.splits for clip in open_source(tmp_path).clips} == {("train",)}
    said = capsys.readouterr().err
    assert f"{tmp_path}: read as kinetics400: train.csv; 2 .mp4 in train\n" in said
    assert f"{tmp_path}: no list of the split val (validate.csv, val.csv" in said
    assert f"{tmp_path}: other files: 1, first {FILES[2]}\n" in said
    write_list(tmp_path / "val.csv", KINETICS, f"abseiling,{'c' * 11},10,20,val,0")
    assert len(open_source(tmp_path).clips) == 2
    assert (
        "val.csv lists classes that train.csv does not; left out: 1 clips of 1 classes (abseiling)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("classes", "name"), [(400, "kinetics400"), (401, "kinetics600"), (601, "kinetics700")]
)
def test_the_number_of_classes_tells_kinetics_apart(tmp_path: Path, classes: int, name: str) -> None:
    rows = [f"class {number},{number:011d},10,20,train" for number in range(classes)]
    write_list(tmp_path / "train.csv", "label,youtube_id,time_start,time_end,split", *rows)
    write(tmp_path, *(f"train/{number:011d}_000010_000020.mp4" for number in range(classes)))
    assert open_source(tmp_path).name == name
    assert open_source(tmp_path, "kinetics600").name == "kinetics600"


def test_the_name_of_the_root_tells_kinetics_apart(tmp_path: Path) -> None:
    assert open_source(write(kinetics(tmp_path / "k700-2020"), *FILES)).name == "kinetics700"


def test_a_whole_video_is_cut_to_the_segment(tmp_path: Path) -> None:
    kinetics(tmp_path)
    write(tmp_path, f"train/{'a' * 11}.mp4", f"videos/Title of it [{'b' * 11}].webm", f"val/{stem('c')}.mp4")
    write(tmp_path, f"whole/{'c' * 11}.mp4")
    assert [clip.segment for clip in open_source(tmp_path).clips] == [(10, 20), (10, 20), None]


def test_repaired_copies_of_kinetics_come_first(tmp_path: Path) -> None:
    repaired = f"replacement/replacement_for_corrupted_k400/{stem('a')}.mp4"
    write(kinetics(tmp_path), repaired, *FILES)
    assert places(open_source(tmp_path))[stem("a")] == repaired


def test_the_official_and_nonempty_one_of_several_copies_is_read(tmp_path: Path) -> None:
    write(kinetics(tmp_path), "small/yoga/" + FILES[1].rpartition("/")[2], *FILES)
    write(tmp_path, f"train/bowling/{stem('a')}.mkv", f"train/{stem('c')}.mp4")
    assert [clip.place for clip in open_source(tmp_path).clips] == [*FILES]
    write(tmp_path, FILES[0], size=0)
    assert places(open_source(tmp_path))[stem("a")] == f"train/bowling/{stem('a')}.mkv"


def ucf101(root: Path, folder: str = "ucfTrainTestlist/", folds: Sequence[int] = (1, 2, 3)) -> Path:
    write_list(root / f"{folder}classInd.txt", "1 Archery", "2 HandstandPushups")
    for fold in folds:
        train = ("Archery/v_Archery_g01_c01.avi 1", "HandstandPushups/v_HandStandPushups_g01_c01.avi 2")
        write_list(root / f"{folder}trainlist0{fold}.txt", *train)
        write_list(root / f"{folder}testlist0{fold}.txt", "Archery/v_Archery_g02_c01.avi")
    return root


def hmdb51(root: Path, folder: str = "testTrainMulti_7030_splits/", folds: Sequence[int] = (1, 2, 3)) -> Path:
    for label, name in (("clap", "#1_(A)_clap_u_cm_0"), ("wave", "B!_wave_u_cm_0")):
        for fold in folds:
            write_list(root / f"{folder}{label}_test_split{fold}.txt", f"{name}.avi 1 ", f"{name}1.avi 2 ")
    return root


UCF = (
    "Archery/v_Archery_g01_c01",
    "Archery/v_Archery_g02_c01",
    "HandstandPushups/v_HandStandPushups_g01_c01",
)
HMDB = ("clap/#1_(A)_clap_u_cm_0", "clap/#1_(A)_clap_u_cm_01", "wave/B!_wave_u_cm_0", "wave/B!_wave_u_cm_01")


@pytest.mark.parametrize("suffix", [".avi", ".AVI", ".mp4", ".avi.mp4", ".mkv"])
@pytest.mark.parametrize(
    ("build", "names", "official"), [(ucf101, UCF, "UCF-101/"), (hmdb51, HMDB, "hmdb51_org/")]
)
@pytest.mark.parametrize("folder", ["", "videos/", "official"])
def test_ucf101_and_hmdb51_lie_in_any_folder_and_container(
    tmp_path: Path,
    build: Callable[[Path], Path],
    names: Sequence[str],
    official: str,
    folder: str,
    suffix: str,
) -> None:
    expected = [(official if folder == "official" else folder) + name + suffix for name in names]
    source = open_source(write(build(tmp_path), *expected))
    assert sorted(clip.place for clip in source.clips) == sorted(expected)
    assert [clip.labels[0] for clip in source.clips] == [clip.place.split("/")[-2] for clip in source.clips]


@pytest.mark.parametrize(("build", "names"), [(ucf101, UCF), (hmdb51, HMDB)])
def test_files_may_lie_in_one_folder_with_the_lists_in_another(
    tmp_path: Path, build: Callable[[Path, str], Path], names: Sequence[str]
) -> None:
    write(
        build(tmp_path, "annotations/"), *(f"videos/{name.rpartition('/')[2].lower()}.avi" for name in names)
    )
    source = open_source(tmp_path)
    assert len(source.clips) == len(names)
    assert {len(clip.splits) for clip in source.clips} == {3}


@pytest.mark.parametrize(("build", "names"), [(ucf101, UCF), (hmdb51, HMDB)])
def test_only_the_folds_that_have_lists_are_read(
    tmp_path: Path,
    build: Callable[..., Path],
    names: Sequence[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(build(tmp_path, folds=(1,)), *(f"{name}.avi" for name in names))
    assert {len(clip.splits) for clip in open_source(tmp_path).clips} == {1}
    assert "only 1 of 3 folds have lists" in capsys.readouterr().err
    build(tmp_path, folds=(3,))
    with pytest.raises(UserError, match=r"annotation file .*(trainlist02|clap_test_split2)\.txt is missing"):
        open_source(tmp_path)


def test_the_list_of_classes_of_ucf101_is_not_needed(tmp_path: Path) -> None:
    write(ucf101(tmp_path), *(f"UCF-101/{name}.avi" for name in UCF))
    (tmp_path / "ucfTrainTestlist" / "classInd.txt").unlink()
    assert len(open_source(tmp_path).clips) == 3


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (
            ["videos/clip_1.avi", "videos/clip_2.avi"],
            "found other files: 2, first videos/clip_1.avi; add",
        ),
        (["UCF101.rar"], "found compressed files to unpack: 1, first UCF101.rar; add"),
        (["rawframes/v_Archery_g01_c01/1.jpg"], "found files that are no media: 1, first rawframes/v_A"),
        ([], "found no other files; add them"),
    ],
)
def test_what_was_looked_for_and_found_is_one_line(tmp_path: Path, there: list[str], found: str) -> None:
    write(ucf101(tmp_path), *there)
    with pytest.raises(UserError) as caught:
        open_source(tmp_path)
    assert f"first {tmp_path}/UCF-101/Archery/v_Archery_g01_c01.avi; looked for this name" in str(
        caught.value
    )
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_datasets_is_not_read_as_one(tmp_path: Path) -> None:
    write(kinetics(tmp_path / "kinetics400"), *(f"kinetics400/{path}" for path in FILES))
    with pytest.raises(UserError, match=rf"did you mean {tmp_path}/kinetics400\?"):
        open_source(tmp_path)
