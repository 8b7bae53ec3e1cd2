"""UCF101 and HMDB51."""

from __future__ import annotations

from collections.abc import Iterator

from xkd.data.sources.layout import Files, Layout, Line, SourceClip, to_id
from xkd.errors import UserError

_UCF_LISTS, _HMDB_LISTS = "ucfTrainTestlist", "testTrainMulti_7030_splits"
_HMDB_TAGS = {"1": "train", "2": "test", "0": "unused"}


def _read_ucf101(files: Files) -> Iterator[SourceClip]:
    """``UCF-101/{class}/*.avi``, ``ucfTrainTestlist/{classInd,trainlist0?,testlist0?}.txt``; three folds."""
    classes = {line.text.split()[-1] for line in files.lines(f"{_UCF_LISTS}/classInd.txt")}
    splits: dict[str, list[str]] = {}
    for fold in range(3):
        for split in ("train", "test"):
            table = f"{_UCF_LISTS}/{split}list0{fold + 1}.txt"
            lines = list(files.lines(table))
            if not lines:
                raise UserError(f"{files.root / table} is empty; fetch it again")
            for line in lines:
                name = line.text.split()[0]
                line.check_class(name.split("/")[0], classes, "classInd.txt")
                _assign_split(splits, name, fold, split, line)
    for name, folds in sorted(splits.items()):
        # The folder decides the class: HandstandPushups holds files named HandStandPushups.
        label, _, file = name.rpartition("/")
        yield files.clip(to_id(file), f"UCF-101/{name}", folds, label)


def _read_hmdb51(files: Files) -> Iterator[SourceClip]:
    """``HMDB-51/{class}/*.avi`` and ``testTrainMulti_7030_splits/{class}_test_split?.txt``; three folds."""
    tables = (files.root / _HMDB_LISTS).glob("*_test_split?.txt")
    classes = sorted({table.name.rpartition("_test_split")[0] for table in tables})
    for folder in files.folders:
        label = folder.removeprefix("HMDB-51/")
        if label != folder and label not in classes:
            raise UserError(
                f"{files.root / folder}: unknown class {label}; {_HMDB_LISTS} has no {label}_test_split1.txt"
            )
    for label in classes:
        splits: dict[str, list[str]] = {}
        for fold in range(3):
            for line in files.lines(f"{_HMDB_LISTS}/{label}_test_split{fold + 1}.txt"):
                name, _, tag = line.text.rpartition(" ")
                if tag not in _HMDB_TAGS:
                    raise line.error(f"expected 1 (train), 2 (test) or 0 (unused), found {tag!r}")
                _assign_split(splits, name.strip(), fold, _HMDB_TAGS[tag], line)
        for name, folds in sorted(splits.items()):
            yield files.clip(to_id(name), f"HMDB-51/{label}/{name}", folds, label)


def _assign_split(splits: dict[str, list[str]], name: str, fold: int, split: str, line: Line) -> None:
    """Record the split of a clip in one of three folds, from 0; lists may name it only once per fold."""
    folds = splits.setdefault(name, ["unused"] * 3)
    if folds[fold] != "unused":
        raise line.error(f"{name} is {split} and {folds[fold]} in split {fold + 1}; remove one of the rows")
    folds[fold] = split


UCF101 = Layout(name="ucf101", marks=(f"{_UCF_LISTS}/classInd.txt",), kind="video", read=_read_ucf101)
HMDB51 = Layout(name="hmdb51", marks=(_HMDB_LISTS,), kind="video", read=_read_hmdb51)
