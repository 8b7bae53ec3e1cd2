"""Frozen features: what an encoder, or the raw input, says of windows of clips."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from xkd.config import Modality, PretrainConfig
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.shards.manifest import Clip, PreparedDataset
from xkd.data.transforms.params import linear_views
from xkd.data.transforms.views import Views
from xkd.evaluate.protocols.svm import Windows
from xkd.evaluate.score import EvaluatedEncoder
from xkd.io import try_lock
from xkd.launch.distributed import DistributedContext
from xkd.model.networks import build_encoder
from xkd.model.vit import Encoder
from xkd.progress import progress
from xkd.rundir import RunDir
from xkd.weights import load, read_weights

RAW_VIDEO = (8, 8, 8)
"""Frames, height and width that the raw baseline shrinks a gray view to; finer is slow to fit, not better."""
RAW_AUDIO = (20, 28)
"""Mel bins and spectrogram frames that the raw baseline shrinks a view to."""
_SAVE_EVERY = 10.0
"""Seconds of extraction that an interruption costs at the most."""


@dataclass(frozen=True)
class FeatureExtractor:
    """What turns a batch of views of one modality into features."""

    encoder: EvaluatedEncoder
    modality: Modality
    hash: str
    """Identifies the weights: equal weights have equal hashes."""
    dim: int
    describe: Callable[[Tensor], Tensor]
    """(B, C, *sizes) to (B, dim)."""


def build_feature_extractor(
    run: Path,
    config: PretrainConfig,
    encoder: EvaluatedEncoder,
    modality: Modality,
    seed: int,
    device: torch.device,
) -> FeatureExtractor:
    """The encoder a task names: one the run published, one freshly initialized from `seed`, or none.

    Raises:
        UserError: the run published no such encoder.
    """
    if encoder == "raw":
        size = math.prod(RAW_VIDEO if modality == "video" else RAW_AUDIO)
        return FeatureExtractor(encoder, modality, "raw", size, raw_input)
    network = find_encoder(run, config, encoder, modality, seed)
    weights_hash = hash_weights(network.state_dict())
    network.to(device)
    return FeatureExtractor(
        encoder, modality, weights_hash, config.encoder.dim, lambda view: network.pool(network(view))
    )


def find_encoder(
    run: Path, config: PretrainConfig, encoder: EvaluatedEncoder, modality: Modality, seed: int
) -> Encoder:
    """As of `extractor`, the network itself, on the CPU."""
    if encoder == "random":
        torch.manual_seed(seed)
        return build_encoder(config, modality).eval()
    return load(RunDir(run).encoder(encoder, modality))


def published_hash(run: Path, encoder: str, modality: Modality) -> str:
    """`hash_weights` of an encoder that a run published."""
    return hash_weights(read_weights(RunDir(run).encoder(encoder, modality))[0])


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Twelve hexadecimal digits that equal weights share, wherever they lie."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def raw_input(view: Tensor) -> Tensor:
    """The baseline without an encoder: the view itself, gray and averaged over a coarse grid.

    Args:
        view: video (B, 3, T, H, W) or spectrogram (B, 1, F, T).

    Returns:
        (B, prod(`RAW_VIDEO`)) or (B, prod(`RAW_AUDIO`)).
    """
    gray = view.mean(dim=1, keepdim=True)
    if view.ndim == 5:
        return F.adaptive_avg_pool3d(gray, RAW_VIDEO).flatten(1)
    return F.adaptive_avg_pool2d(gray, RAW_AUDIO).flatten(1)


class FeatureStore:
    """Features of one prepared dataset in a folder: made once, and read by every fold, cost and protocol.

    A file holds those of all clips that are of one part, ``train`` or ``test``, in some fold. Processes make
    it together, and an interrupted extraction goes on with the clips that are missing, on however many.
    """

    def __init__(
        self,
        folder: Path,
        manifest: PreparedDataset,
        config: PretrainConfig,
        seed: int,
        context: DistributedContext,
    ) -> None:
        self.folder, self.manifest, self.config, self.seed = folder, manifest, config, seed
        self.context = context

    def windows(
        self, extractor: FeatureExtractor, clips: Sequence[Clip], count: int, *, train: bool
    ) -> Windows:
        """Features of `count` windows of each clip, from the folder or computed and kept there.

        Args:
            extractor: what makes the features.
            clips: clips of the dataset, all with the extractor's modality and of the part asked for.
            count: windows of each.
            train: random windows with the linear evaluation's augmentation (Tables S1, S2), instead of
                evenly spaced ones without any.
        """
        part = self._part(extractor.modality, train=train)
        if not (path := self._path(extractor, part, count, train=train)).exists():
            self.make(extractor, count, train=train)
        features, rows = np.load(path, mmap_mode="r"), {clip.id: row for row, clip in enumerate(part)}
        chosen = features[[rows[clip.id] for clip in clips]]
        return Windows(chosen.reshape(-1, chosen.shape[-1]), np.repeat(np.arange(len(clips)), count))

    def make(self, extractor: FeatureExtractor, count: int, *, train: bool) -> None:
        """Have the file of a part's features, (clips, count, D). All processes of the context call this."""
        clips = self._part(extractor.modality, train=train)
        path = self._path(extractor, clips, count, train=train)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{path.stem}.lock").open("w") as file:
            self._take_turns(path, file)
            if not self.context.broadcast_flag(path.exists):
                self._extract(extractor, clips, count, path, train=train)

    def _path(self, extractor: FeatureExtractor, clips: list[Clip], count: int, *, train: bool) -> Path:
        part = "train" if train else "test"
        name = f"{extractor.encoder}-{extractor.modality}-{part}-{self._key(extractor, clips, count)}"
        return self.folder / f"{name}.npy"

    def _take_turns(self, path: Path, file: IO[Any]) -> None:
        """Wait until no other task makes the file."""
        waiting = False
        while not self.context.broadcast_flag(lambda: path.exists() or try_lock(file)):
            if self.context.is_main and not waiting:
                print(f"another task makes {path.stem}; waiting for it", file=sys.stderr, flush=True)
            waiting = True
            time.sleep(1)

    def _part(self, modality: Modality, *, train: bool) -> list[Clip]:
        roles = {"train"} if train else {"val", "test"}
        return [
            clip for clip in self.manifest.clips if clip.has((modality,)) and roles.intersection(clip.splits)
        ]

    def _extract(
        self,
        extractor: FeatureExtractor,
        clips: list[Clip],
        count: int,
        path: Path,
        *,
        train: bool,
    ) -> None:
        """Fill the file clip by clip, each process its share, and give it its name when it is full."""
        partial, marks = path.with_suffix(".partial"), path.with_suffix(".done")
        if self.context.is_main and not (partial.is_file() and marks.is_file()):
            shape = (len(clips), count, extractor.dim)
            np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape).flush()
            marks.write_bytes(bytes(len(clips)))
        self.context.barrier()
        file = np.lib.format.open_memmap(partial, mode="r+")
        done = np.memmap(marks, dtype=np.bool_, mode="r+")
        missing = np.flatnonzero(~done)
        mine = missing[self.context.rank :: self.context.size]
        self.context.barrier()  # before anybody marks a clip that another one counts as missing
        label = f"features {extractor.encoder} {extractor.modality} {'train' if train else 'test'}"
        begin, saved, place, marked = len(clips) - len(missing), time.monotonic(), 0, 0
        with progress(label, len(clips), done=begin, show=self.context.is_main) as bar:
            for features in extract(
                extractor,
                self.manifest,
                [clips[row] for row in mine],
                self.config,
                count,
                train=train,
                seed=self.seed,
                device=self.context.device,
            ):
                file[mine[place : place + len(features)]] = features
                before, place = place, place + len(features)
                shown = (min(len(missing), number * self.context.size) for number in (place, before))
                bar.advance(next(shown) - next(shown))
                if place == len(mine) or time.monotonic() - saved > _SAVE_EVERY:
                    file.flush()
                    done[mine[marked:place]] = True
                    done.flush()
                    marked, saved = place, time.monotonic()
        self.context.barrier()
        if self.context.is_main:
            partial.replace(path)
            marks.unlink()
        self.context.barrier()

    def _key(self, extractor: FeatureExtractor, clips: list[Clip], count: int) -> str:
        """A hash of everything else the features depend on."""
        values: dict[str, Any] = {
            "weights": extractor.hash,
            "data": self.manifest.revision,
            "settings": dict(self.manifest.settings),
            "clips": [clip.id for clip in clips],
            "count": count,
            "seed": self.seed,
            "view": self.config.modality(extractor.modality).global_view,
            "clip": asdict(self.config.clip),
        }
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]


@torch.no_grad()
def extract(
    extractor: FeatureExtractor,
    dataset: PreparedDataset,
    clips: Sequence[Clip],
    config: PretrainConfig,
    count: int,
    *,
    train: bool,
    seed: int,
    device: torch.device,
) -> Iterator[NDArray[np.float32]]:
    """Features of `count` windows of each clip, some clips at a time and in the clips' order.

    Args:
        extractor: what makes the features.
        dataset: a prepared dataset.
        clips: some of its clips, all with the extractor's modality.
        config: the run's; views are made as it says.
        count: windows of each clip.
        train: see `FeatureStore.windows`.
        seed: of the random windows and their augmentation.
        device: the extractor's.

    Yields:
        float32 (some clips, count, D).
    """
    views = Views(config, linear_views(config)).to(device)
    wanted = (extractor.modality,)
    for batch in evaluation_batches(dataset, clips, config, count, train=train, seed=seed, modalities=wanted):
        view = views(batch)[extractor.modality][0] if train else views.plain(batch)[extractor.modality]
        features = extractor.describe(view).float().cpu().numpy()
        yield features.reshape(-1, count, features.shape[-1])
