"""Feature files: extracted once by all processes together, read by every fold, cost and protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xkd.config import Modality, PretrainConfig
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.shards.clips import Clips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.transforms.params import linear_views
from xkd.data.transforms.views import Views
from xkd.evaluation.features import ClipFeatures, FeatureExtractor
from xkd.evaluation.score import Part, run_settings
from xkd.io import code_hash, short_hash, try_lock
from xkd.launch.distributed import DistributedContext
from xkd.log import get_logger
from xkd.progress import progress

_LOG = get_logger(__name__)
_SAVE_SECONDS = 10.0
"""Seconds of extraction that an interruption costs at most."""
_SPLITS: dict[Part, set[str]] = {"train": {"train"}, "test": {"val", "test"}}


@dataclass(frozen=True)
class FeatureStore:
    """Features of one prepared dataset in a folder.

    A file holds the features of all clips that belong to a part in any fold, (clips, windows, D). While it is
    extracted it is a ``.partial`` with a ``.done`` mark for each clip; an interrupted extraction resumes with
    the clips that are missing, with any number of processes.
    """

    folder: Path
    dataset: PreparedDataset
    config: PretrainConfig
    """The run's; it decides the views."""
    seed: int
    """Of random windows and their augmentation."""
    context: DistributedContext

    def read(self, extractor: FeatureExtractor, clips: Clips, part: Part, count: int) -> ClipFeatures:
        """Return the features of clips that `make` has extracted."""
        everyone = self._clips(extractor.modality, part)
        features = np.load(self._path(extractor, everyone, part, count), mmap_mode="r")
        rows = {name: row for row, name in enumerate(everyone.ids)}
        chosen = features[[rows[name] for name in clips.ids]]
        clip_of_row = np.repeat(np.arange(len(clips)), count)
        return ClipFeatures(chosen.reshape(-1, chosen.shape[-1]), clip_of_row, len(clips))

    def make(self, extractor: FeatureExtractor, part: Part, count: int) -> None:
        """Extract `count` windows of each clip of a part, unless they exist; all processes call this."""
        clips = self._clips(extractor.modality, part)
        path = self._path(extractor, clips, part, count)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{path.stem}.lock").open("w") as lock:
            waiting = False
            while not self.context.broadcast_flag(lambda: path.exists() or try_lock(lock)):
                if self.context.is_main and not waiting:
                    waiting = True
                    _LOG.info("waiting for another task to extract %s", path.stem)
                time.sleep(1)
            if not self.context.broadcast_flag(path.exists):
                self._extract(extractor, clips, part, count, path)

    @torch.no_grad()
    def extract(
        self, extractor: FeatureExtractor, clips: Clips, part: Part, count: int
    ) -> Iterator[NDArray[np.float32]]:
        """Yield features of `count` windows per clip, several clips at a time: (some clips, count, D)."""
        device, modality, train = self.context.device, extractor.modality, part == "train"
        if extractor.network:
            extractor.network.to(device)
        views = Views(self.config, linear_views(self.config)).to(device)
        for batch in evaluation_batches(
            *(self.dataset, clips, self.config, count),
            train=train,
            seed=self.seed,
            modalities=(modality,),
            views=views,
        ):
            view = views(batch)[modality][0] if train else views.plain(batch)[modality]
            features = extractor(view).float().cpu().numpy()
            yield features.reshape(-1, count, features.shape[-1])

    def _clips(self, modality: Modality, part: Part) -> Clips:
        clips = self.dataset.clips
        return clips.select(clips.has(modality) & clips.match("splits", _SPLITS[part].intersection))

    def _path(self, extractor: FeatureExtractor, clips: Clips, part: Part, count: int) -> Path:
        """Return the file's path; its name has a hash of all that the features depend on."""
        values: dict[str, Any] = {
            "code": code_hash("data/**/*.py", "model/**/*.py", "evaluation/features.py"),
            "weights": extractor.hash,
            "data": self.dataset.revision,
            "preparation": dict(self.dataset.settings),
            "clips": clips.ids,
            "count": count,
            "seed": self.seed,
            "settings": run_settings(self.config, extractor.encoder, (extractor.modality,)),
        }
        key = short_hash(json.dumps(values))
        return self.folder / f"{extractor.encoder}-{extractor.modality}-{part}-{key}.npy"

    def _extract(self, extractor: FeatureExtractor, clips: Clips, part: Part, count: int, path: Path) -> None:
        """Fill a partial file, each process a share of the clips, and rename it when it is complete."""
        context = self.context
        partial, marks = path.with_suffix(".partial"), path.with_suffix(".done")
        if context.is_main and not (partial.is_file() and marks.is_file()):
            shape = (len(clips), count, extractor.dim)
            np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape).flush()
            marks.write_bytes(bytes(len(clips)))
        context.barrier()
        file = np.lib.format.open_memmap(partial, mode="r+")
        done = np.memmap(marks, dtype=np.bool_, mode="r+")
        missing = np.flatnonzero(~done)
        mine = missing[context.rank :: context.size]
        context.barrier()  # before any process marks a clip that another still counts as missing
        label = f"features {extractor.encoder} {extractor.modality} {part}"
        begin, saved_at, filled, saved = len(clips) - len(missing), time.monotonic(), 0, 0
        with progress(label, len(clips), done=begin, show=context.is_main) as bar:
            for features in self.extract(extractor, clips.select(mine), part, count):
                first, filled = filled, filled + len(features)
                file[mine[first:filled]] = features
                # The main process shows the progress of all: the others are about as far.
                before, after = (min(len(missing), place * context.size) for place in (first, filled))
                bar.advance(after - before)
                if filled == len(mine) or time.monotonic() - saved_at > _SAVE_SECONDS:
                    file.flush()  # before the marks: a marked clip has its features
                    done[mine[saved:filled]] = True
                    done.flush()
                    saved, saved_at = filled, time.monotonic()
        context.barrier()
        if context.is_main:
            partial.replace(path)
            marks.unlink()
        context.barrier()
