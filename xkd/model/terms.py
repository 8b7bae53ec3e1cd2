"""Names of the objective's terms and of the statistics logged with them: the fields of ``metrics.jsonl``.

Each table maps a label (a modality, a direction, a pair) to the name of its field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from xkd.config import MODALITIES, Modality, other


def direction(teacher: Modality) -> str:
    """Return the direction in which a modality's teacher distills, such as ``video_to_audio``."""
    return f"{teacher}_to_{other(teacher)}"


DIRECTIONS = tuple(direction(m) for m in MODALITIES)


def _fields(name: str, labels: Iterable[str]) -> Mapping[str, str]:
    return {label: f"{name}_{label}" for label in labels}


RECONSTRUCT = _fields("reconstruct", MODALITIES)
"""Masked reconstruction (Equation 2)."""
ALIGN = _fields("align", ("student", "teacher", *DIRECTIONS))
"""Squared MMD between the modalities' students, their teachers, or a teacher and the other modality's student
(Equations 7, S1)."""
KD = _fields("kd", DIRECTIONS)
"""Distillation (Equation 11)."""
KLD = _fields("kld", DIRECTIONS)
"""KL(teacher || student); KD = teacher entropy + KLD (B.5)."""
TEACHER_ENTROPY = _fields("teacher_entropy", DIRECTIONS)
"""Mean entropy of the teacher's distributions (B.5)."""
BATCH_ENTROPY = _fields("batch_entropy", DIRECTIONS)
"""Entropy of the teacher's mean distribution over the batch (B.5)."""
INFORMATION = _fields("information", DIRECTIONS)
"""Batch entropy - teacher entropy: the mutual information of a clip and the teacher's output."""
CENTER_NORM = _fields("center_norm", DIRECTIONS)
"""L2 norm of the teacher's center (B.5)."""
FEATURE_STD = _fields("feature_std", MODALITIES)
"""Spread of the teacher's features over the batch."""
FEATURE_RANK = _fields("feature_rank", MODALITIES)
"""Effective rank of the teacher's features."""
TEACHER_TEMPERATURE = _fields("teacher_temperature", MODALITIES)
"""tau_t (Equation 10)."""

SUMS = {"reconstruct": RECONSTRUCT, "align": ALIGN, "distill": KD}
"""The three sums of Equation 12, by their weight in `LossConfig`, and the terms of each."""
