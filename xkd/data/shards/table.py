"""The files that list the clips of a prepared dataset: a CSV file, and the same rows as an Arrow file.

The Arrow file is not read but mapped into memory: its pages come from the disk when they are used, and all
processes of a machine share them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pyarrow import csv as arrow_csv

from xkd.data.shards.clips import SCHEMA, Clip, Clips
from xkd.errors import UserError
from xkd.io import one_line, write_atomically

ROWS = "manifest.csv"
COLUMNS = "manifest.arrow"
_SIZE, _HASH = b"manifest.csv bytes", b"manifest.csv sha256"
"""Metadata of the Arrow file: size and hash of the CSV file with its rows."""


def write_clips(root: Path, clips: Clips) -> None:
    """Write manifest.csv and then manifest.arrow, each atomically."""
    write_table(root / ROWS, [field.name for field in fields(Clip)], (clip.to_row() for clip in clips))
    about = {_SIZE: str((root / ROWS).stat().st_size), _HASH: _hash(root / ROWS)}
    schema, batch = SCHEMA.with_metadata(about), clips.compact().batch

    def write(file: BinaryIO) -> None:
        with pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))

    write_atomically(root / COLUMNS, write)


def read_clips(root: Path) -> Clips:
    """Return the clips of a prepared dataset, by manifest.arrow or, if that has other rows, by manifest.csv.

    Directories that earlier versions prepared have only the latter, and it may have been edited since.

    Raises:
        OSError: there is no manifest.csv.
        UserError: manifest.arrow is damaged.
        KeyError, ValueError: manifest.csv is damaged.
    """
    rows, columns = root / ROWS, root / COLUMNS
    found = rows.stat()
    if columns.is_file():
        batch = _map(columns)
        about = batch.schema.metadata
        # Times tell of a change without reading the file; after copying, they may be in another order.
        if about[_SIZE] == str(found.st_size).encode() and (
            found.st_mtime_ns <= columns.stat().st_mtime_ns or about[_HASH] == _hash(rows).encode()
        ):
            return Clips(batch)
    # Without a conversion, an empty text would be a missing one.
    types = arrow_csv.ConvertOptions(column_types=SCHEMA, include_columns=SCHEMA.names)
    quotes = arrow_csv.ParseOptions(newlines_in_values=True)
    return Clips.from_table(arrow_csv.read_csv(rows, parse_options=quotes, convert_options=types))


def _map(path: Path) -> pa.RecordBatch:
    """Return the rows of an Arrow file, mapped into memory."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.py_buffer(mapped))
        if not {_SIZE, _HASH} <= (reader.schema.metadata or {}).keys():
            raise ValueError("it is not by xkd prepare")
        if reader.num_record_batches != 1:
            raise ValueError(f"it has {reader.num_record_batches} batches of rows")
        batch = reader.get_batch(0)
        Clips(batch).check()
        # Of the pages that the check has read, the process needs few; the others stay in the cache of files.
        mapped.madvise(mmap.MADV_DONTNEED)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise UserError(
            f"cannot read {path}: {one_line(error)}; delete it, and {ROWS}, which has the same rows, is read"
        ) from None
    return batch


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a CSV table with a header and Unix line ends atomically."""

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text.detach()

    write_atomically(path, write)
