"""UCF101 and HMDB51."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence

from xkd.data.sources.files import VIDEO_SUFFIXES, to_id
from xkd.data.sources.layout import Files, Layout, Line, SourceClip
from xkd.errors import UserError

_FOLDS = 3
_HMDB_TAGS = {"1": "train", "2": "test", "0": "unused"}


def _read_ucf101(files: Files) -> Iterator[SourceClip]:
    """``UCF-101/{class}/*.avi``, ``ucfTrainTestlist/{classInd,trainlist0?,testlist0?}.txt``; three folds."""
    folder = _list_folder(files)
    known = files.layout.find_list(files.root, "classInd.txt")
    classes = {line.text.split()[-1] for line in files.lines(known)} if known else None
    listed = [
        [files.layout.find_list(files.root, f"{split}list0{fold}.txt") for split in ("train", "test")]
        for fold in range(1, _FOLDS + 1)
    ]
    folds = _count_folds(files, [any(pair) for pair in listed])
    splits: dict[str, list[str]] = {}
    for fold, pair in enumerate(listed[:folds]):
        for split, table in zip(("train", "test"), pair, strict=True):
            table = table or f"{folder}{split}list0{fold + 1}.txt"
            lines = list(files.lines(table))
            if not lines:
                raise UserError(f"{files.root / table} is empty; fetch it again")
            for line in lines:
                name = "/".join(line.text.split()[0].split("/")[-2:])
                if classes is not None:
                    line.check_class(name.split("/")[0], classes, "classInd.txt")
                elif "/" not in name:
                    raise line.error(f"expected CLASS/NAME.avi, found {name}")
                _assign_split(splits, name, fold, folds, split, line)
    for name, assigned in sorted(splits.items()):
        # The folder decides the class: HandstandPushups holds files named HandStandPushups.
        label, _, file = name.rpartition("/")
        yield files.clip(to_id(file), f"UCF-101/{name}", assigned, label)


def _read_hmdb51(files: Files) -> Iterator[SourceClip]:
    """``HMDB-51/{class}/*.avi`` and ``testTrainMulti_7030_splits/{class}_test_split?.txt``; three folds."""
    folder = _list_folder(files)
    names = [path.name for path in sorted((files.root / folder).iterdir())]
    tables = fnmatch.filter(names, "*_test_split[123].txt")
    classes = sorted({table.rpartition("_test_split")[0] for table in tables})
    numbers = {table.rpartition("_test_split")[2][0] for table in tables}
    folds = _count_folds(files, [str(fold) in numbers for fold in range(1, _FOLDS + 1)])
    for label in classes:
        splits: dict[str, list[str]] = {}
        for fold in range(folds):
            for line in files.lines(f"{folder}{label}_test_split{fold + 1}.txt"):
                name, _, tag = line.text.rpartition(" ")
                if tag not in _HMDB_TAGS:
                    raise line.error(f"expected 1 (train), 2 (test) or 0 (unused), found {tag!r}")
                _assign_split(splits, name.strip(), fold, folds, _HMDB_TAGS[tag], line)
        for name, assigned in sorted(splits.items()):
            yield files.clip(to_id(name), f"HMDB-51/{label}/{name}", assigned, label)


def _list_folder(files: Files) -> str:
    """Return the folder of the lists, with a slash at its end unless it is the root.

    Raises:
        UserError: there are no lists.
    """
    if (table := files.layout.find_list(files.root)) is None:
        raise files.lacks(files.layout.folders[0] + files.layout.lists[0])
    return table[: table.rfind("/") + 1]


def _count_folds(files: Files, listed: Sequence[bool]) -> int:
    """Return the number of folds: all up to the last one that has a list."""
    folds = max(fold for fold, has_list in enumerate(listed, 1) if has_list) if any(listed) else 1
    if folds < _FOLDS:
        files.notes.append(f"only {folds} of {_FOLDS} folds have lists")
    return folds


def _assign_split(
    splits: dict[str, list[str]], name: str, fold: int, folds: int, split: str, line: Line
) -> None:
    """Record the split of a clip in one of the folds, from 0; lists may name it only once per fold."""
    assigned = splits.setdefault(name, ["unused"] * folds)
    if assigned[fold] != "unused":
        raise line.error(
            f"{name} is {split} and {assigned[fold]} in split {fold + 1}; remove one of the rows"
        )
    assigned[fold] = split


UCF101 = Layout(
    name="ucf101",
    lists=("trainlist01.txt", "trainlist0[23].txt", "classInd.txt"),
    folders=(
        "ucfTrainTestlist/",
        "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist/",
        "UCF101TrainTestSplits-RecognitionTask/",
        "annotations/",
        "splits/",
        "",
    ),
    kind="video",
    suffixes=VIDEO_SUFFIXES,
    read=_read_ucf101,
)
HMDB51 = Layout(
    name="hmdb51",
    lists=("*_test_split1.txt", "*_test_split[23].txt"),
    folders=(
        "testTrainMulti_7030_splits/",
        "test_train_splits/testTrainMulti_7030_splits/",
        "test_train_splits/",
        "annotations/",
        "splits/",
        "",
    ),
    kind="video",
    suffixes=VIDEO_SUFFIXES,
    read=_read_hmdb51,
)
