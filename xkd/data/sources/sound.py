"""ESC-50 and FSD50K."""

from __future__ import annotations

from collections.abc import Iterator

from xkd.data.sources.files import AUDIO_SUFFIXES, to_id
from xkd.data.sources.layout import Files, Layout, Line, SourceClip

_ESC_FOLDS = 5
_FSD_COLUMNS = {"dev": ("fname", "labels", "split"), "eval": ("fname", "labels")}


def _read_esc50(files: Files) -> Iterator[SourceClip]:
    """``meta/esc50.csv`` and ``audio/*.wav``; five folds, each once the test set."""
    table = files.layout.find_list(files.root) or "meta/esc50.csv"
    rows = [(row, row.to_number("fold", int)) for row in files.rows(table, ("filename", "fold", "category"))]
    folds = max((fold for _, fold in rows), default=_ESC_FOLDS)
    if folds < _ESC_FOLDS:
        files.notes.append(f"{table} lists only folds 1 to {folds} of {_ESC_FOLDS}")
    classes: dict[str, str] = {}
    seen: dict[str, tuple[Line, int]] = {}
    for row, fold in rows:
        name, label = row["filename"], row["category"]
        if fold not in range(1, _ESC_FOLDS + 1):
            raise row.error(f"expected fold 1 to {_ESC_FOLDS}, found {fold}")
        target = row.values.get("target", label)
        if classes.setdefault(target, label) != label:
            raise row.error(f"unknown class {label}; target {target} is {classes[target]} in an earlier row")
        first, first_fold = seen.setdefault(to_id(name), (row, fold))
        if first["filename"] != name:
            # Another encoding: it must not count twice, nor be trained on where the first is tested.
            if (first_fold, first["category"]) != (fold, label):
                other = f"{first['filename']} in line {first.number}"
                raise row.error(f"{name} differs in fold or category from {other}; remove one of the rows")
            continue
        splits = ("test" if tested == fold else "train" for tested in range(1, folds + 1))
        yield files.clip(to_id(name), f"audio/{name}", splits, label)


def _read_fsd50k(files: Files) -> Iterator[SourceClip]:
    """``FSD50K.ground_truth/{dev,eval,vocabulary}.csv``; dev is train and val, eval is test; many labels."""
    found = files.layout.find_list(files.root) or "FSD50K.ground_truth/dev.csv"
    folder = found[: found.rfind("/") + 1]
    classes: set[str] = set()
    if vocabulary := files.layout.find_list(files.root, "vocabulary.csv"):
        columns = ("index", "label", "mid")
        classes = {row["label"] for row in files.rows(vocabulary, columns, header=False)}
    for part, needed in _FSD_COLUMNS.items():
        for row in files.rows(f"{folder}{part}.csv", needed):
            labels = row["labels"].split(",")
            for label in labels if vocabulary else ():
                row.check_class(label, classes, "vocabulary.csv")
            split = row["split"] if part == "dev" else "test"
            if split not in ("train", "val", "test"):
                raise row.error(f"expected split train or val, found {split!r}")
            name = to_id(row["fname"])
            yield files.clip(name, f"FSD50K.{part}_audio/{name}.wav", [split], *labels)


ESC50 = Layout(
    name="esc50",
    lists=("esc50.csv",),
    folders=("meta/", "metadata/", ""),
    kind="audio",
    suffixes=AUDIO_SUFFIXES,
    read=_read_esc50,
)
FSD50K = Layout(
    name="fsd50k",
    lists=("dev.csv",),
    folders=("FSD50K.ground_truth/", "ground_truth/"),
    kind="audio",
    suffixes=AUDIO_SUFFIXES,
    read=_read_fsd50k,
)
