"""Colors of source files: what is prepared looks as the source does."""

from __future__ import annotations

import gc
import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from tests.data.films import Video, write_film
from tests.data.samples import RATE
from xkd.data.media.prepared import read_video
from xkd.data.media.transcode import transcode

TILE = 24
COLORS = (
    *((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)),
    *((0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 120, 80), (60, 90, 160), (30, 30, 60)),
)
BT601, BT709, BT2020 = Colorspace.ITU601, Colorspace.ITU709, Colorspace.BT2020
LIMITED, FULL = ColorRange.MPEG, ColorRange.JPEG
TAGS = {BT601: 6, BT709: 1, BT2020: 9}


def tiles(colors: tuple[tuple[int, ...], ...] = COLORS) -> NDArray[np.uint8]:
    grid = np.array(colors, np.uint8).reshape(2, -1, 3)
    return grid.repeat(TILE, 0).repeat(TILE, 1)


def means(picture: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean color of the middle of each tile."""
    rows, columns = picture.shape[0] // TILE, picture.shape[1] // TILE
    middle = picture.reshape(rows, TILE, columns, TILE, 3)[:, 8:16, :, 8:16]
    return np.asarray(middle.mean((1, 3)).reshape(-1, 3))


def write_tiles(
    path: Path,
    codec: str,
    form: str,
    matrix: Colorspace = BT601,
    color_range: ColorRange = LIMITED,
    *,
    tagged: bool = True,
) -> Path:
    """Write three pictures of tiles in a pixel format, with a matrix and a range."""
    options = {"libx264": {"qp": "2"}, "libx265": {"x265-params": "qp=4:log-level=none"}}.get(codec, {})
    picture = tiles()
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, 25, options=options | {"strict": "-2"})
        stream.width, stream.height, stream.pix_fmt = picture.shape[1], picture.shape[0], form
        context = stream.codec_context
        context.thread_count = 1
        if codec in ("mjpeg", "mpeg4", "mpeg2video"):
            context.qmin, context.qmax, context.bit_rate = 1, 2, 5_000_000
        if codec.startswith("libvpx"):
            context.bit_rate, context.options = 4_000_000, {"deadline": "realtime", "qmax": "4", "crf": "4"}
        rgb = form in ("gbrp", "bgr24", "rgb24")
        if tagged and not rgb:
            context.colorspace, context.color_range = TAGS[matrix], color_range
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame = frame.reformat(
                format=form, **({} if rgb else {"dst_colorspace": matrix, "dst_color_range": color_range})
            )
            if tagged and not rgb:
                frame.colorspace, frame.color_range = TAGS[matrix], color_range
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def transcode_tiles(path: Path) -> bytes:
    found = transcode(path, with_video=True, short_side=2 * TILE, max_fps=None, sample_rate=RATE)
    assert found.video is not None
    return found.video


FORMS = [
    ("mp4", "libx264", "yuv420p", BT601, LIMITED),
    ("mp4", "libx264", "yuv420p", BT709, LIMITED),
    ("mkv", "libx264", "yuvj420p", BT601, FULL),
    ("mp4", "libx264", "yuvj420p", BT709, FULL),
    ("mp4", "libx264", "yuv422p", BT709, LIMITED),
    ("mkv", "libx264", "yuvj422p", BT601, FULL),
    ("mkv", "libx264", "yuv444p", BT709, LIMITED),
    ("mkv", "libx264", "yuvj444p", BT601, FULL),
    ("mkv", "libx264", "yuv420p10le", BT709, LIMITED),
    ("mp4", "libx265", "yuv420p10le", BT2020, LIMITED),
    ("webm", "libvpx-vp9", "yuv420p", BT709, LIMITED),
    ("mkv", "ffv1", "yuv420p", BT2020, FULL),
    ("avi", "mjpeg", "yuvj420p", BT601, FULL),
    ("mov", "mjpeg", "yuvj444p", BT601, FULL),
    ("mpg", "mpeg2video", "yuv420p", BT709, LIMITED),
    ("mp4", "libx265", "gbrp", BT601, FULL),
    ("mov", "png", "rgb24", BT601, FULL),
    ("avi", "rawvideo", "bgr24", BT601, FULL),
]


@pytest.mark.parametrize(
    ("suffix", "codec", "form", "matrix", "color_range"),
    FORMS,
    ids=[f"{codec}-{form}-{TAGS[matrix]}" for _, codec, form, matrix, _ in FORMS],
)
def test_colors_are_those_of_the_source(
    suffix: str, codec: str, form: str, matrix: Colorspace, color_range: ColorRange, tmp_path: Path
) -> None:
    path = write_tiles(tmp_path / f"a.{suffix}", codec, form, matrix, color_range)
    with av.open(str(path)) as file:
        source = means(next(file.decode(video=0)).to_ndarray(format="rgb24"))
    prepared = means(read_video(transcode_tiles(path), np.zeros(1))[0])
    assert np.abs(prepared - source).max() <= 3
    assert np.abs(prepared - means(tiles())).max() <= 6


def test_what_says_nothing_of_its_colors_is_bt601(tmp_path: Path) -> None:
    path = write_tiles(tmp_path / "a.mp4", "libx264", "yuv420p", tagged=False)
    prepared = means(read_video(transcode_tiles(path), np.zeros(1))[0])
    assert np.abs(prepared - means(tiles())).max() <= 4


@pytest.mark.parametrize("form", ["gray", "gray10le", "gray16le"])
def test_gray_keeps_its_levels(form: str, tmp_path: Path) -> None:
    levels = tuple((level,) * 3 for level in (0, 16, 48, 96, 144, 192, 235, 255))
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("ffv1", 25, options={"strict": "-2"})
        stream.width, stream.height, stream.pix_fmt = 4 * TILE, 2 * TILE, form
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(tiles(levels)[..., 0].copy(), "gray")
            frame = frame.reformat(format=form)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    prepared = means(read_video(transcode_tiles(path), np.zeros(1))[0])
    assert np.abs(prepared - means(tiles(levels))).max() <= 3


def test_shards_are_tagged_with_their_colors(tmp_path: Path) -> None:
    path = write_tiles(tmp_path / "a.mp4", "libx264", "yuvj420p", BT709, FULL)
    with av.open(io.BytesIO(transcode_tiles(path)), "r") as file:
        context = file.streams.video[0].codec_context
        assert (context.pix_fmt, context.colorspace, context.color_range) == ("yuv420p", 6, 1)
        frame = next(file.decode(video=0))
        assert (frame.format.name, frame.colorspace, frame.color_range) == ("yuv420p", 6, 1)


def test_colors_of_a_scaled_picture_do_not_bleed_over_its_edges(tmp_path: Path) -> None:
    """Decoders give lines that are wider than the picture."""
    white = Video("ffv1", numbers=range(3), size=(70, 50), draw=_white)
    path = write_film(tmp_path / "a.mkv", white)
    found = transcode(path, with_video=True, short_side=34, max_fps=None, sample_rate=RATE).video
    assert found is not None
    assert read_video(found, np.zeros(1)).min() > 250


def _white(number: int, width: int, height: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 255, np.uint8)


@pytest.mark.parametrize("short_side", [16, 32, 48])
def test_bytes_do_not_depend_on_what_memory_held_before(short_side: int, tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mkv", Video("mpeg4", numbers=range(26), size=(160, 120), draw=_moving))
    found = set()
    for seed in range(4):
        blocks = [np.random.default_rng(seed).bytes(size) for size in range(1000, 300_000, 7000)]
        del blocks
        gc.collect()
        found.add(
            transcode(path, with_video=True, short_side=short_side, max_fps=None, sample_rate=RATE).video
        )
    assert len(found) == 1


def _moving(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return noise that moves by a few pixels with each picture, as motion search needs it."""
    scene = np.random.default_rng(5).integers(0, 256, (height // 4 + 40, width // 4 + 40, 3), np.uint8)
    scene = scene.repeat(4, 0).repeat(4, 1)
    return np.ascontiguousarray(scene[3 * number :, 2 * number :][:height, :width])
