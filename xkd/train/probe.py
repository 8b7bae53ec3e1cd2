"""Evaluation during training: a validation loss, and nearest neighbors on labeled clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xkd.config import MODALITIES, Modality
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.datasets.training import TrainingClips, generator
from xkd.data.shards.clips import Clips
from xkd.data.shards.reader import load_batches
from xkd.data.transforms.views import Views
from xkd.errors import UserError
from xkd.launch.distributed import DistributedContext
from xkd.log import get_logger
from xkd.model.terms import TEACHER_TEMPERATURE
from xkd.model.xkd import XKD
from xkd.monitor.metrics import KNN, VALIDATION_LOSS
from xkd.train.step import autocast, mask_noise, precision

_log = get_logger(__name__)

MOST_CLIPS = 1000
"""Clips of a split that are used at most, the same ones each time."""
NEIGHBORS, TEMPERATURE = 20, 0.07
"""Neighbors that vote, and the temperature of their weights exp(cosine similarity / temperature)."""
_CHOICE = 4
"""Purpose of random generators, after those of `xkd.data.datasets`."""


class Probe:
    """Measures a model between two steps, without an effect on the training; every process takes part.

    `validation_loss` is the objective (Equation 12) on clips of split val: always the same windows, views and
    masks, in batches of one part of a step. `knn_video` and `knn_audio` are the shares of clips whose label
    the nearest training clips give, by the pooled features of the teachers (without teachers, the students);
    of split val or, if that has no labels, of the training clips themselves, each without its own vote. Only
    clips with exactly one label count. What the dataset does not allow is not measured, which is logged once.

    Args:
        training: the clips that the model is trained on.
        steps: number of steps of the run.
        steps_per_epoch: steps of one pass over the clips.
    """

    def __init__(
        self, training: TrainingClips, context: DistributedContext, steps: int, steps_per_epoch: int
    ) -> None:
        self._config, self._context, self._dataset = training.config, context, training.dataset
        self._steps, self._every = steps, (self._config.run.probe_every or 0) * steps_per_epoch
        if not self._every:
            return
        self._dtype = precision(self._config.run.precision, context.device)
        self._views = Views(self._config, training.specs).to(context.device)
        self._held_out = _held_out(training)
        self._parts = self._choose_parts()
        self._bank = self._labeled(training.clips)
        self._queries = self._labeled(self._held_out.clips if self._held_out else training.clips[:0])
        reasons = []
        if not self._parts:
            reasons.append(f"no {VALIDATION_LOSS}: split val has too few clips")
        if not self._bank:
            reasons.append("no accuracy of nearest neighbors: the training clips have no labels")
        if context.is_main and reasons:
            _log.info(f"run.probe_every: {'; '.join(reasons)}")

    def due(self, step: int) -> bool:
        """Return whether to measure after this step."""
        return self._every > 0 and (step % self._every == 0 or step == self._steps)

    def measure(self, step: int, model: XKD, values: Mapping[str, float]) -> dict[str, float]:
        """Return the fields for a row of metrics.jsonl, if a measurement is due after this step.

        Args:
            values: of the step, see `xkd.train.schedules.schedule`.
        """
        if not self.due(step):
            return {}
        with torch.no_grad(), autocast(self._context.device, self._dtype):
            fields = {}
            if self._parts:
                fields[VALIDATION_LOSS] = self._validation_loss(model, values)
            if self._bank:
                bank, labels = self._features(model, self._bank)
                queries, truth = self._features(model, self._queries) if self._queries else (bank, labels)
                for m in bank:
                    fields[KNN[m]] = knn_accuracy(
                        bank[m], labels, queries[m], truth, leave_one_out=not self._queries
                    )
        return fields

    def _choose_parts(self) -> list[list[tuple[int, int]]]:
        """Return this process's batches of split val, as keys of `TrainingClips`."""
        if self._held_out is None:
            return []
        size, config = self._context.size, self._config
        part = config.optim.batch_size // (size * config.run.accumulate)
        keys = [(0, index) for index in _choice(len(self._held_out))]
        if size == 1:
            part = min(part, len(keys))
        whole = [keys[begin : begin + part] for begin in range(0, len(keys) - part + 1, part)]
        # Every process has as many, because the alignment may compare the clips of all.
        return whole[self._context.rank : len(whole) // size * size : size]

    def _validation_loss(self, model: XKD, values: Mapping[str, float]) -> float:
        assert self._held_out
        temperature: dict[Modality, float] = {m: values[TEACHER_TEMPERATURE[m]] for m in MODALITIES}
        losses = []
        batches = load_batches(self._held_out, self._parts, self._config.run.workers)
        for number, batch in enumerate(batches):
            clips = len(batch["clip"])
            noise = mask_noise(self._config, number, self._context)[0]
            noise = {m: noise[m][:clips] for m in noise}
            losses.append(float(model(self._views(batch), noise, temperature).terms["loss"]))
        return fmean(loss for each in self._context.all_gather(losses) for loss in each)

    def _labeled(self, clips: Clips) -> Clips:
        labeled = clips.select(clips.match("labels", lambda labels: len(labels) == 1))
        return labeled.select(np.array(_choice(len(labeled)), int))

    def _features(self, model: XKD, clips: Clips) -> tuple[dict[Modality, Tensor], list[str]]:
        """Return features (clips, D) by modality, on the CPU, and the label of each row."""
        networks, modalities = model.teacher or model.student, self._config.modalities
        mine = clips[self._context.rank :: self._context.size]
        rows: dict[Modality, list[Tensor]] = {m: [] for m in modalities}
        try:
            for batch in evaluation_batches(self._dataset, mine, self._config, 1, modalities=modalities):
                for m, view in self._views.plain(batch).items():
                    encoder = networks[m].encoder
                    rows[m].append(encoder.pool(encoder(view)).float().cpu())
        except UserError as error:  # a clip that cannot be read does not end a training
            _log.warning("run.probe_every: %s", error)
        empty = torch.empty(0, self._config.encoder.dim)
        features = {m: torch.cat([empty, *rows[m]]) for m in modalities}
        count = min(map(len, features.values()))
        every = self._context.all_gather(
            ({m: features[m][:count] for m in modalities}, [clip.labels[0] for clip in mine[:count]])
        )
        joined = {m: torch.cat([part[m] for part, _ in every]) for m in modalities}
        return joined, [label for _, part in every for label in part]


def knn_accuracy(
    bank: Tensor, labels: Sequence[str], queries: Tensor, truth: Sequence[str], *, leave_one_out: bool = False
) -> float:
    """Return the share of queries whose label most of their `NEIGHBORS` nearest rows of the bank have.

    Votes are weighted by exp(cosine similarity / `TEMPERATURE`), as is usual for self-supervised encoders (Wu
    et al., 2018).

    Args:
        bank: (N, D) features.
        labels: of the rows of the bank.
        queries: (M, D) features.
        truth: labels of the queries.
        leave_one_out: the queries are the bank, and none votes for itself.
    """
    names = sorted({*labels, *truth})
    votes = F.one_hot(torch.tensor([names.index(label) for label in labels]), len(names)).float()
    expected = torch.tensor([names.index(label) for label in truth])
    similarity = F.normalize(queries, dim=-1) @ F.normalize(bank, dim=-1).T
    if leave_one_out:
        similarity.fill_diagonal_(-torch.inf)
    nearest = similarity.topk(min(NEIGHBORS, len(bank)), dim=1)
    weights = ((nearest.values - 1) / TEMPERATURE).exp()
    counted = (weights[:, :, None] * votes[nearest.indices]).sum(dim=1)
    return float((counted.argmax(dim=1) == expected).float().mean())


def _held_out(training: TrainingClips) -> TrainingClips | None:
    """Return the clips of split val; None if there are none to train on."""
    try:
        return TrainingClips(training.dataset, training.config, split="val")
    except UserError:
        return None


def _choice(count: int) -> list[int]:
    """Return the numbers of at most `MOST_CLIPS` of `count` clips, in order."""
    chosen = generator(_CHOICE, count).permutation(count)[:MOST_CLIPS]
    return sorted(int(index) for index in chosen)
