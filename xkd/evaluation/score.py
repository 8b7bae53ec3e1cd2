"""Tasks, and their score files: the outcome of an evaluation and everything needed to reproduce it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass

from xkd.config import MODALITIES, FinetuneConfig, Modality, PretrainConfig
from xkd.config.overrides import STRICT, build, describe_difference, to_dict
from xkd.config.types import Seed
from xkd.errors import UserError
from xkd.evaluation.metrics import Metric
from xkd.io import read_json, write_json
from xkd.rundir import RunDir

EvaluatedModality = Literal["video", "audio", "audiovisual"]
EvaluatedEncoder = Literal["teacher", "student", "random", "raw"]
"""An encoder of the run; ``random``: the same encoder, never pretrained; ``raw``: the downsampled input."""
ProtocolName = Literal["svm", "fusion", "fc", "finetune", "retrieval"]
Solver = Literal["torch", "sklearn"]
"""Of the linear SVM: `xkd.evaluation.protocols.svm_solver`, or its reference, scikit-learn's `LinearSVC`."""
Part = Literal["train", "test"]
"""Windows of ``train`` are random, with the linear evaluation's augmentation (Tables S1, S2); those of
``test`` evenly spaced and not augmented."""

INPUTS: dict[EvaluatedModality, tuple[Modality, ...]] = {
    "video": ("video",),
    "audio": ("audio",),
    "audiovisual": ("video", "audio"),
}
"""The modalities that are read."""


class TaskKey(NamedTuple):
    """The fields that distinguish a task from the others of its run."""

    dataset: str
    modality: str
    protocol: str
    encoder: str
    fold: int

    @property
    def name(self) -> str:
        """``{dataset}-{modality}-{protocol}-{encoder}``, with ``-fold{N}`` from the second fold on."""
        first = "-".join(self[:4])
        return f"{first}-fold{self.fold}" if self.fold > 1 else first


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Task:
    """One evaluation with all its settings; `xkd.evaluation.plan.make_task` fills in the defaults."""

    dataset: str
    """Name that the prepared dataset must have."""
    modality: EvaluatedModality
    protocol: ProtocolName
    """Key of `xkd.evaluation.protocols.PROTOCOLS`."""
    encoder: EvaluatedEncoder
    fold: PositiveInt = 1
    """Which of the dataset's divisions into training and test clips."""
    train_windows: PositiveInt
    """Random windows per training clip."""
    test_windows: PositiveInt
    """Evenly spaced windows per test clip."""
    finetune: FinetuneConfig | None = None
    """Settings of fine-tuning; None for the other protocols."""
    solver: Solver = "torch"
    """Of the SVM; the other protocols have none."""
    seed: Seed = 0
    """Of training windows and their augmentation, the random encoder, validation clips and classifier."""

    @property
    def name(self) -> str:
        """The name of its key."""
        return self.key.name

    @property
    def key(self) -> TaskKey:
        """The fields that distinguish it from the other tasks of its run."""
        return TaskKey(self.dataset, self.modality, self.protocol, self.encoder, self.fold)

    @property
    def inputs(self) -> tuple[Modality, ...]:
        """The modalities that are read."""
        return INPUTS[self.modality]

    @property
    def windows(self) -> dict[Part, int]:
        """Windows per clip, by ``train`` and ``test``."""
        return {"train": self.train_windows, "test": self.test_windows}

    @property
    def identity(self) -> dict[str, Any]:
        """The fields of its `Score` that the task decides, besides the key."""
        finetune = to_dict(self.finetune) if self.finetune else {}
        solver = self.solver if self.protocol in ("svm", "fusion") else ""
        return {"windows": self.windows, "seed": self.seed, "solver": solver, "finetune": finetune}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Score:
    """The outcome of one evaluation task and everything needed to reproduce it."""

    dataset: str
    modality: EvaluatedModality
    protocol: ProtocolName
    encoder: EvaluatedEncoder
    fold: int = 1
    metric: Metric = "top1"
    score: float
    """In [0, 1]."""
    chance: float
    """Score of guessing: 1 / classes, for ``map`` the mean share of clips that have a class, for ``recall``
    1 / test clips."""
    classes: list[str]
    per_class: dict[str, float | None]
    """Recall of each class, or for ``map`` its average precision; None for a class without test clips."""
    untrained: list[str] = field(default_factory=list)
    """Classes without training clips, all skipped or missing: their test clips cannot be recognized. Those
    that have no clips at all are not in `classes`."""
    top5: float | None = None
    """Share of clips whose class is among the five likeliest, or that are among the five nearest; None for
    ``map`` and for few classes or clips."""
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    """Test clips by true and predicted class; for ``map`` empty."""
    recognized: Annotated[str, Field(pattern="^[01]*$")] = ""
    """For ``top1`` a digit per test clip, in the manifest's order: 1 if it was recognized, else 0."""
    train_clips: int
    test_clips: int
    folds: int = 1
    """Number of the dataset's folds."""
    windows: dict[str, int]
    """Windows per clip, by ``train`` and ``test``."""
    C: float | None = None
    """The regularization that a support vector machine was fitted with."""
    sweep: dict[str, float] = field(default_factory=dict)
    """Validation top-1 by C, on the first fold's training split."""
    solver: str = ""
    """Of the support vector machine."""
    finetune: dict[str, Any] = field(default_factory=dict)
    """The settings of fine-tuning (`xkd.config.FinetuneConfig`)."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """Epochs of fine-tuning: ``epoch``, mean ``loss``, ``lr`` at its end, and with early stopping the score
    of the ``validation`` clips."""
    retrieval: dict[str, Any] = field(default_factory=dict)
    """``audio_to_video``: score, top5 and chance of that direction; of encoders of the run also ``examples``
    with the nearest clips, and ``labels`` and ``pictures`` (JPEG, base64) by clip."""
    encoder_hash: str
    settings: dict[str, Any]
    """The run's settings that it depends on (`run_settings`)."""
    data_revision: str
    preparation: str
    """`xkd.data.shards.manifest.PreparedDataset.preparation` of the data."""
    preset: str
    seed: int
    commit: str
    date: str
    seconds: float

    @property
    def key(self) -> TaskKey:
        """The fields that distinguish its task from the others of the run."""
        return TaskKey(self.dataset, self.modality, self.protocol, self.encoder, self.fold)

    @property
    def name(self) -> str:
        """The task's name, and the file's without its extension."""
        return self.key.name

    @property
    def has_recognized(self) -> bool:
        """Whether `recognized` covers the test clips; earlier versions did not write it."""
        return len(self.recognized) == self.test_clips

    def differences(self, expected: Mapping[str, Any]) -> str:
        """Return where it differs from expected fields, such as ``settings.clip.fps 8 (not 16)``."""
        own = to_dict(self)
        found = {name: own[name] for name in expected}
        return ", ".join(describe_difference(found, dict(expected)).values())

    def write(self, folder: Path) -> Path:
        """Write ``{name}.json`` atomically."""
        path = score_path(folder, self.name)
        write_json(path, to_dict(self))
        return path

    @staticmethod
    def read(path: Path) -> Score:
        """Read a score.

        Raises:
            UserError: the file is missing or not a score; the line names the file and the field.
        """
        return build(Score, read_json(path), f"{path} is not a score")


def run_settings(config: PretrainConfig, encoder: str, inputs: Sequence[Modality]) -> dict[str, Any]:
    """Return the settings of a run that a score depends on, in addition to the weights.

    They decide how a clip becomes views and, except for the raw input, what its weights do not tell of the
    network. All views count: the random parameters of the audio are drawn after those of the video.
    """
    values = to_dict(config)
    chosen: dict[str, Any] = {m: {"global_view": values[m]["global_view"]} for m in MODALITIES}
    chosen["clip"] = values["clip"]
    if encoder != "raw":
        chosen["encoder"] = values["encoder"]
        for modality in inputs:
            chosen[modality]["patch"] = values[modality]["patch"]
    return chosen


def score_path(folder: Path, name: str) -> Path:
    """Return the score file of a task."""
    return folder / f"{name}.json"


def previous_path(folder: Path, name: str) -> Path:
    """Return the file that keeps a task's score while it is evaluated again, and after that if it changed."""
    return folder / f"{name}.previous"


def failure_path(folder: Path, name: str) -> Path:
    """Return the file with the reason why a task has no score."""
    return folder / f"{name}.failed"


_TASK_NAME = re.compile(
    "(.+)-({})-({})-({})(?:-fold([0-9]+))?".format(
        *("|".join(get_args(names)) for names in (EvaluatedModality, ProtocolName, EvaluatedEncoder))
    )
)


def parse_task_name(name: str) -> TaskKey | None:
    """Return the fields in a name; None if the name is of another form."""
    if (match := _TASK_NAME.fullmatch(name)) is None:
        return None
    dataset, modality, protocol, encoder, fold = match.groups()
    return TaskKey(dataset, modality, protocol, encoder, int(fold or 1))


def record_failure(folder: Path, name: str, run: RunDir, reason: str) -> None:
    """Write the reason why a task of a run has no score."""
    write_json(failure_path(folder, name), {"reason": reason, **_pretraining(run)})


def read_failures(folder: Path, run: RunDir) -> dict[TaskKey, str]:
    """Return why tasks of a run failed, without those of another run or of earlier weights of this one."""
    reasons, current = {}, _pretraining(run)
    for path in sorted(folder.glob("*.failed")):
        with suppress(UserError):  # of another version, or being written
            record = read_json(path)
            if (key := parse_task_name(path.stem)) and record.items() >= current.items():
                reasons[key] = str(record.get("reason"))
    return reasons


def _pretraining(run: RunDir) -> dict[str, Any]:
    """Return what distinguishes the weights of a run from others, such as those before a rollback."""
    info = run.info()
    return {"run": run.id, "steps": info.get("steps"), "rollbacks": len(info.get("rollbacks", []))}
