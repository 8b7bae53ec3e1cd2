"""The lists of clips that could not be prepared, or only in part: skipped.csv and damaged.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xkd.data.shards.table import write_table
from xkd.data.sources.dataset import SourceDataset
from xkd.data.sources.files import printable
from xkd.data.sources.layout import SourceClip
from xkd.errors import UserError

Rows = Sequence[dict[str, str]]
_SKIPPED = ("clip", "path", "reason")
"""Columns of skipped.csv; a file that was left out is no clip, and has no id."""


def to_row(clip: SourceClip, **about: str) -> dict[str, str]:
    """Return a row of one of the lists."""
    return {"clip": clip.id, "path": printable(clip.place), **about}


def check_skipped(dataset: SourceDataset, skipped: Rows, out: Path, limit: float) -> None:
    """Check that not too many clips were skipped; list them if so.

    Args:
        limit: share of the clips that may be skipped.

    Raises:
        UserError: more were skipped.
    """
    total, table = len(dataset.clips), out / "skipped.csv"
    if len(skipped) <= limit * total:
        return
    write_table(table, _SKIPPED, skipped)
    last = f"last {skipped[-1]['path']}: {skipped[-1]['reason']}"
    raise UserError(
        f"{dataset.root}: {len(skipped)} of {total} clips failed, more than max_skipped={limit:g} allows "
        f"({last}; all in {table}); repair or remove these files, or set a larger max_skipped"
    )


def write_lists(out: Path, dataset: SourceDataset, skipped: Rows, damaged: Rows) -> None:
    """Write both lists of a dataset that is prepared."""
    write_table(out / "damaged.csv", ("clip", "path", "damage"), damaged)
    missing = [to_row(clip, reason="absent") for clip in dataset.missing]
    left_out = [{"clip": "", "path": path, "reason": reason} for path, reason in dataset.left_out]
    write_table(out / "skipped.csv", _SKIPPED, [*skipped, *missing, *left_out])
