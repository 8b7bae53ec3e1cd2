"""Writes a run directory and score files as pretrain and evaluate leave them, without training anything."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xkd.config import MODALITIES, PretrainConfig
from xkd.evaluate.features import published_hash
from xkd.evaluate.scores import Score
from xkd.evaluate.task import INPUTS, TASKS, Task
from xkd.method.model import XKD
from xkd.settings import to_yaml
from xkd.train.checkpoint import save_encoders
from xkd.watch.collapse import Verdict

CLASSES = ["bounce", "collide", "hammer", "inflate", "jump", "orbit", "shake", "slide", "spin", "swing"]
HEALTHY = Verdict("healthy", "KD and KLD stay away from zero (lowest KLD 0.31)", 1000)
ONE_HOT = Verdict("one_hot", "KD video_to_audio fell to 0.001: the teachers' outputs turned one-hot", 1000)


def write_run(run: Path, config: PretrainConfig, verdict: Verdict = HEALTHY, rows: int = 100) -> Path:
    """A finished run with plausible curves and pictures and freshly initialized encoders."""
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(config))
    facts = {
        "preset": config.preset,
        "seed": 0,
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
    torch.manual_seed(0)
    save_encoders(XKD(config), run)
    torch.save(_pictures(config), run / "reconstruction.pt")
    return run


def write_scores(folder: Path, run: Path, tasks: tuple[Task, ...] = TASKS, **changed: Any) -> Path:
    """A score for each task: the teacher above the student above random above raw."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        base = {"teacher": 0.52, "student": 0.47, "random": 0.21, "raw": 0.12}[task.encoder]
        value = base + {"video": 0.0, "audio": 0.08, "audiovisual": 0.13}[task.modality]
        rng = np.random.default_rng(len(task.name))
        identity: str = task.encoder
        if task.encoder in ("teacher", "student"):
            identity = "+".join(published_hash(run, task.encoder, m) for m in INPUTS[task.modality])
        values: dict[str, Any] = {
            "dataset": task.dataset or "embedded",
            "fold": task.fold,
            "modality": task.modality,
            "protocol": task.protocol,
            "encoder": task.encoder,
            "score": value,
            "chance": 0.1,
            "classes": CLASSES,
            "per_class": {name: float(np.clip(value + rng.normal(0, 0.1), 0, 1)) for name in CLASSES},
            "train_clips": 600,
            "test_clips": 200,
            "windows": {"train": 5, "test": 3},
            "C": 0.01,
            "sweep": {
                f"{cost:g}": value - abs(math.log10(cost) + 2) / 50
                for cost in (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1)
            },
            "encoder_hash": identity,
            "data_revision": "5f0c2a9be1d4",
            "preset": "toy",
            "seed": 0,
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "date": "2026-11-23T10:00:00+00:00",
            "seconds": 21.4,
        }
        Score(**(values | changed)).write(folder)
    return folder


def _row(step: int, steps: int, config: PretrainConfig, verdict: Verdict) -> dict[str, Any]:
    rng, share, largest = np.random.default_rng(step), step / steps, math.log(config.projector.out_dim)
    alive = math.exp(-8 * share) if verdict.verdict == "one_hot" else 0.75 + 0.2 * math.exp(-5 * share)
    row: dict[str, Any] = {"step": step, "epoch": step / 18, "time": 1.79e9 + step / 2}
    for m, taught in (("video", "audio"), ("audio", "video")):
        noise = 1 + 0.02 * rng.normal()
        row[f"reconstruct_{m}"] = (0.55 if m == "video" else 0.4) + 0.5 * math.exp(-6 * share) * noise
        row[f"teacher_entropy_{m}_to_{taught}"] = largest * alive * (0.94 if m == "video" else 0.88)
        row[f"kld_{m}_to_{taught}"] = largest * 0.12 * alive * noise
        row[f"kd_{m}_to_{taught}"] = row[f"teacher_entropy_{m}_to_{taught}"] + row[f"kld_{m}_to_{taught}"]
    row["reconstruct"] = (row["reconstruct_video"] + row["reconstruct_audio"]) / 2
    row["distill"] = (row["kd_video_to_audio"] + row["kd_audio_to_video"]) / 2
    row["align_student"] = 0.4 * math.exp(-4 * share) + 0.05 * abs(rng.normal())
    row["align_teacher"] = 0.5 * math.exp(-3 * share) + 0.02
    row["align"] = (row["align_student"] + row["align_teacher"]) / 2
    row["loss"] = (5 * row["reconstruct"] + row["distill"] + row["align"]) / 7
    row["lr"] = 5e-4 * min(share / 0.1, 0.5 * (1 + math.cos(math.pi * max(share - 0.1, 0) / 0.9)))
    row |= {f"teacher_temperature_{m}": config.modality(m).teacher_temperature for m in MODALITIES}
    row["momentum"] = 1 - 0.003 * 0.5 * (1 + math.cos(math.pi * share))
    row["samples_per_second"] = 40 + rng.normal()
    return row


def _pictures(config: PretrainConfig, clips: int = 3) -> dict[str, dict[str, torch.Tensor]]:
    """A disk that circles over a gradient, and chirps; masked by patches, blurred as the reconstruction."""
    t, h, w = config.video.global_view
    time, y, x = torch.meshgrid(
        torch.linspace(0, 1, t), torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij"
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
    versions: dict[str, dict[str, torch.Tensor]] = {}
    for m, stacked in (("video", torch.stack(video)), ("audio", torch.stack(audio))):
        settings = config.modality("video" if m == "video" else "audio")
        hidden = torch.rand(clips, 1, *settings.grid) < settings.mask_ratio
        for axis, size in enumerate(settings.patch):
            hidden = hidden.repeat_interleave(size, dim=axis + 2)
        blurred = stacked.roll(2, -1) * 0.8 + 0.1
        gray = torch.full_like(stacked, float(stacked.mean()))
        versions[m] = {
            "original": stacked,
            "masked": torch.where(hidden, gray, stacked),
            "reconstructed": torch.where(hidden, blurred, stacked),
        }
    return {m: versions[m] for m in MODALITIES}
