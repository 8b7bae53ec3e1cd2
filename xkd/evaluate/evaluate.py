"""One evaluation task becomes one small score file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xkd.config import FinetuneConfig, PretrainConfig
from xkd.config.overrides import build, difference, to_dict
from xkd.data.shards.manifest import Clip, PreparedDataset
from xkd.errors import UserError
from xkd.evaluate.features import FeatureStore, build_feature_extractor, find_encoder
from xkd.evaluate.metrics import METRIC_NAMES, compute_metrics
from xkd.evaluate.protocols.finetune import FinetuneResult, fine_tune
from xkd.evaluate.protocols.finetune_step import FinetuneJob
from xkd.evaluate.protocols.linear_head import RECIPES, fit_and_decide
from xkd.evaluate.protocols.svm import Choice, Rows, Windows, choose_cost, decide
from xkd.evaluate.score import INPUTS, Score
from xkd.evaluate.specs import find_eval_spec
from xkd.evaluate.splits import read_splits
from xkd.evaluate.task import Task, task_values, tuning_of
from xkd.io import write_text
from xkd.launch.distributed import DistributedContext, distributed_context
from xkd.launch.launcher import launch_workers
from xkd.rundir import RunDir
from xkd.train.run_state import git_commit


def evaluate(run: Path, data: Path, task: Task, out: Path, processes: int = 0) -> Path:
    """Score one task and write it to ``out/{task.name}.json``.

    A score that is already there, of the same encoder, data and settings, is kept. Features are stored
    in ``out/features`` for the tasks that share them, and fine-tuned networks in ``out/finetuned``. Why a
    task failed is written to ``out/{task.name}.failed``, so that a table can say why it has a hole.

    Args:
        run: directory of a finished pretraining. Whether its verdict allows an evaluation is the
            caller's decision.
        data: prepared directory.
        task: what to evaluate.
        out: folder of score files.
        processes: that make features or fine-tune together; 0: one for each GPU, one without any.

    Raises:
        UserError: the run, an encoder, a split, a label or a modality is missing; the data is another
            dataset; or `out` holds this task's score of another encoder.
        RunInterruptedError: fine-tuning was asked to stop, and its state is saved.
    """
    if processes < 0:
        raise UserError(f"processes must not be negative, but is {processes}")
    dataset = None
    if not task.dataset:
        dataset = PreparedDataset.open(data)
        task = dataclasses.replace(task, dataset=dataset.name)
    failed = out / f"{task.name}.failed"
    out.mkdir(parents=True, exist_ok=True)
    failed.write_text("is running, or was killed before it could say why")
    try:
        workers = processes or torch.cuda.device_count() or 1
        if workers > 1:
            arguments = ["--run", run, "--data", data, "--out", out, "--task", json.dumps(task_values(task))]
            launch_workers("xkd.evaluate.worker", [str(argument) for argument in arguments], workers)
        else:
            evaluate_here(run, dataset or PreparedDataset.open(data), task, out)
    except BaseException as error:
        said = " ".join(str(error).split()) if isinstance(error, Exception) else ""
        failed.write_text(said or f"was ended by {type(error).__name__}")
        raise
    failed.unlink(missing_ok=True)
    return out / f"{task.name}.json"


def evaluate_here(run: Path, dataset: PreparedDataset, task: Task, out: Path) -> None:
    """The part of this process in `evaluate`, among those that torchrun started or alone."""
    config = RunDir(run).config()
    with distributed_context(config.run.peer_seconds) as context:
        work = _Work(run, dataset, task, out, config, context)
        if work.done:
            return
        work.prepare()
    # Alone: fitting takes longer than the others would wait.
    if context.is_main:
        work.finish()


class _Work:
    """One task, as far as it has come."""

    def __init__(
        self,
        run: Path,
        dataset: PreparedDataset,
        task: Task,
        out: Path,
        config: PretrainConfig,
        context: DistributedContext,
    ) -> None:
        self.begin = time.time()
        self.run, self.dataset, self.task, self.out, self.config, self.context = (
            run,
            dataset,
            task,
            out,
            config,
            context,
        )
        self.setup = find_eval_spec(task.dataset, task.modality, task.protocol)
        self.inputs = INPUTS[task.modality]
        one_label = self.setup.metric == "top1"
        self.splits = read_splits(dataset, task.dataset, task.fold, self.inputs, one_label=one_label)
        self.windows = {
            "train": task.train_windows or self.setup.train_windows,
            "test": task.test_windows or self.setup.test_windows,
        }
        self.tuning = tuning_of(task)
        # Where it is fine-tuned, it is only asked for its hash.
        device = torch.device("cpu") if self.tuning else context.device
        self.encoders = {
            m: build_feature_extractor(run, config, task.encoder, m, task.seed, device) for m in self.inputs
        }
        self.identity = "+".join(encoder.hash for encoder in self.encoders.values())
        self.path = out / f"{task.name}.json"
        self.store = FeatureStore(out / "features", self.splits.manifest, config, task.seed, context)
        self.prepared = (self.splits.manifest.revision, self.splits.manifest.preparation)
        self.tuned: FinetuneResult | None = None

    @property
    def done(self) -> bool:
        """Whether the score is there already."""
        there = self.context.broadcast_flag(self.path.exists)
        if there:
            self._check_same(Score.read(self.path))
        return there

    def prepare(self) -> None:
        """What all processes do together: features, or a fine-tuning and what it says of the test clips."""
        if self.tuning:
            self.tuned = self._fine_tune(self.tuning)
            return
        for encoder in self.encoders.values():
            for part, count in self.windows.items():
                self.store.make(encoder, count, train=part == "train")

    def finish(self) -> None:
        """Decide, and write the score."""
        task, splits, metric = self.task, self.splits, self.setup.metric
        decisions, choice = (self.tuned.decisions, None) if self.tuned else self._decide()
        grade = compute_metrics(decisions, splits.labels(splits.test), splits.classes, metric)
        score = Score(
            dataset=task.dataset,
            modality=task.modality,
            protocol=task.protocol,
            encoder=task.encoder,
            fold=task.fold,
            metric=metric,
            **grade,
            classes=list(splits.classes),
            train_clips=len(splits.train),
            test_clips=len(splits.test),
            windows=self.windows,
            C=choice.cost if choice else None,
            sweep={f"{cost:g}": share for cost, share in choice.sweep.items()} if choice else {},
            finetune=to_dict(self.tuning) if self.tuning else {},
            curve=self.tuned.curve if self.tuned else [],
            encoder_hash=self.identity,
            data_revision=splits.manifest.revision,
            preparation=splits.manifest.preparation,
            preset=self.config.preset,
            seed=task.seed,
            commit=git_commit(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.time() - self.begin, 1),
        )
        chosen = f", C {choice.cost:g}" if choice else ""
        print(
            f"{task.name}: {METRIC_NAMES[metric]} {score.score:.1%} (chance {score.chance:.1%}){chosen}",
            file=sys.stderr,
        )
        score.write(self.out)

    def _fine_tune(self, tuning: FinetuneConfig) -> FinetuneResult:
        (modality,), task, splits = self.inputs, self.task, self.splits
        self._warn_of_small_frames(tuning)
        train, validation = splits.train, list[Clip]()
        if tuning.patience:
            train, validation = splits.held_out(modality, task.seed)
        metric, truth = self.setup.metric, splits.labels(validation)
        lesson = FinetuneJob(
            name=task.name,
            dataset=self.dataset,
            config=self.config,
            modality=modality,
            tuning=tuning,
            train=train,
            labels=splits.labels(train),
            many_labels=metric == "map",
            validation=validation,
            validate=lambda says: compute_metrics(says, truth, splits.classes, metric)["score"],
            windows=self.windows["test"],
            seed=task.seed,
        )
        key = repr((self.identity, self.prepared, to_dict(tuning), task.seed, task.fold))
        folder = self.out / "finetuned" / f"{task.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        encoder = find_encoder(self.run, self.config, task.encoder, modality, task.seed)
        return fine_tune(encoder, lesson, splits.classes, splits.test, folder, self.context)

    def _warn_of_small_frames(self, tuning: FinetuneConfig) -> None:
        """Say so if the shards hold less than is fine-tuned on."""
        short, side = self.splits.manifest.settings.get("short_side"), tuning.video.resolution
        if self.context.is_main and "video" in self.inputs and short and int(short) < side:
            print(
                f"xkd: {self.dataset.root} holds frames of short_side {short}, which are enlarged to the "
                f"{side} of finetune.video.resolution; prepared with short_side={side} they would be sharp",
                file=sys.stderr,
            )

    def _decide(self) -> tuple[Rows, Choice | None]:
        """What the protocol says of each test clip and class, and how it chose its cost if it has one."""
        task, splits = self.task, self.splits
        train, test = self._fused(splits.train, "train"), self._fused(splits.test, "test")
        clips, classes = len(splits.test), len(splits.classes)
        if task.protocol == "fc":
            labels = splits.labels(splits.train)
            return fit_and_decide(train, labels, test, clips, RECIPES[task.dataset], task.seed), None
        choice = self._cost()
        label = splits.label(splits.train)
        return decide(train, label, test, clips, classes, choice.cost, task.seed), choice

    def _fused(self, clips: list[Clip], part: str) -> Windows:
        """What the encoders say of clips, concatenated (late fusion, A.5)."""
        count, train = self.windows[part], part == "train"
        parts = [self.store.windows(e, clips, count, train=train) for e in self.encoders.values()]
        return Windows(np.concatenate([part.features for part in parts], axis=1), parts[0].clip)

    def _cost(self) -> Choice:
        """The cost for every fold, chosen once on the first one's training clips and kept by the features."""
        splits, seed, clips = self.splits, self.task.seed, self.splits.first
        ids = [clip.id for clip in clips]
        key = repr((self.identity, self.prepared, self.windows, seed, ids))
        path = self.store.folder / f"cost-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
        if not path.is_file():
            train = self._fused(clips, "train")
            chosen = choose_cost(train, splits.label(clips), len(splits.classes), seed)
            write_text(path, json.dumps({"cost": chosen.cost, "sweep": list(chosen.sweep.items())}))
        kept = json.loads(path.read_text())
        return Choice(kept["cost"], dict(kept["sweep"]))

    def _check_same(self, found: Score) -> None:
        """Refuse to pass off a score of something else as this task's."""
        pairs: dict[str, tuple[Any, Any]] = {
            "encoder": (found.encoder_hash, self.identity),
            "data revision": (found.data_revision, self.splits.manifest.revision),
            "preparation of the data": (found.preparation, self.splits.manifest.preparation),
            "windows": (found.windows, self.windows),
            "seed": (found.seed, self.task.seed),
        }
        if self.tuning:
            tuned = build(FinetuneConfig, found.finetune, str(self.path))
            names = difference(tuned, self.tuning)
            pairs |= {f"finetune.{name}": ("another value", "this one's") for name in names}
        for what, (theirs, ours) in pairs.items():
            if theirs != ours:
                raise UserError(
                    f"{self.path} is a score of another {what} ({theirs}, not {ours}); remove it, or use "
                    "another directory"
                )
