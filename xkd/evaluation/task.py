"""The description of one evaluation: dataset, modality, protocol, encoder and settings."""

from __future__ import annotations

from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from xkd.config import FinetuneConfig, Modality
from xkd.config.overrides import STRICT
from xkd.evaluation.score import (
    INPUTS,
    EvaluatedEncoder,
    EvaluatedModality,
    Part,
    ProtocolName,
    TaskKey,
    task_name,
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Task:
    """One evaluation with all its settings; `xkd.evaluation.plan.make_task` fills in the defaults."""

    dataset: str
    """Name that the prepared dataset must have."""
    modality: EvaluatedModality
    protocol: ProtocolName
    """Key of `xkd.evaluation.protocols.registry.PROTOCOLS`."""
    encoder: EvaluatedEncoder
    fold: PositiveInt = 1
    """Which of the dataset's divisions into training and test clips."""
    train_windows: PositiveInt
    """Random windows per training clip."""
    test_windows: PositiveInt
    """Evenly spaced windows per test clip."""
    finetune: FinetuneConfig | None = None
    """Settings of fine-tuning; None for the other protocols."""
    seed: int = 0
    """Of training windows and their augmentation, the random encoder, validation clips and classifier."""

    @property
    def name(self) -> str:
        """``{dataset}-{modality}-{protocol}-{encoder}``, with ``-fold{N}`` from the second fold on."""
        return task_name(*self.key)

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
