"""FSD50K."""

from __future__ import annotations

from collections.abc import Iterator

from xkd.data.sources.files import Files
from xkd.data.sources.layout import Layout, SourceClip

_TRUTH = "FSD50K.ground_truth"
_COLUMNS = {"dev": ("fname", "labels", "mids", "split"), "eval": ("fname", "labels", "mids")}


def _read(files: Files) -> Iterator[SourceClip]:
    """``FSD50K.ground_truth/{dev,eval,vocabulary}.csv``; dev is train and val, eval is test; many labels."""
    vocabulary = files.rows(f"{_TRUTH}/vocabulary.csv", ("index", "label", "mid"), header=False)
    classes = {row["label"] for row in vocabulary}
    for part, columns in _COLUMNS.items():
        for row in files.rows(f"{_TRUTH}/{part}.csv", columns):
            labels = tuple(row["labels"].split(","))
            for label in labels:
                row.check_class(label, classes, "vocabulary.csv")
            split = row["split"] if part == "dev" else "test"
            if split not in ("train", "val", "test"):
                raise row.error(f"expected split train or val, found {split!r}")
            place = f"FSD50K.{part}_audio/{row['fname']}.wav"
            yield SourceClip(
                id=row["fname"], file=files.media.get(place), place=place, splits=(split,), labels=labels
            )


FSD50K = Layout(name="fsd50k", marks=(f"{_TRUTH}/dev.csv",), kind="audio", read=_read)
