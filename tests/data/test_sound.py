"""Where the sound of source files lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.data.films import VIDEO, Sound, Video, join_films, lateness, noise, prepare_film, write_film
from tests.data.samples import RATE
from xkd.data.media.clock import SECOND
from xkd.data.media.sound import SoundTrack

STILL = Video(numbers=range(20), rate=5)
"""Few pictures, where the sound matters."""
VP8 = Video("libvpx", 5, range(20), options={"b": "1M", "deadline": "realtime"})
VIDEOS = {"webm": VP8, "vob": Video("mpeg2video"), "avi": Video("mpeg4", 5, range(20))}


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("aac", "mp4"),
        ("aac", "mkv"),
        ("aac", "ts"),
        ("aac", "flv"),
        ("libmp3lame", "mp4"),
        ("ac3", "ts"),
        ("ac3", "vob"),
        ("libopus", "webm"),
        ("pcm_s16le", "mkv"),
        ("flac", "mkv"),
    ],
)
def test_a_gap_is_silence_and_what_follows_it_is_on_time(codec: str, suffix: str, tmp_path: Path) -> None:
    sound = Sound(codec, 48_000, "stereo" if codec == "ac3" else "mono", gap=(1.5, 2.3))
    found = prepare_film(write_film(tmp_path / f"a.{suffix}", VIDEOS.get(suffix, STILL), sound))
    lead = found.times[0]
    # Codecs fade over two frames.
    assert found.silent(1.6 + lead, 2.2 + lead)
    late = [late for second, late in found.late.items() if second < 1.3 or second > 2.5]
    assert len(late) >= 13
    assert np.abs(np.subtract(late, lead)).max() < 1.5e-3


def test_an_overlap_is_cut(tmp_path: Path) -> None:
    """The sound of the first part is half a second longer than its pictures."""
    sounds = (Sound("ac3", 48_000, "stereo", end=2.5), Sound("ac3", 48_000, "stereo", 2.0))
    whole = join_films(tmp_path, sounds)
    found = prepare_film(whole)
    assert found.numbers == list(range(20))
    assert found.whole.audio is not None
    assert len(found.whole.audio) / RATE == pytest.approx(4, abs=0.04)
    assert len(found.late) >= 17
    assert max(abs(late - found.times[0]) for late in found.late.values()) < 1.5e-3


@pytest.mark.parametrize(("suffix", "codec"), [("oga", "flac"), ("opus", "libopus")])
def test_joined_ogg_files_are_heard_one_after_the_other(suffix: str, codec: str, tmp_path: Path) -> None:
    """Ogg files may follow each other in one file; each has its own clock."""
    data = b""
    for part in range(2):
        sound = Sound(codec, 48_000, start=2.0 * part, end=2.0 * part + 2)
        data += write_film(tmp_path / f"{part}.{suffix}", None, sound).read_bytes()
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data)
    found = prepare_film(path, with_video=False)
    assert found.whole.seconds == pytest.approx(4, abs=0.01)
    assert len(found.late) >= 18
    assert abs(found.sound_error) < 0.01


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_sound_that_begins_later_begins_later(suffix: str, tmp_path: Path) -> None:
    sound = Sound("libopus" if suffix == "webm" else "aac", 48_000, start=0.7)
    found = prepare_film(write_film(tmp_path / f"a.{suffix}", VIDEOS.get(suffix, STILL), sound))
    assert found.silent(0, 0.6)
    assert len(found.late) > 14
    assert abs(found.sound_error - found.times[0]) < 1e-3


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_pictures_that_begin_later_begin_later(suffix: str, tmp_path: Path) -> None:
    video = Video(rate=10, numbers=range(8, 40), gaps=True)
    found = prepare_film(write_film(tmp_path / f"a.{suffix}", video, Sound("aac", 48_000)))
    assert found.numbers == list(range(8, 40))
    assert found.times[0] == pytest.approx(0.8, abs=0.03)
    assert abs(found.sound_error - found.error(10)) < 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"movflags": "frag_keyframe+empty_moov"},
        {"movflags": "empty_moov+default_base_moof", "frag_duration": "300000"},
        {"movflags": "frag_keyframe+empty_moov+negative_cts_offsets"},
        {"use_editlist": "0"},
    ],
    ids=["keyframes", "durations", "negative", "flat"],
)
def test_mp4_without_an_edit_list_is_in_step(options: dict[str, str], tmp_path: Path) -> None:
    found = prepare_film(write_film(tmp_path / "a.mp4", VIDEO, Sound(), options=options))
    assert found.numbers == list(range(100))
    assert found.times[0] < 0.1
    assert abs(found.picture_error - found.times[0]) < 1e-3
    # Without an edit list, nothing says that the first 1024 samples are the encoder's lead.
    lead = 1024 / 44_100 if "negative" in options.get("movflags", "") else 0
    assert abs(found.sound_error - found.picture_error - lead) < 1e-3


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("libmp3lame", "mp4"), ("libmp3lame", "mkv"), ("pcm_s16le", "mkv"), ("pcm_s16le", "avi")],
)
def test_short_first_packets_do_not_shift_the_sound(codec: str, suffix: str, tmp_path: Path) -> None:
    """The first frame of MP3 is cut to less than the resampler's delay; PCM may have any packets."""
    sound = Sound(codec, end=1.0, block=16 if codec == "pcm_s16le" else 1024)
    found = prepare_film(write_film(tmp_path / f"a.{suffix}", VIDEOS.get(suffix, STILL), sound))
    assert len(found.late) > 3
    assert abs(found.sound_error - found.times[0]) < 6e-4


@pytest.mark.parametrize(("rate", "layout"), [(48_000, "stereo"), (44_100, "stereo"), (22_050, "mono")])
def test_sound_that_changes_its_format_goes_on(rate: int, layout: str, tmp_path: Path) -> None:
    whole = join_films(tmp_path, (Sound(end=2.0), Sound("aac", rate, layout, 2.0)))
    found = prepare_film(whole)
    assert found.numbers == list(range(20))
    lead = found.times[0]
    assert len(found.late) >= 16
    assert abs(found.error(5) - lead) < 0.05
    # The lead of the second encoder lies over the end of the first part.
    assert max(abs(late - lead) for late in found.late.values()) < 0.045


def test_a_cut_behind_the_end_of_the_sound_has_none(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "a.mkv", VIDEO, Sound(end=1.0))
    found = prepare_film(whole, segment=(1.5, 1.9))
    assert found.whole.audio is None
    assert found.numbers


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_stream_of_sound_without_packets_is_no_sound(suffix: str, tmp_path: Path) -> None:
    found = prepare_film(write_film(tmp_path / f"a.{suffix}", STILL, Sound(gap=(-1, 9))))
    assert found.whole.audio is None
    assert found.numbers == list(range(20))


def place(parts: list[tuple[float | None, float, float, int, str]], **known: Any) -> np.ndarray[Any, Any]:
    """Return the sound of parts of the film: time, start and end in the film, sample rate, layout."""
    track = SoundTrack(RATE, has_times=known.pop("has_times", True), length=known.get("length", 0))
    for time, start, end, rate, layout in parts:
        count = round((end - start) * rate)
        for first in range(0, count, 480):
            block = noise(rate)[round(start * rate) + first :][: min(480, count - first)]
            channels = av.AudioLayout(layout).nb_channels
            frame = av.AudioFrame.from_ndarray(block[None].repeat(channels, 0), "s16p", layout)
            frame.sample_rate = rate
            at = None if time is None else time + first / rate
            if at is not None and "jitter" in known:
                at += known["jitter"][first // 480 % len(known["jitter"])]
            track.add(frame, None if at is None else round(at * SECOND), 0)
    return track.samples(0, known.get("end"))


def test_jitter_does_not_cut_the_sound() -> None:
    steady = place([(0, 0, 2, 48_000, "mono")])
    assert np.array_equal(place([(0, 0, 2, 48_000, "mono")], jitter=[0, 0.003, -0.003, 0.009, 0]), steady)
    assert abs(max(lateness(steady).values(), key=abs)) < 1e-4


def test_times_that_are_missing_continue_the_sound() -> None:
    whole = place([(0, 0, 2, 48_000, "mono")])
    assert np.array_equal(place([(0, 0, 1, 48_000, "mono"), (None, 1, 2, 48_000, "mono")]), whole)
    assert np.array_equal(place([(None, 0, 2, 48_000, "mono")]), whole)


def test_gaps_and_overlaps_are_exact_to_a_sample() -> None:
    gap = place([(0, 0, 1, 16_000, "mono"), (1.5, 1.5, 2, 16_000, "mono")])
    assert np.array_equal(gap[:16_000], noise(RATE)[:16_000])
    assert not gap[16_000:24_000].any()
    assert np.array_equal(gap[24_000:], noise(RATE)[24_000:32_000])
    overlap = place([(0, 0, 1, 16_000, "mono"), (0.75, 0.75, 2, 16_000, "mono")])
    assert np.array_equal(overlap, noise(RATE)[:32_000])


def test_a_format_that_changes_keeps_the_time() -> None:
    sound = place([(0, 0, 1, 44_100, "stereo"), (1, 1, 2, 8000, "mono"), (2, 2, 3, 96_000, "5.1")])
    assert abs(len(sound) - 3 * RATE) <= 2
    assert abs(max(lateness(sound).values(), key=abs)) < 1e-4


def test_what_begins_before_the_file_is_cut() -> None:
    sound = place([(-0.5, 0, 2, 16_000, "mono")])
    assert np.array_equal(sound, noise(RATE)[8000:32_000])


def test_a_time_far_behind_the_announced_duration_is_wrong() -> None:
    parts = [(0.0, 0, 1, 16_000, "mono"), (5000.0, 1, 2, 16_000, "mono")]
    assert len(place(list(parts), length=2 * SECOND)) == RATE
    short = [(0.0, 0, 1, 16_000, "mono"), (30.0, 1, 2, 16_000, "mono")]
    assert len(place(list(short), length=2 * SECOND)) == 31 * RATE
