"""ESC-50 and FSD50K."""

from __future__ import annotations

from collections.abc import Iterator

from xkd.data.sources.layout import Files, Layout, SourceClip, to_id

_ESC_TABLE, _FSD_TRUTH = "meta/esc50.csv", "FSD50K.ground_truth"
_FSD_COLUMNS = {"dev": ("fname", "labels", "mids", "split"), "eval": ("fname", "labels", "mids")}


def _read_esc50(files: Files) -> Iterator[SourceClip]:
    """``meta/esc50.csv`` and ``audio/*.wav``; five folds, each once the test set."""
    classes: dict[str, str] = {}
    columns = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    for row in files.rows(_ESC_TABLE, columns):
        fold, target, label = row.to_number("fold", int), row["target"], row["category"]
        if fold not in range(1, 6):
            raise row.error(f"expected fold 1 to 5, found {fold}")
        if classes.setdefault(target, label) != label:
            raise row.error(f"unknown class {label}; target {target} is {classes[target]} in an earlier row")
        splits = ("test" if tested == fold else "train" for tested in range(1, 6))
        yield files.clip(to_id(row["filename"]), f"audio/{row['filename']}", splits, label)


def _read_fsd50k(files: Files) -> Iterator[SourceClip]:
    """``FSD50K.ground_truth/{dev,eval,vocabulary}.csv``; dev is train and val, eval is test; many labels."""
    vocabulary = files.rows(f"{_FSD_TRUTH}/vocabulary.csv", ("index", "label", "mid"), header=False)
    classes = {row["label"] for row in vocabulary}
    for part, columns in _FSD_COLUMNS.items():
        for row in files.rows(f"{_FSD_TRUTH}/{part}.csv", columns):
            labels = row["labels"].split(",")
            for label in labels:
                row.check_class(label, classes, "vocabulary.csv")
            split = row["split"] if part == "dev" else "test"
            if split not in ("train", "val", "test"):
                raise row.error(f"expected split train or val, found {split!r}")
            yield files.clip(row["fname"], f"FSD50K.{part}_audio/{row['fname']}.wav", [split], *labels)


ESC50 = Layout(name="esc50", marks=(_ESC_TABLE,), kind="audio", read=_read_esc50)
FSD50K = Layout(name="fsd50k", marks=(f"{_FSD_TRUTH}/dev.csv",), kind="audio", read=_read_fsd50k)
