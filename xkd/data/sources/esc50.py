"""ESC-50."""

from __future__ import annotations

from collections.abc import Iterator

from xkd.data.sources.files import Files
from xkd.data.sources.layout import Layout, SourceClip, to_id

_TABLE = "meta/esc50.csv"
_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
_FOLDS = range(1, 6)


def _read(files: Files) -> Iterator[SourceClip]:
    """``meta/esc50.csv`` and ``audio/*.wav``; five folds, each once the test set."""
    classes: dict[str, str] = {}
    for row in files.rows(_TABLE, _COLUMNS):
        fold, target, label, name = row.to_int("fold"), row["target"], row["category"], row["filename"]
        if fold not in _FOLDS:
            raise row.error(f"expected fold 1 to {len(_FOLDS)}, found {fold}")
        if classes.setdefault(target, label) != label:
            raise row.error(f"unknown class {label}; target {target} is {classes[target]} in an earlier row")
        place = f"audio/{name}"
        splits = tuple("test" if tested == fold else "train" for tested in _FOLDS)
        yield SourceClip(
            id=to_id(name), file=files.media.get(place), place=place, splits=splits, labels=(label,)
        )


ESC50 = Layout(name="esc50", marks=(_TABLE,), kind="audio", read=_read)
