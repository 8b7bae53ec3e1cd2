"""Write a page of clips, each next to those that look like it, sound like it, or have a sound that fits.

Usage: python examples/neighbors.py RUN CLIPS PAGE.html
"""

from __future__ import annotations

import math
import sys
from html import escape
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

import xkd

SHOWN, NEAREST = 10, 3
KINDS = {
    "looks like it": ("video", "video"),
    "sounds like it": ("audio", "audio"),
    "has a sound that fits": ("video_projected", "audio_projected"),
}
"""Columns of the table that are compared: features within a modality, those of the projectors across."""


def find_nearest(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return for each query (N, D) the rows of the vectors (N, D) of highest cosine, without its own."""
    queries, vectors = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, vectors))
    cosines = queries @ vectors.T
    np.fill_diagonal(cosines, -2)
    return np.argsort(-cosines)[:, :NEAREST]


def cell(path: str) -> str:
    """Return a cell that plays a file, if the browser knows its codecs, and names it."""
    source = Path(path).resolve().as_uri()
    return f'<td><video src="{source}#t=1" width="160" preload="metadata" controls></video><br>{escape(path)}'


def main(run: Path, clips: Path, page: Path) -> None:
    """Embed all clips, one row each, then search with a product of matrices."""
    table = page.with_suffix(".parquet")
    xkd.embed(run, [clips], table, rows="clip")
    rows = pq.read_table(table).drop_null()  # silent clips and sounds have vectors of one modality only
    paths = rows["path"].to_pylist()
    nearest = {
        kind: find_nearest(*(np.stack(rows[column].to_numpy()) for column in columns))
        for kind, columns in KINDS.items()
    }
    heads = "".join(f'<th colspan="{NEAREST}">{kind}' for kind in KINDS)
    style = "td { max-width: 160px; overflow-wrap: anywhere; vertical-align: top; font-size: 12px }"
    lines = [
        f'<!doctype html><meta charset="utf-8"><title>Neighbors</title><style>{style}</style>',
        f"<table><tr><th>clip{heads}",
    ]
    for row in range(0, len(paths), math.ceil(len(paths) / SHOWN)):
        found = [paths[other] for kind in KINDS for other in nearest[kind][row]]
        lines.append(f"<tr>{''.join(map(cell, [paths[row], *found]))}")
    page.write_text("\n".join([*lines, "</table>\n"]))
    print(f"page: {page}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
