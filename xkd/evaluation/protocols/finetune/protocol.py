"""The fine-tuning protocol and its loop (supplement A.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch

from xkd.config.overrides import to_dict
from xkd.data.datasets.evaluation import FinetuneClips
from xkd.data.datasets.training import batch_keys
from xkd.data.shards.reader import WindowReader, load_batches
from xkd.data.transforms.params import Item
from xkd.data.transforms.views import Views
from xkd.evaluation.protocols.finetune.classifier import Classifier
from xkd.evaluation.protocols.finetune.step import Epoch, FinetuneJob, FinetuneStepper, predict
from xkd.evaluation.protocols.protocol import Evaluation, Prediction, Protocol
from xkd.log import get_logger
from xkd.output import OutputDir
from xkd.train.checkpoint import Checkpoints
from xkd.train.loop import ResumableLoop
from xkd.train.schedules import learning_rate
from xkd.weights import read_weights, save_weights

_LOG = get_logger(__name__)


class Finetuning(Protocol):
    """The encoder and a linear layer on top, trained together on clips."""

    encoders = ("teacher", "student", "random")
    why_not_raw = "raw input has nothing to fine-tune"
    settings = ("test_windows", "seed")  # it sees one random window per clip and epoch
    trains_encoder = True

    def check(self, evaluation: Evaluation) -> None:
        """Check also that the batch fits the clips and the processes."""
        super().check(evaluation)
        FinetuneJob(**vars(evaluation)).steps_per_epoch()

    def start(self, evaluation: Evaluation) -> Callable[[], Prediction]:
        """Train and predict with all processes."""
        job = FinetuneJob(**vars(evaluation))
        side, prepared = job.settings.video.resolution, job.splits.dataset.settings.get("short_side")
        if job.context.is_main and job.modality == "video" and prepared and int(prepared) < (side or 0):
            _LOG.warning(
                f"{job.splits.dataset.root} has frames with short_side {prepared}, which will be enlarged to "
                f"finetune.video.resolution {side}; for sharper frames, prepare with short_side={side}"
            )
        key = job.key(job.identity["finetune"], job.task.seed, job.task.fold)
        classifier, curve = fine_tune(job, job.out / "finetuned" / f"{job.task.name}-{key}")
        values = predict(classifier, job, job.splits.test)
        return lambda: Prediction(values, {"curve": curve})


def fine_tune(job: FinetuneJob, folder: Path) -> tuple[Classifier, list[Epoch]]:
    """Fine-tune an encoder, publish it as ``classifier.safetensors``, and return it with its learning curve.

    A network that is already in `folder` is used; an interrupted training resumes.

    Raises:
        UserError, RunInterruptedError: see `train`.
    """
    context, network = job.context, job.extractors[0].network
    assert network is not None
    torch.manual_seed(job.task.seed)
    classifier = Classifier(network, len(job.splits.dataset.classes), job.settings.dropout)
    path, identity = folder / "classifier.safetensors", {"task": job.task.name}
    output = OutputDir(folder, identity, lambda: identity if path.is_file() else None)
    with output.fill(decide=context.broadcast_flag) as missing:
        if missing:
            curve = train(classifier.to(context.device), job, output.unfinished / "checkpoints")
            if context.is_main:
                metadata = {
                    "modality": job.modality,
                    "config": to_dict(job.config),
                    "classes": list(job.splits.dataset.classes),
                    "view": job.view_config.modality(job.modality).global_view,
                    "curve": curve,
                }
                save_weights(classifier.state_dict(), metadata, path)
        else:
            weights, published = read_weights(path, "classifier")
            classifier.load_state_dict(weights)
            curve = published["curve"]
    return classifier.to(context.device), curve


def train(classifier: Classifier, job: FinetuneJob, folder: Path) -> list[Epoch]:
    """Train a classifier, or resume from the checkpoints in a folder, and return its learning curve.

    All randomness is drawn from (seed, step) or (seed, epoch, clip), so a resumed fine-tuning continues
    bit-equal.

    Raises:
        UserError: see `FinetuneJob.steps_per_epoch`; a clip cannot be read; or the loss is not finite.
        RunInterruptedError: SIGTERM or SIGINT came; the state is saved.
    """
    per_epoch, settings = job.steps_per_epoch(), job.settings
    steps, warmup = settings.epochs * per_epoch, settings.warmup_epochs * per_epoch
    final = settings.lr if settings.lr_final is None else settings.lr_final
    stepper, checkpoints = FinetuneStepper(classifier, job), Checkpoints(folder, keep=1)
    with ResumableLoop(f"fine-tuning {job.task.name}", stepper, checkpoints, steps) as loop:
        batches = _batches(job, loop.first, steps, stepper.views)
        for step in loop:
            if stepper.patience_exhausted:
                break
            lr = learning_rate(step - 1, steps=steps, warmup=warmup, base=settings.lr, final=final)
            stepper.step(step, list(islice(batches, settings.accumulate)), lr)
            if step % per_epoch == 0:
                stepper.end_epoch(step // per_epoch, lr)
                loop.note(f"loss {stepper.curve[-1]['loss']:.3f}")
            if loop.save_due(step):
                stepper.check_finite(step / per_epoch)
                loop.save(step)
    if stepper.best is not None:
        classifier.load_state_dict(stepper.best)
    return stepper.curve


def _batches(job: FinetuneJob, first: int, steps: int, views: Views) -> Iterator[Item]:
    """Return this process's parts of the batches of steps `first` ... `steps` - 1."""
    settings, seed, context, (train, _) = job.settings, job.task.seed, job.context, job.clips
    reader = WindowReader(job.splits.dataset, job.view_config, train)
    clips = FinetuneClips(reader, train, job.modality, settings, seed)
    place = context.rank, context.size, settings.accumulate
    order = batch_keys(len(train), settings.batch_size, seed, first, steps, *place)
    return load_batches(clips, order, job.config.run.workers, views)
