"""Run directories and score files as written by pretrain and evaluate, without any training."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from tests.tiny import zero_centers
from xkd.config import MODALITIES, PretrainConfig
from xkd.config.overrides import to_yaml
from xkd.evaluation.features import published_hash
from xkd.evaluation.plan import make_task
from xkd.evaluation.score import INPUTS, Score, Task, run_settings
from xkd.model.terms import INFORMATION, KD, KLD, RECONSTRUCT, TEACHER_ENTROPY, TEACHER_TEMPERATURE, direction
from xkd.model.xkd import XKD
from xkd.rundir import RunDir, Verdict
from xkd.train.publish import save_encoders
from xkd.train.visualize import FRAMES, RATIOS

CLASSES = ["bounce", "collide", "hammer", "inflate", "jump", "orbit", "shake", "slide", "spin", "swing"]
TASKS = tuple(
    make_task("embedded", modality, protocol, encoder)
    for encoder in ("teacher", "student", "random", "raw")
    for modality, protocol in (("video", "svm"), ("audio", "svm"), ("audiovisual", "fusion"))
)
"""The linear protocols of the embedded dataset."""
HEALTHY = Verdict("healthy", "KD and KLD stay away from zero (lowest KLD 0.31)", 1000)
ONE_HOT = Verdict("one_hot", "KD video_to_audio fell to 0.001: the teachers' outputs turned one-hot", 1000)


def write_run(
    run: Path, config: PretrainConfig, verdict: Verdict = HEALTHY, rows: int = 100, seed: int = 0
) -> Path:
    """Write a finished run with plausible metrics and samples and newly initialized encoders."""
    config = replace(config, run=replace(config.run, seed=seed))
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(config))
    facts = {
        "preset": config.preset,
        "seed": seed,
        "dataset": "embedded",
        "data_revision": "5f0c2a9be1d4",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "processes": 1,
        "device": "cpu",
        "torch": "2.10.0",
        "steps": 1000,
        "seconds": 512.0,
        "skipped_clips": 0,
    }
    (run / "run.json").write_text(json.dumps(facts))
    (run / "verdict.json").write_text(json.dumps(verdict.to_dict()))
    history = [_row(10 * (i + 1), 10 * rows, config, verdict) for i in range(rows)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    torch.manual_seed(seed)
    save_encoders(XKD(config), RunDir(run), zero_centers(config))
    torch.save(_pictures(config), run / "reconstruction.pt")
    return run


def write_scores(folder: Path, run: Path, tasks: tuple[Task, ...] = TASKS, **changed: Any) -> Path:
    """Write a score per task: teacher > student > random > raw."""
    folder.mkdir(parents=True, exist_ok=True)
    config = RunDir(run).config()
    for task in tasks:
        base = {"teacher": 0.52, "student": 0.47, "random": 0.21, "raw": 0.12}[task.encoder]
        value = base + {"video": 0.0, "audio": 0.08, "audiovisual": 0.13}[task.modality]
        classes: list[str] = changed.get("classes", CLASSES)
        rng = np.random.default_rng(len(task.name))
        identity: str = task.encoder
        if task.encoder in ("teacher", "student"):
            identity = "+".join(published_hash(run, task.encoder, m) for m in INPUTS[task.modality])
        values: dict[str, Any] = {
            "dataset": task.dataset,
            "fold": task.fold,
            "modality": task.modality,
            "protocol": task.protocol,
            "encoder": task.encoder,
            "score": value,
            "chance": 0.1,
            "classes": classes,
            "per_class": {name: float(np.clip(value + rng.normal(0, 0.1), 0, 1)) for name in classes},
            "top5": min(value + 0.3, 1),
            "confusion": _confusion(classes, value, rng),
            "recognized": "1" * (hits := round(200 * changed.get("score", value))) + "0" * (200 - hits),
            "train_clips": 600,
            "test_clips": 200,
            "windows": {"train": 5, "test": 3},
            "C": 0.01,
            "solver": "torch",
            "sweep": {
                f"{cost:g}": value - abs(math.log10(cost) + 2) / 50
                for cost in (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1)
            },
            "encoder_hash": identity,
            "settings": run_settings(config, task.encoder, task.inputs),
            "data_revision": "5f0c2a9be1d4",
            "preparation": "0a1b2c3d4e5f",
            "preset": "toy",
            "seed": 0,
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "date": "2026-11-23T10:00:00+00:00",
            "seconds": 21.4,
        }
        if task.protocol == "finetune":
            values |= {
                "C": None,
                "solver": "",
                "sweep": {},
                "finetune": {"epochs": 30},
                "curve": _tuning(value, rng),
            }
        Score(**(values | changed)).write(folder)
    return folder


def _confusion(classes: list[str], value: float, rng: np.random.Generator) -> dict[str, dict[str, int]]:
    """Return the confusions of twenty clips per class; errors are mostly the next class."""
    found: dict[str, dict[str, int]] = {}
    for index, name in enumerate(classes):
        shifts = rng.choice([0, 1, 2, 5], 20, p=[value, *((1 - value) * np.array([0.6, 0.3, 0.1]))])
        row = found.setdefault(name, {})
        for shift in shifts:
            predicted = classes[(index + int(shift)) % len(classes)]
            row[predicted] = row.get(predicted, 0) + 1
    return found


def _tuning(value: float, rng: np.random.Generator) -> list[dict[str, float]]:
    """Return the learning curve of a fine-tuning of thirty epochs that ends at a score."""
    return [
        {
            "epoch": float(epoch),
            "loss": 0.3 + (2.5 - value) * math.exp(-epoch / 8) + 0.02 * abs(rng.normal()),
            "lr": 5e-4,
            "validation": value * (1 - math.exp(-epoch / 6)),
        }
        for epoch in range(1, 31)
    ]


def _row(step: int, steps: int, config: PretrainConfig, verdict: Verdict) -> dict[str, Any]:
    rng, share, largest = np.random.default_rng(step), step / steps, math.log(config.projector.out_dim)
    falling, alive = math.exp(-8 * share), 0.75 + 0.2 * math.exp(-5 * share)
    entropy = falling if verdict.verdict == "one_hot" else alive
    information = falling if verdict.failed else alive
    row: dict[str, Any] = {"step": step, "epoch": step / 18, "time": 1.79e9 + step / 2}
    for m in MODALITIES:
        noise, d = 1 + 0.02 * rng.normal(), direction(m)
        row[RECONSTRUCT[m]] = (0.55 if m == "video" else 0.4) + 0.5 * math.exp(-6 * share) * noise
        row[TEACHER_ENTROPY[d]] = largest * entropy * (0.94 if m == "video" else 0.88)
        row[KLD[d]] = largest * 0.12 * information * noise
        row[INFORMATION[d]] = 0.3 * information + 0.02 * noise * (information if verdict.failed else 1)
        row[KD[d]] = row[TEACHER_ENTROPY[d]] + row[KLD[d]]
    row["reconstruct"] = (row["reconstruct_video"] + row["reconstruct_audio"]) / 2
    row["distill"] = (row["kd_video_to_audio"] + row["kd_audio_to_video"]) / 2
    row["align_student"] = 0.4 * math.exp(-4 * share) + 0.05 * abs(rng.normal())
    row["align_teacher"] = 0.5 * math.exp(-3 * share) + 0.02
    row["align"] = (row["align_student"] + row["align_teacher"]) / 2
    row["loss"] = (5 * row["reconstruct"] + row["distill"] + row["align"]) / 7
    row["lr"] = 5e-4 * min(share / 0.1, 0.5 * (1 + math.cos(math.pi * max(share - 0.1, 0) / 0.9)))
    row |= {TEACHER_TEMPERATURE[m]: config.modality(m).teacher_temperature for m in MODALITIES}
    row["momentum"] = 1 - 0.003 * 0.5 * (1 + math.cos(math.pi * share))
    row["samples_per_second"] = 40 + rng.normal()
    return row


def _pictures(config: PretrainConfig, clips: int = 3) -> dict[str, dict[str, torch.Tensor]]:
    """Return a disk that circles over a gradient, and chirps; hidden patches are shifted."""
    _, h, w = config.video.global_view
    time, y, x = torch.meshgrid(
        torch.linspace(0, 1, FRAMES), torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij"
    )
    bins, length = config.audio.global_view
    f, s = torch.meshgrid(torch.linspace(0, 1, bins), torch.linspace(0, 1, length), indexing="ij")
    video, audio = [], []
    for clip in range(clips):
        turn = 2 * math.pi * (time + clip / 3)
        disk = ((x - 0.5 * turn.cos()) ** 2 + (y - 0.5 * turn.sin()) ** 2 < 0.08).float()
        video.append(torch.stack([0.2 + 0.2 * x + 0.6 * disk, 0.4 + 0.2 * y, 0.6 - 0.3 * disk]).clamp(0, 1))
        audio.append(
            (2 * torch.exp(-(((f - 0.5 - 0.3 * (8 * s + clip).sin()) / 0.08) ** 2)) - 1 + 0.1 * f)[None]
        )
    originals = {"video": (255 * torch.stack(video)).byte(), "audio": torch.stack(audio).half()}
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for m in config.modalities:
        settings = config.modality(m)
        original = originals[m]
        ratios = torch.tensor([settings.mask_ratio, *RATIOS[m]], dtype=torch.float64)
        noise = torch.rand(clips, *settings.grid)
        hidden = torch.stack([noise < ratio for ratio in ratios])
        where = [interpolate(h[:, None].float(), original.shape[2:], mode="nearest-exact") for h in hidden]
        watched = torch.rand(clips, *settings.grid)
        kept[m] = {
            "original": original,
            "ratios": ratios,
            "hidden": hidden,
            "reconstructed": torch.stack(
                [torch.where(at > 0, original.roll(2, -1), original) for at in where]
            ),
            "attention": watched / watched.flatten(1).sum(dim=1).view(-1, *[1] * len(settings.grid)),
            "relevance": watched * (1 + 0.02 * torch.rand(clips, *settings.grid)),
        }
    return kept
