"""The audio front end: log-mel spectrograms of waveforms."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from xkd.config import ClipConfig
from xkd.parallel.threads import over_samples

_MEAN, _STD = -5.3688107, 4.410007
"""Standardization of the log-mel: the authors' constants, measured on Kinetics-Sound (section 9)."""


class LogMel(nn.Module):
    """Waveform → standardized log-mel spectrogram (method notes, section 9).

    Centered Hann windows with reflected edges, power, Slaney mel bands, natural logarithm, then the
    authors' mean and standard deviation. Silence becomes the constant -2.39763.
    """

    window: Tensor
    bands: Tensor

    def __init__(self, clip: ClipConfig, mels: int) -> None:
        super().__init__()
        self.n_fft, self.hop = clip.n_fft, clip.hop
        self.register_buffer("window", torch.hann_window(clip.n_fft), persistent=False)
        self.register_buffer("bands", torch.from_numpy(_mel_bands(clip, mels)), persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Return the spectrogram (B, 1, mels, 1 + S // hop) of a waveform (B, S) in [-1, 1]."""
        frames = 1 + waveform.shape[1] // self.hop
        spectrogram = waveform.new_empty(len(waveform), 1, self.bands.shape[1], frames)

        def make(part: slice) -> None:
            spectrogram[part, 0] = self.transform(waveform[part])

        over_samples(make, len(waveform), waveform.device)
        return spectrogram

    def transform(self, waveform: Tensor) -> Tensor:
        """Return the spectrogram (B, mels, 1 + S // hop) of (B, S), computed at once, as exports trace it."""
        padded = F.pad(waveform[:, None], (self.n_fft // 2, self.n_fft // 2), mode="reflect")[:, 0]
        spectrum = torch.fft.rfft(padded.unfold(1, self.n_fft, self.hop) * self.window)
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag).add_(2.2e-16)
        mel = (power @ self.bands).add_(1.1921e-7).log_()
        normalized: Tensor = mel.sub_(_MEAN).div_(_STD)
        return normalized.mT


def _mel_bands(clip: ClipConfig, mels: int) -> NDArray[np.float32]:
    """Return Slaney's mel filter bank, each band of unit area: (n_fft // 2 + 1, mels).

    In double precision until the end, as in librosa; torchaudio uses single, and the log-mel of narrow bands
    then differs by more than 1e-4.
    """
    per_linear, knee, per_log = 200 / 3, 1000.0, np.log(6.4) / 27
    highest = clip.f_max / per_linear
    if clip.f_max > knee:
        highest = knee / per_linear + np.log(clip.f_max / knee) / per_log
    steps = np.linspace(0.0, highest, mels + 2)
    above = knee * np.exp(per_log * (steps - knee / per_linear))
    edges = np.where(steps < knee / per_linear, per_linear * steps, above)
    bins = np.linspace(0.0, clip.sample_rate / 2, clip.n_fft // 2 + 1)[:, None]
    low, center, high = edges[:-2], edges[1:-1], edges[2:]
    weights = np.minimum((bins - low) / (center - low), (high - bins) / (high - center)).clip(0.0)
    bands: NDArray[np.float32] = (weights * 2 / (high - low)).astype(np.float32)
    return bands
