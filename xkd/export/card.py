"""The model card of an exported encoder, with the front matter of the Hugging Face Hub."""

from __future__ import annotations

import math
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from xkd.export.module import input_name, input_shape
from xkd.report.aggregate import Group, aggregate
from xkd.report.load import EvaluatedRun, read_run
from xkd.report.render import LEGENDS, describe_changes, provenance
from xkd.report.tables import DatasetTable
from xkd.rundir import RunDir
from xkd.weights import PretrainedEncoder

_CODE = {
    "safetensors": """\
import xkd

encoder = xkd.load("{place}")  # the folder of this card
tokens = encoder(encoder.transform({name}))  # one clip
features = encoder.pool(tokens)""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("{place}")
tokens, features = session.run(["tokens", "features"], {{"{name}": {name}}})""",
    "torch-export": """\
import torch

encoder = torch.export.load("{place}").module()
tokens, features = encoder({name})""",
}


def card(run: RunDir, encoder: PretrainedEncoder, role: str, kind: str, place: str) -> str:
    """Return the text of a model card.

    It has what a finished run knows of itself: data, settings, commit, verdict, and the scores under
    ``scores/`` with chance and random initialization. The license of the data is left to fill in.

    Args:
        place: name of the exported file or folder.
    """
    config, name = encoder.config, input_name(encoder)
    values: dict[str, Any] = {"verdict": None, "provenance": [("Preset", config.preset)], "tables": []}
    if run.ended:
        evaluated = _read(run)
        changes = ("Settings that differ from the preset", describe_changes(evaluated))
        groups = [Group(run.name, (evaluated,))]
        datasets = sorted({score.dataset for score in evaluated.scores})
        values = {
            "verdict": evaluated.verdict,
            "provenance": [*provenance(evaluated, run.metrics()), changes],
            "tables": [DatasetTable(dataset, aggregate(groups, [dataset])) for dataset in datasets],
        }
    environment = Environment(
        loader=PackageLoader("xkd.export", ""),
        autoescape=False,  # noqa: S701 -- Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.j2").render(
        run=run,
        config=config,
        modality=encoder.modality,
        role=role,
        input=_describe_input(encoder, kind),
        tokens=1 + math.prod(encoder.grid),
        code=_CODE[kind].format(place=place, name=name),
        **values,
        **LEGENDS,
    )


def _read(run: RunDir) -> EvaluatedRun:
    """Return a finished run with its scores, if it has any."""
    if run.scores.is_dir():
        return read_run(run.path, run.scores)
    return EvaluatedRun(run, run.config(), run.info(), run.verdict(), [], {}, {}, run.scores)


def _describe_input(encoder: PretrainedEncoder, kind: str) -> str:
    """Return what the encoder takes, in words."""
    clip, shape = encoder.config.clip, input_shape(encoder)
    if encoder.modality == "audio":
        clips = f"waveforms in [-1, 1], {clip.seconds:g} s at {clip.sample_rate} Hz"
    else:
        clips = f"RGB frames, {clip.seconds:g} s at {clip.fps} frames per second"
    dtype = "uint8" if encoder.modality == "video" else "float32"
    if kind == "safetensors":
        return f"{clips}; `encoder.transform` resizes, crops and normalizes them"
    sizes = ", ".join(map(str, shape))
    return f"`{input_name(encoder)}`, {dtype} (B, {sizes}), {clips}; normalization is included"
