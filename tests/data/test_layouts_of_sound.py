"""AudioSet, ESC-50 and FSD50K as people have them."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.data.layouts import places, write, write_list
from tests.data.samples import FPS, decode, frame_numbers, write_video
from xkd.data.media.prepared import WAV_HEADER
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.data.sources.source import open_source
from xkd.errors import UserError

ID = "-abcdefghij"


def audioset(root: Path, *rows: str, head: Sequence[str] = ("# Segments csv", "# num_segs=9")) -> Path:
    write_list(root / "balanced_train_segments.csv", *head, *(rows or (f'{ID}, 30.000, 40.000, "/m/0"',)))
    return root


@pytest.mark.parametrize("video", [f"{ID}.mp4", f"video/{ID}.webm", f"video/{ID}_30.000_40.000.mkv"])
@pytest.mark.parametrize(
    "audio", [f"{ID}.wav", f"audio/{ID}.m4a", f"a/{ID}_30.000_40.000.flac", f"v/{ID}.ogg"]
)
def test_the_file_with_pictures_is_read(tmp_path: Path, video: str, audio: str) -> None:
    write(audioset(tmp_path), video, audio)
    assert places(open_source(tmp_path)) == {ID: video}


def test_the_file_with_pictures_may_be_in_a_tar(tmp_path: Path) -> None:
    write(audioset(tmp_path), f"audio/{ID}.wav", f"video/{ID}.mp4")
    with tarfile.open(tmp_path / "part.tar", "w") as tar:
        tar.add(tmp_path / "video", "video")
    (tmp_path / "video" / f"{ID}.mp4").unlink()
    assert places(open_source(tmp_path)) == {ID: f"video/{ID}.mp4"}


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        (f"{ID}.mp4", True),
        (f"Y{ID}.mp4", True),
        (f"{ID}.mp4.mkv", True),
        (f"Some title [{ID}].mkv", True),
        (f"{ID}_30.mp4", False),
        (f"{ID}_30.0-40.0.mp4", False),
        (f"Y{ID}_30000_40000.mp4", False),
    ],
)
def test_only_a_name_without_times_may_be_a_whole_video(tmp_path: Path, name: str, whole: bool) -> None:
    (clip,) = open_source(write(audioset(tmp_path), f"media/{name}")).clips
    assert clip.segment == ((30.0, 40.0) if whole else None)


def test_a_whole_video_becomes_its_segment_and_a_segment_stays(tmp_path: Path) -> None:
    whole, cut = ID, "x" * 11
    audioset(tmp_path / "source", *(f'{name}, 2.000, 5.000, "/m/0"' for name in (whole, cut)), head=())
    write_video(tmp_path / "source" / "media" / f"{whole}.mkv", seconds=8)
    write_video(tmp_path / "source" / "media" / f"{cut}.mkv", seconds=3)
    prepare(tmp_path / "source", tmp_path / "out", PrepareConfig(short_side=32, max_fps=8, workers=2))
    for clip, start in zip(PreparedDataset.open(tmp_path / "out").clips, (2, 0), strict=True):
        assert clip.duration == pytest.approx(3, abs=0.1)
        shard = (tmp_path / "out" / clip.shard).read_bytes()
        assert clip.video_offset is not None
        assert clip.audio_offset is not None
        assert clip.audio_size is not None
        frames = decode(shard[clip.video_offset :])
        numbers = [frame_numbers(picture[None])[0] for _, picture in frames]
        assert numbers == [*range(FPS * start, FPS * (start + 3), 2)]
        sound = shard[clip.audio_offset + WAV_HEADER : clip.audio_offset + clip.audio_size]
        assert np.frombuffer(sound, "<i2")[0] == pytest.approx(5000 * start, abs=10)


def test_ids_of_youtube_that_differ_in_case_are_different(tmp_path: Path) -> None:
    write(audioset(tmp_path), f"{ID.upper()}.mp4")
    with pytest.raises(UserError, match="1 of 1 listed files are missing"):
        open_source(tmp_path)


def test_a_shortened_list_is_read_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(audioset(tmp_path, head=("# num_ytids=8, num_segs=8",)), f"{ID}.mp4")
    assert len(open_source(tmp_path).clips) == 1
    said = capsys.readouterr().err
    assert "balanced_train_segments.csv lists 1 segments, of 8 that its header counts" in said
    assert f"{tmp_path}: no eval_segments.csv\n" in said
    audioset(tmp_path, "YTID,start_seconds,end_seconds,positive_labels", f"{ID},30.0,40.0,/m/0", head=())
    assert len(open_source(tmp_path).clips) == 1


def esc50(root: Path, *rows: str, columns: str = "filename,fold,category") -> Path:
    write_list(root / "meta" / "esc50.csv", columns, *(rows or ("1-1-A-0.wav,1,dog", "2-1-A-0.wav,2,dog")))
    return root


@pytest.mark.parametrize("pattern", ["audio/{}.wav", "audio/{}.ogg", "audio_16k/{}.flac", "audio/1/{}.WAV"])
def test_sounds_lie_in_any_folder_and_container(tmp_path: Path, pattern: str) -> None:
    write(esc50(tmp_path), *map(pattern.format, ("1-1-A-0", "2-1-A-0")))
    assert [clip.place for clip in open_source(tmp_path).clips] == [
        *map(pattern.format, ("1-1-A-0", "2-1-A-0"))
    ]
    write(tmp_path, "audio/1-1-A-0.wav", "audio/2-1-A-0.mp3")
    assert [clip.splits[:2] for clip in open_source(tmp_path).clips] == [("test", "train"), ("train", "test")]


def test_esc50_has_the_folds_that_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(esc50(tmp_path), "audio/1-1-A-0.wav", "audio/2-1-A-0.wav")
    assert [clip.splits for clip in open_source(tmp_path).clips] == [("test", "train"), ("train", "test")]
    assert "meta/esc50.csv lists only folds 1 to 2 of 5" in capsys.readouterr().err


def test_two_encodings_of_a_clip_are_one(tmp_path: Path) -> None:
    write(esc50(tmp_path, "1-1-A-0.wav,1,dog", "1-1-A-0.ogg,1,dog"), "audio/1-1-A-0.wav", "audio/1-1-A-0.ogg")
    assert places(open_source(tmp_path)) == {"1-1-A-0": "audio/1-1-A-0.wav"}
    esc50(tmp_path, "1-1-A-0.wav,1,dog", "1-1-A-0.ogg,2,dog")
    with pytest.raises(
        UserError, match=r"line 3: 1-1-A-0.ogg differs in fold or category from 1-1-A-0.wav in"
    ):
        open_source(tmp_path)


@pytest.mark.parametrize("pattern", ["FSD50K.{}_audio/{}.wav", "FSD50K.{}_audio_16k/{}.wav", "{}/{}.flac"])
def test_fsd50k_needs_neither_its_vocabulary_nor_wav(tmp_path: Path, pattern: str) -> None:
    truth = tmp_path / "FSD50K.ground_truth"
    write_list(
        truth / "dev.csv", "fname,labels,mids,split", '12,"Bark,Dog","/m/1,/m/2",train', "13,Dog,/m/2,val"
    )
    write_list(truth / "eval.csv", "fname,labels,mids", "14,Dog,/m/2")
    expected = [pattern.format(part, name) for part, name in (("dev", 12), ("dev", 13), ("eval", 14))]
    assert [clip.place for clip in open_source(write(tmp_path, *expected)).clips] == expected
