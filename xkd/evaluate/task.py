"""One evaluation task: a dataset, a modality, a protocol and an encoder become one small score file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from xkd.config import Modality, PretrainConfig, load_config
from xkd.data.manifest import Clip, Manifest
from xkd.errors import UserError
from xkd.evaluate.fc import RECIPES, fit_and_decide
from xkd.evaluate.features import Describer, FeatureStore, describer
from xkd.evaluate.probe import Choice, Rows, Windows, choose_cost, decide
from xkd.evaluate.protocols import find_setup
from xkd.evaluate.scores import (
    METRICS,
    EvaluatedEncoder,
    EvaluatedModality,
    Metric,
    Protocol,
    Score,
    average_precisions,
    mean_of,
    per_class,
    task_name,
    top1,
)
from xkd.evaluate.splits import Splits, read_splits
from xkd.files import write_text
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
    """``svm``: a linear SVM on one modality's features; ``fusion``: on both, concatenated; ``fc``: a fully
    connected layer."""
    encoder: EvaluatedEncoder = "teacher"
    """``random``: the same encoder, never trained; ``raw``: the downsampled input itself."""
    fold: int = 1
    """Which of the dataset's divisions into training and test clips."""
    train_windows: int | None = None
    """Random windows of a training clip; None: the protocol's (`xkd.evaluate.protocols`)."""
    test_windows: int | None = None
    """Evenly spaced windows of a test clip; None: the protocol's."""
    seed: int = 0
    """Of training windows and their augmentation, the random encoder, the validation part and the probe."""

    @model_validator(mode="after")
    def _fits_together(self) -> Task:
        if (self.protocol == "fusion") != (self.modality == "audiovisual"):
            wanted = "modality audiovisual" if self.protocol == "fusion" else "modality video or audio"
            raise UserError(f"protocol {self.protocol} is for {wanted}, not {self.modality}")
        if min(self.train_windows or 1, self.test_windows or 1) < 1 or 0 in (
            self.train_windows,
            self.test_windows,
        ):
            raise UserError("train_windows and test_windows must be at least 1")
        if self.fold < 1:
            raise UserError("fold must be at least 1")
        return self

    @property
    def name(self) -> str:
        """``{dataset}-{modality}-{protocol}-{encoder}``, the score file's name too; later folds say which."""
        return task_name(self.dataset, self.modality, self.protocol, self.encoder, self.fold)


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
    setup = find_setup(task.dataset, task.modality, task.protocol)
    inputs, one_label = INPUTS[task.modality], task.protocol != "fc"
    splits = read_splits(data, task.dataset, task.fold, inputs, one_label=one_label)
    windows = {
        "train": task.train_windows or setup.train_windows,
        "test": task.test_windows or setup.test_windows,
    }
    encoders = {m: describer(run, config, task.encoder, m, task.seed) for m in inputs}
    identity = "+".join(encoder.hash for encoder in encoders.values())
    path = out / f"{task.name}.json"
    if path.exists():
        _check_same(path, identity, splits.manifest.revision, windows, task)
        return path

    store = FeatureStore(out / "features", splits.manifest, config, task.seed)
    decisions, choice = _decide(task, splits, _Features(store, encoders, windows), identity)
    value, chance, each = _grade(decisions, splits, setup.metric)
    score = Score(
        dataset=task.dataset,
        modality=task.modality,
        protocol=task.protocol,
        encoder=task.encoder,
        fold=task.fold,
        metric=setup.metric,
        score=value,
        chance=chance,
        classes=list(splits.classes),
        per_class=each,
        train_clips=len(splits.train),
        test_clips=len(splits.test),
        windows=windows,
        C=choice.cost if choice else None,
        sweep={f"{cost:g}": share for cost, share in choice.sweep.items()} if choice else {},
        encoder_hash=identity,
        data_revision=splits.manifest.revision,
        preset=config.preset,
        seed=task.seed,
        commit=git_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.time() - begin, 1),
    )
    chosen = f", C {choice.cost:g}" if choice else ""
    print(f"{task.name}: {METRICS[setup.metric]} {value:.1%} (chance {chance:.1%}){chosen}", file=sys.stderr)
    return score.write(out)


def _decide(task: Task, splits: Splits, features: _Features, identity: str) -> tuple[Rows, Choice | None]:
    """What the protocol says of each test clip and class, and how it chose its cost if it has one."""
    train, test = features.train(splits.train), features.test(splits.test)
    clips, classes = len(splits.test), len(splits.classes)
    if task.protocol == "fc":
        labels = splits.labels(splits.train)
        return fit_and_decide(train, labels, test, clips, RECIPES[task.dataset], task.seed), None
    choice = _cost(splits, features, identity, task.seed)
    label = splits.label(splits.train)
    return decide(train, label, test, clips, classes, choice.cost, task.seed), choice


def _grade(decisions: Rows, splits: Splits, metric: Metric) -> tuple[float, float, dict[str, float | None]]:
    """The score of decisions on the test clips, that of chance, and each class's."""
    if metric == "map":
        truth = splits.labels(splits.test)
        each = average_precisions(decisions, truth, splits.classes)
        return mean_of(each), float(truth.mean()), each
    label = splits.label(splits.test)
    return top1(decisions, label), 1 / len(splits.classes), per_class(decisions, label, splits.classes)


def read_config(run: Path) -> PretrainConfig:
    """The resolved configuration of a run.

    Raises:
        UserError: `run` is no run directory.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"no run in {run}: it has no config.yaml; give a directory that xkd pretrain wrote")
    return load_config(path)


@dataclasses.dataclass(frozen=True)
class _Features:
    """What the encoders of a task say of clips, concatenated (late fusion, A.5)."""

    store: FeatureStore
    encoders: Mapping[Modality, Describer]
    counts: Mapping[str, int]

    def train(self, clips: list[Clip]) -> Windows:
        """Of random, augmented windows."""
        return self._fused(clips, self.counts["train"], train=True)

    def test(self, clips: list[Clip]) -> Windows:
        """Of evenly spaced windows."""
        return self._fused(clips, self.counts["test"], train=False)

    def _fused(self, clips: list[Clip], count: int, *, train: bool) -> Windows:
        parts = [self.store.windows(e, clips, count, train=train) for e in self.encoders.values()]
        return Windows(np.concatenate([part.features for part in parts], axis=1), parts[0].clip)


def _cost(splits: Splits, features: _Features, identity: str, seed: int) -> Choice:
    """The cost for every fold, chosen once on the first one's training clips and kept beside the features."""
    clips = splits.first
    key = repr((identity, splits.manifest.revision, features.counts, seed, [clip.id for clip in clips]))
    path = features.store.folder / f"cost-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
    if not path.is_file():
        chosen = choose_cost(features.train(clips), splits.label(clips), len(splits.classes), seed)
        write_text(path, json.dumps({"cost": chosen.cost, "sweep": list(chosen.sweep.items())}))
    kept = json.loads(path.read_text())
    return Choice(kept["cost"], dict(kept["sweep"]))


def _check_same(path: Path, identity: str, revision: str, windows: dict[str, int], task: Task) -> None:
    """Refuse to pass off a score of something else as this task's."""
    found = Score.read(path)
    pairs = {
        "encoder": (found.encoder_hash, identity),
        "data revision": (found.data_revision, revision),
        "windows": (found.windows, windows),
        "seed": (found.seed, task.seed),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise UserError(
                f"{path} is a score of another {what} ({theirs}, not {ours}); use another directory"
            )
