"""An official layout of a dataset, and the clips that its annotation files list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xkd.data.sources.files import Files, Line, SourceFile

Kind = Literal["audiovisual", "video", "audio"]
"""The modalities that a dataset is for. Audio is always kept; of an ``audio`` dataset nothing else is."""


@dataclass(frozen=True, kw_only=True)
class SourceClip:
    """A clip that the annotation files list."""

    id: str
    """Unique in the dataset; names the clip's files in the shards."""
    file: SourceFile | None
    """None: it is missing."""
    place: str
    """Expected path from the root."""
    splits: tuple[str, ...]
    """Split of the clip in each fold: ``train``, ``val``, ``test`` or ``unused``."""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How to recognize and read a dataset's official layout."""

    name: str
    marks: tuple[str, ...]
    """Files or folders of which a root in this layout has one; none: it is read only by its name."""
    kind: Kind
    read: Callable[[Files], Iterator[SourceClip]]

    def is_at(self, root: Path) -> bool:
        """Return whether `root` has one of the marks."""
        return any((root / mark).exists() for mark in self.marks)


def assign_split(splits: dict[str, list[str]], name: str, fold: int, split: str, line: Line) -> None:
    """Record the split of a clip in one of three folds, from 0; lists may name it only once per fold."""
    folds = splits.setdefault(name, ["unused"] * 3)
    if folds[fold] != "unused":
        raise line.error(f"{name} is {split} and {folds[fold]} in split {fold + 1}; remove one of the rows")
    folds[fold] = split


def to_id(name: str) -> str:
    """Return a file's name without its suffix; dots, which end a name for WebDataset, become ``_``."""
    return name.rpartition(".")[0].replace(".", "_")
