"""Tables of embeddings: Parquet, written part by part, or the same columns as NumPy arrays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xkd.errors import UserError
from xkd.io import one_line, write_atomically

FORMATS = (".parquet", ".npz")
_META = b"xkd"
Row = dict[str, Any]
"""``path``, ``start``, ``end`` and the vectors (`VECTORS`), None where a window lacks the modality."""
VECTORS = ("video", "audio", "video_projected", "audio_projected")


@dataclass(frozen=True)
class Index:
    """A table of embeddings in memory."""

    paths: list[str]
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    vectors: dict[str, NDArray[np.float32]]
    """By column, (rows, D); NaN where a row has none."""
    about: dict[str, Any]
    """What it was made with."""


def schema(sizes: Mapping[str, int], about: Mapping[str, Any]) -> pa.Schema:
    """Return the columns of a table, with what it was made with and the dimensions of its vectors."""
    columns = [("path", pa.string()), ("start", pa.float64()), ("end", pa.float64())]
    # Not lists of a fixed size: Arrow does not read back those of which a row is null.
    columns += [(name, pa.list_(pa.float32())) for name in sizes]
    return pa.schema(columns, metadata={_META: json.dumps({**about, "sizes": dict(sizes)})})


def write_part(path: Path, rows: Sequence[Row], form: pa.Schema) -> None:
    """Write some rows as one Parquet file, atomically."""
    arrays = [pa.array([row[column.name] for row in rows], column.type) for column in form]
    table = pa.Table.from_arrays(arrays, schema=form)
    write_atomically(path, lambda file: pq.write_table(table, file, use_dictionary=["path"]))


def join_parts(parts: Sequence[Path], out: Path, form: pa.Schema) -> int:
    """Write the parts, in order, as one table, atomically; return the number of rows."""
    if out.suffix == ".npz":
        table = pa.concat_tables([pq.read_table(part) for part in parts])
        sizes = json.loads(form.metadata[_META])["sizes"]
        arrays: dict[str, Any] = {
            "path": np.array(table["path"].to_pylist(), dtype=str),
            "start": table["start"].to_numpy(),
            "end": table["end"].to_numpy(),
            **{name: _matrix(table[name], size) for name, size in sizes.items()},
            "xkd": np.array(form.metadata[_META].decode()),
        }
        write_atomically(out, lambda file: np.savez(file, **arrays))
        return int(table.num_rows)

    count = 0

    def write(file: Any) -> None:
        nonlocal count
        with pq.ParquetWriter(file, form, use_dictionary=["path"]) as writer:
            for part in parts:
                table = pq.read_table(part)
                if table.num_rows:
                    writer.write_table(table)
                count += table.num_rows

    write_atomically(out, write)
    return count


def read_about(path: Path) -> dict[str, Any] | None:
    """Return what a table was made with; None if there is no file.

    Raises:
        UserError: it is not a table of embeddings.
    """
    if not path.exists():
        return None
    try:
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found: dict[str, Any] = json.loads(str(arrays["xkd"]))
        else:
            found = json.loads((pq.read_schema(path).metadata or {})[_META])
    except (KeyError, OSError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} is not a table of xkd embed: {one_line(error)}") from None
    return found


def read_index(path: Path) -> Index:
    """Read a table of embeddings.

    Raises:
        UserError: it is missing or not one.
    """
    if (about := read_about(path)) is None:
        raise UserError(f"{path} does not exist; make it with xkd embed")
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            names = [name for name in VECTORS if name in arrays]
            vectors = {name: arrays[name] for name in names}
            return Index(arrays["path"].tolist(), arrays["start"], arrays["end"], vectors, about)
    table = pq.read_table(path)
    vectors = {name: _matrix(table[name], size) for name, size in about["sizes"].items()}
    starts, ends = (table[name].to_numpy() for name in ("start", "end"))
    return Index(table["path"].to_pylist(), starts, ends, vectors, about)


def _matrix(column: pa.ChunkedArray, size: int) -> NDArray[np.float32]:
    """Return vectors (rows, D), NaN where there is none."""
    matrix = np.full((len(column), size), np.nan, np.float32)
    valid = np.asarray(column.is_valid().to_pylist(), bool)
    chunks = [chunk.flatten().to_numpy() for chunk in column.drop_null().chunks]
    if chunks:
        matrix[valid] = np.concatenate(chunks).reshape(-1, size)
    return matrix


def mean_rows(rows: Iterable[Row]) -> list[Row]:
    """Return one row for each run of rows of the same path: their span, and the means of their vectors."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["path"], []).append(row)
    merged = []
    for path, group in groups.items():
        whole: Row = {"path": path, "start": group[0]["start"], "end": max(one["end"] for one in group)}
        for name in VECTORS:
            values = [one[name] for one in group if one.get(name) is not None]
            mean = np.mean(values, axis=0) if values else None
            if mean is not None and name.endswith("_projected"):
                mean = mean / max(float(np.linalg.norm(mean)), 1e-12)
            if name in group[0]:
                whole[name] = mean
        merged.append(whole)
    return merged
