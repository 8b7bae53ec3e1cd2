"""Settings of clips and of the augmented views made of them (Tables S1, S2)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from xkd.config.overrides import STRICT
from xkd.config.types import Probability, ScaleRange, ShareRange


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClipConfig:
    """How a window of a clip becomes tensors (section A.3)."""

    seconds: PositiveFloat = 4.0
    """Length of the window that both global views cover."""
    fps: PositiveInt = 8
    """Video frames per second."""
    sample_rate: PositiveInt = 16000
    """Audio samples per second."""
    n_fft: PositiveInt = 1024
    """Window of the short-time Fourier transform, samples."""
    hop: PositiveInt = 143
    """Step between spectrogram frames, samples."""
    f_max: PositiveFloat = 8000.0
    """Upper edge of the mel filter bank, Hz."""

    @property
    def window_samples(self) -> int:
        """Audio samples of a window."""
        return round(self.seconds * self.sample_rate)

    def samples(self, spectrogram_frames: int) -> int:
        """Return the waveform length whose centered spectrogram has this many frames.

        A centered transform of n samples has ``1 + n // hop`` frames; the result is the shortest multiple of
        a hundredth of a second that is long enough (448 frames: 64000, 112 frames: 16000).
        """
        step = self.sample_rate // 100
        return -(-(spectrogram_frames - 1) * self.hop // step) * step


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VideoAugment:
    """Augmentation of one kind of video view (Table S1)."""

    crop_area: ShareRange
    """Multi-scale crop: range of the crop's share of the frame."""
    flip: Probability = 0.5
    """Probability of a horizontal flip."""
    brightness: NonNegativeFloat = 0.4
    """Color jitter: largest relative change of the brightness."""
    contrast: NonNegativeFloat = 0.4
    """Color jitter: largest relative change of the contrast."""
    saturation: NonNegativeFloat = 0.4
    """Color jitter: largest relative change of the saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    """Color jitter: largest shift of the hue, in turns of the color circle."""
    gray: Probability = 0.0
    """Probability of dropping the color."""
    blur: Probability = 0.0
    """Probability of a Gaussian blur."""
    blur_vertical: bool = False
    """Blur along the height only, always with the same strength: a slip in the authors' code."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AudioAugment:
    """Augmentation of one kind of audio view (Table S2)."""

    volume: Probability
    """Volume jitter: the waveform is scaled by U(1 - volume, 1 + volume)."""
    crop_range: ScaleRange | None = None
    """Random crop: range of the crop's sides relative to the view; None: no crop."""
    crop_canvas: Annotated[float, Field(ge=1)] = 1.5
    """Random crop: width of the zero canvas in which the view is centered, relative to the view."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ViewsConfig:
    """Augmentations of the global and local views (Tables S1, S2), and the teachers' view."""

    teacher: Literal["global", "local"] = "global"
    """global: the text (B.7). local: the first local view, as in the authors' code."""
    video_global: VideoAugment = VideoAugment(crop_area=(0.2, 1.0))
    video_local: VideoAugment = VideoAugment(crop_area=(0.08, 0.4), gray=0.2, blur=0.5)
    audio_global: AudioAugment = AudioAugment(volume=0.1)
    audio_local: AudioAugment = AudioAugment(volume=0.2, crop_range=(0.6, 1.5))

    @property
    def teacher_index(self) -> int:
        """Index of the teachers' view among a modality's views, of which the global one is first."""
        return 0 if self.teacher == "global" else 1
