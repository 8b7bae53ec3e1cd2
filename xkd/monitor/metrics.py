"""Every number that a run tells: the Prometheus series, and the field of metrics.jsonl it comes from.

``python -m xkd.monitor.metrics`` prints docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from xkd.config import MODALITIES
from xkd.model.terms import DIRECTIONS
from xkd.monitor.collapse import VERDICTS

UNITS = ("nats", "seconds", "bytes", "steps", "ratio")
"""What names of metrics end in."""
PHASES = ("data_wait", "forward_backward", "optimizer")
"""Of a step, in their order."""
USUAL_SCRAPE_SECONDS = 60.0
"""Prometheus' own interval: as long is waited for a scrape of what would be gone after it."""


@dataclass(frozen=True)
class Metric:
    """One Prometheus metric and the fields that its series come from."""

    name: str
    description: str
    fields: Mapping[str, str]
    """Label value to field; "" where there is but one series."""
    label: str = ""
    kind: Literal["gauge", "counter"] = "gauge"
    source: str = ""
    """Equation, section or table of the paper."""

    @property
    def unit(self) -> str:
        """What the name ends in, by Prometheus' custom; empty for a count and for what has none."""
        last = self.name.rsplit("_", 1)[-1]
        return last if last in UNITS else ""


def _one(name: str, description: str, field: str, source: str = "") -> Metric:
    return Metric(name, description, {"": field}, source=source)


def _each(
    name: str, description: str, field: str, label: str, values: tuple[str, ...], source: str = ""
) -> Metric:
    return Metric(name, description, {value: f"{field}_{value}" for value in values}, label, source=source)


def _by_direction(name: str, description: str, field: str, source: str) -> Metric:
    return _each(name, description, field, "direction", DIRECTIONS, source)


def _by_modality(name: str, description: str, field: str, source: str = "") -> Metric:
    return _each(name, description, field, "modality", MODALITIES, source)


METRICS = (
    _by_direction("xkd_kd_nats", "Cross-modal distillation loss; it is H + KLD", "kd", "Equation 11"),
    _by_direction("xkd_kld_nats", "KL(teacher || student): tracked, not optimized", "kld", "section B.5"),
    _by_direction(
        "xkd_teacher_entropy_nats",
        "H, mean entropy of the teacher's distributions",
        "teacher_entropy",
        "section B.5",
    ),
    _by_direction(
        "xkd_batch_entropy_nats",
        "Entropy of the batch's mean teacher distribution: how many outputs are in use at all",
        "batch_entropy",
        "section B.5",
    ),
    _by_direction(
        "xkd_teacher_information_nats",
        "What a teacher's output tells of the clip: the two entropies' difference; at most ln of the batch",
        "information",
        "",
    ),
    _by_direction("xkd_center_norm", "L2 norm of the teacher's center", "center_norm", "section B.5"),
    _one("xkd_loss", "Objective", "loss", "Equation 12"),
    _by_modality("xkd_reconstruction_loss", "Masked reconstruction", "reconstruct", "Equation 2"),
    Metric(
        "xkd_alignment_mmd",
        "Squared MMD between the modalities, or of a teacher and the other modality's student",
        {pair: f"align_{pair}" for pair in ("student", "teacher", *DIRECTIONS)},
        "pair",
        source="Equations 7, S1",
    ),
    _by_modality(
        "xkd_teacher_feature_std_ratio",
        "Spread of the teacher's features over a batch: 0 all the same, 1 in all directions alike",
        "feature_std",
    ),
    _by_modality(
        "xkd_teacher_feature_rank",
        "Effective rank of the teacher's features over the clips of one process",
        "feature_rank",
    ),
    _one("xkd_learning_rate", "Learning rate", "lr", "Table S4"),
    _one("xkd_weight_decay", "Weight decay", "weight_decay", "Table S4"),
    _one("xkd_teacher_momentum_ratio", "Momentum of the teachers' average", "momentum", "Equation 13"),
    _by_modality(
        "xkd_teacher_temperature",
        "Temperature of the teacher's distributions",
        "teacher_temperature",
        "Equation 10",
    ),
    _one("xkd_gradient_norm", "L2 norm of the students' gradients before clipping", "grad_norm"),
    _one("xkd_loss_scale", "Scale of the loss; in fp16 only", "loss_scale"),
    Metric(
        "xkd_skipped_steps_total",
        "Steps left out because fp16 gradients overflowed",
        {"": "skipped_steps"},
        kind="counter",
    ),
    Metric(
        "xkd_skipped_clips_total",
        "Clips not trained on: not prepared, without a modality, too short, or unreadable and replaced",
        {r: f"skipped_{r}" for r in ("unprepared", "without_modality", "too_short", "unreadable")},
        "reason",
        "counter",
    ),
    _one("xkd_step", "Optimizer steps done", "step"),
    _one("xkd_steps_planned", "Optimizer steps of the whole run", "steps"),
    _one("xkd_epoch", "Passes over the data, with the fraction of the current one", "epoch"),
    _one("xkd_eta_seconds", "Time left at the present pace", "eta_seconds"),
    _one("xkd_step_seconds", "Time of a step with all that is between steps", "step_seconds"),
    _each(
        "xkd_step_phase_seconds",
        "Time of a step by part, as the device sees it",
        "seconds",
        "phase",
        PHASES,
    ),
    _one("xkd_samples_per_second", "Clips trained on per second, of all processes", "samples_per_second"),
    _one("xkd_gpu_memory_bytes", "Most GPU memory held by the first process so far", "gpu_memory_bytes"),
    _one(
        "xkd_logged_timestamp_seconds",
        "When the newest numbers were taken, or since when there could be any, Unix time",
        "time",
    ),
    _one(
        "xkd_checkpoint_timestamp_seconds",
        "When the newest checkpoint was written, or since when there could be one, Unix time",
        "checkpoint_time",
    ),
    Metric(
        "xkd_verdict",
        "1 for the verdict on the newest rows, 0 for the others; a process that hangs never says stalled",
        {verdict: f"verdict_{verdict}" for verdict in VERDICTS},
        "verdict",
        source="section B.5",
    ),
    _one("xkd_log_interval_steps", "Steps between the rows of metrics.jsonl (run.log_every)", "log_every"),
    _one("xkd_rollbacks", "Times the run went back to an earlier checkpoint", "rollbacks"),
    _one("xkd_largest_entropy_nats", "ln K, the entropy of uniform outputs", "largest_entropy"),
    _one(
        "xkd_largest_information_nats",
        "ln of the batch, all there is to tell of a clip",
        "largest_information",
    ),
    _one("xkd_collapse_threshold_nats", "KD or KLD below it is a collapse", "collapse_threshold"),
)

INFO = {
    "preset": "preset the run started from",
    "commit": "commit of the code",
    "dataset": "name of the prepared dataset",
    "data_revision": "its revision",
    "processes": "training processes",
    "device": "what it runs on",
    "torch": "torch's version",
    "kfp_run": "ID of the Kubeflow run whose step it is, if it is one's",
}
"""Labels of ``xkd_run_info``, a series that is always 1, beside ``run``."""

SCORE = "xkd_evaluation_score"
"""What `xkd.monitor.pushgateway` sends to a Pushgateway."""
SCORE_LABELS = ("dataset", "modality", "protocol", "encoder", "fold")


def page() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Written by `python -m xkd.monitor.metrics`, from the table that the run itself uses. Every series",
        "also has the label `run`, the run directory's name. A gauge without a value yet is NaN, never 0.",
        "Fields are those of `metrics.jsonl`, which has no verdicts and nothing that never changes in a run.",
        "",
        "| metric | kind | unit | label | what it is | in the paper | field |",
        "|---|---|---|---|---|---|---|",
    ]
    for metric in METRICS:
        label = f"`{metric.label}`: {', '.join(metric.fields)}" if metric.label else ""
        fields = ", ".join(f"`{field}`" for field in metric.fields.values())
        cells = (
            f"`{metric.name}`",
            metric.kind,
            metric.unit,
            label,
            metric.description,
            metric.source,
            fields,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += [
        "",
        "`xkd_run_info` is 1 and says what runs: " + "; ".join(f"`{k}`, {v}" for k, v in INFO.items()) + ".",
        "",
        f"`{SCORE}` (`run`, {', '.join(f'`{label}`' for label in SCORE_LABELS)}) is between 0 and 1.",
        "`xkd tabulate --pushgateway URL` pushes it, and deletes it after it was scraped.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
