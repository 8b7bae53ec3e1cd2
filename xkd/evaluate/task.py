"""One evaluation task: a dataset, a modality, a protocol and an encoder become one small score file."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from xkd.config import Modality, PretrainConfig, load_config
from xkd.data.manifest import Clip, Manifest
from xkd.errors import UserError
from xkd.evaluate.features import FeatureStore, describer
from xkd.evaluate.probe import Windows, probe
from xkd.evaluate.scores import EvaluatedEncoder, EvaluatedModality, Protocol, Score, per_class, top1
from xkd.settings import build, to_dict
from xkd.train.run import git_commit

INPUTS: dict[EvaluatedModality, tuple[Modality, ...]] = {
    "video": ("video",),
    "audio": ("audio",),
    "audiovisual": ("video", "audio"),
}
"""The modalities whose features are concatenated (late fusion, A.5)."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Task:
    """What one evaluation computes; the fan-out is a list of these."""

    dataset: str = ""
    """Name that the prepared dataset must have; empty: whatever it has."""
    modality: EvaluatedModality = "video"
    protocol: Protocol = "svm"
    """``svm``: a linear SVM on one modality's features; ``fusion``: on both, concatenated."""
    encoder: EvaluatedEncoder = "teacher"
    """``random``: the same encoder, never trained; ``raw``: the downsampled input itself."""
    train_windows: int = 5
    """Random windows of a training clip (the paper: 25)."""
    test_windows: int = 3
    """Evenly spaced windows of a test clip, as in the paper."""
    seed: int = 0
    """Of the training windows and their augmentation, the random encoder and the validation part."""

    @model_validator(mode="after")
    def _fits_together(self) -> Task:
        if (self.protocol == "fusion") != (self.modality == "audiovisual"):
            wanted = "modality audiovisual" if self.protocol == "fusion" else "modality video or audio"
            raise UserError(f"protocol {self.protocol} is for {wanted}, not {self.modality}")
        if min(self.train_windows, self.test_windows) < 1:
            raise UserError("train_windows and test_windows must be at least 1")
        return self

    @property
    def name(self) -> str:
        """``{dataset}-{modality}-{protocol}-{encoder}``; also the score file's name."""
        return f"{self.dataset}-{self.modality}-{self.protocol}-{self.encoder}"

    @property
    def windows(self) -> dict[str, int]:
        """Windows a clip, by ``train`` and ``test``."""
        return {"train": self.train_windows, "test": self.test_windows}


def parse_task(values: Mapping[str, Any]) -> Task:
    """A task from plain values, as pipelines carry them (whole floats count as integers).

    Raises:
        UserError: one line naming the field that is unknown or holds what does not exist.
    """
    return build(Task, values, "task")


def task_values(task: Task) -> dict[str, Any]:
    """Plain values of a task, for JSON; `parse_task` undoes it."""
    return to_dict(task)


def _fan_out() -> tuple[Task, ...]:
    kinds: tuple[tuple[EvaluatedModality, Protocol], ...] = (
        ("video", "svm"),
        ("audio", "svm"),
        ("audiovisual", "fusion"),
    )
    encoders: tuple[EvaluatedEncoder, ...] = ("teacher", "student", "random", "raw")
    return tuple(
        Task(modality=modality, protocol=protocol, encoder=encoder)
        for encoder in encoders
        for modality, protocol in kinds
    )


TASKS = _fan_out()
"""The default fan-out: every encoder and baseline on each modality and on both."""


def evaluate(run: Path, data: Path, task: Task, out: Path) -> Path:
    """Score one task and write it to ``out/{task.name}.json``.

    A score that is already there, of the same encoder, data and settings, is kept. Features are stored
    in ``out/features`` for the tasks that share them. Why a task failed is written to
    ``out/{task.name}.failed``, so that a table can say why it has a hole.

    Args:
        run: directory of a finished pretraining. Whether its verdict allows an evaluation is the
            caller's decision.
        data: prepared directory.
        task: what to evaluate.
        out: folder of score files.

    Raises:
        UserError: the run, an encoder, a split, a label or a modality is missing; the data is another
            dataset; or `out` holds this task's score of another encoder.
    """
    task = task if task.dataset else dataclasses.replace(task, dataset=Manifest.read(data).name)
    failed = out / f"{task.name}.failed"
    out.mkdir(parents=True, exist_ok=True)
    try:
        path = _evaluate(run, data, task, out)
    except Exception as error:
        failed.write_text(" ".join(str(error).split()) or type(error).__name__)
        raise
    failed.unlink(missing_ok=True)
    return path


def _evaluate(run: Path, data: Path, task: Task, out: Path) -> Path:
    begin = time.time()
    config = read_config(run)
    splits = _read_splits(data, task)
    encoders = {m: describer(run, config, task.encoder, m, task.seed) for m in INPUTS[task.modality]}
    identity = "+".join(encoder.hash for encoder in encoders.values())
    path = out / f"{task.name}.json"
    if path.exists():
        _check_same(path, identity, splits.revision, task)
        return path

    store = FeatureStore(out / "features", data, splits.revision, config, task.seed)
    train = _fuse([store.windows(e, splits.train, task.train_windows, train=True) for e in encoders.values()])
    test = _fuse([store.windows(e, splits.test, task.test_windows, train=False) for e in encoders.values()])
    train_labels, test_labels = splits.labels(splits.train), splits.labels(splits.test)
    fitted = probe(train, train_labels, test, len(splits.test), len(splits.classes), task.seed)
    score = Score(
        dataset=task.dataset,
        modality=task.modality,
        protocol=task.protocol,
        encoder=task.encoder,
        score=top1(fitted.decisions, test_labels),
        chance=1 / len(splits.classes),
        classes=list(splits.classes),
        per_class=per_class(fitted.decisions, test_labels, splits.classes),
        train_clips=len(splits.train),
        test_clips=len(splits.test),
        windows=task.windows,
        C=fitted.cost,
        sweep={f"{cost:g}": value for cost, value in fitted.sweep.items()},
        encoder_hash=identity,
        data_revision=splits.revision,
        preset=config.preset,
        seed=task.seed,
        commit=git_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.time() - begin, 1),
    )
    print(f"{task.name}: top-1 {score.score:.1%} (chance {score.chance:.1%}), C {score.C:g}", file=sys.stderr)
    return score.write(out)


def read_config(run: Path) -> PretrainConfig:
    """The resolved configuration of a run.

    Raises:
        UserError: `run` is no run directory.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"no run in {run}: it has no config.yaml; give a directory that xkd pretrain wrote")
    return load_config(path)


class _Splits(NamedTuple):
    """The clips a task fits and tests on."""

    train: list[Clip]
    test: list[Clip]
    classes: tuple[str, ...]
    revision: str

    def labels(self, clips: list[Clip]) -> NDArray[np.int64]:
        """Each clip's class number."""
        return np.array([self.classes.index(clip.labels[0]) for clip in clips])


def _read_splits(data: Path, task: Task) -> _Splits:
    """The clips of the data's train and test splits (of its first fold) that have the task's modalities."""
    manifest = Manifest.read(data)
    if manifest.name != task.dataset:
        raise UserError(f"the task is for dataset {task.dataset}, but {data} holds {manifest.name}")
    wanted = INPUTS[task.modality]
    names = {clip.splits[0] for clip in manifest.clips}
    parts = []
    for split in ("train", "test" if "test" in names else "val"):
        clips = [clip for clip in manifest.split(split) if clip.has(wanted)]
        if not clips:
            raise UserError(
                f"no clip of split {split} in {data} has {' and '.join(wanted)}; choose another modality"
            )
        for clip in clips:
            if len(clip.labels) != 1:
                raise UserError(
                    f"protocol {task.protocol} needs one label a clip; "
                    f"{clip.id} in {data} has {len(clip.labels)}"
                )
        parts.append(clips)
    return _Splits(parts[0], parts[1], manifest.classes, manifest.revision)


def _check_same(path: Path, identity: str, revision: str, task: Task) -> None:
    """Refuse to pass off a score of something else as this task's."""
    found = Score.read(path)
    pairs = {
        "encoder": (found.encoder_hash, identity),
        "data revision": (found.data_revision, revision),
        "windows": (found.windows, task.windows),
        "seed": (found.seed, task.seed),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise UserError(
                f"{path} is a score of another {what} ({theirs}, not {ours}); use another directory"
            )


def _fuse(parts: list[Windows]) -> Windows:
    """Concatenate the features of several modalities, row by row (A.5)."""
    return Windows(np.concatenate([part.features for part in parts], axis=1), parts[0].clip)
