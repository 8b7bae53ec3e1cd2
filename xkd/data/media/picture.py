"""Pictures: square pixels, upright, in one color format, encoded for random access."""

from __future__ import annotations

import gc
import io
import struct
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from xkd.data.media.clock import to_count
from xkd.data.media.color import BT601, LIMITED, ColorConverter

SHORT_SIDE = 128
"""Short side of prepared pictures by default, pixels."""
TICKS = 90_000
"""Time base of the mp4 files we write: exact for the usual frame rates."""
_FLIPS: Mapping[tuple[int, ...], tuple[str, ...]] = {
    (1, 0, 0, 1): (),
    (0, 1, -1, 0): ("transpose=clock",),
    (-1, 0, 0, -1): ("hflip", "vflip"),
    (0, -1, 1, 0): ("transpose=cclock",),
    (-1, 0, 0, 1): ("hflip",),
    (1, 0, 0, -1): ("vflip",),
    (0, 1, 1, 0): ("transpose=cclock_flip",),
    (0, -1, -1, 0): ("transpose=clock_flip",),
}
"""Filters by the signs (a, b, c, d) of a display matrix, which moves (x, y) to (a x + c y, b x + d y)."""


class PictureScaler:
    """Bring the pictures of a file to one size, upright, with square pixels and in the one color format.

    Args:
        short_side: pixels; smaller pictures are not enlarged.
        pixel_aspect: width of the source's pixels by their height.
    """

    def __init__(self, short_side: int, pixel_aspect: Fraction) -> None:
        self._short_side, self._pixel_aspect = short_side, pixel_aspect
        self._size: tuple[int, int] | None = None
        self._colors = ColorConverter()
        self._graphs: dict[tuple[str, ...], av.filter.Graph] = {}

    def scale(self, frame: VideoFrame) -> VideoFrame:
        """Return the picture in the size of the first one."""
        flips = find_flips(frame)
        turned = any("transpose" in flip for flip in flips)
        width, height = self._size = self._size or self._choose_size(frame, turned)
        small = self._colors.convert(frame, *((height, width) if turned else (width, height)))
        return self._flip(small, flips) if flips else small

    def _choose_size(self, frame: VideoFrame, turned: bool) -> tuple[int, int]:
        square = (frame.width * self._pixel_aspect, Fraction(frame.height))
        scale = min(Fraction(1), self._short_side / min(square))
        # Even, as 4:2:0 chroma requires.
        width, height = (max(2, 2 * round(side * scale / 2)) for side in square)
        return (height, width) if turned else (width, height)

    def _flip(self, frame: VideoFrame, flips: tuple[str, ...]) -> VideoFrame:
        """Turn or mirror a picture."""
        if flips not in self._graphs:
            graph = self._graphs[flips] = av.filter.Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, TICKS)
            )
            filters = [graph.add(*flip.split("=")) for flip in flips]
            graph.link_nodes(source, *filters, graph.add("buffersink")).configure()
        self._graphs[flips].vpush(frame)
        return self._graphs[flips].vpull()


class VideoWriter:
    """An H.264 file in memory: no B-frames, and a keyframe every half second.

    All pictures are 4:2:0 with the matrix of BT.601 and limited range, and the file is tagged so. BT.601 is
    also what decoders assume where a file says nothing.

    Args:
        short_side: pixels; smaller pictures are not enlarged.
        pixel_aspect: width of the source's pixels by their height.
        rate: frames per second, for the encoder's rate control.
    """

    def __init__(self, short_side: int, pixel_aspect: Fraction, rate: Fraction) -> None:
        self._scaler, self._rate = PictureScaler(short_side, pixel_aspect), rate
        self._buffer = io.BytesIO()
        self._file = av.open(self._buffer, "w", format="mp4")
        self._stream: VideoStream | None = None
        self._keyframe, self._pts = -TICKS, -1

    def write(self, frame: VideoFrame, time: int) -> None:
        """Append a picture that is displayed from `time` on, ticks."""
        small = self._scaler.scale(frame)
        stream = self._stream = self._stream or self._add_stream(small.width, small.height)
        # Times that are closer than the file's ticks must still rise.
        self._pts = max(self._pts + 1, to_count(time, TICKS))
        small.pts, small.time_base = self._pts, Fraction(1, TICKS)
        # The frame still has the type that it had in the source, which the encoder would repeat.
        small.pict_type = PictureType.NONE
        if self._pts - self._keyframe >= TICKS // 2:
            small.pict_type, self._keyframe = PictureType.I, self._pts
        self._file.mux(stream.encode(small))

    def finish(self) -> bytes | None:
        """Return the mp4 file; None if it has no pictures."""
        if self._stream is not None:
            self._file.mux(self._stream.encode(None))
        self._file.close()
        return self._buffer.getvalue() if self._stream is not None else None

    def close(self) -> None:
        """Free the encoder, also where an error left the file unfinished."""
        self._file.close()
        # PyAV's containers and streams refer to one another: until they are collected, encoders of past clips
        # hold megabytes each. Collecting is quick, as `run_each` freezes what a process starts with.
        self._stream = None
        del self._file
        gc.collect()

    def _add_stream(self, width: int, height: int) -> VideoStream:
        rate = min(max(self._rate, Fraction(1)), Fraction(120)).limit_denominator(1001)
        options = {"crf": "20", "preset": "veryfast", "tune": "fastdecode", "bf": "0", "a53cc": "0"}
        # Otherwise, AVX-512 lets x264 choose by memory it never wrote, in small pictures most.
        options["x264-params"] = "cpu-independent=1"
        stream = self._file.add_stream("libx264", rate, width=width, height=height, options=options)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = BT601, LIMITED
        # Keyframes are requested by time; this only keeps the encoder from its default of 250 frames.
        context.gop_size = 10_000
        context.time_base = Fraction(1, TICKS)
        # One thread: the clips run in parallel, and x264's output depends on the threads.
        context.thread_count = 1
        return stream


def find_flips(frame: VideoFrame) -> tuple[str, ...]:
    """Return the filters for a picture's display matrix: the nearest turn, mirrored or not."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return ()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    upright = abs(a) + abs(d) >= abs(b) + abs(c)
    signs = tuple((entry > 0) - (entry < 0) for entry in ((a, 0, 0, d) if upright else (0, b, c, 0)))
    return _FLIPS.get(signs, ())
