"""The clips of a prepared dataset, as columns.

Objects of millions of clips would take seconds and gigabytes, in each process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xkd.config import MODALITIES, Modality

_CHUNK = 2**14
"""Rows of which objects exist at a time."""
OFFSETS = ("video_offset", "video_size", "audio_offset", "audio_size")
_SHARED = pa.dictionary(pa.int32(), pa.string())
"""Texts that many rows share; lists as in the CSV file, separated by semicolons."""
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        *(pa.field(name, _SHARED, nullable=False) for name in ("splits", "labels", "shard")),
        *(pa.field(name, pa.int64()) for name in OFFSETS),
        pa.field("duration", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip of a prepared dataset."""

    id: str
    splits: tuple[str, ...]
    """Split in each fold (most datasets have one): ``train``, ``val``, ``test`` or ``unused``."""
    labels: tuple[str, ...]
    shard: str
    """Path of the tar file, relative to the prepared directory."""
    video_offset: int | None
    """First byte of the mp4 in the shard; None: the clip has no video."""
    video_size: int | None
    audio_offset: int | None
    """First byte of the wav in the shard; None: the clip has no audio."""
    audio_size: int | None
    duration: float
    """Seconds that all modalities of the clip cover."""

    def has(self, *modalities: Modality) -> bool:
        """Return whether the shard holds all of these modalities."""
        return all(getattr(self, f"{modality}_offset") is not None for modality in modalities)

    def to_row(self) -> dict[str, str]:
        """Return the row of manifest.csv; None becomes an empty cell."""
        values = vars(self) | _texts(self) | {"duration": f"{self.duration:.6f}"}
        return {name: "" if value is None else str(value) for name, value in values.items()}

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> Clip:
        """Return the clip of a row of manifest.csv.

        Raises:
            KeyError, ValueError: a column is missing or not a number.
        """
        offsets = {name: int(row[name]) if row[name] else None for name in OFFSETS}
        return cls(
            id=row["id"],
            splits=_SPLIT["splits"](row["splits"]),
            labels=_SPLIT["labels"](row["labels"]),
            shard=row["shard"],
            duration=float(row["duration"]),
            **offsets,
        )


def _texts(clip: Clip) -> dict[str, str]:
    """Return the lists of a clip as texts."""
    return {"splits": ";".join(clip.splits), "labels": ";".join(clip.labels)}


_SPLIT: Mapping[str, Callable[[str], tuple[str, ...]]] = {
    "splits": lambda text: tuple(text.split(";")),
    "labels": lambda text: tuple(filter(None, text.split(";"))),  # none from an empty text
}


class Clips(Sequence[Clip]):
    """Some clips of a manifest, in order: a sequence whose items are made when they are asked for.

    What concerns many clips is answered by columns instead, without a `Clip`.
    """

    def __init__(self, batch: pa.RecordBatch, rows: NDArray[np.int32] | None = None) -> None:
        self.batch = batch
        """With the columns of `SCHEMA`."""
        self._rows = rows
        """Of the batch, in order; None: all."""

    @classmethod
    def of(cls, clips: Iterable[Clip]) -> Clips:
        """Return clips as columns; durations are rounded as in manifest.csv."""
        rest, tables = iter(clips), [SCHEMA.empty_table()]
        while chunk := list(islice(rest, _CHUNK)):
            values = [vars(clip) | _texts(clip) | {"duration": round(clip.duration, 6)} for clip in chunk]
            tables.append(pa.Table.from_pylist(values, SCHEMA))
        return cls.from_table(pa.concat_tables(tables))

    @classmethod
    def from_table(cls, table: pa.Table) -> Clips:
        """Return the clips of a table in any number of chunks.

        Raises:
            KeyError, ValueError: it lacks a column, or a value.
        """
        table = table.select(SCHEMA.names).cast(SCHEMA).unify_dictionaries()
        columns = [column.combine_chunks() for column in table.columns]
        clips = cls(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
        clips.check()
        return clips

    def check(self) -> None:
        """Check what was read from a file.

        Raises:
            ValueError: a column has another name or type, lacks a value, or is damaged.
        """
        if not self.batch.schema.equals(SCHEMA):
            raise ValueError("other columns")
        self.batch.validate(full=True)
        for field in SCHEMA:
            if not field.nullable and self.batch.column(field.name).null_count:
                raise ValueError(f"a clip has no {field.name}")

    def __len__(self) -> int:
        return self.batch.num_rows if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Clip: ...

    @overload
    def __getitem__(self, index: slice) -> Clips: ...

    def __getitem__(self, index: int | slice) -> Clip | Clips:
        if isinstance(index, slice):
            return self.select(np.arange(*index.indices(len(self))))
        place = range(len(self))[index]
        return _decode(self.batch.slice(place if self._rows is None else int(self._rows[place]), 1))[0]

    def __iter__(self) -> Iterator[Clip]:
        for first in range(0, len(self), _CHUNK):
            yield from _decode(self[first : first + _CHUNK].compact().batch)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def select(self, chosen: NDArray[Any]) -> Clips:
        """Return the clips at some places: a mask (clips,), or indices in the order wanted."""
        rows = np.arange(len(self), dtype=np.int32) if self._rows is None else self._rows
        return Clips(self.batch, rows[chosen])

    def compact(self) -> Clips:
        """Return the same clips with a batch of their own, without other rows."""
        return self if self._rows is None else Clips(self.batch.take(_from_numpy(self._rows)))

    def find(self, name: str) -> Clip | None:
        """Return the clip with this id, if there is one."""
        place = pc.index(self._ids(), name).as_py()
        return self[place] if place >= 0 else None

    @property
    def ids(self) -> list[str]:
        """The id of each clip."""
        found: list[str] = self._ids().to_pylist()
        return found

    @property
    def durations(self) -> NDArray[np.float64]:
        """Seconds of each clip, (clips,)."""
        return self._numbers("duration")

    def has(self, *modalities: Modality) -> NDArray[np.bool_]:
        """Return which clips have all of these modalities, (clips,)."""
        found = np.ones(len(self), bool)
        for modality in modalities:
            valid = self.batch.column(f"{modality}_offset").is_valid().cast(pa.uint8())
            found &= self._of_rows(_to_numpy(valid).view(bool))
        return found

    def match(
        self, column: Literal["splits", "labels"], condition: Callable[[tuple[str, ...]], object]
    ) -> NDArray[np.bool_]:
        """Return for which clips a condition on their splits or labels is true, (clips,)."""
        values, places = self.distinct(column)
        return np.array([bool(condition(value)) for value in values], bool)[places]

    def distinct(
        self, column: Literal["splits", "labels"]
    ) -> tuple[list[tuple[str, ...]], NDArray[np.int32]]:
        """Return the splits or labels that occur, and for each clip where among them its own are."""
        texts, places = self._shared(column)
        return [_SPLIT[column](text) for text in texts], places

    @property
    def splits(self) -> set[str]:
        """The splits that any clip has in any fold."""
        return {split for splits in self.distinct("splits")[0] for split in splits}

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return int(sum(self._numbers(f"{m}_size")[self.has(m)].sum() for m in MODALITIES))

    def shard_ends(self) -> dict[str, int]:
        """Return how many bytes of each shard the clips need."""
        shards, places = self._shared("shard")
        ends = np.zeros(len(shards), np.int64)
        for modality in MODALITIES:
            end = self._numbers(f"{modality}_offset") + self._numbers(f"{modality}_size")
            has = self.has(modality)
            np.maximum.at(ends, places[has], end[has])
        return dict(zip(shards, ends.tolist(), strict=True))

    def _shared(self, column: str) -> tuple[list[str], NDArray[np.int32]]:
        """Return the texts that occur in a column, and for each clip where among them its own is."""
        dictionary = self.batch.column(column).dictionary
        codes = self._numbers(column)
        occurs = np.bincount(codes, minlength=len(dictionary)) > 0
        texts: list[str] = dictionary.take(_from_numpy(np.flatnonzero(occurs))).to_pylist()
        return texts, np.cumsum(occurs, dtype=np.int32)[codes] - np.int32(1)

    def _numbers(self, name: str) -> NDArray[Any]:
        """Return a column's numbers; of texts that rows share, their places in the dictionary."""
        column = self.batch.column(name)
        return self._of_rows(_to_numpy(getattr(column, "indices", column)))

    def _of_rows(self, values: NDArray[Any]) -> NDArray[Any]:
        return values if self._rows is None else values[self._rows]

    def _ids(self) -> pa.Array:
        column = self.batch.column("id")
        return column if self._rows is None else column.take(_from_numpy(self._rows))


# Arrow's own conversions from and to NumPy import pandas where it is installed: 0.5 s and 40 MB.
def _from_numpy(rows: NDArray[np.integer[Any]]) -> pa.Array:
    values = pa.py_buffer(np.ascontiguousarray(rows, np.int32))
    return pa.Array.from_buffers(pa.int32(), len(rows), [None, values])


def _to_numpy(column: pa.Array) -> NDArray[Any]:
    """Return numbers without a copy; where one is missing, any."""
    values = [None, column.buffers()[1]]
    return np.from_dlpack(pa.Array.from_buffers(column.type, len(column), values, 0, column.offset))


def _decode(batch: pa.RecordBatch) -> list[Clip]:
    """Return the clips of all rows."""
    columns = {name: batch.column(name).to_pylist() for name in SCHEMA.names}
    for name, split in _SPLIT.items():
        columns[name] = [split(text) for text in columns[name]]
    return [Clip(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
