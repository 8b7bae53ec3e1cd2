"""Every setting of pretraining and fine-tuning, typed, with the paper's symbol and table beside it.

These frozen dataclasses are the only schema. Presets (`xkd.config.presets`) are Python values of
`PretrainConfig` and `FinetuneConfig`; YAML only travels (`xkd.config.overrides`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from xkd.config.overrides import STRICT, build, load_yaml
from xkd.errors import UserError

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")
AttentionQuery = Literal["cls", "mean_query", "mean_attention"]


def other(modality: Modality) -> Modality:
    """The modality across: the one whose teacher distils into this one's student."""
    return "audio" if modality == "video" else "video"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModalityConfig:
    """One modality's inputs, masking and temperatures (Tables S3, S4)."""

    global_view: tuple[int, ...]
    """Size of the global view: video (frames, height, width), audio (mel bins, frames)."""
    local_view: tuple[int, ...]
    """Size of one local view, same order."""
    patch: tuple[int, ...]
    """Size of one patch (token), same order."""
    local_views: int = 1
    """Number of local views the student sees (Table S10)."""
    mask: Literal["random", "tube"] = "random"
    """random: any tokens. tube: the same places at all times (VideoMAE; video only)."""
    mask_ratio: float
    """Share of the global view's tokens hidden from the student."""
    student_temperature: float = 0.1
    """tau_s of Equation 10."""
    teacher_temperature: float
    """tau_t of Equation 10."""
    teacher_temperature_start: float | None = None
    """Where a schedule begins that reaches teacher_temperature after optim.temperature_epochs (Table S8);
    none: fixed."""

    @model_validator(mode="after")
    def _patches_fit(self) -> ModalityConfig:
        for name, size in (("global_view", self.global_view), ("local_view", self.local_view)):
            if len(size) != len(self.patch) or any(s % p for s, p in zip(size, self.patch, strict=False)):
                raise ValueError(f"{name} {size} must be a multiple of patch {self.patch}")
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"mask_ratio {self.mask_ratio} must be in [0, 1)")
        temperatures = (self.student_temperature, self.teacher_temperature, self.teacher_temperature_start)
        if any(value is not None and value <= 0 for value in temperatures):
            raise ValueError("temperatures must be positive")
        if self.mask == "tube" and len(self.patch) == 2:
            raise ValueError("mask tube hides places of a video at all times; it is not for spectrograms")
        if self.local_views < 0:
            raise ValueError(f"local_views {self.local_views} must not be negative")
        return self

    @property
    def grid(self) -> tuple[int, ...]:
        """Tokens of the global view along each axis."""
        return tuple(s // p for s, p in zip(self.global_view, self.patch, strict=True))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClipConfig:
    """How a window of a clip becomes tensors (section A.3; method of the log-mel front end)."""

    seconds: float = 4.0
    """Length of the window both global views cover."""
    fps: int = 8
    """Video frames a second."""
    sample_rate: int = 16000
    """Audio samples a second."""
    n_fft: int = 1024
    """Window of the short-time Fourier transform, samples."""
    hop: int = 143
    """Step between spectrogram frames, samples."""
    f_max: float = 8000.0
    """Upper edge of the mel filter bank, Hz."""

    def samples(self, spectrogram_frames: int) -> int:
        """Waveform length whose centred spectrogram has this many frames.

        A centred transform of n samples has ``1 + n // hop`` frames; the shortest multiple of a
        hundredth of a second that fits is taken (448 frames: 64000, 112 frames: 16000).
        """
        step = self.sample_rate // 100
        return -(-(spectrogram_frames - 1) * self.hop // step) * step


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VideoAugment:
    """Augmentation of one kind of video view (Table S1)."""

    crop_area: tuple[float, float]
    """Multi-scale crop: range of the crop's share of the frame."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.2
    gray: float = 0.0
    """Probability of dropping the color."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    blur_vertical: bool = False
    """Blur along the height alone and always equally, as the authors' code does by a slip."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AudioAugment:
    """Augmentation of one kind of audio view (Table S2)."""

    volume: float
    """Volume jitter: the waveform is scaled by U(1 - volume, 1 + volume)."""
    crop_range: tuple[float, float] | None = None
    """Random crop: range of the crop's sides relative to the view; None: no crop."""
    crop_canvas: float = 1.5
    """Random crop: width of the zero canvas in which the view is centred, relative to the view."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ViewsConfig:
    """Augmentations of the global and the local views (Tables S1, S2), and what the teachers see."""

    teacher: Literal["global", "local"] = "global"
    """global: the text (B.7). local: the first local view, as in the authors' code."""
    video_global: VideoAugment = VideoAugment(crop_area=(0.2, 1.0))
    video_local: VideoAugment = VideoAugment(crop_area=(0.08, 0.4), gray=0.2, blur=0.5)
    audio_global: AudioAugment = AudioAugment(volume=0.1)
    audio_local: AudioAugment = AudioAugment(volume=0.2, crop_range=(0.6, 1.5))

    @property
    def teacher_index(self) -> int:
        """Place of the teachers' view among a modality's views, of which the global one is first."""
        return 0 if self.teacher == "global" else 1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TransformerConfig:
    """Size of an encoder or a decoder (Table S3)."""

    dim: int
    depth: int
    heads: int

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RefineConfig:
    """How each teacher's features are refined by the other modality (Equations 3-6, Table S14)."""

    relevance: Literal["mean", "softmax", "none"] = "mean"
    """mean: Equation 4. softmax: Equation S3. none: no refinement."""
    query: AttentionQuery = "cls"
    """What attends to the patches: the class token (Equation 3), the mean of the patches' queries (B.8), or
    the mean of all tokens' attention (what the authors' code does without the class token)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProjectorConfig:
    """Shape of the projector heads (Table S3)."""

    layers: int = 3
    """Linear layers up to the bottleneck (Table S11)."""
    norm: Literal["none", "last", "all"] = "all"
    """Which layers are normalized (Figure S5): none, the outputs alone, or the hidden layers as well."""
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    out_dim: int = 8192
    """K: the number of outputs the distillation's distributions range over (Table S12)."""

    @model_validator(mode="after")
    def _has_layers(self) -> ProjectorConfig:
        if self.layers < 2:
            raise ValueError(f"layers {self.layers} must be at least 2")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossConfig:
    """Weights of Equation 12 and the teachers' centering."""

    align: float = 1.0
    """lambda_da: weight of the MMD domain alignment."""
    distill: float = 1.0
    """lambda_kd: weight of the cross-modal distillation."""
    reconstruct: float = 5.0
    """lambda_ae: weight of the masked reconstruction."""
    reduction: Literal["sum", "mean"] = "sum"
    """sum: Equations 2, 7, 11 and 12 as printed. mean: the authors' code, which halves each pair of
    terms and divides the total by the sum of the weights (by default, gradients 14 times smaller)."""
    align_pairs: Literal["same", "across", "both"] = "same"
    """Whose outputs are aligned (Table S13). same: student with student and teacher with teacher (L_da);
    across: each teacher with the other modality's student (Equation S1); both: their sum (Equation S2)."""
    align_gather: bool = False
    """Take the MMD over the rows of all processes instead of each process's own (the authors')."""
    centering: bool = True
    """Subtract the running center from the teachers' outputs (B.5; without it the run collapses)."""
    center_momentum: float = 0.9

    @model_validator(mode="after")
    def _some_weight(self) -> LossConfig:
        weights = (self.align, self.distill, self.reconstruct)
        if min(weights) < 0 or sum(weights) == 0:
            raise ValueError("align, distill and reconstruct must not be negative, and not all zero")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimConfig:
    """Optimizer and schedules (Table S4)."""

    epochs: int = 800
    """One window of every clip per epoch."""
    batch_size: int = 256
    """Clips per step over all processes."""
    lr: float = 1e-4
    lr_final: float = 0.0
    warmup_epochs: int = 30
    weight_decay: float = 0.3
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 0.3
    """Largest L2 norm of each encoder or projector parameter's gradient (from the authors' code)."""
    ema_base: float = 0.997
    """The teachers' momentum at the start; a cosine carries it to ema_final (Equation 13, B.2)."""
    ema_final: float = 1.0
    ema_shared_twice: bool = False
    """Move blocks that both teachers share twice a step, once for each (the authors' code)."""
    temperature_epochs: int = 30
    """How long the teachers' temperatures take to rise where they are scheduled (the authors' code)."""
    temperature_schedule: Literal["cosine", "linear"] = "cosine"
    """Shape of that rise: cosine (B.1) or linear (the authors' code)."""

    @model_validator(mode="after")
    def _positive(self) -> OptimConfig:
        for name in ("epochs", "batch_size", "lr", "clip_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be in [0, epochs)")
        if not 0 <= self.ema_base <= self.ema_final <= 1:
            raise ValueError("ema_base and ema_final must satisfy 0 <= ema_base <= ema_final <= 1")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneVideoConfig:
    """How clips are augmented for fine-tuning a video encoder (A.6, Table S6)."""

    resolution: int = 224
    """Height and width of the frames; the position table is interpolated."""
    magnitude: int = 9
    """RandAugment: how strong its operations are, of 10; 0: none are made."""
    magnitude_std: float = 0.05
    """RandAugment: standard deviation of the magnitude."""
    operations: int = 4
    """RandAugment: how many are applied, the same to all frames (from the authors' code)."""
    crop_area: tuple[float, float] = (0.2, 0.766)
    """Multi-scale crop: share of the frame's area (from the authors' code)."""
    flip: float = 0.5
    mixup: float = 0.6
    """Alpha of MixUp; 0: none."""
    cutmix: float = 0.5
    """Alpha of CutMix, whose box spans height and width, in all frames; 0: none."""
    erasing: float = 0.0
    """Probability of erasing a box, the same in all frames (the authors' code: 0.25)."""

    @model_validator(mode="after")
    def _in_range(self) -> FinetuneVideoConfig:
        if min(self.magnitude_std, self.operations, self.mixup, self.cutmix) < 0:
            raise ValueError("magnitude_std, operations, mixup and cutmix must not be negative")
        if not 0 <= self.magnitude <= 10:
            raise ValueError(f"magnitude {self.magnitude} must be in [0, 10]")
        if not (0 <= self.flip <= 1 and 0 <= self.erasing <= 1):
            raise ValueError("flip and erasing must be in [0, 1]")
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError("crop_area must rise within (0, 1]")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneAudioConfig:
    """How sound is augmented for fine-tuning an audio encoder (A.6, Table S7)."""

    volume: float = 0.2
    warp: int = 20
    """Time warp: most frames that a point of the spectrogram moves by; 0: none."""
    masks: int = 2
    """Bands masked along time, and as many along frequency."""
    time_mask: int = 20
    """A band along time is at most so many frames wide."""
    frequency_mask: int = 10
    """A band along frequency is at most so many mel bins high."""
    crop_range: tuple[float, float] = (0.6, 1.5)
    """Random crop: size over the spectrogram's (Table S2)."""
    crop_canvas: float = 1.5

    @model_validator(mode="after")
    def _in_range(self) -> FinetuneAudioConfig:
        if min(self.warp, self.masks, self.time_mask, self.frequency_mask) < 0:
            raise ValueError("warp, masks, time_mask and frequency_mask must not be negative")
        if not 0 <= self.volume < 1:
            raise ValueError("volume must be in [0, 1)")
        if not 0 < self.crop_range[0] <= self.crop_range[1] or self.crop_canvas < 1:
            raise ValueError("crop_range must rise above 0, and crop_canvas be at least 1")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneConfig:
    """Everything a fine-tuning is made of (A.6). The defaults are UCF101's (Table S6)."""

    epochs: int = 100
    batch_size: int = 96
    """Clips per step over all processes."""
    accumulate: int = 1
    """Parts that each process's share of the batch is computed in, one after the other."""
    lr: float = 5e-4
    lr_final: float | None = 1e-6
    """What a cosine carries the learning rate to; none: it stays."""
    warmup_epochs: int = 5
    weight_decay: float = 0.05
    layer_decay: float = 0.45
    """Each layer's learning rate is that of the one above times this; the head's is `lr`."""
    dropout: float = 0.5
    """Before the classifier."""
    label_smoothing: float = 0.1
    patience: int = 0
    """Stop when the validation clips' score was not better for so many epochs, and take the best epoch; 0:
    no early stop, and the last epoch counts."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """As `RunConfig.precision`."""
    video: FinetuneVideoConfig = FinetuneVideoConfig()
    audio: FinetuneAudioConfig = FinetuneAudioConfig()

    @model_validator(mode="after")
    def _in_range(self) -> FinetuneConfig:
        for name in ("epochs", "batch_size", "accumulate", "lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be in [0, epochs)")
        if not 0 < self.layer_decay <= 1:
            raise ValueError("layer_decay must be in (0, 1]")
        if not 0 <= self.dropout < 1 or not 0 <= self.label_smoothing < 1:
            raise ValueError("dropout and label_smoothing must be in [0, 1)")
        if min(self.patience, self.weight_decay, self.lr_final or 0) < 0:
            raise ValueError("patience, weight_decay and lr_final must not be negative")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunConfig:
    """How a run is carried out; it may go on with other values, but for the seed.

    Nothing here changes what the method computes, beyond rounding and, with parts, whose rows the alignment
    compares.
    """

    seed: int = 0
    workers: int = 4
    """Decoding processes per training process; 0 decodes in the training process."""
    log_every: int = 10
    """Steps between two rows of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    keep_checkpoints: int = 2
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """auto: bf16 on GPUs that have it (compute capability 8), fp16 with a gradient scaler on older ones,
    fp32 on the CPU. The alignment and the distillation are taken in fp32 whatever is said here."""
    accumulate: int = 1
    """Parts that each process's share of the batch is computed in, one after the other."""
    compile: bool = False
    """Compile the transformer blocks (torch.compile): minutes at the start, faster steps on a GPU."""
    metrics_port: int | None = 9460
    """Port of the Prometheus endpoint; 0 takes any free one, null serves none."""
    metrics_host: str = "0.0.0.0"  # noqa: S104 -- a pod's Prometheus comes from outside
    """Address that it listens at: every one of the machine, or 127.0.0.1, which this machine alone hears."""
    on_collapse: Literal["alert", "stop", "rollback"] = "alert"
    """What a verdict of collapse does: alert says so and trains on, stop ends the run, rollback goes back to
    the newest checkpoint before the collapse with half the learning rate, and ends the run when none is kept
    or it went back `max_rollbacks` times. Numbers that are not finite end a run that may not go back."""
    max_rollbacks: int = 2
    peer_seconds: int = 300
    """How long a process waits for the others before it takes them for lost and ends, to be restarted. Longer
    than a checkpoint takes, which they wait for."""

    @model_validator(mode="after")
    def _positive(self) -> RunConfig:
        counts = ("accumulate", "log_every", "checkpoint_every", "keep_checkpoints", "max_rollbacks")
        for name in (*counts, "peer_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 0 <= (self.metrics_port or 0) <= 65535:
            raise ValueError(f"metrics_port {self.metrics_port} must be between 0 and 65535")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainConfig:
    """Everything a pretraining run is made of. The defaults are the paper's (Tables S1-S4)."""

    preset: str = "paper"
    """The preset this configuration started from."""
    modalities: tuple[Modality, ...] = MODALITIES
    """What is trained: both modalities, or one of them as a masked autoencoder alone (Table S16)."""
    share: Literal["none", "student", "both"] = "none"
    """Transformer blocks both modalities share (Table S5): none (XKD), the student's (XKD-MAS), or the
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
    def _parts_fit(self) -> PretrainConfig:
        if len(set(self.modalities)) != len(self.modalities) or not self.modalities:
            raise ValueError("modalities must name video, audio or both, each once")
        if len(self.modalities) == 1 and (self.loss.align, self.loss.distill, self.share) != (0, 0, "none"):
            raise ValueError("one modality alone needs loss.align=0, loss.distill=0 and share=none")
        if self.views.teacher == "local" and not all(self.modality(m).local_views for m in MODALITIES):
            raise ValueError("views.teacher local needs at least one local view of each modality")
        return self

    @model_validator(mode="after")
    def _views_fit_the_clip(self) -> PretrainConfig:
        if self.video.global_view[0] != round(self.clip.seconds * self.clip.fps):
            raise ValueError(
                f"video.global_view has {self.video.global_view[0]} frames but clip.seconds x clip.fps is "
                f"{self.clip.seconds * self.clip.fps:g}"
            )
        if 1 + round(self.clip.seconds * self.clip.sample_rate) // self.clip.hop != self.audio.global_view[1]:
            raise ValueError(
                f"audio.global_view has {self.audio.global_view[1]} frames but clip.seconds of sound give "
                f"{1 + round(self.clip.seconds * self.clip.sample_rate) // self.clip.hop}"
            )
        if self.audio.local_view[0] != self.audio.global_view[0]:
            raise ValueError("audio.local_view and audio.global_view must have the same mel bins")
        return self

    def modality(self, modality: Modality) -> ModalityConfig:
        """The section of one modality."""
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
    """The resolved configuration that a run saved."""
    return build(PretrainConfig, load_yaml(path), str(path))
