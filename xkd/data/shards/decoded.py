"""Frames of a small dataset, decoded once and kept for all epochs."""

from __future__ import annotations

import io
import math
import mmap
import multiprocessing
from collections.abc import Callable

import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from torch import Tensor

from xkd.data.media.container import open_container
from xkd.data.media.damage import MediaError
from xkd.data.media.picture import TICKS
from xkd.data.shards.clips import Clip, Clips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.transforms.resample import resize_short_side

LARGEST = 2**28
"""Bytes of frames that are kept at most; of a larger dataset none are, and every window is decoded."""
_FPS, _WIDEST = 30.0, 16 / 9
"""Frame rate of a dataset prepared without a maximum, and width relative to the height: what exceeds the
space for them is not kept."""


class DecodedClips:
    """The frames of clips with a short side of `short` pixels.

    They are in memory shared with the processes that are forked later, such as a loader's workers: what one
    decodes, all have. Two that decode the same clip at a time write the same bytes.
    """

    def __init__(self, dataset: PreparedDataset, clips: Clips, short: int) -> None:
        self._short = short
        fps = float(dataset.settings.get("max_fps") or _FPS)
        frames = np.ceil(clips.durations * fps).astype(np.int64) + 2
        sizes = 3 * frames * short * math.ceil(short * _WIDEST)
        fits = 0 < sizes.sum() <= LARGEST
        self._number = {name: number for number, name in enumerate(clips.ids)} if fits else {}
        if not fits:
            return
        self._ends, self._first = (np.cumsum([0, *counts]) for counts in (sizes, frames))
        self._bytes = np.frombuffer(mmap.mmap(-1, int(self._ends[-1])), np.uint8)
        self._starts = np.frombuffer(mmap.mmap(-1, 8 * int(self._first[-1])), np.float64)
        self._shapes = np.frombuffer(mmap.mmap(-1, 3 * 8 * len(clips)), np.int64).reshape(-1, 3)
        self._lock = multiprocessing.get_context("fork").Lock()

    def read(self, clip: Clip, times: NDArray[np.float64], source: Callable[[], bytes]) -> Tensor | None:
        """Return the frames (T, 3, H, W), uint8, shown at the times (T,), as `read_video` finds them.

        Args:
            source: returns the clip's video file.

        Returns:
            None if the clip's frames are not kept: there is no space for them, or they cannot all be decoded.
        """
        number = self._number.get(clip.id)
        if number is None:
            return None
        with self._lock:
            count, height, width = self._shapes[number].tolist()
        if not count:
            try:
                frames, starts = _decode(source(), self._short)
            except MediaError:
                return None
            if not self._keep(number, frames, starts):
                return None
            count, height, width, _ = frames.shape
        begin, first = self._ends[number], self._first[number]
        kept = self._bytes[begin : begin + 3 * count * height * width].reshape(count, height, width, 3)
        places = np.searchsorted(self._starts[first : first + count], times, side="right") - 1
        return torch.from_numpy(kept[places.clip(0)]).permute(0, 3, 1, 2)

    def _keep(self, number: int, frames: NDArray[np.uint8], starts: NDArray[np.float64]) -> bool:
        """Keep a clip's frames (N, H, W, 3) if there is space for them; return whether there is."""
        begin, first = self._ends[number], self._first[number]
        if frames.size > self._ends[number + 1] - begin or len(starts) > self._first[number + 1] - first:
            return False
        self._bytes[begin : begin + frames.size] = frames.ravel()
        self._starts[first : first + len(starts)] = starts
        with self._lock:  # who sees the shape sees the frames
            self._shapes[number] = frames.shape[:3]
        return True


def _decode(source: bytes, short: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return all frames (N, H, W, 3) of a prepared clip, resized, and the seconds from which they are shown.

    Raises:
        MediaError: the bytes cannot be decoded.
    """
    reformatter = VideoReformatter()
    pictures, starts = [], []
    with open_container(io.BytesIO(source)) as file:
        if not file.streams.video:
            raise MediaError("no video stream")
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in file.decode(stream):
            pictures.append(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())
            starts.append((frame.pts or 0) * float(stream.time_base or 1) - 0.5 / TICKS)
    if not pictures:
        raise MediaError("no video frames")
    frames = resize_short_side(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), short)
    resized: NDArray[np.uint8] = frames.permute(0, 2, 3, 1).contiguous().numpy()
    return resized, np.array(starts)
