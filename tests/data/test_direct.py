"""Files that are read directly give what preparing them and reading the shards gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.films import SOUND, Sound, Video, write_film, write_packed
from tests.data.samples import RATE, frame_numbers
from tests.tiny import tiny_config
from xkd.config import PretrainConfig
from xkd.data.datasets.direct import MediaClip, read_media
from xkd.data.media.damage import MediaError
from xkd.data.media.prepared import read_video
from xkd.data.media.sampled import read_sampled
from xkd.data.media.transcode import transcode

SIZES = {"fps": 8, "short_side": 48, "sample_rate": RATE}


def films(folder: Path) -> list[Path]:
    many = Video("mpeg4", 30, range(119), options={"bf": "2"})
    wide = Video(aspect=None, size=(180, 96), numbers=range(90))
    return [
        write_film(folder / "h264.mkv", Video(), SOUND),
        write_film(folder / "gaps.mp4", Video(numbers=[0, 1, 2, 20, 21, 60, 99], gaps=True), SOUND),
        write_film(folder / "late.ts", Video(), Sound("mp2", start=0.5)),
        write_film(folder / "wide.mkv", wide),
        write_film(folder / "b.avi", many, Sound("mp3")),
        write_packed(folder / "packed.avi", 24),
    ]


def test_pictures_and_sound_are_those_of_the_prepared_file(tmp_path: Path) -> None:
    for path in films(tmp_path):
        prepared = transcode(path, with_video=True, short_side=48, max_fps=None, sample_rate=RATE)
        assert prepared.video is not None
        times = np.arange(int(prepared.seconds * 8 + 1e-6)) / 8
        expected = read_video(prepared.video, times)
        found = read_sampled(path, change=lambda picture: picture, **SIZES)  # type: ignore[arg-type]
        assert found.pictures is not None
        assert found.seconds == prepared.seconds, path
        pictures = np.stack(found.pictures)[: len(times)]
        assert frame_numbers(pictures) == frame_numbers(expected), path
        # What x264 loses at the quality that shards have.
        assert np.abs(pictures.astype(int) - expected).mean() < 1.5, path
        assert (found.audio is None) == (prepared.audio is None)
        if found.audio is not None and prepared.audio is not None:
            np.testing.assert_array_equal(found.audio, prepared.audio)


def test_sound_without_pictures_and_pictures_without_sound_are_read(tmp_path: Path) -> None:
    config = tiny_config()
    sound, _ = read_media(write_film(tmp_path / "sound.wav", None, Sound("pcm_s16le", RATE)), config)
    silent, _ = read_media(write_film(tmp_path / "silent.mkv"), config)
    assert (sound.pictures, silent.audio) == (None, None)
    assert sound.seconds == pytest.approx(4)
    assert set(sound.window(config, 0)) == {"waveform"}
    assert set(silent.window(config, 0)) == {"frames"}
    assert silent.window(config, 0)["frames"].shape == (32, 3, 32, 32)


def test_a_segment_is_read_from_its_own_time_on(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.mkv", Video(numbers=range(200)), SOUND)
    found = read_sampled(path, segment=(4, 6), change=lambda picture: picture, **SIZES)
    assert found.pictures is not None
    assert frame_numbers(np.stack(found.pictures)) == [int(100 + place * 25 / 8) for place in range(16)]


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [(1.0, [0]), (4.0, [0]), (5.9, [0]), (6.0, [0, 2]), (10.0, [0, 4, 6]), (12.03, [0, 4, 8])],
)
def test_windows_cover_a_clip(seconds: float, starts: list[float]) -> None:
    clip = MediaClip(pictures=np.zeros((8, 3, 4, 4), np.uint8), audio=None, seconds=seconds)
    assert clip.starts(tiny_config()) == starts


def test_windows_beyond_the_end_repeat_the_last_picture_and_are_silent() -> None:
    config: PretrainConfig = tiny_config()
    pictures = np.arange(16, dtype=np.uint8)[:, None, None, None].repeat(3, 1)
    sound = np.full(RATE, 32767, np.int16)
    clip = MediaClip(pictures=pictures, audio=sound, seconds=2.0)
    window = clip.window(config, 0)
    assert window["frames"][:, 0, 0, 0].tolist() == [*range(16), *[15] * 16]
    assert torch.equal(window["waveform"], torch.cat([torch.ones(RATE), torch.zeros(3 * RATE)]))
    assert "waveform" not in replace(clip, seconds=8.0).window(config, 4)


def test_what_is_no_media_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a film")
    with pytest.raises(MediaError, match="not a known container"):
        read_media(tmp_path / "text.mp4", tiny_config())
