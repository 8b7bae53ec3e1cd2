"""The Grafana dashboards as code.

``python -m k8s.monitoring.dashboards k8s/monitoring/grafana`` writes the files. Queries name only metrics of
`xkd.monitor.metrics` and records of k8s/monitoring/rules.yaml; a test sees to both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from k8s.monitoring.grafana_json import Panel, address, dashboard, link, of, variable
from xkd.monitor.collapse import ZERO
from xkd.monitor.metrics import RUN_VERDICTS

COLORS = dict(zip(RUN_VERDICTS, ("green", "red", "purple", "dark-red"), strict=True))
VERDICT = "max by (namespace, run) ({})".format(
    " or ".join(
        f"{n} * ({of('xkd_verdict', f'verdict={json.dumps(v)}')} == 1)" for n, v in enumerate(RUN_VERDICTS)
    )
)
"""The verdict as its place in `RUN_VERDICTS`."""
PIPELINE_RUN = "${kfp}/#/runs/details/${__field.labels.kfp_run}"
"""The page of a run in the Kubeflow Pipelines UI."""


def verdict(**place: Any) -> Panel:
    """The verdict over time, in colors."""
    mapped = {
        str(n): {"text": name, "color": color, "index": n} for n, (name, color) in enumerate(COLORS.items())
    }
    return Panel(
        "Verdict",
        "What the run says of itself, from the medians of its newest rows (docs/collapse.md).",
        {"{{run}}": VERDICT},
        kind="state-timeline",
        defaults={"mappings": [{"type": "value", "options": mapped}]},
        **place,
    )


def shares(**place: Any) -> Panel:
    """KD, KLD, H and information as shares of what they can be, with the level of a collapse."""
    steps = [{"color": "red", "value": None}, {"color": "transparent", "value": ZERO}]
    return Panel(
        "KD, KLD, entropy and information of $run",
        "As shares of the most there can be. One-hot collapse: all go to 0. Constant collapse: KLD or what "
        f"the teachers tell of a clip does. What is below the line, {ZERO:.0%}, counts as zero; but not H.",
        {
            "KD {{direction}}": of("xkd:kd:ratio"),
            "KLD {{direction}}": of("xkd:kld:ratio"),
            "H {{direction}}": of("xkd:teacher_entropy:ratio"),
            "information {{direction}}": of("xkd:information:ratio"),
        },
        unit="percentunit",
        defaults={
            "min": 0,
            "thresholds": {"mode": "absolute", "steps": steps},
            "custom": {"thresholdsStyle": {"mode": "line"}, "axisSoftMax": 1},
        },
        **place,
    )


def throughput(**place: Any) -> Panel:
    """Clips per second."""
    return Panel(
        "Throughput",
        "Clips trained on per second, of all processes of a run.",
        {"{{run}}": of("xkd_samples_per_second")},
        unit="ops",
        defaults={"min": 0},
        **place,
    )


def data_wait(**place: Any) -> Panel:
    """The share of time without data."""
    return Panel(
        "Waiting for data",
        "Share of a step in which the device is idle because the next clips are not decoded.",
        {"{{run}}": of("xkd:data_wait:ratio")},
        unit="percentunit",
        defaults={"min": 0},
        **place,
    )


def progress(**place: Any) -> Panel:
    """How far runs are."""
    return Panel(
        "Progress",
        "Steps done of those planned.",
        {"{{run}}": of("xkd:progress:ratio")},
        unit="percentunit",
        kind="bargauge",
        defaults={"min": 0, "max": 1},
        options={"orientation": "horizontal", "displayMode": "basic"},
        **place,
    )


FLEET = [
    verdict(width=16),
    progress(),
    throughput(width=12),
    data_wait(width=12),
    shares(repeat="run"),
]

RUN = [
    verdict(width=12, height=5),
    Panel(
        "What runs",
        "Labels of xkd_run_info. A click leads to the run in Kubeflow Pipelines, at the address above.",
        {"{{preset}} on {{dataset}}, {{processes}} x {{device}}, code {{commit}}": of("xkd_run_info")},
        kind="stat",
        width=12,
        height=5,
        defaults={"links": [link("Pipeline run", PIPELINE_RUN)]},
        options={"textMode": "name", "colorMode": "none"},
    ),
    Panel(
        "Distillation (KD)",
        "Cross-entropy of the student under the teacher (Equation 11), the loss; KD = H + KLD. "
        "The lines are ln K and the level of a collapse.",
        {
            "{{direction}}": of("xkd_kd_nats"),
            "ln K": of("xkd_largest_entropy_nats"),
            "collapse": of("xkd_collapse_threshold_nats"),
        },
        defaults={"min": 0},
    ),
    Panel(
        "KL(teacher || student) (KLD)",
        "Tracked, not optimized (section B.5); 0 means that the student has nothing left to learn.",
        {"{{direction}}": of("xkd_kld_nats"), "collapse": of("xkd_collapse_threshold_nats")},
        defaults={"min": 0},
    ),
    Panel(
        "Teachers' entropy",
        "Mean entropy H of the teachers' distributions, and that of the batch's mean distribution, which "
        "tells how many outputs are in use. ln K is uniform.",
        {
            "H {{direction}}": of("xkd_teacher_entropy_nats"),
            "of the mean {{direction}}": of("xkd_batch_entropy_nats"),
            "ln K": of("xkd_largest_entropy_nats"),
        },
        defaults={"min": 0},
    ),
    Panel(
        "What the teachers tell of a clip",
        "Mutual information of clip and output: at 0 every clip has the same distribution. "
        "It falls in either collapse, also where norms keep KLD from it. The line is a collapse's level.",
        {
            "{{direction}}": of("xkd_teacher_information_nats"),
            "collapse": f"{ZERO} * {of('xkd_largest_information_nats')}",
        },
        defaults={"min": 0},
    ),
    Panel(
        "Teachers' features: rank",
        "Effective rank of the features of one process's clips; it falls to 1 when all clips look alike.",
        {"{{modality}}": of("xkd_teacher_feature_rank")},
        defaults={"min": 0},
    ),
    Panel(
        "Teachers' features: spread",
        "Standard deviation of the normalized features over a batch: 0 all the same, 1 all directions.",
        {"{{modality}}": of("xkd_teacher_feature_std_ratio")},
        defaults={"min": 0},
    ),
    Panel(
        "Reconstruction",
        "Masked reconstruction loss (Equation 2).",
        {"{{modality}}": of("xkd_reconstruction_loss")},
        defaults={"min": 0},
    ),
    Panel(
        "Alignment (MMD)",
        "Squared MMD between the modalities' students and between their teachers (Equation 7).",
        {"{{pair}}": of("xkd_alignment_mmd")},
    ),
    Panel("Objective", "Equation 12.", {"objective": of("xkd_loss")}),
    Panel(
        "Centers",
        "L2 norm of the teachers' centers.",
        {"{{direction}}": of("xkd_center_norm")},
        defaults={"min": 0},
    ),
    Panel(
        "Gradient norm",
        "L2 norm of the students' gradients before clipping.",
        {"norm": of("xkd_gradient_norm")},
        defaults={"custom": {"scaleDistribution": {"type": "log", "log": 10}}},
    ),
    Panel(
        "Temperatures",
        "Of the teachers' distributions (Equation 10, Table S4).",
        {"{{modality}}": of("xkd_teacher_temperature")},
    ),
    Panel(
        "Learning rate and weight decay",
        "Table S4; each rollback halves the learning rate.",
        {"learning rate": of("xkd_learning_rate"), "weight decay": of("xkd_weight_decay")},
        defaults={"custom": {"scaleDistribution": {"type": "log", "log": 10}}},
    ),
    Panel(
        "Teachers' momentum",
        "Of the moving average (Equation 13).",
        {"momentum": of("xkd_teacher_momentum_ratio")},
        defaults={"decimals": 5},
    ),
    Panel(
        "Loss scale and skipped steps",
        "In fp16: the scale is halved and a step left out when gradients overflow.",
        {"scale": of("xkd_loss_scale"), "skipped steps": of("xkd_skipped_steps_total")},
        defaults={"custom": {"scaleDistribution": {"type": "symlog", "log": 2, "linearThreshold": 1}}},
    ),
    Panel(
        "Skipped clips",
        "Not prepared, without one of the modalities, or unreadable while training and replaced by another.",
        {"{{reason}}": of("xkd_skipped_clips_total")},
        defaults={"min": 0},
    ),
    Panel(
        "A step's time",
        "By part, as the device sees it; what is missing from the whole is logging and checkpoints.",
        {"{{phase}}": of("xkd_step_phase_seconds"), "whole": of("xkd_step_seconds")},
        unit="s",
        defaults={"min": 0},
    ),
    throughput(),
    data_wait(),
    progress(height=5),
    Panel(
        "Step and epoch",
        "Optimizer steps done, and passes over the data.",
        {"step": of("xkd_step"), "epoch": of("xkd_epoch")},
        kind="stat",
        height=5,
    ),
    Panel(
        "Time left", "At the present pace.", {"left": of("xkd_eta_seconds")}, unit="s", kind="stat", height=5
    ),
    Panel(
        "Checkpoint age",
        "What would be lost with the node; alerts above an hour.",
        {"age": f"time() - {of('xkd_checkpoint_timestamp_seconds')}"},
        unit="s",
        defaults={"min": 0},
    ),
    Panel(
        "GPU memory",
        "Most that the first process held so far.",
        {"held": of("xkd_gpu_memory_bytes")},
        unit="bytes",
        defaults={"min": 0},
    ),
    Panel(
        "Rollbacks",
        "Times the run went back to an earlier checkpoint (run.on_collapse=rollback).",
        {"rollbacks": of("xkd_rollbacks")},
        kind="stat",
    ),
]


def choices(*, several: bool) -> list[dict[str, Any]]:
    """Where the numbers come from, and whose they are."""
    runs = 'label_values(xkd_run_info{namespace=~"$namespace"}, run)'
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        variable("namespace", "Namespace", "label_values(xkd_run_info, namespace)", several=several),
        variable("run", "Run", runs, several=several),
    ]


DASHBOARDS = {
    "xkd-fleet": dashboard(
        "xkd-fleet", "XKD: all runs", FLEET, choices(several=True), [link("One run", "/d/xkd-run")]
    ),
    "xkd-run": dashboard(
        "xkd-run",
        "XKD: one run",
        RUN,
        [*choices(several=False), address("kfp", "Kubeflow Pipelines", "http://localhost:8080")],
        [link("All runs", "/d/xkd-fleet")],
    ),
}


if __name__ == "__main__":
    for name, content in DASHBOARDS.items():
        (Path(sys.argv[1]) / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
