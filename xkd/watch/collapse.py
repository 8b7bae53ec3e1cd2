"""The verdict on a run: is the distillation alive (section B.5, Figure S3)?

KD = teacher entropy + KLD. When the outputs turn one-hot, all three go to 0; when they turn constant, KLD
alone does. They are judged by the median of a window, because single steps spike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

DIRECTIONS = ("video_to_audio", "audio_to_video")
WINDOW = 10
"""Rows of metrics that a judgement rests on."""
ZERO = 0.01
"""Share of ln K (the largest possible entropy) under which KD or KLD counts as zero."""
ONE_HOT_ENTROPY = 0.1
"""Share of ln K under which the teachers' entropy makes a collapse one-hot; above it is constant."""


@dataclass(frozen=True)
class Verdict:
    """What became of a run."""

    verdict: Literal["healthy", "one_hot", "constant", "non_finite"]
    reason: str
    """One sentence for people."""
    step: int
    """The step of the newest row it rests on."""

    @property
    def healthy(self) -> bool:
        """Whether an evaluation of the run means anything."""
        return self.verdict == "healthy"

    def to_dict(self) -> dict[str, Any]:
        """As verdict.json holds it."""
        return asdict(self)


def judge(history: Sequence[Mapping[str, Any]], out_dim: int | None) -> Verdict:
    """Judge the rows of metrics.jsonl.

    Args:
        history: rows with ``step``, ``loss`` and ``kd_*``, ``kld_*`` per direction, oldest first.
        out_dim: K, the width of the projector's output; None: nothing was distilled, so nothing can collapse.
    """
    if not history:
        return Verdict("non_finite", "the run logged nothing, so nothing can be said of it", 0)
    step = int(history[-1]["step"])
    for row in history:
        # In fp16 a gradient may overflow; the step is left out then, and nothing is lost.
        bad = [
            name
            for name, value in row.items()
            if isinstance(value, float) and not math.isfinite(value) and name != "grad_norm"
        ]
        if bad:
            return Verdict(
                "non_finite", f"{', '.join(bad)} not finite at step {row['step']}", int(row["step"])
            )
    if out_dim is None:
        return Verdict("healthy", "nothing was distilled; the objective stayed finite", step)
    window = history[-WINDOW:]
    largest = math.log(out_dim)
    for direction in DIRECTIONS:
        kd, kld = (median(row[f"{name}_{direction}"] for row in window) for name in ("kd", "kld"))
        if min(kd, kld) >= ZERO * largest:
            continue
        # KLD is at most KD, so it is the first to fall in either collapse; the entropy tells which it is.
        fell = f"KD {direction} fell to {kd:.3g}, KLD to {kld:.3g}"
        if kd - kld < ONE_HOT_ENTROPY * largest:
            return Verdict(
                "one_hot", f"{fell}: the teacher's outputs turned one-hot (is centering off?)", step
            )
        return Verdict("constant", f"{fell}: teacher and student agree on one constant output", step)
    lowest = min(median(row[f"kld_{d}"] for row in window) for d in DIRECTIONS)
    return Verdict("healthy", f"KD and KLD stay away from zero (lowest KLD {lowest:.3g})", step)
