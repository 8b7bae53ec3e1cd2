"""The authors' released encoders, as ours: their names and layout (method notes, section 10) to our files."""

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
from xkd.train.run_state import claim
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
    """Our name of a parameter of a released encoder."""
    for pattern, ours in _RENAMES:
        theirs = re.sub(pattern, ours, theirs)
    return theirs


def import_released(
    files: Sequence[Path], modality: Modality, config: PretrainConfig, out: Path
) -> list[Path]:
    """Turn released encoders into files that `xkd.load` reads, and `out` into a run to evaluate.

    Args:
        files: ``*_teacher.pth.tar`` and ``*_student.pth.tar`` of one modality; the name says which it is.
        modality: theirs.
        config: what they were trained with; it decides the shapes.
        out: gets config.yaml and ``encoders/{teacher,student}_{modality}.safetensors``.

    Returns:
        The files written.

    Raises:
        UserError: a file is missing, is no released encoder or one of the other modality, has a name that
            says neither teacher nor student, or does not fit `config`; `out` holds something else.
    """
    encoders = {}
    for path in files:
        found = [role for role in ROLES if role in path.name]
        if len(found) != 1:
            raise UserError(f"{path.name} must say teacher or student, as the authors' files do; rename it")
        if found[0] in encoders:
            raise UserError(f"{path.name} is a second {found[0]}; import one at a time")
        encoders[found[0]] = _read(path, modality, config)
    claim(out, config)
    written = []
    for role, weights in encoders.items():
        written.append(RunDir(out).encoder(role, modality))
        save_encoder(weights, config, modality, written[-1])
    return written


def _read(path: Path, modality: Modality, config: PretrainConfig) -> dict[str, Tensor]:
    """A released encoder's weights under our names, checked against the configuration."""
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
            raise UserError(f"{path}: {name} is missing; is the file whole?")
        if weights[name].shape != tensor.shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, the preset's {tuple(tensor.shape)}; "
                "choose the preset it was trained with"
            )
    return {name: weights[name].float().contiguous() for name in expected}


def _load(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a file; nothing in the file is executed."""
    if not path.is_file():
        raise UserError(f"no file {path}")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes the unpickler raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} is not a file of weights: {reason}") from None
    if isinstance(content, dict) and "model" in content:
        raise UserError(f"{path} is a training checkpoint; import its *_teacher.pth.tar or *_student.pth.tar")
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no weights by name, so no released encoder")
    return content
