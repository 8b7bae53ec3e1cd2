"""Import of the authors' released encoders: their names and layout (method notes, section 10) to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xkd.config import Modality, PretrainConfig, other
from xkd.errors import UserError
from xkd.model.networks import build_encoder
from xkd.rundir import ROLES, RunDir
from xkd.weights import save_encoder

_EMBED = {"video": "cuboid_embed", "audio": "patch_embed"}
_A = {"video": "a video", "audio": "an audio"}
_RENAMES = (
    (r"^enc_pos_embed$", "positions"),
    (r"^(cuboid|patch)_embed\.proj\.", "embed."),
    (r"^encoder_norm\.", "norm."),
    (r"^encoder\.blocks\.", "blocks."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
)


def our_name(theirs: str) -> str:
    """Return our name of a parameter of a released encoder."""
    for pattern, ours in _RENAMES:
        theirs = re.sub(pattern, ours, theirs)
    return theirs


def import_released(
    files: Sequence[Path], modality: Modality, config: PretrainConfig, out: Path
) -> list[Path]:
    """Write released encoders to a run directory that can be evaluated.

    Args:
        files: ``*_teacher.pth.tar`` and ``*_student.pth.tar`` of one modality.
        modality: modality of the encoders.
        config: configuration they were trained with; it decides the shapes.
        out: run directory; gets its configuration and the encoders.

    Returns:
        The files written.

    Raises:
        UserError: a file is missing, not a released encoder, of the other modality, not named teacher or
            student, or does not fit `config`; or `out` holds something else.
    """
    encoders = {}
    for path in files:
        found = [role for role in ROLES if role in path.name]
        if len(found) != 1:
            raise UserError(f"{path.name}: the name must contain teacher or student; rename it")
        if found[0] in encoders:
            raise UserError(f"{path.name} is a second {found[0]}; import one at a time")
        encoders[found[0]] = _read(path, modality, config)
    run, written = RunDir(out), []
    run.claim(config)
    for role, weights in encoders.items():
        written.append(run.encoder(role, modality))
        save_encoder(weights, config, modality, written[-1])
    return written


def _read(path: Path, modality: Modality, config: PretrainConfig) -> dict[str, Tensor]:
    """Return a released encoder's weights under our names, checked against the configuration."""
    theirs = _load(path)
    if any(name.startswith(_EMBED[other(modality)]) for name in theirs):
        raise UserError(f"{path} holds {_A[other(modality)]} encoder; give --modality {other(modality)}")
    weights = {our_name(name): value for name, value in theirs.items()}
    with torch.device("meta"):
        expected = build_encoder(config, modality).state_dict()
    for name in theirs:
        if our_name(name) not in expected:
            raise UserError(
                f"{path}: {name} is not part of a released encoder of {config.encoder.depth} blocks"
            )
    for name, tensor in expected.items():
        if name not in weights:
            raise UserError(f"{path}: {name} is missing; the file may be truncated")
        if weights[name].shape != tensor.shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}; "
                "choose the preset it was trained with"
            )
    return {name: weights[name].float().contiguous() for name in expected}


def _load(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict in a file; nothing in the file is executed."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises anything on files of other kinds
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} is not a weights file: {reason}") from None
    if isinstance(content, dict) and "model" in content:
        raise UserError(f"{path} is a training checkpoint; import its *_teacher.pth.tar or *_student.pth.tar")
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} is not a released encoder: it does not map names to weights")
    return content
