"""search: the clips of a table of embeddings that are nearest to a media file."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xkd.data.media.damage import MediaError
from xkd.embedding.encode import Encoders
from xkd.embedding.table import Index, read_index
from xkd.errors import UserError

_BLOCK = 65_536
"""Rows that are compared at once without FAISS."""
_KINDS = {
    "Video like the video": ("video", "video"),
    "Sound like the sound": ("audio", "audio"),
    "Sound that fits the video": ("video_projected", "audio_projected"),
    "Video that fits the sound": ("audio_projected", "video_projected"),
}
"""Columns of the query and of the rows that are compared: pooled within, projected across modalities."""


@dataclass(frozen=True)
class Hit:
    """A clip, by its most similar row."""

    path: str
    start: float
    end: float
    cosine: float


def search(index: Path, query: Path, k: int, run: Path | None = None) -> dict[str, list[Hit]]:
    """Return the `k` nearest clips within and across modalities, as far as query and table have them.

    Within a modality, the query's own rows are left out.

    Args:
        index: written by `embed`.
        query: a media file.
        run: with the encoders of the table; default: where they were.

    Raises:
        UserError: the table, its run or the query cannot be read, or the encoders are others.
    """
    if k < 1:
        raise UserError(f"--k must be positive, got {k}")
    table = read_index(index)
    place = run or Path(table.about["run"])
    encoders = Encoders.load(place, table.about["role"], torch.device("cpu"))
    if encoders.hash != table.about["weights"]:
        raise UserError(f"{index} was made with other encoders than those of {place}; give --run")
    try:
        vectors = encoders.embed_file(query)
    except MediaError as error:
        raise UserError(f"{query} cannot be read: {error}") from None
    # Rows name files as they were given to `embed`: the query may be spelled in another way.
    alike = (Path(path) for path in set(table.paths) if Path(path).name == query.name)
    own_rows = {str(path) for path in alike if path.resolve() == query.resolve()}
    found = {}
    for title, (own, other) in _KINDS.items():
        if vectors.get(own) is not None and other in table.vectors:
            found[title] = find_nearest(table, other, vectors[own], k, own_rows if own == other else ())
    return found


def find_nearest(
    table: Index, column: str, vector: NDArray[Any], k: int, left_out: Collection[str] = ()
) -> list[Hit]:
    """Return the `k` paths whose rows have the highest cosine with a vector, each by its best row."""
    kept = ~np.isnan(table.vectors[column][:, 0])
    kept &= np.array([path not in left_out for path in table.paths], bool)
    rows = np.flatnonzero(kept)
    if not len(rows):
        return []
    paths, counts = np.unique(np.array(table.paths)[rows], return_counts=True)
    # So many rows that even the longest clips leave enough others.
    count = min(len(rows), int(np.sort(counts)[::-1][: k - 1].sum()) + 1) if k < len(paths) else len(rows)
    cosines, places = _top(_unit(table.vectors[column][rows]), _unit(vector[None])[0], count)
    best: dict[str, Hit] = {}
    for cosine, row in zip(cosines.tolist(), rows[places].tolist(), strict=True):
        hit = Hit(table.paths[row], float(table.starts[row]), float(table.ends[row]), cosine)
        best.setdefault(hit.path, hit)
    return list(best.values())[:k]


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = np.ascontiguousarray(
        vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32
    )
    return unit


def _top(
    vectors: NDArray[np.float32], query: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the highest products of rows (N, D) with a query (D,), and the rows, best first."""
    if _has_faiss():
        import faiss

        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        products, places = index.search(query[None], count)
        return products[0], places[0]
    blocks = [vectors[first : first + _BLOCK] @ query for first in range(0, len(vectors), _BLOCK)]
    whole = np.concatenate(blocks)
    best = np.argsort(-whole, kind="stable")[:count]
    return whole[best], best


def _has_faiss() -> bool:
    return importlib.util.find_spec("faiss") is not None
