"""The check of the embedded dataset: shortcuts must fail, and learning must work.

A label that raw pixels or a raw spectrogram give away teaches nothing about motion or sound in
time; a label that a small supervised network cannot learn tells nothing about an encoder. Both are
measured on the decoded files.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from xkd.config import MODALITIES, ClipConfig, Modality
from xkd.data.shards.media import read_audio
from xkd.data.synthetic.scenes import ACTIONS, SECONDS
from xkd.data.synthetic.video import FPS
from xkd.data.transforms.logmel import LogMel
from xkd.errors import UserError
from xkd.parallel.processes import Failure, run_each
from xkd.progress import progress

MOST = 0.25
"""Accuracy above which a shortcut has leaked the label (chance is 0.10)."""
LEAST = 0.60
"""Accuracy below which the label is out of a small supervised network's reach."""

_CLIP = ClipConfig()
_SIDE = 32  # pixels of the frames as the check sees them
_MELS = 80
_BATCH = 32
_PATIENCE = 60.0  # seconds for one clip
_WINDOWS = 3  # of a clip, over which the test averages


@dataclass(frozen=True)
class Split:
    """The clips of a split as the check sees them."""

    frames: Tensor
    """8 a second, uint8 (N, T, _SIDE, _SIDE, 3)."""
    mel: Tensor
    """Standardised log-mel, two by two averaged, float32 (N, 1, F, T)."""
    labels: Tensor
    """(N,)"""


@dataclass(frozen=True)
class CheckReport:
    """Accuracies on the validation clips."""

    shortcuts: dict[str, float]
    networks: dict[str, float]

    @property
    def problems(self) -> list[str]:
        """What is wrong with the dataset; empty when nothing is."""
        leaks = [(name, score) for name, score in self.shortcuts.items() if score > MOST]
        riddles = [(name, score) for name, score in self.networks.items() if score < LEAST]
        return [
            *(f"{name} gives the action away ({score:.2f}, at most {MOST})" for name, score in leaks),
            *(f"the {name} cannot learn it ({score:.2f}, at least {LEAST})" for name, score in riddles),
        ]

    def __str__(self) -> str:
        scores = {**self.shortcuts, **self.networks}
        return "\n".join(f"{name:15} {score:.3f}" for name, score in scores.items())


def check(root: Path) -> CheckReport:
    """Measure a dataset that `xkd.data.synthetic.dataset.generate` wrote; a couple of minutes for 800 clips.

    Raises:
        UserError: `root` holds no such dataset, or its labels leak or cannot be learned.
    """
    train, val = read(root, "train"), read(root, "val")
    report = CheckReport(shortcuts=shortcuts(train, val), networks=networks(train, val))
    if report.problems:
        raise UserError(f"{root} fails the check of the embedded dataset: {'; '.join(report.problems)}")
    return report


def shortcuts(train: Split, val: Split) -> dict[str, float]:
    """Accuracies of logistic regression on what holds no motion and no sound in time."""
    return {
        "mean color": _linear(lambda split: split.frames.float().mean((1, 2, 3)), train, val),
        "middle frame": _linear(lambda split: _pixels(split.frames, 1), train, val),
        "eight frames": _linear(lambda split: _pixels(split.frames, 8), train, val),
        "log-mel": _linear(lambda split: F.avg_pool2d(split.mel, (2, 8)).flatten(1), train, val),
    }


def networks(train: Split, val: Split, epochs: int = 12) -> dict[str, float]:
    """Accuracies of small supervised convolutional networks."""
    return {f"{modality} network": _supervised(modality, train, val, epochs) for modality in MODALITIES}


def read(root: Path, split: str) -> Split:
    """Decode a split of the dataset's Kinetics400 layout.

    Raises:
        UserError: the list or a clip cannot be read.
    """
    table = root / "kinetics400" / f"{split}.csv"
    try:
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"cannot read {table}: {error.strerror}; write it with xkd fetch embedded") from None
    paths = [table.with_suffix("") / row["label"] / f"{row['youtube_id']}_000000_000006.mp4" for row in rows]
    frames, waveforms = [], []
    with progress(f"decode {split}", len(paths)) as bar:
        for path, clip in zip(
            paths, run_each(_decode, paths, len(os.sched_getaffinity(0)), _PATIENCE), strict=True
        ):
            if isinstance(clip, Failure):
                raise UserError(f"cannot decode {path}: {clip.reason}; remove {root} and fetch it again")
            frames.append(clip[0])
            waveforms.append(clip[1])
            bar.advance()
    log_mel = LogMel(_CLIP, _MELS)
    sounds = torch.from_numpy(np.stack(waveforms)).tensor_split(-(-len(waveforms) // _BATCH))
    return Split(
        frames=torch.from_numpy(np.stack(frames)),
        mel=torch.cat([F.avg_pool2d(log_mel(sound.float() / 32768), 2) for sound in sounds]),
        labels=torch.tensor([list(ACTIONS).index(row["label"]) for row in rows]),
    )


def _decode(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """A file's frames (T, _SIDE, _SIDE, 3), 8 a second, and its sound (S,)."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_count = 1
        frames = [
            frame.to_ndarray(format="rgb24", width=_SIDE, height=_SIDE, interpolation="AREA")
            for index, frame in enumerate(file.decode(stream))
            if index % (FPS // _CLIP.fps) == 0
        ]
    sound = read_audio(path, _CLIP.sample_rate)
    if sound is None:
        raise ValueError("no sound")
    return np.stack(frames), sound[: round(SECONDS * _CLIP.sample_rate)]


def _pixels(frames: Tensor, count: int) -> Tensor:
    """Evenly spaced frames, 16 pixels wide: (N, D). One is the middle frame."""
    chosen = [int((index + 0.5) * frames.shape[1] / count) for index in range(count)]
    return F.avg_pool3d(frames[:, chosen].float(), (2, 2, 1)).flatten(1)


def _motion(split: Split) -> Tensor:
    """Differences of successive gray frames, each clip to unit deviation: (N, 1, T - 1, _SIDE, _SIDE).

    With a few hundred clips a network that sees the colors learns them by heart instead.
    """
    change = split.frames.float().mean(-1).diff(dim=1)[:, None]
    return change / (change.std((1, 2, 3, 4), keepdim=True) + 1e-6)


def _linear(view: Callable[[Split], Tensor], train: Split, val: Split) -> float:
    """Accuracy of logistic regression on a view (N, D), the wider the view the stronger its penalty."""
    features = view(train).numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=10 / features.shape[1], max_iter=200))
    model.fit(features, train.labels.numpy())
    return float(model.score(view(val).numpy(), val.labels.numpy()))


def _video_network() -> nn.Module:
    """Four convolutions over (time, height, width), mean-pooled, one logit an action."""
    return nn.Sequential(
        nn.Conv3d(1, 16, (3, 5, 5), 2, (1, 2, 2), bias=False),
        *(nn.BatchNorm3d(16), nn.ReLU()),
        nn.Conv3d(16, 32, (3, 3, 3), (1, 2, 2), 1, bias=False),
        *(nn.BatchNorm3d(32), nn.ReLU()),
        nn.Conv3d(32, 64, (5, 3, 3), 2, (2, 1, 1), bias=False),
        *(nn.BatchNorm3d(64), nn.ReLU()),
        nn.Conv3d(64, 96, (5, 3, 3), (2, 1, 1), (2, 1, 1), bias=False),
        *(nn.BatchNorm3d(96), nn.ReLU()),
        *(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(96, len(ACTIONS))),
    )


def _audio_network() -> nn.Module:
    """Four convolutions over (mel, time), mean-pooled, one logit an action."""
    return nn.Sequential(
        nn.Conv2d(1, 16, (5, 5), (2, 1), 2, bias=False),
        *(nn.BatchNorm2d(16), nn.ReLU()),
        nn.Conv2d(16, 32, (3, 7), 2, (1, 3), bias=False),
        *(nn.BatchNorm2d(32), nn.ReLU()),
        nn.Conv2d(32, 64, (3, 7), 2, (1, 3), bias=False),
        *(nn.BatchNorm2d(64), nn.ReLU()),
        nn.Conv2d(64, 96, (3, 7), 2, (1, 3), bias=False),
        *(nn.BatchNorm2d(96), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, len(ACTIONS))),
    )


def _supervised(modality: Modality, train: Split, val: Split, epochs: int) -> float:
    """Accuracy of a network trained on random windows and tested on the mean over a few of each clip.

    Windows last as long as those of pretraining.
    """
    inputs, tests = (_motion(split) if modality == "video" else split.mel for split in (train, val))
    time = 2 if modality == "video" else 3
    length = round(inputs.shape[time] * _CLIP.seconds / SECONDS)
    room = inputs.shape[time] - length
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _video_network() if modality == "video" else _audio_network()
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
        steps = epochs * -(-len(inputs) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        with progress(f"train {modality} network", steps) as bar:
            for _ in range(epochs):
                for chosen in torch.randperm(len(inputs)).tensor_split(steps // epochs):
                    window = inputs[chosen].narrow(time, int(torch.randint(room + 1, ())), length)
                    if modality == "video":  # where things are says nothing
                        window = window.roll(torch.randint(-5, 6, (2,)).tolist(), (3, 4))
                    loss = F.cross_entropy(network(window), train.labels[chosen])
                    optimizer.zero_grad()
                    torch.autograd.backward(loss)
                    optimizer.step()
                    schedule.step()
                    bar.advance()
    network.eval()
    starts = [room * index // (_WINDOWS - 1) for index in range(_WINDOWS)]
    with torch.inference_mode():
        windows = [tests.narrow(time, start, length) for start in starts]
        chances = torch.stack([network(window).softmax(1) for window in windows]).mean(0)
    return float((chances.argmax(1) == val.labels).float().mean())
