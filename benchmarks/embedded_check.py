"""Check the embedded dataset: shortcuts must fail, and learning must work (minutes for 800 clips).

A label that raw pixels or a raw spectrogram reveal needs no motion or sound in time; a label that a small
supervised network cannot learn does not measure an encoder. Both are measured on the decoded files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import parser
from xkd.config import MODALITIES, ClipConfig, Modality
from xkd.data.media.transcode import transcode
from xkd.data.sources.source import open_source
from xkd.data.synthetic.scenes import ACTIONS, SECONDS
from xkd.data.synthetic.video import FPS
from xkd.data.transforms.logmel import LogMel
from xkd.errors import UserError
from xkd.parallel.processes import Failure, run_each
from xkd.progress import progress

MAX_SHORTCUT = 0.25
"""Accuracy above which a shortcut leaks the label (chance is 0.10)."""
MIN_LEARNED = 0.60
"""Accuracy below which a small supervised network cannot learn the label."""

_CLIP = ClipConfig()
_SIDE = 32  # pixels of the frames
_MELS = 80
_BATCH = 32
_SECONDS_LIMIT = 60.0  # per clip
_WINDOWS = 3  # per clip, over which the test averages
_CONVOLUTIONS: dict[Modality, tuple[tuple[Any, Any, Any], ...]] = {
    "video": (
        ((3, 5, 5), 2, (1, 2, 2)),
        ((3, 3, 3), (1, 2, 2), 1),
        ((5, 3, 3), 2, (2, 1, 1)),
        ((5, 3, 3), (2, 1, 1), (2, 1, 1)),
    ),
    "audio": (((5, 5), (2, 1), 2), *(((3, 7), 2, (1, 3)),) * 3),
}
"""Kernel, stride and padding of each convolution."""


@dataclass(frozen=True)
class Split:
    """The decoded clips of a split."""

    frames: Tensor
    """8 per second, uint8 (N, T, _SIDE, _SIDE, 3)."""
    mel: Tensor
    """Standardized log-mel, averaged over squares of two, float32 (N, 1, F, T)."""
    labels: Tensor
    """(N,)"""


@dataclass(frozen=True)
class CheckReport:
    """Accuracies on the validation clips."""

    shortcuts: dict[str, float]
    networks: dict[str, float]

    @property
    def problems(self) -> list[str]:
        """The defects of the dataset; empty when it passes."""
        return [
            f"{name} leaks the action ({score:.2f}, at most {MAX_SHORTCUT})"
            for name, score in self.shortcuts.items()
            if score > MAX_SHORTCUT
        ] + [
            f"the {name} cannot learn it ({score:.2f}, at least {MIN_LEARNED})"
            for name, score in self.networks.items()
            if score < MIN_LEARNED
        ]

    def __str__(self) -> str:
        scores = {**self.shortcuts, **self.networks}
        return "\n".join(f"{name:15} {score:.3f}" for name, score in scores.items())


def check(root: Path) -> CheckReport:
    """Measure a dataset that `xkd.data.synthetic.dataset.generate` wrote; takes minutes for 800 clips.

    Raises:
        UserError: `root` has no such dataset, or its labels leak or cannot be learned.
    """
    train, val = read(root, "train"), read(root, "val")
    report = CheckReport(shortcuts=shortcuts(train, val), networks=networks(train, val))
    if report.problems:
        raise UserError(f"{root} fails the check of the embedded dataset: {'; '.join(report.problems)}")
    return report


def shortcuts(train: Split, val: Split) -> dict[str, float]:
    """Return the accuracies of logistic regression on inputs without motion or sound in time."""
    return {
        "mean color": _linear(lambda split: split.frames.float().mean((1, 2, 3)), train, val),
        "middle frame": _linear(lambda split: _pixels(split.frames, 1), train, val),
        "eight frames": _linear(lambda split: _pixels(split.frames, 8), train, val),
        "log-mel": _linear(lambda split: F.avg_pool2d(split.mel, (2, 8)).flatten(1), train, val),
    }


def networks(train: Split, val: Split, epochs: int = 12) -> dict[str, float]:
    """Return the accuracies of small supervised convolutional networks."""
    return {f"{modality} network": _supervised(modality, train, val, epochs) for modality in MODALITIES}


def read(root: Path, split: str) -> Split:
    """Decode a split of the dataset's Kinetics400 layout.

    Raises:
        UserError: there is no such dataset, or a clip cannot be decoded.
    """
    clips = [clip for clip in open_source(root).clips if clip.splits == (split,)]
    frames, waveforms = [], []
    with progress(f"decode {split}", len(clips)) as bar:
        paths = [clip.file.path for clip in clips if clip.file]
        decoded = run_each(_decode, paths, len(os.sched_getaffinity(0)), _SECONDS_LIMIT)
        for path, outcome in zip(paths, decoded, strict=True):
            if isinstance(outcome, Failure):
                raise UserError(f"cannot decode {path}: {outcome.reason}; remove {root} and fetch it again")
            frames.append(outcome[0])
            waveforms.append(outcome[1])
            bar.advance()
    log_mel = LogMel(_CLIP, _MELS)
    sounds = torch.from_numpy(np.stack(waveforms)).tensor_split(-(-len(waveforms) // _BATCH))
    return Split(
        frames=torch.from_numpy(np.stack(frames)),
        mel=torch.cat([F.avg_pool2d(log_mel(sound.float() / 32768), 2) for sound in sounds]),
        labels=torch.tensor([list(ACTIONS).index(clip.labels[0]) for clip in clips]),
    )


def _decode(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Decode a file's frames (T, _SIDE, _SIDE, 3), 8 per second, and its sound (S,)."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_count = 1
        frames = [
            frame.to_ndarray(format="rgb24", width=_SIDE, height=_SIDE, interpolation="AREA")
            for index, frame in enumerate(file.decode(stream))
            if index % (FPS // _CLIP.fps) == 0
        ]
    sound = transcode(
        path, with_video=False, short_side=16, max_fps=None, sample_rate=_CLIP.sample_rate
    ).audio
    if sound is None:
        raise ValueError("no sound")
    return np.stack(frames), sound[: round(SECONDS * _CLIP.sample_rate)]


def _pixels(frames: Tensor, count: int) -> Tensor:
    """Return evenly spaced frames, 16 pixels wide: (N, D). With `count` 1 it is the middle frame."""
    chosen = [int((index + 0.5) * frames.shape[1] / count) for index in range(count)]
    return F.avg_pool3d(frames[:, chosen].float(), (2, 2, 1)).flatten(1)


def _motion(split: Split) -> Tensor:
    """Return differences of successive gray frames, at unit deviation: (N, 1, T - 1, _SIDE, _SIDE).

    With a few hundred clips a network that sees colors memorizes them instead.
    """
    change = split.frames.float().mean(-1).diff(dim=1)[:, None]
    return change / (change.std((1, 2, 3, 4), keepdim=True) + 1e-6)


def _linear(view: Callable[[Split], Tensor], train: Split, val: Split) -> float:
    """Return the accuracy of logistic regression on a view (N, D); the penalty grows with D."""
    features = view(train).numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=10 / features.shape[1], max_iter=200))
    model.fit(features, train.labels.numpy())
    return float(model.score(view(val).numpy(), val.labels.numpy()))


def _network(modality: Modality) -> nn.Module:
    """Build four convolutions over (time, height, width) or (mel, time), mean-pooled, and logits."""
    video = modality == "video"
    convolution = nn.Conv3d if video else nn.Conv2d
    normalization = nn.BatchNorm3d if video else nn.BatchNorm2d
    layers: list[nn.Module] = []
    for (before, after), (kernel, stride, padding) in zip(
        pairwise((1, 16, 32, 64, 96)), _CONVOLUTIONS[modality], strict=True
    ):
        layers.append(convolution(before, after, kernel, stride, padding, bias=False))
        layers += [normalization(after), nn.ReLU()]
    pool = nn.AdaptiveAvgPool3d(1) if video else nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(96, len(ACTIONS)))


def _supervised(modality: Modality, train: Split, val: Split, epochs: int) -> float:
    """Return the accuracy of a network trained on random windows, tested on the mean over some per clip.

    The windows are as long as those of pretraining.
    """
    inputs, tests = (_motion(split) if modality == "video" else split.mel for split in (train, val))
    time = 2 if modality == "video" else 3
    length = round(inputs.shape[time] * _CLIP.seconds / SECONDS)
    last = inputs.shape[time] - length
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _network(modality)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
        steps = epochs * -(-len(inputs) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        with progress(f"train {modality} network", steps) as bar:
            for _ in range(epochs):
                for chosen in torch.randperm(len(inputs)).tensor_split(steps // epochs):
                    window = inputs[chosen].narrow(time, int(torch.randint(last + 1, ())), length)
                    if modality == "video":  # positions carry no label
                        window = window.roll(torch.randint(-5, 6, (2,)).tolist(), (3, 4))
                    loss = F.cross_entropy(network(window), train.labels[chosen])
                    optimizer.zero_grad()
                    torch.autograd.backward(loss)
                    optimizer.step()
                    schedule.step()
                    bar.advance()
    network.eval()
    starts = [last * index // (_WINDOWS - 1) for index in range(_WINDOWS)]
    with torch.inference_mode():
        windows = [tests.narrow(time, start, length) for start in starts]
        chances = torch.stack([network(window).softmax(1) for window in windows]).mean(0)
    return float((chances.argmax(1) == val.labels).float().mean())


def main() -> None:
    """Print the accuracies."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, required=True, help="dataset of `xkd fetch embedded`")
    print(check(arguments.parse_args().data))


if __name__ == "__main__":
    main()
