"""Reduce recorded originals to the files here: `python -m tests.reference.reduce ORIGINALS`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).parent
WHOLE, BUCKETS = 512, 127
RUNS = {
    "xkd": ("global", "released", "released_softmax_attn", "released_stemp_v0.2_a0.1"),
    "mas": ("global", "released"),
    "mats": ("global", "released"),
}
"""Recorded training runs of each variant of the model."""
SETUP = ("config", "encoder", "decoder", "projector", "center_momentum", "lr", "weight_decay", "betas",
         "clip", "ema", "variant", "grad_names", "student_names", "teacher_names", "aliases",
         "official_commit", "torch")  # fmt: skip
"""What all runs of a variant have in common."""
STEP = r"loss/\w+|center/\w+|grad_norm_clipped|student_stat_after_adamw|teacher_stat_after_ema"
DATA = r"audio/(?!timewarp).*|video/(?!blur_96|gray_tensor_96).*"
SMALLER: dict[str, Callable[[Tensor], Tensor]] = {
    "audio/spec_silence": lambda value: torch.unique(value),
    "audio/short_padded": lambda value: value.nonzero().max() + 1,
    "video/to_tensor_96": lambda value: (255 * value).round().to(torch.uint8),
}
"""A constant as one value, the padded beginning of ``audio/wav`` as its length, and pictures as bytes."""
EVALUATION = r"in/.*|out/(teacher|student)/(video|audio)_pool_.*"


def fold(values: Tensor) -> Tensor:
    """Return a small tensor as it is, and a larger one as the sums of every 127th entry and its norm.

    Each entry is in one of the sums, and 127 divides no axis of a model, so that a wrong entry, row, sign or
    axis shows; independent errors have the same norm in the sums as in the whole tensor.
    """
    if values.numel() <= WHOLE:
        return values
    flat = values.flatten()
    padded = torch.cat([flat, flat.new_zeros(-len(flat) % BUCKETS)])
    return torch.cat([padded.view(-1, BUCKETS).sum(dim=0), flat.norm()[None]])


def reduce_runs(originals: Path) -> None:
    """Write inputs and weights once per variant, and what each run computes, large tensors folded."""
    for variant, runs in RUNS.items():
        inputs: dict[str, Tensor] = {}
        for run in runs:
            teacher, _, rest = run.partition("_")
            name = f"micro_{variant}_{teacher}_f64{rest and '_' + rest}.pt"
            values = torch.load(originals / name, weights_only=True)
            meta = json.loads(values.pop("meta"))
            results = {}
            for key, value in values.items():
                kind, _, rest = key.partition("/")
                if rest in meta["aliases"]:
                    continue
                if kind in ("in", "state"):
                    add(inputs, key, value)
                elif kind in ("grad", "after") or (kind == "act" and not key.endswith("last_attn")):
                    results[key] = fold(value.double()) if value.is_floating_point() else value
                elif kind == "step" and re.fullmatch(STEP, rest.partition("/")[2]):
                    results[key] = value
            of_run = {key: meta[key] for key in ("teacher_view", "fwd_kwargs", "steps")}
            write(f"{variant}_{run}", results, of_run)
        write(variant, inputs, {key: meta[key] for key in SETUP})


def add(inputs: dict[str, Tensor], key: str, value: Tensor) -> None:
    """Keep an input in single precision, which holds all of them exactly; runs of a variant share them."""
    single = value.float()
    exact = torch.equal(single.to(value.dtype), value)
    if not exact or not torch.equal(inputs.setdefault(key, single), single):
        raise ValueError(f"{key} differs between runs or needs double precision")


def reduce_tensors(originals: Path, source: str, name: str, keys: str) -> None:
    """Write the tensors whose names match; nothing is lost where `SMALLER` has a shorter form."""
    values = torch.load(originals / source, weights_only=True)
    kept = {key: value for key, value in values.items() if re.fullmatch(keys, key)}
    write(name, {key: SMALLER[key](value) if key in SMALLER else value for key, value in kept.items()}, {})


def reduce_layout(originals: Path) -> None:
    """Write the shapes in the released files, equal in all variants, and the numbers of parameters."""
    recorded = json.loads((originals / "checkpoint_layout.json").read_text())
    layout = {}
    for modality in ("vid", "aud"):
        texts = {
            json.dumps(about["files"][f"{modality}_{role}.pth.tar"])
            for about in recorded.values()
            for role in ("student", "teacher")
        }
        (text,) = texts
        layout[modality] = {name: shape for name, (shape, _) in json.loads(text).items()}
    layout["parameters"] = {variant: about["counts"] for variant, about in recorded.items()}
    write_json("checkpoint_layout.json", layout)


def reduce_initialization(originals: Path) -> None:
    """Write the statistics of all tensors of variant xkd, of its blocks only the first."""
    recorded = json.loads((originals / "init_stats.json").read_text())["xkd"]
    kept = {name: about for name, about in recorded.items() if not re.search(r"blocks\.(?!0\.)", name)}
    write_json("initialization.json", {"xkd": kept})


def write(name: str, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    contiguous = {key: value.contiguous().clone() for key, value in tensors.items()}
    save_file(contiguous, HERE / f"{name}.safetensors", {"meta": json.dumps(meta, sort_keys=True)})


def write_json(name: str, content: dict[str, Any]) -> None:
    """Write one line per entry of the two outer levels."""
    parts = []
    for key, inner in content.items():
        lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in inner.items())
        parts.append(f" {json.dumps(key)}: {{\n" + ",\n".join(lines) + "\n }")
    (HERE / name).write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    reduce_runs(folder)
    reduce_tensors(folder, "eval_micro_xkd_released.pt", "evaluation", EVALUATION)
    reduce_tensors(folder, "data_reference.pt", "data", DATA)
    reduce_layout(folder)
    reduce_initialization(folder)
