"""Settings of fine-tuning (section A.6, Tables S6, S7)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from xkd.config.overrides import STRICT
from xkd.config.types import Fraction, Precision, Probability, ScaleRange, Share, ShareRange


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneVideoConfig:
    """Augmentation of clips for fine-tuning a video encoder (A.6, Table S6)."""

    resolution: PositiveInt | None = 224
    """Height and width of the frames; the position table is interpolated. None: as in pretraining."""
    magnitude: Annotated[int, Field(ge=0, le=10)] = 9
    """RandAugment: strength of its operations, of 10; 0: no operations."""
    magnitude_std: NonNegativeFloat = 0.05
    """RandAugment: standard deviation of the magnitude."""
    operations: NonNegativeInt = 4
    """RandAugment: number of operations, the same for all frames (from the authors' code)."""
    crop_area: ShareRange = (0.2, 0.766)
    """Multi-scale crop: share of the frame's area (from the authors' code)."""
    flip: Probability = 0.5
    """Probability of a horizontal flip."""
    mixup: NonNegativeFloat = 0.6
    """Alpha of MixUp; 0: none."""
    cutmix: NonNegativeFloat = 0.5
    """Alpha of CutMix, whose box spans height and width, in all frames; 0: none."""
    erasing: Probability = 0.0
    """Probability of erasing a box, the same in all frames (the authors' code: 0.25)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneAudioConfig:
    """Augmentation of audio for fine-tuning an audio encoder (A.6, Table S7)."""

    volume: Fraction = 0.2
    """Volume jitter: the waveform is scaled by U(1 - volume, 1 + volume)."""
    warp: NonNegativeInt = 20
    """Time warp: largest displacement of a point of the spectrogram, frames; 0: none."""
    masks: NonNegativeInt = 2
    """Number of masked bands along time, and of those along frequency."""
    time_mask: NonNegativeInt = 20
    """Largest size of a band along time, frames."""
    frequency_mask: NonNegativeInt = 10
    """Largest size of a band along frequency, mel bins."""
    crop_range: ScaleRange = (0.6, 1.5)
    """Random crop: size relative to the spectrogram (Table S2)."""
    crop_canvas: Annotated[float, Field(ge=1)] = 1.5
    """Random crop: width of the zero canvas in which the spectrogram is centered, relative to it."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneConfig:
    """Every setting of a fine-tuning (A.6). The defaults are UCF101's (Table S6)."""

    epochs: PositiveInt = 100
    """Passes over the training clips, with one random window of each."""
    batch_size: PositiveInt = 96
    """Clips per step over all processes."""
    accumulate: PositiveInt = 1
    """Parts in which each process computes its share of the batch, one after the other."""
    lr: PositiveFloat = 5e-4
    """Learning rate of the head after the warm-up; it is not scaled with the batch size."""
    lr_final: NonNegativeFloat | None = 1e-6
    """Last learning rate of the cosine schedule; None: constant."""
    warmup_epochs: NonNegativeInt = 5
    """Epochs over which the learning rate rises from 0."""
    weight_decay: NonNegativeFloat = 0.05
    """Weight decay of AdamW."""
    layer_decay: Share = 0.45
    """Each layer's learning rate is that of the one above times this; the head's is `lr`."""
    dropout: Fraction = 0.5
    """Before the classifier."""
    label_smoothing: Fraction = 0.1
    """Share of each target that is spread evenly over all classes."""
    patience: NonNegativeInt = 0
    """Stop when the score of the validation clips has not improved for this many epochs, and keep the best
    epoch; 0: no early stopping, keep the last epoch."""
    precision: Precision = "auto"
    """As `RunConfig.precision`."""
    video: FinetuneVideoConfig = FinetuneVideoConfig()
    audio: FinetuneAudioConfig = FinetuneAudioConfig()

    @model_validator(mode="after")
    def _check_warmup(self) -> FinetuneConfig:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be less than epochs {self.epochs}")
        return self
