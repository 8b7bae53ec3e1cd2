"""What one evaluation computes: a dataset, a modality, a protocol and an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from xkd.config import FinetuneConfig
from xkd.config.overrides import build, overlay, to_dict
from xkd.config.presets.finetune import FINETUNING
from xkd.errors import UserError
from xkd.evaluate.score import (
    INPUTS,
    EvaluatedEncoder,
    EvaluatedModality,
    ProtocolName,
    task_name,
)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Task:
    """What one evaluation computes; the fan-out is a list of these."""

    dataset: str = ""
    """Name that the prepared dataset must have; empty: whatever it has."""
    modality: EvaluatedModality = "video"
    protocol: ProtocolName = "svm"
    """``svm``: a linear SVM on one modality's features; ``fusion``: on both, concatenated; ``fc``: a fully
    connected layer; ``finetune``: one on top of the encoder, trained with it."""
    encoder: EvaluatedEncoder = "teacher"
    """``random``: the same encoder, never pretrained; ``raw``: the downsampled input itself."""
    fold: int = 1
    """Which of the dataset's divisions into training and test clips."""
    train_windows: int | None = None
    """Random windows of a training clip; None: the protocol's (`xkd.evaluate.specs`)."""
    test_windows: int | None = None
    """Evenly spaced windows of a test clip; None: the protocol's."""
    finetune: dict[str, Any] = field(default_factory=dict)
    """Settings of a fine-tuning (`xkd.config.FinetuneConfig`) laid over the dataset's."""
    seed: int = 0
    """Of training windows and their augmentation, the random encoder, the validation part and the probe."""

    @model_validator(mode="after")
    def _fits_together(self) -> Task:
        if (self.protocol == "fusion") != (self.modality == "audiovisual"):
            wanted = "modality audiovisual" if self.protocol == "fusion" else "modality video or audio"
            raise UserError(f"protocol {self.protocol} is for {wanted}, not {self.modality}")
        if any(count is not None and count < 1 for count in (self.train_windows, self.test_windows)):
            raise UserError("train_windows and test_windows must be at least 1")
        if self.fold < 1:
            raise UserError("fold must be at least 1")
        self._check_finetuning()
        return self

    def _check_finetuning(self) -> None:
        if self.protocol != "finetune":
            if self.finetune:
                raise UserError(f"finetune.{next(iter(self.finetune))} is for protocol finetune")
            return
        if self.encoder == "raw":
            raise UserError("raw input has nothing to fine-tune; choose encoder teacher, student or random")
        if self.train_windows is not None:
            raise UserError("train_windows is not for protocol finetune, which sees a window an epoch")

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


def tuning_of(task: Task) -> FinetuneConfig | None:
    """The settings of a fine-tuning: the dataset's, and over them the task's; None for other protocols.

    Raises:
        UserError: there is no such setting.
    """
    if task.protocol != "finetune":
        return None
    (modality,) = INPUTS[task.modality]
    return overlay(FINETUNING[task.dataset, modality], task.finetune, f"finetune on {task.dataset}")
