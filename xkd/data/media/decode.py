"""Decode the streams of an open file on its clock, and count what a damaged part costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from xkd.data.media.clock import (
    SECOND,
    IndexClock,
    RestartingClock,
    correct_impossible_times,
    is_possible,
    to_ticks,
)
from xkd.data.media.container import choose_stream
from xkd.data.media.damage import Damage, MediaError

Frame = VideoFrame | AudioFrame

_WITHOUT_DISPLAY_TIMES = ("avi", "asf", "mpegvideo", "m4v")
"""Containers that store the times of decoding only; FFmpeg's times of display are guesses there."""
_RESTARTING_CLOCK = ("mpegts", "mpeg", "ogg")
"""Containers whose clock may restart, as where recordings were joined."""
_ANNOUNCE_DURATION = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "wav", "flac")
"""Containers whose headers tell the duration; FFmpeg estimates that of others."""
_WIDEST = 10
"""Pixels that are wider or narrower by more are a mistake of the file."""
_REORDERED = SECOND
"""Ticks by which a stream's packets are read before an earlier frame is displayed, at most."""
_MAX_FAILED_READS = 100_000
"""Failed reads in a row after which the rest of a file is considered lost."""


@dataclass(frozen=True)
class Decoded:
    """A decoded frame, or sound that could not be decoded."""

    frame: Frame | None
    """None: the sound of a damaged packet."""
    time: int | None
    """Ticks from the start of the file's clock; None: the file does not say."""
    duration: int
    """Ticks, as the file says; 0: it does not say."""


class MediaFile:
    """The video and the audio stream of an open file, decoded together on the file's clock.

    Args:
        with_video: whether there must be video (True) or it is left alone (False); None: if there is any.
    """

    def __init__(self, container: InputContainer, *, with_video: bool | None) -> None:
        self._container = container
        self.video = None if with_video is False else choose_stream(container.streams.video)
        self.audio = choose_stream(container.streams.audio)
        if with_video and self.video is None:
            raise MediaError("no video stream")
        if self.video is None and self.audio is None:
            raise MediaError("no audio stream" if with_video is False else "neither pictures nor sound")
        self.damage = Damage()
        self._picture_delay = 0
        self._has_positions = False
        self._has_delays = False
        self.has_display_times = container.format.name not in _WITHOUT_DISPLAY_TIMES
        self.has_sound_times = container.format.name != "avi"
        self._streams = [stream for stream in (self.video, self.audio) if stream is not None]
        for stream in self._streams:
            # One thread: clips are decoded in parallel, and the frames do not depend on timing.
            stream.codec_context.thread_count = 1
            # Marks each frame with the packet it was decoded from, which FFmpeg's own times do not tell.
            stream.codec_context.copy_opaque = True
        starts = [
            start
            for stream in self._streams
            if stream.start_time is not None
            and is_possible(start := to_ticks(stream.start_time, _base(stream)))
        ]
        # Frames before 0 are there only to decode others.
        self._origin = max(0, min(starts, default=0))
        self._clock: IndexClock | RestartingClock | None = None
        if container.format.name in _RESTARTING_CLOCK:
            # FFmpeg gives negative times where the clock is about to start again from 0.
            self._origin, self._clock = min(starts, default=0), RestartingClock()
        elif container.format.name == "avi":
            # Frames are counted from 0, and FFmpeg's start may include the decoder's delay.
            self._origin, self._clock = 0, IndexClock(self._streams)
        self.length = to_ticks(container.duration or 0, Fraction(1, av.time_base))
        """Duration in ticks, perhaps FFmpeg's estimate; 0: unknown."""
        self.announced = self._read_duration()
        """Duration in ticks that the file's header announces; None: it does not, or FFmpeg estimates it."""

    def delay_pictures(self, ticks: int) -> None:
        """Display the pictures later than FFmpeg says; a negative number of ticks: earlier."""
        self._picture_delay = ticks
        if ticks and self.video is not None and self.video.start_time is not None:
            first = to_ticks(self.video.start_time, _base(self.video)) + ticks
            self._origin = max(0, min(self._origin, first))

    @property
    def is_in_decoding_order(self) -> bool:
        """Whether the times of the video are those of decoding, which B-frames bring out of order.

        So they are in containers that store no others, and where a muxer wrote them as the times of display.
        """
        if not self.has_display_times:
            return True
        return not self._has_delays and self.video is not None and self.video.codec_context.has_b_frames

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a pixel of the video by its height."""
        aspect = self.video.sample_aspect_ratio if self.video is not None else None
        return aspect if aspect and 1 / _WIDEST <= aspect <= _WIDEST else Fraction(1)

    def seek(self, start: int) -> None:
        """Continue reading at the last keyframe before `start`, ticks, where the container can."""
        if self.has_display_times and self._clock is None:
            with suppress(av.error.FFmpegError, OSError):
                self._container.seek((self._origin + start) * av.time_base // SECOND)

    def frames(self, end: int | None) -> Iterator[Decoded]:
        """Decode both streams, up to `end`, ticks, at least; yield frames in the order of each stream.

        A packet that cannot be decoded costs its own frames, and is counted as damage.
        """
        beyond: set[int] = set()
        for packet in self._find_start(self._packets()):
            lost = 0 if self._clock is None else self._clock.correct(packet)
            if lost:
                self.damage.reads += 1
                if packet.stream.type == "audio":
                    yield Decoded(None, None, lost)
            if end is not None and packet.dts is not None:
                time = to_ticks(packet.dts, packet.time_base) - self._origin
                beyond |= {packet.stream_index} if time > end + _REORDERED else set()
                if len(beyond) == len(self._streams):
                    break
            yield from self._decode(packet.stream, packet)
        for stream in self._streams:
            yield from self._decode(stream, None)

    def _find_start(self, packets: Iterator[Packet[Any]]) -> Iterator[Packet[Any]]:
        """Count from the first picture where it is before the start of the file, yielding all packets.

        FFmpeg's start is that of display, later by the decoder's delay than the times of decoding.
        """
        read: list[Packet[Any]] = []
        if not self.has_display_times and self.video is not None:
            for packet in packets:
                read.append(packet)
                if packet.dts is not None and packet.stream_index == self.video.index:
                    self._origin = min(self._origin, to_ticks(packet.dts, packet.time_base))
                    break
        return itertools.chain(read, packets)

    def _read_duration(self) -> int | None:
        if self._container.format.name not in _ANNOUNCE_DURATION:
            return None
        # Of an AVI that breaks off, FFmpeg shortens the duration, but not the number of frames.
        durations = [
            stream.frames if self._container.format.name == "avi" else stream.duration
            for stream in self._streams
        ]
        ends = [
            to_ticks((stream.start_time or 0) + duration, _base(stream))
            for stream, duration in zip(self._streams, durations, strict=True)
            if duration
        ]
        if len(ends) == len(self._streams):
            return max(ends) - self._origin
        # Where the file begins later, its duration may be counted from 0.
        return max(0, self.length - self._origin) or None

    def _packets(self) -> Iterator[Packet[Any]]:
        """Read packets, and read on behind parts of the container that are damaged."""
        failed = 0
        while self._streams and failed < _MAX_FAILED_READS:
            try:
                for packet in self._container.demux(*self._streams):
                    failed = 0
                    # An empty packet, as AVI has for a repeated picture, would flush the decoder.
                    if packet.size:
                        correct_impossible_times(packet)
                        yield packet
                return
            except IndexError:
                pass  # a packet of a stream that began only now
            except (av.error.FFmpegError, OSError):
                self.damage.reads += failed == 0
                failed += 1

    def _decode(self, stream: VideoStream | AudioStream, packet: Packet[Any] | None) -> Iterator[Decoded]:
        is_video, base = stream.type == "video", _base(stream)
        if packet is not None:
            self._has_positions |= packet.pos is not None
            # Times of packets without a place in the file are FFmpeg's, counted from the packet before: at
            # the sample rate that the stream began with.
            stored = packet.pos is not None or not self._has_positions
            time = packet.pts if self.has_display_times or not is_video else packet.dts
            self._has_delays |= is_video and packet.pts != packet.dts
            packet.opaque = (time, packet.duration or 0, stored)
        try:
            frames: Sequence[Frame] = stream.codec_context.decode(packet)
        except (av.error.FFmpegError, OSError, ValueError):
            if is_video:
                self.damage.video_packets += 1
            else:
                self.damage.audio_packets += 1
                if packet is not None:
                    yield Decoded(None, None, to_ticks(packet.duration or 0, base))
            return
        for frame in frames:
            origin: Any = frame.opaque
            time, duration, stored = (frame.pts, 0, True) if origin is None else origin
            if is_video:
                self.damage.video_packets += frame.is_corrupt
            else:
                # A frame's time is that of its first sample behind what the encoder's delay cut off.
                time = frame.pts if stored else None
            ticks = None if time is None else to_ticks(time, base) - self._origin
            if ticks is not None and is_video:
                ticks += self._picture_delay
            yield Decoded(frame, ticks, to_ticks(duration, base))


def _base(stream: VideoStream | AudioStream) -> Fraction:
    return stream.time_base or Fraction(1, av.time_base)
