"""Published weights: safetensors files that carry the configuration they were made with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from xkd.config import MODALITIES, Modality, PretrainConfig
from xkd.config.overrides import build, to_dict
from xkd.data.datasets.direct import read_media
from xkd.data.media.damage import MediaError
from xkd.data.transforms.params import Item
from xkd.data.transforms.resample import resize_short_side
from xkd.data.transforms.views import Views, center_crop
from xkd.errors import UserError
from xkd.io import write_atomically
from xkd.model.projector import Projection, share_basis
from xkd.model.vit import CHANNELS, Encoder
from xkd.rundir import ROLES, Role, RunDir

MODEL_FILE = "model.safetensors"
"""The encoder in a folder that ``xkd export --format safetensors`` writes."""
_INPUT: dict[Modality, Literal["frames", "waveform"]] = {"video": "frames", "audio": "waveform"}
"""Names of the modalities in an `Item`."""

Kind = Literal["encoder", "classifier", "projector"]
_KINDS: dict[Kind, str] = {
    "encoder": "a finished run has them under encoders/",
    "classifier": "a finished evaluation has them under finetuned/",
    "projector": "runs of earlier versions and of one modality have none; pretrain again to compare across "
    "modalities",
}


class PretrainedEncoder(Encoder):
    """An encoder with the configuration it was pretrained with and the transform of its input.

    Called with the output of `transform` it returns (B, 1+N, D) tokens, cls first; ``encoder.pool(tokens)``
    are the (B, D) features. ``encoder.to(device)`` and ``encoder.half()`` apply to the output of `transform`
    too.
    """

    def __init__(self, config: PretrainConfig, modality: Modality) -> None:
        super().__init__(config.modality(modality), CHANNELS[modality], config.encoder)
        self.config, self.modality = config, modality
        # In a tuple, so that it is no submodule: spectrograms are computed in float32 whatever the encoder's.
        self._views = (Views(config),)

    def transform(self, clip: Tensor | NDArray[Any] | str | Path | Sequence[str | Path]) -> Tensor:
        """Return the input for one clip of `config.clip.seconds`, or for a batch of files, not augmented.

        Args:
            clip: frames at `config.clip.fps`, uint8 (T, H, W, 3); a waveform at `config.clip.sample_rate` in
                [-1, 1], float (S,); or the path of a media file, or several, of each of which the middle is
                read (`xkd.data.datasets.direct.read_media`).

        Returns:
            The center of the frames, (B, 3, T, H', W'), or the log-mel spectrogram, (B, 1, F, T), normalized,
            on the device and of the type of the encoder; B is 1 for a single clip.

        Raises:
            UserError: the clip has another shape or type, a file cannot be read or lacks the modality.
        """
        if isinstance(clip, str | Path):
            return self.transform([clip])
        if isinstance(clip, list | tuple) and all(isinstance(path, str | Path) for path in clip):
            if not clip:
                raise UserError("expected at least one path; got none")
            return self.make_view([self._read(Path(path)) for path in clip])
        return self.make_view([self._check(torch.as_tensor(clip).cpu())])

    def make_view(self, windows: Sequence[Tensor]) -> Tensor:
        """Return the input for windows: frames (T, 3, H', W'), uint8, or waveforms (S,)."""
        weight = self.norm.weight
        batch: Item = {_INPUT[self.modality]: torch.stack(list(windows))}  # type: ignore[misc]
        return self._views[0].to(weight.device).plain(batch)[self.modality].to(weight.dtype)

    def _check(self, clip: Tensor) -> Tensor:
        """Return frames or a waveform as a window for `make_view`."""
        config, length = self.config.clip, self.config.clip.window_samples
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
            return clip.float()
        return center_crop(resize_short_side(clip.permute(0, 3, 1, 2), height), height, width)

    def _read(self, path: Path) -> Tensor:
        """Return the middle of a media file as a window for `make_view`."""
        try:
            clip, _ = read_media(path, self.config)
        except MediaError as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        window = clip.window(self.config, clip.middle(self.config)).get(_INPUT[self.modality])
        if window is None:
            raise UserError(f"{path} has no {self.modality}")
        return window


def load(
    path_or_run: str | Path, modality: Modality | None = None, role: Role = "teacher"
) -> PretrainedEncoder:
    """Return a published encoder in evaluation mode.

    Args:
        path_or_run: a run directory, a ``.safetensors`` file under its ``encoders/``, or an exported folder.
        modality: ``video`` or ``audio``; only a run directory needs one.
        role: ``teacher`` or ``student`` of a run directory.

    Raises:
        UserError: the file is missing or not an encoder of xkd, or it is not clear which encoder is meant.
    """
    path = Path(path_or_run)
    if modality not in (None, *MODALITIES) or role not in ROLES:
        raise UserError(f"no encoder {role} {modality}; available: {' or '.join(ROLES)} of video or audio")
    if (path / MODEL_FILE).is_file():
        path /= MODEL_FILE
    elif path.is_dir():
        RunDir(path).config()  # or it is not a run
        if modality is None:
            raise UserError(f"{path} has encoders of video and of audio; give modality, for example 'video'")
        path = RunDir(path).encoder(role, modality)
    weights, metadata = read_weights(path)
    if kind := _kind(metadata):
        raise UserError(f"{path} contains a {kind}; xkd.load reads only encoders")
    if modality not in (None, metadata["modality"]):
        raise UserError(f"{path} is an encoder of {metadata['modality']}, not of {modality}")
    encoder = PretrainedEncoder(build(PretrainConfig, metadata["config"], str(path)), metadata["modality"])
    encoder.load_state_dict(weights)
    return encoder.eval()


def load_projections(run: Path, role: Role) -> dict[Modality, Projection]:
    """Return the projectors that a run published, for retrieval across modalities.

    Raises:
        UserError: the run has none.
    """
    projections: dict[Modality, Projection] = {}
    for m in MODALITIES:
        path = RunDir(run).projector(role, m)
        weights, metadata = read_weights(path, "projector")
        config = build(PretrainConfig, metadata["config"], str(path))
        projections[m] = Projection(config.encoder.dim, config.projector).eval()
        projections[m].load_state_dict(weights)
    share_basis(projections.values())
    return projections


def save_encoder(
    weights: Mapping[str, Tensor], config: PretrainConfig, modality: Modality, path: Path
) -> None:
    """Write an encoder's weights with its configuration."""
    save_weights(weights, {"modality": modality, "config": to_dict(config)}, path)


def save_projector(
    weights: Mapping[str, Tensor], config: PretrainConfig, modality: Modality, path: Path
) -> None:
    """Write the weights of a `Projection` with its configuration."""
    metadata = {"kind": "projector", "modality": modality, "config": to_dict(config)}
    save_weights(weights, metadata, path)


def save_weights(weights: Mapping[str, Tensor], metadata: Mapping[str, Any], path: Path) -> None:
    """Write weights and metadata atomically, for `read_weights`."""
    # safetensors writes several metadata entries in no fixed order; with one, equal weights are equal files.
    entry = {"xkd": json.dumps(metadata)}
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    write_atomically(path, lambda file: file.write(save(tensors, entry)))


def load_saved(path: Path) -> Any:
    """Return what ``torch.save`` wrote, on the CPU; nothing in the file is executed.

    Raises:
        UserError: the file is missing, damaged, or of another kind.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # the unpickler raises anything on files of other kinds
        reason = load_reason(error)
        raise UserError(f"{path} is not a weights file of torch, or is damaged: {reason}") from None


def load_reason(error: Exception) -> str:
    """Return why ``torch.load`` failed, without the paragraphs of advice around the reason."""
    reason = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return reason.partition("\n")[0].partition(". ")[0] or type(error).__name__


def require_weights(path: Path, kind: Kind = "encoder") -> None:
    """Check that there is a file of weights.

    Raises:
        UserError: there is none.
    """
    if not path.is_file():
        raise UserError(f"no {kind} at {path}; {_KINDS[kind]}")


def read_weights(path: Path, kind: Kind = "encoder") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights and the metadata of a file that `save_weights` wrote.

    Args:
        path: the file.
        kind: expected content, for the error message.

    Raises:
        UserError: the file is missing or was not written by xkd.
    """
    require_weights(path, kind)
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


def _kind(metadata: Mapping[str, Any]) -> str:
    """Return what a file contains, if it is not an encoder."""
    return "classifier" if "classes" in metadata else str(metadata.get("kind", ""))
