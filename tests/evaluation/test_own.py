"""Which protocols a dataset of one's own has."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xkd.data.shards.clips import Clip, Clips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.sources.source import OFFICIAL
from xkd.errors import UserError
from xkd.evaluation.plan import choose, make_task, stages
from xkd.evaluation.specs import EVAL_SPECS, PRETRAINING, specs_of
from xkd.evaluation.splits import read_splits

OWN = {"layout": "classes", "left_out": {}}
Make = Callable[..., PreparedDataset]


@pytest.fixture
def make(prepared: Path, tmp_path: Path) -> Make:
    """Return a function that writes the embedded dataset as one of one's own, each clip changed."""

    def write(change: Callable[[Clip], Clip] = lambda clip: clip, **values: Any) -> PreparedDataset:
        shutil.copytree(prepared, tmp_path / "mine", dirs_exist_ok=True)
        found = PreparedDataset.open(tmp_path / "mine")
        replace(
            found, **{"name": "mine", "own": OWN, "clips": Clips.of(map(change, found.clips)), **values}
        ).write()
        return PreparedDataset.open(tmp_path / "mine")

    return write


def kinds(dataset: PreparedDataset) -> set[str]:
    return {f"{spec.protocol} of {spec.modality} by {spec.metric}" for spec in specs_of(dataset)}


BOTH = ("video", "audio")
RETRIEVAL = "retrieval of audiovisual by recall"


def test_one_label_a_clip_is_scored_by_every_protocol(make: Make) -> None:
    single = {f"{name} of {modality} by top1" for name in ("svm", "fc", "finetune") for modality in BOTH}
    assert kinds(make()) == single | {"fusion of audiovisual by top1", RETRIEVAL}
    chosen = choose([make().root], ["teacher"])
    assert len(chosen) == 8
    assert list(stages([make().root], ["teacher"], ["svm"])) == [
        "mine-video-svm-teacher",
        "mine-audio-svm-teacher",
    ]


def test_several_labels_are_scored_by_precision(make: Make) -> None:
    several = make(lambda clip: replace(clip, labels=(*clip.labels, "any")), classes=("any", *make().classes))
    assert kinds(several) == {
        RETRIEVAL,
        *(f"{name} of {modality} by map" for name in ("fc", "finetune") for modality in BOTH),
    }
    tuned = make_task("mine", "video", "finetune", "teacher").finetune
    assert tuned is not None
    assert (tuned.label_smoothing, tuned.video.resolution) == (0, None)


def test_folds_are_the_dataset_s(make: Make) -> None:
    folded = make(lambda clip: replace(clip, splits=("train", "test")[:: 1 if clip.id < "t" else -1]))
    assert {task.fold for _, task in choose([folded.root])} == {1, 2}
    assert {spec.folds for spec in specs_of(folded)} == {2}


@pytest.mark.parametrize("labelled", ["", "train", "val"])
def test_without_labels_in_both_splits_there_is_retrieval_alone(make: Make, labelled: str) -> None:
    bare = make(lambda clip: clip if labelled in clip.splits else replace(clip, labels=()))
    assert kinds(bare) == {RETRIEVAL}
    assert [task.name for _, task in choose([bare.root], ["teacher"])] == [
        "mine-audiovisual-retrieval-teacher"
    ]


def test_without_labels_and_test_clips_there_is_no_evaluation(make: Make) -> None:
    bare = make(lambda clip: replace(clip, labels=(), splits=("train",)))
    assert specs_of(bare) == ()
    with pytest.raises(
        UserError, match=r"mine: no evaluation of dataset mine: it has no labels, or none in train"
    ):
        choose([bare.root])


def test_clips_without_labels_are_left_out(make: Make) -> None:
    bare = {clip.id for clip in make().split("train")[:5]}
    some = make(lambda clip: replace(clip, labels=()) if clip.id in bare else clip)
    splits = read_splits(some, 1, ["video"], "top1")
    assert all(clip.labels for clip in (*splits.train, *splits.test))
    assert len(splits.train) == len(some.split("train")) - 5


def test_an_official_dataset_has_its_own_protocols_alone(make: Make) -> None:
    with pytest.raises(UserError, match=r"dataset embedded has no evaluation by fc of video"):
        make_task("embedded", "video", "fc", "teacher")
    assert kinds(make(name="kinetics600", own=None)) == set()
    assert {*EVAL_SPECS, *PRETRAINING} == set(OFFICIAL)  # names that no dataset of one's own has
