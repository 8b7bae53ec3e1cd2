"""Damage costs what is damaged: the rest of a file is kept, at its times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.films import Prepared, Sound, Video, prepare_film, write_film
from tests.data.samples import FPS, write_video
from xkd.data.media.damage import MediaError

KINDS = {
    "mp4": (Video(), Sound()),
    "mkv": (Video(), Sound()),
    "webm": (
        Video("libvpx", options={"b": "1M", "deadline": "realtime", "g": "25"}),
        Sound("libopus", 48_000),
    ),
    "ts": (Video(), Sound("ac3", 48_000, "stereo")),
    "avi": (Video("mpeg4", options={"g": "25"}), Sound("libmp3lame")),
    "mpg": (Video("mpeg2video", options={"g": "12"}), Sound("mp2")),
    "asf": (Video("wmv2", options={"g": "12"}), Sound("wmav2")),
    "flv": (Video(), Sound()),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the film of a container; an mp4 has its index in front."""
    folder = tmp_path_factory.mktemp("films")

    def get(suffix: str) -> Path:
        path = folder / f"whole.{suffix}"
        options = {"movflags": "faststart"} if suffix == "mp4" else {}
        return path if path.exists() else write_film(path, *KINDS[suffix], options=options)

    return get


def damage(path: Path, target: Path, at: float, length: int = 64) -> tuple[Path, float, float]:
    """Overwrite bytes at a part of a film; return the file, and from when to when packets are hit."""
    with av.open(str(path)) as file:
        places = [
            (packet.pos, packet.size, float((packet.pts or 0) * packet.time_base))
            for packet in file.demux()
            if packet.size and packet.pos is not None
        ]
    data = bytearray(path.read_bytes())
    first = round(at * len(data))
    data[first : first + length] = bytes(length)
    target.write_bytes(data)
    hit = [second for place, size, second in places if place < first + length and first < place + size]
    before = max((second for place, _, second in places if place <= first), default=0.0)
    return target, min([*hit, before]), max([*hit, before])


def shown_between(found: Prepared, start: float, end: float) -> list[int]:
    return [number for number, time in zip(found.numbers, found.times, strict=True) if not start < time < end]


@pytest.mark.parametrize("suffix", sorted(KINDS))
@pytest.mark.parametrize("at", [0.35, 0.6])
def test_damaged_bytes_cost_at_most_what_depends_on_them(
    suffix: str, at: float, films: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = prepare_film(films(suffix))
    assert not str(whole.whole.damage)
    path, start, end = damage(films(suffix), tmp_path / f"a.{suffix}", at)
    found = prepare_film(path)
    # Until the next keyframe, pictures refer to the damaged one.
    start, end = start - 0.4, end + 1.2
    assert found.whole.seconds == pytest.approx(whole.whole.seconds, abs=0.3)
    kept = shown_between(found, start, end)
    assert len(set(shown_between(whole, start, end)) - set(kept)) <= 3
    late = dict(zip(found.numbers, found.times, strict=True))
    for number, time in zip(whole.numbers, whole.times, strict=True):
        if number in late and not start < time < end:
            assert late[number] == pytest.approx(time, abs=0.03)
    sound = {second: value for second, value in found.late.items() if not start < second < end}
    assert len(sound) >= len([second for second in whole.late if not start < second < end]) - 1
    assert max(abs(value - whole.sound_error) for value in sound.values()) < 0.03


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "flv"])
@pytest.mark.parametrize("percent", [45, 80])
def test_a_file_that_breaks_off_is_a_shorter_clip(
    suffix: str, percent: int, films: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / f"a.{suffix}"
    data = films(suffix).read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    whole, found = prepare_film(films(suffix)), prepare_film(path)
    assert 0.03 * percent < found.whole.seconds < 0.05 * percent
    assert found.numbers == sorted(found.numbers)
    # Of the last B-frames, some lie behind the end.
    assert len(found.numbers) >= found.numbers[-1] - 2
    times = dict(zip(whole.numbers, whole.times, strict=True))
    assert found.times == pytest.approx([times[number] for number in found.numbers], abs=0.001)
    assert np.abs(np.subtract(list(found.late.values()), whole.sound_error)).max() < 2e-3
    if suffix in ("mp4", "mkv", "avi"):
        assert found.whole.damage.missing == pytest.approx(4 - found.whole.seconds, abs=0.2)
        assert "s early" in str(found.whole.damage)


@pytest.mark.parametrize(("suffix", "codec"), [("asf", "wmav2"), ("mkv", "libmp3lame"), ("ts", "ac3")])
def test_one_lost_packet_of_sound_does_not_move_the_rest(suffix: str, codec: str, tmp_path: Path) -> None:
    video = Video("wmv2" if suffix == "asf" else "libx264", 5, range(20))
    film = write_film(tmp_path / f"a.{suffix}", video, Sound(codec, 48_000, "stereo", gap=(1.5, 1.545)))
    found = prepare_film(film)
    late = [late for second, late in found.late.items() if not 1.25 < second < 1.65]
    assert len(late) >= 17
    assert max(late) - min(late) < 1e-3


@pytest.mark.parametrize("codec", ["libmp3lame", "pcm_s16le"])
def test_chunks_that_an_avi_lost_leave_a_gap(codec: str, tmp_path: Path) -> None:
    """Times are counts of chunks there: what follows would be early, were it not for the index."""
    film = write_film(tmp_path / "a.avi", Video("mpeg4", options={"bf": "0"}), Sound(codec))
    data = bytearray(film.read_bytes())
    whole = prepare_film(film)
    with av.open(str(film)) as file:
        for stream in file.streams:
            for entry in list(stream.index_entries)[40:42]:
                data[entry.pos : entry.pos + 8] = bytes(8)
    film.write_bytes(data)
    found = prepare_film(film)
    assert found.numbers == [number for number in whole.numbers if number in found.numbers]
    assert len(found.numbers) == 98
    times = dict(zip(whole.numbers, whole.times, strict=True))
    assert found.times == pytest.approx([times[number] for number in found.numbers], abs=1e-4)
    assert len(found.late) >= 18
    assert np.abs(np.subtract(list(found.late.values()), whole.sound_error)).max() < 1e-3
    assert str(found.whole.damage) == "2 unreadable parts"


def test_too_little_of_a_file_is_skipped_with_its_reason(
    films: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "a.mp4"
    data = films("mp4").read_bytes()
    path.write_bytes(data[: len(data) * 15 // 100])
    with pytest.raises(MediaError, match=r"only 0\.\d\d s are left: .*ends 3\.\d s early"):
        prepare_film(path)


def test_damaged_packets_are_counted(films: Callable[[str], Path], tmp_path: Path) -> None:
    """Two pictures and three packets of sound are noise."""
    data = bytearray(films("mp4").read_bytes())
    with av.open(str(films("mp4"))) as file:
        packets = [(packet.stream.type, packet.pos or 0, packet.size) for packet in file.demux()]
    rng = np.random.default_rng(1)
    for kind, chosen in (("video", (30, 60)), ("audio", (50, 51, 90))):
        places = [(place, size) for found, place, size in packets if found == kind]
        for place, size in (places[number] for number in chosen):
            data[place : place + size] = rng.bytes(size)
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    whole = prepare_film(path).whole
    assert 1 <= whole.damage.video_packets <= 8
    assert 1 <= whole.damage.audio_packets <= 4
    assert "damaged picture" in str(whole.damage)
    assert "damaged audio packet" in str(whole.damage)
    assert whole.seconds == pytest.approx(4, abs=0.05)


def test_a_picture_hours_behind_the_others_has_a_wrong_time(tmp_path: Path) -> None:
    times = [*(number / FPS for number in range(32)), 5000.0]
    found = prepare_film(write_video(tmp_path / "a.mkv", times=times, audio=False)).whole
    assert found.seconds == pytest.approx(2.0, abs=0.1)
    assert str(found.damage).startswith("1 unreadable part")
