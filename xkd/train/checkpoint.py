"""Checkpoints that survive a crash, and the encoders a run publishes."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from xkd.config import MODALITIES, Modality, PretrainConfig
from xkd.errors import UserError
from xkd.method.model import XKD, build_encoder
from xkd.method.vit import Encoder
from xkd.settings import build, to_dict

ROLES = ("teacher", "student")


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Have `write` fill a temporary file, then give it its name: readers see all of it or the one before.

    Raises:
        UserError: the disk is full or the folder not writable; whatever `path` held before is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        # torch.save covers a full disk's error with one of its own about positions.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise UserError(
            f"cannot write {path}: {' '.join(str(reason).split())}; what was saved before is intact"
        ) from error


class Checkpoints:
    """The full checkpoints of one run: ``step_00000500.pt`` and so on, the last few kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(self, step: int, model: XKD, optimizer: torch.optim.Optimizer) -> None:
        """Write the state after `step` steps, then drop the oldest. Nothing random needs saving."""
        state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        write_atomically(self.folder / f"step_{step:08d}.pt", lambda file: torch.save(state, file))
        for old in self._paths()[: -self.keep]:
            old.unlink()

    def load_newest(self, device: torch.device) -> dict[str, Any] | None:
        """The newest readable state, or None; an unreadable file is passed over with a warning."""
        for path in reversed(self._paths()):
            try:
                state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
                return state
            except Exception as error:  # whatever a torn file makes the unpickler raise
                warnings.warn(
                    f"checkpoint {path} is unreadable ({error}); trying the one before", stacklevel=2
                )
        return None

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"))


def save_encoders(model: XKD, config: PretrainConfig, folder: Path) -> None:
    """Publish the four encoders as safetensors that carry the configuration they were built from."""
    for role in ROLES:
        for m in MODALITIES:
            weights = {k: v.contiguous() for k, v in getattr(model, role)[m].encoder.state_dict().items()}
            save_encoder(weights, config, m, folder / f"{role}_{m}.safetensors")


def save_encoder(weights: dict[str, Tensor], config: PretrainConfig, modality: Modality, path: Path) -> None:
    """Write one encoder's weights with its configuration."""
    # One entry, because safetensors writes several in no fixed order: equal encoders are equal files.
    metadata = {"xkd": json.dumps({"modality": modality, "config": to_dict(config)})}
    write_atomically(path, lambda file: _ignore(file.write(save(weights, metadata))))


def load_encoder(path: str | Path) -> Encoder:
    """An encoder that a run published, in evaluation mode.

    Its output is (B, 1+N, D) tokens, cls first; ``encoder.pool(tokens)`` is the (B, D) feature.

    Args:
        path: a ``.safetensors`` file under a run's ``encoders/``.

    Raises:
        UserError: the file is missing or not an encoder of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no encoder at {path}; a finished run has them under encoders/")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        weights = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file: {error}") from None
    if "xkd" not in metadata:
        raise UserError(f"{path} carries no xkd configuration; it is not an encoder that xkd wrote")
    facts = json.loads(metadata["xkd"])
    encoder = build_encoder(build(PretrainConfig, facts["config"], str(path)), facts["modality"])
    encoder.load_state_dict(weights)
    return encoder.eval()


def _ignore(_: object) -> None:
    """Drop a value where a callback must return nothing."""
