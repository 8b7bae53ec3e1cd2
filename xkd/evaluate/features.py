"""Frozen features: what an encoder, or the raw input, says of windows of clips."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from xkd.config import Modality, PretrainConfig
from xkd.data.clips import evaluation_batches
from xkd.data.draws import linear_recipe
from xkd.data.manifest import Clip
from xkd.data.views import Views
from xkd.errors import UserError
from xkd.evaluate.probe import Windows
from xkd.evaluate.scores import EvaluatedEncoder
from xkd.files import write_atomically
from xkd.method.networks import build_encoder
from xkd.progress import progress
from xkd.train.checkpoint import encoder_path, load_encoder

RAW_VIDEO = (8, 8, 8)
"""Frames, height and width that the raw baseline shrinks a gray view to; finer is slow to fit, not better."""
RAW_AUDIO = (20, 28)
"""Mel bins and spectrogram frames that the raw baseline shrinks a view to."""


@dataclass(frozen=True)
class Describer:
    """What turns a batch of views of one modality into features."""

    encoder: EvaluatedEncoder
    modality: Modality
    hash: str
    """Identifies the weights: equal weights have equal hashes."""
    describe: Callable[[Tensor], Tensor]
    """(B, C, *sizes) to (B, D)."""


def describer(
    run: Path, config: PretrainConfig, encoder: EvaluatedEncoder, modality: Modality, seed: int
) -> Describer:
    """The encoder a task names: one the run published, one freshly initialized from `seed`, or none.

    Raises:
        UserError: the run published no such encoder.
    """
    if encoder == "raw":
        return Describer(encoder, modality, "raw", raw_input)
    if encoder == "random":
        torch.manual_seed(seed)
        network = build_encoder(config, modality).eval()
    else:
        network = load_encoder(encoder_path(run, encoder, modality))
    weights_hash = hash_weights(network.state_dict())
    network.to(_device())
    return Describer(encoder, modality, weights_hash, lambda view: network.pool(network(view)))


def published_hash(run: Path, encoder: str, modality: Modality) -> str:
    """`hash_weights` of an encoder that a run published."""
    path = encoder_path(run, encoder, modality)
    if not path.is_file():
        raise UserError(f"no encoder at {path}; a finished run has them under encoders/")
    return hash_weights(load_file(path))


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Twelve hexadecimal digits that equal weights share, wherever they lie."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def raw_input(view: Tensor) -> Tensor:
    """The baseline without an encoder: the view itself, gray and averaged over a coarse grid.

    Args:
        view: video (B, 3, T, H, W) or spectrogram (B, 1, F, T).

    Returns:
        (B, prod(`RAW_VIDEO`)) or (B, prod(`RAW_AUDIO`)).
    """
    gray = view.mean(dim=1, keepdim=True)
    if view.ndim == 5:
        return F.adaptive_avg_pool3d(gray, RAW_VIDEO).flatten(1)
    return F.adaptive_avg_pool2d(gray, RAW_AUDIO).flatten(1)


class FeatureStore:
    """Features of one prepared dataset in a folder, so that several tasks extract them once."""

    def __init__(self, folder: Path, data: Path, revision: str, config: PretrainConfig, seed: int) -> None:
        self.folder, self.data, self.revision, self.config, self.seed = folder, data, revision, config, seed

    def windows(self, describer: Describer, clips: list[Clip], count: int, *, train: bool) -> Windows:
        """Features of `count` windows of each clip, from the folder or computed and kept there.

        Args:
            describer: what makes the features.
            clips: clips of the dataset, all with the describer's modality.
            count: windows of each.
            train: random windows with the linear evaluation's augmentation (Tables S1, S2), instead of
                evenly spaced ones without any.
        """
        part = "train" if train else "test"
        name = f"{describer.encoder}-{describer.modality}-{part}-{self._key(describer, clips, count)}.npz"
        path = self.folder / name
        if path.exists():
            with np.load(path) as stored:
                return Windows(stored["features"], stored["clip"])
        windows = extract(describer, self.data, clips, self.config, count, train=train, seed=self.seed)
        write_atomically(path, lambda file: np.savez(file, features=windows.features, clip=windows.clip))
        return windows

    def _key(self, describer: Describer, clips: list[Clip], count: int) -> str:
        """A hash of everything else the features depend on."""
        values: dict[str, Any] = {
            "weights": describer.hash,
            "data": self.revision,
            "clips": [clip.id for clip in clips],
            "count": count,
            "seed": self.seed,
            "view": self.config.modality(describer.modality).global_view,
            "clip": asdict(self.config.clip),
        }
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]


@torch.no_grad()
def extract(
    describer: Describer,
    data: Path,
    clips: list[Clip],
    config: PretrainConfig,
    count: int,
    *,
    train: bool,
    seed: int,
) -> Windows:
    """Features of `count` windows of each clip, in the clips' order.

    Args:
        describer: what makes the features.
        data: prepared directory.
        clips: some of its clips, all with the describer's modality.
        config: the run's; views are made as it says.
        count: windows of each clip.
        train: see `FeatureStore.windows`.
        seed: of the random windows and their augmentation.

    Returns:
        float32 (rows, D), and for each row the place of its clip in `clips`.
    """
    views = Views(config, linear_recipe(config)).to(_device())
    features: list[Tensor] = []
    places: list[Tensor] = []
    part = "train" if train else "test"
    with progress(f"features {describer.encoder} {describer.modality} {part}", len(clips) * count) as bar:
        wanted = (describer.modality,)
        for batch in evaluation_batches(
            data, clips, config, count, train=train, seed=seed, modalities=wanted
        ):
            view = views(batch)[describer.modality][0] if train else views.plain(batch)[describer.modality]
            features.append(describer.describe(view).float().cpu())
            places.append(batch["clip"])
            bar.advance(len(view))
    return Windows(torch.cat(features).numpy(), torch.cat(places).numpy())


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
