"""Every setting of a pretraining run, with the paper's symbol and table.

These frozen dataclasses are the only schema. Presets (`xkd.config.presets`) are tables of values for them;
YAML files and ``--set`` are merged over a preset by `xkd.config.overrides`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from xkd.config.model import LossConfig, ModalityConfig, ProjectorConfig, RefineConfig, TransformerConfig
from xkd.config.overrides import STRICT, build, load_yaml
from xkd.config.types import MODALITIES, Fraction, Modality, Precision, Probability, Seed
from xkd.config.views import ClipConfig, ViewsConfig
from xkd.errors import UserError

WINDOW = 10
"""Rows of metrics that a verdict on a collapse is based on (`xkd.monitor.collapse`)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimConfig:
    """Optimizer and schedules (Table S4)."""

    epochs: PositiveInt = 800
    """One window of every clip per epoch."""
    batch_size: PositiveInt = 256
    """Clips per step over all processes."""
    lr: PositiveFloat = 1e-4
    """Learning rate after the warm-up; it is not scaled with the batch size."""
    lr_final: NonNegativeFloat = 0.0
    """Learning rate at the end of the cosine schedule."""
    warmup_epochs: NonNegativeInt = 30
    """Epochs over which the learning rate rises from 0."""
    weight_decay: NonNegativeFloat = 0.3
    """Weight decay of AdamW."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Betas of AdamW."""
    clip_norm: PositiveFloat = 0.3
    """Largest L2 norm of each encoder or projector parameter's gradient (from the authors' code)."""
    ema_base: Probability = 0.997
    """The teachers' momentum at the start; a cosine raises it to ema_final (Equation 13, B.2)."""
    ema_final: Probability = 1.0
    """The teachers' momentum at the end."""
    ema_shared_twice: bool = False
    """Move blocks that both teachers share twice per step, once for each (the authors' code)."""
    temperature_epochs: NonNegativeInt = 30
    """Epochs over which scheduled teachers' temperatures rise (the authors' code)."""
    temperature_schedule: Literal["cosine", "linear"] = "cosine"
    """Shape of that rise: cosine (B.1) or linear (the authors' code)."""

    @model_validator(mode="after")
    def _check_schedules(self) -> OptimConfig:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be less than epochs {self.epochs}")
        if self.ema_base > self.ema_final:
            raise ValueError(f"ema_base {self.ema_base} must not exceed ema_final {self.ema_final}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunConfig:
    """How a run is executed; a resumed run may have other values, except for the seed.

    No setting here changes the method, beyond rounding and, with `accumulate`, the rows that the alignment
    compares.
    """

    seed: Seed = 0
    """Seed of the weights, the order of the clips, the views and the masks."""
    workers: NonNegativeInt = 4
    """Decoding processes per training process; 0 decodes in the training process."""
    log_every: PositiveInt = 10
    """Steps between two rows of metrics.jsonl."""
    probe_every: PositiveInt | None = None
    """Epochs between two evaluations of the model in training, and at its end: the objective on split val,
    and on labeled clips the accuracy of nearest neighbors. null: none."""
    checkpoint_every: PositiveInt = 500
    """Steps between two checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Number of newest checkpoints that are kept."""
    precision: Precision = "auto"
    """auto: bf16 on GPUs that support it (compute capability 8), fp16 with a gradient scaler on older ones,
    fp32 on the CPU. The alignment and the distillation are always computed in fp32."""
    accumulate: PositiveInt = 1
    """Parts in which each process computes its share of the batch, one after the other."""
    snapshots: tuple[PositiveInt, ...] = ()
    """Epochs after which the encoders are also published, as a run in ``snapshots/epoch_N``, which can be
    evaluated like any other (B.10)."""
    compile: bool = False
    """Compile the transformer blocks (torch.compile): minutes at the start, faster steps on a GPU. Needs a
    C++ compiler, which the image does not have."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = 9460
    """Port of the Prometheus endpoint; 0 takes any free one, null serves none."""
    metrics_host: str = "0.0.0.0"  # noqa: S104 -- Prometheus scrapes a pod from outside
    """Address of that endpoint: 0.0.0.0 for all interfaces, 127.0.0.1 for this machine only."""
    tensorboard: bool = False
    """Also write the metrics as TensorBoard's files, to the folder tensorboard of the run. Needs
    ``xkd[tensorboard]``."""
    mlflow: Annotated[str, Field(min_length=1)] | None = None
    """Also log the metrics to MLflow: the URI of its server, or of a folder (file:///PATH); null: do not.
    Needs ``xkd[mlflow]``."""
    on_collapse: Literal["alert", "stop", "rollback"] = "alert"
    """Reaction to a verdict of collapse. alert: report it and continue. stop: end the run. rollback: return
    to the newest checkpoint before the collapse with half the learning rate; the run ends when there is none
    or after `max_rollbacks` of them. Numbers that are not finite end a run that cannot roll back."""
    max_rollbacks: PositiveInt = 2
    """Rollbacks before a collapse ends the run."""
    peer_seconds: PositiveInt = 300
    """Seconds that a process waits for the others before it considers them lost and ends, to be restarted.
    Must exceed the time of a checkpoint, for which they wait."""

    @model_validator(mode="after")
    def _check_mlflow(self) -> RunConfig:
        if self.mlflow and urlsplit(self.mlflow).password:
            raise ValueError(
                "mlflow must not contain a password, because settings are published with the encoders; set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return self

    @model_validator(mode="after")
    def _check_rollback(self) -> RunConfig:
        window, kept = (WINDOW - 1) * self.log_every, (self.keep_checkpoints - 1) * self.checkpoint_every
        if self.on_collapse == "rollback" and kept < window:
            raise ValueError(
                f"on_collapse rollback: a verdict is based on {window} steps, but the oldest of "
                f"keep_checkpoints={self.keep_checkpoints} may be only {kept} steps old; "
                "increase keep_checkpoints"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainConfig:
    """Every setting of a pretraining run. The defaults are the paper's (Tables S1-S4)."""

    preset: str = "paper"
    """The preset this configuration started from."""
    init: Annotated[str, Field(min_length=1)] | None = None
    """Directory of another run, whose weights this one starts from: of its newest checkpoint, or of its
    encoders if it has none. Optimizer and schedules start from the beginning. null: random weights."""
    modalities: tuple[Modality, ...] = MODALITIES
    """Trained modalities: both, or one of them as a masked autoencoder only (Table S16)."""
    share: Literal["none", "student", "both"] = "none"
    """Transformer blocks that both modalities share (Table S5): none (XKD), the student's (XKD-MAS), or the
    student's and the teacher's (XKD-MATS). Projections, tables, norms and heads are never shared."""
    video: ModalityConfig = ModalityConfig(
        global_view=(32, 112, 112),
        local_view=(8, 96, 96),
        patch=(4, 16, 16),
        mask_ratio=0.85,
        teacher_temperature=0.1,
    )
    audio: ModalityConfig = ModalityConfig(
        global_view=(80, 448),
        local_view=(80, 112),
        patch=(4, 16),
        mask_ratio=0.80,
        teacher_temperature=0.07,
    )
    clip: ClipConfig = ClipConfig()
    views: ViewsConfig = ViewsConfig()
    encoder: TransformerConfig = TransformerConfig(dim=768, depth=12, heads=12)
    decoder: TransformerConfig = TransformerConfig(dim=384, depth=4, heads=12)
    projector: ProjectorConfig = ProjectorConfig()
    refine: RefineConfig = RefineConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _check_modalities(self) -> PretrainConfig:
        if len(set(self.modalities)) != len(self.modalities) or not self.modalities:
            raise ValueError("modalities must be video, audio or both, each once")
        if len(self.modalities) == 1 and (self.loss.align, self.loss.distill, self.share) != (0, 0, "none"):
            raise ValueError("a single modality needs loss.align=0, loss.distill=0 and share=none")
        if self.views.teacher == "local" and not all(self.modality(m).local_views for m in MODALITIES):
            raise ValueError("views.teacher=local needs at least one local view of each modality")
        return self

    @model_validator(mode="after")
    def _check_views(self) -> PretrainConfig:
        clip, video_frames, audio_frames = self.clip, self.video.global_view[0], self.audio.global_view[1]
        if video_frames != round(clip.seconds * clip.fps):
            raise ValueError(
                f"video.global_view has {video_frames} frames but clip.seconds x clip.fps is "
                f"{clip.seconds * clip.fps:g}"
            )
        if audio_frames != (expected := 1 + clip.window_samples // clip.hop):
            raise ValueError(
                f"audio.global_view has {audio_frames} frames but clip.seconds of audio have {expected}"
            )
        for name, local, longest in (
            ("video", self.video.local_view[0], video_frames),
            ("audio", self.audio.local_view[1], audio_frames),
        ):
            if local > longest:
                raise ValueError(
                    f"{name}.local_view has {local} frames but {name}.global_view only {longest}"
                )
        if self.audio.local_view[0] != self.audio.global_view[0]:
            raise ValueError("audio.local_view and audio.global_view must have the same mel bins")
        return self

    def modality(self, modality: Modality) -> ModalityConfig:
        """Return the section of one modality."""
        return self.video if modality == "video" else self.audio


def check_division(batch_size: int, processes: int, accumulate: int) -> None:
    """Check that a global batch divides into equal parts.

    Raises:
        UserError: it does not.
    """
    if batch_size % (processes * accumulate):
        raise UserError(
            f"batch_size {batch_size} must be a multiple of the {processes} processes times "
            f"accumulate {accumulate}"
        )


def load_config(path: str | Path) -> PretrainConfig:
    """Read the resolved configuration that a run saved."""
    return build(PretrainConfig, load_yaml(path), str(path))
