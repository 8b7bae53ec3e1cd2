"""Write an encoder as a file for other programs, checked against the encoder, with a model card."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from xkd.config import Modality
from xkd.config.overrides import to_dict
from xkd.errors import UserError, XkdError, extra_required
from xkd.export.card import card
from xkd.export.module import ExportedEncoder, input_name, random_clips
from xkd.io import write_atomically, write_json, write_text
from xkd.log import get_logger
from xkd.rundir import Role, RunDir
from xkd.weights import MODEL_FILE, PretrainedEncoder, load, save_encoder

_log = get_logger(__name__)

Format = Literal["onnx", "torch-export", "safetensors"]
OUTPUTS = ("tokens", "features")
"""Outputs of an exported encoder, in their order."""
BATCHES = (1, 2, 5)
"""Sizes of the random batches on which an exported encoder is compared with the encoder."""
TOLERANCE = 1e-4
"""Largest difference of a token or feature that is accepted."""
_LARGEST_ONNX = 2**31
"""Bytes that a file of protocol buffers may have."""

Run = Callable[[Tensor], tuple[Tensor, ...]]
"""An exported encoder that was read back."""


class Exported(NamedTuple):
    """What `export` wrote."""

    file: Path
    card: Path
    difference: float | None
    """Largest difference to the encoder on random input; None for copied weights."""


def export(
    run: Path, modality: Modality, out: Path, kind: Format = "onnx", role: Role = "teacher"
) -> Exported:
    """Export a published encoder, and write a model card (README.md) next to it.

    Formats ``onnx`` and ``torch-export`` contain the front end (see `ExportedEncoder`), have a batch of any
    size, and are written only if they give what the encoder gives. ``safetensors`` is a folder that
    `xkd.load` reads: the weights, config.json and the card, as on the Hugging Face Hub.

    Args:
        run: directory of a finished run, or of imported encoders.
        out: the file; a folder for ``safetensors``.

    Raises:
        UserError: there is no such encoder, `out` is a folder, the folder has another README.md, the encoder
            is too large for ONNX, or a package is missing.
        ExportError: the exported encoder differs from the encoder.
    """
    source, folder = RunDir(run), out if kind == "safetensors" else out.parent
    if kind == "onnx":
        _require_onnx()
    if out.is_dir() and kind != "safetensors":
        raise UserError(f"{out} is a directory; give a file in it, such as {out / 'model'}.{kind}")
    source.config()
    encoder = load(source.encoder(role, modality))
    text, place = card(source, encoder, role, kind, out.name), folder / "README.md"
    if place.exists() and place.read_text() != text:
        raise UserError(f"{place} exists and is not this encoder's card; use a folder for each encoder")

    # The address of the tracking server is nothing to pass on.
    config = replace(encoder.config, run=replace(encoder.config.run, mlflow=None))
    metadata = {"modality": modality, "role": role, "config": to_dict(config)}
    if kind == "safetensors":
        file, difference = out / MODEL_FILE, None
        save_encoder(encoder.state_dict(), config, modality, file)
        write_json(folder / "config.json", {"model_type": "xkd", **metadata})
    else:
        file = out
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own code
            content, difference = _checked(encoder, kind, json.dumps(metadata))
        write_atomically(out, lambda opened: opened.write(content))
    write_text(place, text)
    return Exported(file, place, difference)


class ExportError(XkdError):
    """An exported encoder does not give what the encoder gives; nothing was written."""


def _checked(encoder: PretrainedEncoder, kind: str, metadata: str) -> tuple[bytes, float]:
    """Return the file's content and its largest difference to the encoder."""
    _log.info("export: tracing the %s encoder", encoder.modality)
    program = _trace(encoder)
    to_bytes, read = (_to_onnx, _read_onnx) if kind == "onnx" else (_to_torch, _read_torch)
    content = to_bytes(program, input_name(encoder), metadata)
    _log.info("export: comparing the file of %.1f MB with the encoder", len(content) / 1e6)
    difference = largest_difference(encoder, read(content))
    if not difference < TOLERANCE:  # also when it is no number
        raise ExportError(
            f"the exported encoder differs from the encoder by up to {difference:.1e}, more than "
            f"{TOLERANCE:g}; nothing was written"
        )
    return content, difference


def _trace(encoder: PretrainedEncoder) -> ExportedProgram:
    """Return the program of an encoder with its front end and a batch of any size."""
    module = ExportedEncoder(encoder).eval().requires_grad_(False)
    shapes = ({0: Dim("batch")},)
    with torch.no_grad():
        return torch.export.export(module, (random_clips(encoder, 2),), dynamic_shapes=shapes, strict=False)


def largest_difference(encoder: PretrainedEncoder, run: Run) -> float:
    """Return the largest difference of tokens and features to those of the encoder, on random batches."""
    differences = []
    with torch.inference_mode():
        for count in BATCHES:
            clips = random_clips(encoder, count)
            tokens = encoder(torch.cat([encoder.transform(clip) for clip in clips]))
            expected = (tokens, encoder.pool(tokens))
            differences += [
                (ours - theirs).abs().max() for ours, theirs in zip(expected, run(clips), strict=True)
            ]
    return float(torch.stack(differences).max())  # NaN if one is


def _to_onnx(program: ExportedProgram, name: str, metadata: str) -> bytes:
    size = sum(value.nbytes for value in program.state_dict.values())
    if size >= _LARGEST_ONNX:
        raise UserError(f"the encoder's {size >> 20} MB exceed the 2 GiB of an ONNX file; use torch-export")
    onnx = torch.onnx.export(
        program,
        dynamo=True,
        input_names=[name],
        output_names=OUTPUTS,
        dynamic_shapes=({0: "batch"},),  # only their names: the program has them
        verbose=False,
    )
    assert onnx is not None
    onnx.model.metadata_props["xkd"] = metadata
    return cast(bytes, onnx.model_proto.SerializeToString())


def _read_onnx(content: bytes) -> Run:
    from onnxruntime import InferenceSession

    session = InferenceSession(content, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(clips: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, session.run(list(OUTPUTS), {given.name: clips.numpy()})))

    return run


def _to_torch(program: ExportedProgram, _name: str, metadata: str) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"xkd.json": metadata})
    return file.getvalue()


def _read_torch(content: bytes) -> Run:
    run: Any = torch.export.load(io.BytesIO(content)).module()
    return cast(Run, run)


def _require_onnx() -> None:
    with extra_required("--format onnx", "export"):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
