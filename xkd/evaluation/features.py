"""Frozen features: the output of an encoder, or the downsampled input, for windows of clips."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from xkd.config import Modality, PretrainConfig
from xkd.evaluation.score import EvaluatedEncoder
from xkd.model.vit import Encoder, build_encoder
from xkd.rundir import RunDir
from xkd.weights import load, read_weights

RAW_VIDEO = (8, 8, 8)
"""Frames, height and width of the raw baseline, gray; a finer grid is slower to fit and not better."""
RAW_AUDIO = (20, 28)
"""Mel bins and spectrogram frames of the raw baseline."""


class ClipFeatures(NamedTuple):
    """Features of several windows per clip."""

    features: NDArray[np.floating[Any]]
    """(rows, D)"""
    clip: NDArray[np.integer[Any]]
    """(rows,), the clip of each row."""
    clips: int
    """Number of clips."""

    def select(self, rows: NDArray[np.bool_]) -> ClipFeatures:
        """Return some of the rows; clips keep their numbers."""
        return ClipFeatures(self.features[rows], self.clip[rows], self.clips)

    def mean(self, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Average values of windows over each clip: (rows, K) to (clips, K); NaN for a clip without rows."""
        sums = np.zeros((self.clips, values.shape[1]))
        np.add.at(sums, self.clip, values)
        with np.errstate(invalid="ignore"):
            means: NDArray[np.float64] = sums / np.bincount(self.clip, minlength=self.clips)[:, None]
        return means


@dataclass(frozen=True)
class FeatureExtractor:
    """Turns a batch of views of one modality into features."""

    encoder: EvaluatedEncoder
    modality: Modality
    network: Encoder | None
    """None: the raw input."""
    hash: str
    """Identifies the weights: equal weights have equal hashes."""

    @classmethod
    def load(
        cls, run: RunDir, config: PretrainConfig, encoder: EvaluatedEncoder, modality: Modality, seed: int
    ) -> FeatureExtractor:
        """Load a published encoder, or initialize a random one from `seed`, on the CPU.

        Raises:
            UserError: the run published no such encoder.
        """
        if encoder == "raw":
            return cls(encoder, modality, None, "raw")
        if encoder == "random":
            torch.manual_seed(seed)
            network = build_encoder(config, modality).eval()
        else:
            network = load(run.encoder(encoder, modality))
        return cls(encoder, modality, network, hash_weights(network.state_dict()))

    @property
    def dim(self) -> int:
        """Number of features."""
        if self.network:
            return self.network.norm.normalized_shape[0]
        return math.prod(RAW_VIDEO if self.modality == "video" else RAW_AUDIO)

    def __call__(self, view: Tensor) -> Tensor:
        """Return the features (B, dim) of views (B, C, *sizes)."""
        return self.network.pool(self.network(view)) if self.network else raw_input(view)


def published_hash(run: Path, encoder: str, modality: Modality) -> str:
    """Return `hash_weights` of an encoder that a run published."""
    return hash_weights(read_weights(RunDir(run).encoder(encoder, modality))[0])


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return twelve hexadecimal digits that depend on names, shapes and values alone."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def raw_input(view: Tensor) -> Tensor:
    """Return the baseline without an encoder: the view itself, gray and averaged over a coarse grid.

    Video (B, 3, T, H, W) gives (B, prod(`RAW_VIDEO`)), spectrograms (B, 1, F, T) (B, prod(`RAW_AUDIO`)).
    """
    gray = view.mean(dim=1, keepdim=True)
    if view.ndim == 5:
        return F.adaptive_avg_pool3d(gray, RAW_VIDEO).flatten(1)
    return F.adaptive_avg_pool2d(gray, RAW_AUDIO).flatten(1)
