"""The clips to embed: media files, folders of them, and prepared datasets; and their windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from xkd.config import MODALITIES, Modality, PretrainConfig
from xkd.data.datasets.direct import MediaClip, read_media
from xkd.data.media.damage import MediaError
from xkd.data.media.header import read_header
from xkd.data.shards.clips import Clip
from xkd.data.shards.manifest import DATASET, PreparedDataset
from xkd.data.shards.reader import WindowReader
from xkd.data.shards.table import ROWS
from xkd.data.sources.files import MediaFiles, SourceFile, printable
from xkd.data.transforms.params import Item
from xkd.data.transforms.views import center_crop
from xkd.errors import UserError

_PIECE = 120.0
"""Seconds of the pieces in which a longer file is read: pictures of a whole film would fill the memory."""


@dataclass(frozen=True)
class Source:
    """One clip to embed: a media file, or a clip of a prepared dataset."""

    path: str
    """As a row has it; of a prepared clip, its id below the directory; of a tar's member, where unpacking
    would put it."""
    media: SourceFile | tuple[WindowReader, Clip]

    @property
    def size(self) -> int:
        """Bytes."""
        if isinstance(self.media, SourceFile):
            return self.media.size
        return (self.media[1].video_size or 0) + (self.media[1].audio_size or 0)


@dataclass(frozen=True)
class Piece:
    """A source, or a part of a long one, that one process reads at once."""

    source: Source
    start: float = 0.0
    """Seconds from the start of the source."""
    end: float | None = None
    """None: all of the source."""


@dataclass(frozen=True)
class Window:
    """A window of a clip."""

    start: float
    end: float
    """Seconds."""
    inputs: dict[Modality, NDArray[Any]]
    """Frames (T, 3, H, W), uint8, and waveform (S,), of the modalities that it has. NumPy's: a tensor would
    be sent between processes by a file descriptor."""


class Windows(NamedTuple):
    """The windows of a piece, and what could not be decoded there; empty: all could."""

    windows: list[Window]
    damage: str


def find_sources(paths: Sequence[Path], config: PretrainConfig) -> tuple[list[Source], list[str]]:
    """Return the clips of files, tars, folders (the media that `prepare` finds too) and prepared datasets.

    Returns:
        The clips, and a line on each kind of file in a folder that is left out.

    Raises:
        UserError: a path does not exist, a folder or a tar has no media, a tar is compressed, a file is given
            twice, or a prepared dataset does not fit the run.
    """
    found: list[Source] = []
    notes: list[str] = []
    for path in paths:
        if (path / DATASET).is_file() and (path / ROWS).is_file():
            dataset = PreparedDataset.open(path)
            dataset.check(config, config.modalities)
            reader = WindowReader(dataset, config)
            found += [Source(str(path / clip.id), (reader, clip)) for clip in dataset.clips]
        elif path.is_dir() or (path.is_file() and path.suffix.lower() == ".tar"):
            files, root = MediaFiles(path), path if path.is_dir() else path.parent
            left_out = files.describe_left_out()
            if not files.visible_media:
                raise UserError(f"{path} has no media files: {'; '.join(left_out) or 'it is empty'}")
            found += [
                Source(printable(str(root / place)), files.media[place]) for place in files.visible_media
            ]
            notes += [f"{path}: {line}" for line in left_out]
        elif path.is_file():
            found.append(Source(printable(str(path)), SourceFile(path, path.stat().st_size)))
        else:
            raise UserError(f"{path} does not exist; give media files, a folder or a prepared dataset")
    names = [source.path for source in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{twice} is given twice; give it only once")
    return found, notes


def find_length(source: Source) -> float:
    """Return the seconds of a source, 0 if only reading it all would tell.

    Raises:
        MediaError: it is not a media file.
    """
    if isinstance(source.media, SourceFile):
        return read_header(source.media.content()).seconds
    return source.media[1].duration


def cut(source: Source, seconds: float, window: float) -> list[Piece]:
    """Return the pieces of a source of this length; all but the last hold whole windows."""
    piece = max(1, _PIECE // window) * window
    count = max(1, int(seconds // piece)) if isinstance(source.media, SourceFile) else 1
    if count == 1:
        return [Piece(source)]
    # The header may be wrong by a little: the last piece reads to the end.
    ends = [piece * number for number in range(1, count)] + [seconds + 60]
    return [Piece(source, piece * number, end) for number, end in enumerate(ends)]


def read_windows(piece: Piece, config: PretrainConfig) -> Windows:
    """Return the windows that cover a piece, of the modalities of a run, in a worker process.

    Raises:
        MediaError: it cannot be read, or has none of the modalities.
    """
    torch.set_num_threads(1)  # the cores are for the processes
    media, damage = piece.source.media, ""
    if isinstance(media, SourceFile):
        segment = None if piece.end is None else (piece.start, piece.end)
        clip, damage = read_media(media.content(), config, segment)
        windows = [
            _window(clip.window(config, start), start, clip.seconds, config, piece.start)
            for start in clip.starts(config)
        ]
    else:
        windows = _read_prepared(*media, config)
    if not any(window.inputs for window in windows):
        raise MediaError(f"no {' and no '.join(config.modalities)}")
    return Windows(windows, damage)


def _window(item: Item, start: float, seconds: float, config: PretrainConfig, offset: float) -> Window:
    end = min(start + config.clip.seconds, seconds)
    tensors = {"video": item.get("frames"), "audio": item.get("waveform")}
    inputs = {m: found.numpy() for m in config.modalities if (found := tensors[m]) is not None}
    return Window(round(offset + start, 3), round(offset + end, 3), inputs)


def _read_prepared(reader: WindowReader, clip: Clip, config: PretrainConfig) -> list[Window]:
    starts = MediaClip(pictures=None, audio=None, seconds=clip.duration).starts(config)
    items = reader.read(clip, starts, [m for m in MODALITIES if clip.has(m)])
    for item in items:
        if "frames" in item:
            item["frames"] = center_crop(item["frames"], *config.video.global_view[1:])
    return [
        _window(item, start, clip.duration, config, 0.0) for item, start in zip(items, starts, strict=True)
    ]
