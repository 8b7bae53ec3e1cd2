"""The interface of evaluation protocols: features or clips in, predictions out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from xkd.config import PretrainConfig
from xkd.data.shards.clips import Clips
from xkd.evaluation.feature_store import FeatureStore
from xkd.evaluation.features import ClipFeatures, FeatureExtractor
from xkd.evaluation.metrics import Metric, Predictions, compute_metrics
from xkd.evaluation.score import EvaluatedEncoder, Part, Task, run_settings
from xkd.evaluation.splits import Splits
from xkd.io import code_hash, short_hash
from xkd.launch.distributed import DistributedContext
from xkd.rundir import ROLES, RunDir
from xkd.weights import require_weights

ENCODERS: tuple[EvaluatedEncoder, ...] = get_args(EvaluatedEncoder)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A task with the data and the encoders that it needs."""

    task: Task
    metric: Metric
    run: RunDir
    config: PretrainConfig
    """The run's."""
    splits: Splits
    extractors: Sequence[FeatureExtractor]
    """One per modality of the task."""
    out: Path
    """Folder of scores."""
    context: DistributedContext

    @property
    def multi_label(self) -> bool:
        """Whether clips may have several labels."""
        return self.metric == "map"

    @property
    def identity(self) -> dict[str, Any]:
        """The fields of the `Score` that decide its value."""
        return {
            "encoder_hash": "+".join(extractor.hash for extractor in self.extractors),
            "settings": run_settings(self.config, self.task.encoder, self.task.inputs),
            **self.splits.dataset.identity,
            **self.task.identity,
        }

    def key(self, *values: object) -> str:
        """Return a hash of the encoders, their inputs, the data, the code and further values."""
        shared = ("encoder_hash", "settings", "data_revision", "preparation")
        code = code_hash("data/**/*.py", "evaluation/**/*.py", "model/**/*.py", "train/**/*.py")
        return short_hash(repr(([self.identity[name] for name in shared], self.task.inputs, code, *values)))

    def measure(self, predictions: Predictions, clips: Clips) -> dict[str, Any]:
        """Return the metrics of predictions for clips; see `compute_metrics`."""
        labels, classes = self.splits.label_sets(clips), self.splits.dataset.classes
        return compute_metrics(predictions, labels, classes, self.metric)


@dataclass(frozen=True)
class Prediction:
    """What a protocol predicts for the test clips."""

    values: Predictions | None
    """(test clips, classes); None: `measures` are given."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Fields of the `Score` that describe how it was made."""
    summary: str = ""
    """The same in a few words."""
    measures: dict[str, Any] = field(default_factory=dict)
    """Fields of the `Score` that measure it, where there are no classes to predict."""


class Protocol(ABC):
    """A way to measure an encoder."""

    encoders: Sequence[EvaluatedEncoder] = ENCODERS
    """Those that it can evaluate."""
    why_not_raw = ""
    """Why the raw input is not among them."""
    settings: Sequence[str] = ("train_windows", "test_windows", "seed")
    """Fields of a `Task` that may be changed."""
    trains_encoder = False
    """Whether a task has settings of fine-tuning."""

    def check(self, evaluation: Evaluation) -> None:
        """Check an evaluation, which has no extractors yet, before anything is computed.

        Raises:
            UserError: an encoder is missing, or a setting does not fit the data.
        """
        task, run = evaluation.task, evaluation.run
        for modality in task.inputs if task.encoder in ROLES else ():
            require_weights(run.encoder(task.encoder, modality))

    @abstractmethod
    def start(self, evaluation: Evaluation) -> Callable[[], Prediction]:
        """Do what all processes do together, and return the rest of the work, for the main process alone.

        The others may leave then: fitting on the CPU can take longer than processes wait for each other.
        """


FeatureReader = Callable[[Clips, Part], ClipFeatures]
"""Returns the features of clips of a split, those of all modalities concatenated per window."""


class FeatureProtocol(Protocol):
    """A protocol on frozen features."""

    parts: Sequence[Part] = ("train", "test")
    """Those of which it reads features."""

    def start(self, evaluation: Evaluation) -> Callable[[], Prediction]:
        """Extract the features together; then fit."""
        task, extractors = evaluation.task, evaluation.extractors
        folder, dataset = evaluation.out / "features", evaluation.splits.dataset
        store = FeatureStore(folder, dataset, evaluation.config, task.seed, evaluation.context)
        for extractor in extractors:
            for part in self.parts:
                store.make(extractor, part, task.windows[part])

        def read(clips: Clips, part: Part) -> ClipFeatures:
            parts = [store.read(extractor, clips, part, task.windows[part]) for extractor in extractors]
            if len(parts) == 1:
                return parts[0]  # without another copy
            return parts[0]._replace(features=np.concatenate([one.features for one in parts], axis=1))

        return lambda: self.fit(evaluation, read)

    @abstractmethod
    def fit(self, evaluation: Evaluation, read: FeatureReader) -> Prediction:
        """Fit on the training clips and predict the test clips."""
