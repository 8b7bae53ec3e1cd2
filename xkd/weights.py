"""Published weights: safetensors files that carry the configuration they were made with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from xkd.config import Modality, PretrainConfig
from xkd.config.overrides import build, to_dict
from xkd.data.transforms.resample import resize_short_side
from xkd.data.transforms.views import Views, center_crop
from xkd.errors import UserError
from xkd.io import write_atomically
from xkd.model.vit import CHANNELS, Encoder

MODEL_FILE = "model.safetensors"
"""The encoder in a folder that ``xkd export --format safetensors`` writes."""
_WRITTEN_BY = {
    "encoder": "a finished run has them under encoders/",
    "classifier": "a finished evaluation has them under finetuned/",
}


class PretrainedEncoder(Encoder):
    """An encoder with the configuration it was pretrained with and the transform of its input.

    Called with the output of `transform` it returns (B, 1+N, D) tokens, cls first; ``encoder.pool(tokens)``
    are the (B, D) features.
    """

    def __init__(self, config: PretrainConfig, modality: Modality) -> None:
        super().__init__(config.modality(modality), CHANNELS[modality], config.encoder)
        self.config, self.modality = config, modality
        self._views = Views(config)

    def transform(self, clip: Tensor) -> Tensor:
        """Return the input for one clip of `config.clip.seconds`, a batch of one, without augmentation.

        Args:
            clip: frames at `config.clip.fps`, uint8 (T, H, W, 3), or a waveform at `config.clip.sample_rate`
                in [-1, 1], float (S,).

        Returns:
            The center of the frames, (1, 3, T, H', W'), or the log-mel spectrogram, (1, 1, F, T), normalized.

        Raises:
            UserError: the clip has another shape or type.
        """
        clip, config, length = torch.as_tensor(clip), self.config.clip, self.config.clip.window_samples
        frames, height, width = self.config.video.global_view
        if self.modality == "audio":
            fits = clip.is_floating_point() and clip.shape == (length,)
            expected = f"a float waveform ({length},), {config.seconds:g} s at {config.sample_rate} Hz"
        else:
            fits = clip.dtype == torch.uint8 and clip.ndim == 4 and clip.shape[::3] == (frames, 3)
            expected = f"uint8 frames ({frames}, H, W, 3), {config.seconds:g} s at {config.fps} fps"
        if not fits:
            raise UserError(f"expected {expected}; got {clip.dtype} {tuple(clip.shape)}")
        if self.modality == "audio":
            return self._views.plain({"waveform": clip.float()[None]})["audio"]
        resized = resize_short_side(clip.permute(0, 3, 1, 2), height)
        return self._views.plain({"frames": center_crop(resized, height, width)[None]})["video"]


def load(path: str | Path) -> PretrainedEncoder:
    """Return a published encoder in evaluation mode.

    Args:
        path: a ``.safetensors`` file under a run's ``encoders/``, or an exported folder.

    Raises:
        UserError: the file is missing or not an encoder of xkd.
    """
    path = Path(path)
    if path.is_dir():
        path = path / MODEL_FILE
    weights, metadata = read_weights(path)
    if "classes" in metadata:
        raise UserError(f"{path} contains a classifier; xkd.load reads only encoders")
    encoder = PretrainedEncoder(build(PretrainConfig, metadata["config"], str(path)), metadata["modality"])
    encoder.load_state_dict(weights)
    return encoder.eval()


def save_encoder(
    weights: Mapping[str, Tensor], config: PretrainConfig, modality: Modality, path: Path
) -> None:
    """Write an encoder's weights with its configuration."""
    save_weights(weights, {"modality": modality, "config": to_dict(config)}, path)


def save_weights(weights: Mapping[str, Tensor], metadata: Mapping[str, Any], path: Path) -> None:
    """Write weights and metadata atomically, for `read_weights`."""
    # safetensors writes several metadata entries in no fixed order; with one, equal weights are equal files.
    entry = {"xkd": json.dumps(metadata)}
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    write_atomically(path, lambda file: file.write(save(tensors, entry)))


def read_weights(
    path: Path, kind: Literal["encoder", "classifier"] = "encoder"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights and the metadata of a file that `save_weights` wrote.

    Args:
        path: the file.
        kind: expected content, for the error message.

    Raises:
        UserError: the file is missing or was not written by xkd.
    """
    if not path.is_file():
        raise UserError(f"no {kind} at {path}; {_WRITTEN_BY[kind]}")
    try:
        with safe_open(path, framework="pt") as file:
            entry = file.metadata() or {}
        weights = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file: {error}") from None
    if "xkd" not in entry:
        raise UserError(f"{path} contains no xkd configuration; it was not written by xkd")
    metadata: dict[str, Any] = json.loads(entry["xkd"])
    return weights, metadata
