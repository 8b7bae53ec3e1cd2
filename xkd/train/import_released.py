"""Import of the authors' released encoders: their names and layout (method notes, section 10) to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from xkd.config import Modality, PretrainConfig, other
from xkd.errors import UserError
from xkd.lock import locked_directory
from xkd.model.vit import build_encoder
from xkd.rundir import ROLES, RunDir
from xkd.weights import load_saved, save_encoder

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
    """Write released encoders to a run directory that can be evaluated; return the files written.

    Args:
        files: ``*_teacher.pth.tar`` and ``*_student.pth.tar`` of one modality.
        modality: modality of the encoders.
        config: configuration they were trained with; it decides the shapes.
        out: run directory; gets its configuration and the encoders.

    Raises:
        UserError: a file is missing, not a released encoder, of the other modality, not named teacher or
            student, or does not fit `config`; or `out` holds something else or is in use.
    """
    run, encoders = RunDir(out), {}
    for path in files:
        roles = [role for role in ROLES if role in path.name]
        if len(roles) != 1:
            raise UserError(f"{path.name}: the name must contain teacher or student; rename it")
        file = run.encoder(roles[0], modality)
        if file in encoders:
            raise UserError(f"{path.name} is a second {roles[0]}; import one at a time")
        encoders[file] = _read(path, modality, config)
    with locked_directory(out):
        run.claim(config)
        for file, weights in encoders.items():
            save_encoder(weights, config, modality, file)
    return list(encoders)


def _read(path: Path, modality: Modality, config: PretrainConfig) -> dict[str, Tensor]:
    """Return a released encoder's weights under our names, checked against the configuration."""
    with torch.device("meta"):
        expected = build_encoder(config, modality).state_dict()
    weights, released = {}, _load(path)
    if any(name.startswith(_EMBED[other(modality)]) for name in released):
        raise UserError(f"{path} holds {_A[other(modality)]} encoder; give --modality {other(modality)}")
    for theirs, value in released.items():
        name = our_name(theirs)
        if name not in expected:
            depth = config.encoder.depth
            raise UserError(f"{path}: {theirs} is not part of a released encoder of {depth} blocks")
        if value.shape != expected[name].shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(value.shape)}, expected {tuple(expected[name].shape)}; "
                "choose the preset it was trained with"
            )
        weights[name] = value.float().contiguous()
    if missing := expected.keys() - weights.keys():
        raise UserError(f"{path}: {min(missing)} is missing; the file may be truncated")
    return weights


def _load(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict in a file."""
    content = load_saved(path)
    if isinstance(content, dict) and "model" in content:
        raise UserError(f"{path} is a training checkpoint; import its *_teacher.pth.tar or *_student.pth.tar")
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} is not a released encoder: it does not map names to weights")
    return content
