"""When the pictures of source files are displayed."""

from __future__ import annotations

import itertools
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.data.films import (
    SOUND,
    VIDEO,
    Sound,
    Video,
    copy_film,
    join_films,
    prepare_film,
    write_film,
    write_packed,
)
from xkd.data.media.clock import SECOND, RestartingClock, correct_impossible_times
from xkd.data.media.timing import DisplayTimes, rising

PCM = Sound("pcm_s16le")
RATES = [10, 12, 15, 20, Fraction(24000, 1001), 24, Fraction(30000, 1001), 30, 60]


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: f"{float(rate):.4g}")
def test_chunk_k_of_packed_b_frames_is_displayed_at_k_periods(rate: Fraction | int, tmp_path: Path) -> None:
    found = prepare_film(write_packed(tmp_path / "a.avi", rate))
    assert found.numbers == list(range(48))
    assert abs(found.error(rate)) < 2e-5
    assert found.whole.seconds == pytest.approx(48 / rate, abs=1e-4)
    assert not str(found.whole.damage)


def test_packed_b_frames_are_in_step_with_their_sound(tmp_path: Path) -> None:
    found = prepare_film(write_packed(tmp_path / "a.avi", 25, PCM, count=100))
    assert found.numbers == list(range(100))
    assert abs(found.picture_error) < 2e-5
    assert abs(found.sound_error) < 1e-3


@pytest.mark.parametrize("rate", [15, 25, Fraction(30000, 1001)], ids=lambda rate: f"{float(rate):.4g}")
def test_avi_with_b_frames_shows_every_picture_once(rate: Fraction | int, tmp_path: Path) -> None:
    video = Video(rate=rate, numbers=range(60), options={"bf": "2"})
    found = prepare_film(write_film(tmp_path / "a.avi", video, PCM))
    assert found.numbers == list(range(60))
    assert np.diff(found.times) == pytest.approx(float(1 / Fraction(rate)), abs=3e-5)
    # AVI has no times of display; a reader may count the decoder's delay or not.
    assert 0 <= found.times[0] <= 2 / rate + 1e-4
    assert abs(found.sound_error) < 1e-3


def test_pictures_before_the_start_that_is_told_are_displayed(tmp_path: Path) -> None:
    """FFmpeg does not know the start of video with B-frames in ASF, only that of the sound."""
    found = prepare_film(write_film(tmp_path / "a.asf", VIDEO, Sound("wmav2", start=1.0)))
    assert found.numbers == list(range(100))
    assert found.silent(0, 0.9)
    assert abs(found.sound_error - found.times[0]) < 0.081  # the decoder's delay counts or does not


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize(("rate", "count"), [(25, 50), (1, 1)])
def test_the_last_picture_lasts_as_long_as_the_file_says(
    suffix: str, rate: int, count: int, tmp_path: Path
) -> None:
    film = write_film(tmp_path / "a.mov", Video(rate=rate, numbers=range(count), options={"bf": "0"}), SOUND)
    last = (count - 1) / rate

    def hold(packet: av.Packet[Any], second: float) -> None:
        if packet.stream.type == "video" and second == pytest.approx(last):
            packet.duration = round((4 - last) / packet.time_base)

    found = prepare_film(copy_film(film, tmp_path / f"b.{suffix}", hold))
    assert found.numbers == list(range(count))
    lead = found.sound_error  # of the encoder, in mkv
    assert abs(found.error(rate) - lead) < 1e-3
    assert found.whole.seconds == pytest.approx(4 + lead, abs=2e-3)


@pytest.mark.parametrize("starts", [(10, 5000), (5000, 10), (10, 8), (95_430, 95_430), (95_440, 95_440)])
def test_a_clock_that_restarts_goes_on(starts: tuple[float, float], tmp_path: Path) -> None:
    """Recordings of a broadcast are joined by their bytes; its clock also restarts every 26.5 hours."""
    sounds = [Sound("ac3", 48_000, "stereo", 2.0 * part, 2.0 * part + 2) for part in range(2)]
    found = prepare_film(join_films(tmp_path, sounds, starts))
    assert found.numbers == list(range(20))
    assert np.abs(np.diff(found.times) - 0.2).max() < 0.04
    assert len(found.late) > 14
    assert np.abs(np.subtract(list(found.late.values()), found.times[0])).max() < 0.06


@pytest.mark.parametrize("suffix", ["mp4", "avi", "ts"])
def test_a_segment_of_a_whole_video_is_cut_from_it(suffix: str, tmp_path: Path) -> None:
    video = Video(numbers=range(150), options={"bf": "0" if suffix == "avi" else "2"})
    codec = {"avi": "pcm_s16le", "ts": "ac3"}.get(suffix, "aac")
    sound = Sound(codec, 48_000, "stereo", end=6)
    film = write_film(tmp_path / f"a.{suffix}", video, sound)
    whole, part = prepare_film(film), prepare_film(film, segment=(2.49, 3.99))
    lead = whole.times[0]
    assert part.whole.seconds == pytest.approx(1.5, abs=1e-3)
    assert part.times[0] == 0.0
    shown = {number: time - 2.49 for number, time in zip(whole.numbers, whole.times, strict=True)}
    for number, time in zip(part.numbers[1:], part.times[1:], strict=True):
        assert time == pytest.approx(shown[number], abs=1e-3)
    assert len(part.numbers) in (37, 38, 39)
    assert abs(part.sound_error - (lead - 2.49)) < 1e-3


@pytest.mark.parametrize(
    ("stored", "corrected"),
    [
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        ([0, 1, 2, 0, 1], [0, 1, 2, 3, 4]),
        ([0, 1, 500, 501, 0], [0, 1, 2, 3, 4]),
        ([0, 1, 2, 8, 9], [0, 1, 2, 8, 9]),
        # A damaged time.
        ([0, 1, 900, 3, 4], [0, 1, 2, 3, 4]),
        ([5, 6, 1, 8, 9], [5, 6, 7, 8, 9]),
    ],
)
def test_only_a_clock_that_restarts_is_moved(stored: list[int], corrected: list[int]) -> None:
    clock, found = RestartingClock(), []
    for time in stored:
        packet: Any = av.Packet(b"packet")
        packet.time_base, packet.duration = Fraction(1, 90_000), 90_000
        packet.dts = packet.pts = time * 90_000
        assert clock.correct(packet) == 0
        found.append(packet.pts / 90_000)
    assert found == corrected


@pytest.mark.parametrize("start", [1.0, 1.01, 1.03])
def test_a_cut_between_two_pictures_keeps_pictures_and_sound_in_step(start: float, tmp_path: Path) -> None:
    """Cut without encoding: an edit list begins while a picture is displayed, which FFmpeg drops."""
    film = write_film(tmp_path / "a.mp4", VIDEO, SOUND)
    data = bytearray(film.read_bytes())
    with av.open(str(film)) as file:
        scales = [(stream.time_base or Fraction(1)).denominator for stream in file.streams]
    place = 0
    for scale in scales:
        place = data.index(b"elst", place) + 16
        (first,) = struct.unpack_from(">i", data, place)
        struct.pack_into(">i", data, place, first + round(start * scale))
    film.write_bytes(data)
    found = prepare_film(film)
    assert found.numbers == list(range(25 if start == 1 else 26, 100))
    assert abs(found.picture_error + start) < 1e-3
    assert abs(found.sound_error + start) < 1e-3


def show(times: list[int | None], *, sort: bool = False, step: int = 40) -> list[int]:
    display = DisplayTimes(step)
    frame = av.VideoFrame(16, 16, "yuv420p")
    shown = [one for time in times for one in display.add(frame, time, 0, sort=sort)]
    return [one.time for one in [*shown, *display.finish()]]


def test_rising_times_are_kept() -> None:
    times: list[int | None] = [0, 33, 67, 100, 900, 901, 2000]
    assert show(times) == times


@pytest.mark.parametrize(
    "times",
    [
        [0, 40, 40, 80, 120, 160, 200, 240],
        [0, 40, 40, 40, 160, 200, 240, 280],
        [0, 80, 40, 120, 160, 240, 200, 280],
        [0, 40, None, 120, None, None, 240, 280],
        [None, None, 80, 120, 160, 200, 240, 280],
        [0, 40, 80, -5000, 160, 200, 240, 280],
        [0, 40, 80, 900_000, 160, 200, 240, 280],
        [900_000, 40, 80, 120, 160, 200, 240, 280],
        [0, 40, 80, 120, 160, 200, 240, None],
        [None] * 8,
    ],
)
def test_times_that_repeat_or_go_back_or_are_missing_rise_without_drift(times: list[int | None]) -> None:
    shown = show(times)
    assert len(shown) == len(times)
    assert all(after > before for before, after in itertools.pairwise(shown))
    wanted = [40 * number for number in range(8)]
    assert np.abs(np.subtract(shown, wanted)).max() <= 40


def test_a_thousand_rounded_times_with_gaps_do_not_drift() -> None:
    step = SECOND * 1001 // 30_000
    times: list[int | None] = [round(number * 1001 / 30) * SECOND // 1000 for number in range(1000)]
    times[10::10] = [None] * 99
    shown = show(times, step=step)
    assert np.abs(np.subtract(shown, [number * step for number in range(1000)])).max() < SECOND // 1000


def test_times_of_decoding_are_sorted() -> None:
    assert show([40, 0, 80, 160, 120, 200], sort=True) == [0, 40, 80, 120, 160, 200]


def test_the_longest_rising_selection_is_found() -> None:
    assert rising([5, 900, 6, None, 7, 1], None) == [(0, 5), (2, 6), (4, 7)]
    assert rising([5, 6, 7], 5) == [(1, 6), (2, 7)]
    assert rising([None, 3], 3) == []
    assert len(rising(list(range(20)), None)) == 20


def test_times_that_no_clock_can_have_are_corrected_or_dropped() -> None:
    def correct(count: int) -> int | None:
        packet = av.Packet(b"x")
        packet.time_base, packet.pts, packet.dts = Fraction(1, 25), count, count
        correct_impossible_times(packet)
        return packet.pts

    assert correct(1000) == 1000
    assert correct((1 << 58) - 9) == -9  # Theora before a cut
    assert correct(1 << 56) is None
