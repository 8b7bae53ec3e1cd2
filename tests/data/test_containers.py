"""Containers, the choice of a stream, and the shape of the picture."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.data.films import SIZE, VIDEO, Sound, Video, noise, prepare_film, write_film
from tests.data.samples import RATE, picture
from xkd.data.media.damage import MediaError
from xkd.data.media.picture import find_flips
from xkd.data.media.prepared import encode_wav, read_video

VP8 = Video("libvpx", options={"b": "1M", "deadline": "realtime"})
MPEG2 = Video("mpeg2video", options={"bf": "2"})
STEREO = Sound("ac3", 48_000, "stereo")
FILMS = {
    "mpg": (MPEG2, Sound("mp2")),
    "vob": (MPEG2, STEREO),
    "ts": (VIDEO, Sound("mp2")),
    "m2ts": (VIDEO, STEREO),
    "flv": (Video("flv"), Sound("libmp3lame")),
    "wmv": (Video("wmv2"), Sound("wmav2")),
    "asf": (Video("msmpeg4"), Sound("wmav2")),
    "ogv": (VP8, Sound("flac")),
    "ogg": (VP8, Sound("vorbis", layout="stereo")),
    "webm": (VP8, Sound("libopus", 48_000)),
    "3gp": (Video("mpeg4"), Sound()),
    "nut": (VIDEO, Sound("pcm_s16le")),
    "mov": (Video("mjpeg", format="yuvj420p"), Sound("alac")),
    "mkv": (Video("ffv1"), Sound("flac", 96_000)),
    "mp4": (Video("libx265", options={"x265-params": "log-level=none"}), Sound("ac3", 48_000, "5.1")),
}


@pytest.mark.parametrize("suffix", sorted(FILMS))
def test_each_container_is_read_in_step(suffix: str, tmp_path: Path) -> None:
    found = prepare_film(write_film(tmp_path / f"a.{suffix}", *FILMS[suffix]))
    assert found.numbers == list(range(100))
    # A muxer may let all begin later, by the delay of an encoder.
    lead = found.times[0]
    assert lead < 0.06
    assert abs(found.picture_error - lead) < 1.1e-3
    assert len(found.late) >= 18
    assert max(abs(late - lead) for late in found.late.values()) < 1.1e-3
    assert found.whole.seconds == pytest.approx(4 + lead, abs=0.01)
    assert not str(found.whole.damage)


def test_a_file_that_begins_late_is_not_shorter_than_it_says(tmp_path: Path) -> None:
    """The duration of a Matroska file may be counted from 0."""
    film = write_film(tmp_path / "a.mkv", VIDEO, Sound(), options={"output_ts_offset": "100"})
    found = prepare_film(film)
    assert found.numbers == list(range(100))
    assert found.whole.seconds == pytest.approx(4, abs=0.03)
    assert not str(found.whole.damage)


def cover() -> bytes:
    """Return a JPEG."""
    coder: Any = av.CodecContext.create("mjpeg", "w")
    coder.width, coder.height, coder.pix_fmt, coder.time_base = *SIZE, "yuvj420p", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(picture(7, *SIZE), "rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for one in (frame, None) for packet in coder.encode(one))


def write_with_cover(path: Path, film: Path, *, first: bool) -> Path:
    """Copy a film and add a cover picture, as the first stream or the last."""
    form = "mp4" if path.suffix == ".m4a" else None
    with av.open(str(film)) as old, av.open(str(path), "w", format=form) as new:
        streams = {}
        if not first:
            streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        art: Any = new.add_stream("mjpeg", 25)
        art.width, art.height, art.pix_fmt = *SIZE, "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        streams = streams or {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        packet = av.Packet(cover())
        packet.stream, packet.pts, packet.dts, packet.time_base = art, 0, 0, Fraction(1, 25)
        packet.is_keyframe = True
        new.mux(packet)
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "mp3", "flac"])
def test_a_cover_is_no_video(suffix: str, tmp_path: Path) -> None:
    codec = {"mp3": "libmp3lame", "flac": "flac"}.get(suffix, "aac")
    sound = write_film(tmp_path / f"sound.{suffix}", None, Sound(codec))
    path = write_with_cover(tmp_path / f"a.{suffix}", sound, first=False)
    with av.open(str(path)) as file:
        assert file.streams.video
    with pytest.raises(MediaError, match="no video stream"):
        prepare_film(path)
    assert abs(prepare_film(path, with_video=False).sound_error) < 0.026


def test_a_film_with_a_cover_is_the_film(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", VIDEO, Sound())
    found = prepare_film(write_with_cover(tmp_path / "a.mp4", film, first=True))
    assert found.numbers == list(range(100))
    assert abs(found.sound_error) < 1e-3


def still(form: str) -> bytes:
    if form == "jpeg":
        return cover()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as file:
        stream: Any = file.add_stream(form, 25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "rgb8"
        frame = av.VideoFrame.from_ndarray(picture(7, *SIZE), "rgb24").reformat(format=stream.pix_fmt)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["jpeg", "gif"])
def test_a_still_image_is_no_video(form: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(still(form))
    with pytest.raises(MediaError, match="not a known container"):
        prepare_film(path)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile other.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nother.mp4\n#EXT-X-ENDLIST\n",
        '<?xml version="1.0"?><MPD><Period><BaseURL>other.mp4</BaseURL></Period></MPD>',
        "v=0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ],
    ids=["ffconcat", "m3u8", "mpd", "sdp"],
)
def test_a_text_that_names_other_files_is_not_followed(text: str, tmp_path: Path) -> None:
    write_film(tmp_path / "other.mp4", VIDEO)
    for name in ("a.mp4", "a.m3u8"):
        (tmp_path / name).write_text(text)
        with pytest.raises(MediaError, match="not a known container"):
            prepare_film(tmp_path / name)


def test_an_mp4_that_names_other_files_is_not_followed(tmp_path: Path) -> None:
    """A QuickTime file may have its media in another file, by the path in its data reference."""
    other = write_film(tmp_path / "other.mov", VIDEO)
    data = bytearray(other.read_bytes())
    at = data.index(b"dref")
    assert data[at + 16 : at + 20] == b"alis" or data[at + 16 : at + 20] == b"url "
    data[at + 20 : at + 24] = bytes(4)  # not "in this file"
    (tmp_path / "a.mov").write_bytes(data)
    prepared = prepare_film(tmp_path / "a.mov")
    assert prepared.numbers == list(range(100))  # by its own bytes


def test_a_sound_of_one_frame_is_no_clip(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encode_wav(noise(RATE)[:20], RATE))
    with pytest.raises(MediaError, match="too short"):
        prepare_film(path, with_video=False)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("marked", [True, False])
def test_the_default_track_is_taken_or_else_the_first(suffix: str, marked: bool, tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mkv", VIDEO, Sound(), Sound(start=1.0, end=3.0))
    default, none = av.stream.Disposition.default, av.stream.Disposition(0)
    path = tmp_path / f"a.{suffix}"
    with av.open(str(film)) as old, av.open(str(path), "w") as new:
        streams = [new.add_stream_from_template(stream) for stream in old.streams]
        for number, stream in enumerate(streams):
            stream.disposition = default if number in ((0, 2) if marked else (0,)) else none
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
    found = prepare_film(path)
    assert found.numbers == list(range(100))
    assert found.silent(0, 0.9) == marked


MATRICES = {
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): lambda image: np.rot90(image, 1),
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (0, 1, 1, 0): lambda image: np.rot90(image[:, ::-1], 1),
    (0, -1, -1, 0): lambda image: np.rot90(image[:, ::-1], -1),
}
"""What a player shows by the matrix (a, b, c, d) of a track, which moves (x, y) to (ax + cy, bx + dy)."""


def corners(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return a picture whose quarters are of four gray levels."""
    levels = np.array([[40, 100], [160, 220]], np.uint8)
    return np.asarray(levels.repeat(height // 2, 0).repeat(width // 2, 1)[..., None].repeat(3, 2))


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a display matrix into the header of an mp4's first track."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (entry * 0x10000 for entry in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def shown(path: Path, short_side: int = 48) -> NDArray[np.uint8]:
    found = prepare_film(path, short_side=short_side).whole.video
    assert found is not None
    image: NDArray[np.uint8] = read_video(found, np.zeros(1))[0]
    return image


@pytest.mark.parametrize("matrix", MATRICES)
def test_the_display_matrix_is_applied(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", Video(numbers=range(5), draw=corners))
    image = shown(set_matrix(film, matrix))
    expected: Any = MATRICES[matrix](corners(0, *SIZE))
    assert image.shape == expected.shape
    height, width = image.shape[0] // 2, image.shape[1] // 2
    for y in (height // 2, height + height // 2):
        for x in (width // 2, width + width // 2):
            assert np.abs(image[y, x].astype(int) - expected[y, x]).max() <= 5


@pytest.mark.parametrize(
    ("matrix", "flips"),
    [
        ((65536, 0, 0, 65536), ()),
        ((0, 65536, -65536, 0), ("transpose=clock",)),
        ((46341, 46300, -46300, 46341), ()),
        ((300, 65535, -65535, 300), ("transpose=clock",)),
        ((0, 0, 0, 0), ()),
    ],
)
def test_slanted_display_matrices_are_the_nearest_turn(
    matrix: tuple[int, int, int, int], flips: tuple[str, ...], tmp_path: Path
) -> None:
    film = write_film(tmp_path / "a.mp4", Video(numbers=range(2)))
    data = bytearray(film.read_bytes())
    a, b, c, d = matrix
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    film.write_bytes(data)
    with av.open(str(film)) as file:
        assert find_flips(next(file.decode(video=0))) == flips


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "avi"])
@pytest.mark.parametrize("aspect", [Fraction(16, 11), Fraction(64, 45), Fraction(1, 2)])
def test_pixels_become_square(suffix: str, aspect: Fraction, tmp_path: Path) -> None:
    codec = "mpeg4" if suffix == "avi" else "libx264"
    film = write_film(tmp_path / f"a.{suffix}", Video(codec, numbers=range(5), draw=corners, aspect=aspect))
    height, width, _ = shown(film).shape
    assert width / height == pytest.approx(64 / 48 * aspect, rel=0.03)
    assert min(width, height) in (32, 48)


def test_pixels_become_square_before_the_picture_is_turned(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", Video(numbers=range(5), draw=corners, aspect=Fraction(2)))
    assert shown(set_matrix(film, (0, 1, -1, 0))).shape == (128, 48, 3)


@pytest.mark.parametrize("suffix", ["mkv", "flv", "ts"])
def test_a_file_as_short_as_its_segment_is_read_whole(suffix: str, tmp_path: Path) -> None:
    film = write_film(tmp_path / f"a.{suffix}", Video(), Sound("aac", 44_100))
    whole = prepare_film(film)
    assert prepare_film(film, segment=(30.0, 40.0)).numbers == whole.numbers
