"""Named configurations: every variant and ablation of the paper, and small ones that run anywhere.

A preset is a function. Its docstring says what it changes, its decorator where in the paper it is and what
the paper measured: top-1 of a linear SVM on HMDB51, UCF101 and ESC50, of the teacher on the first splits. For
the VideoMAE baselines, which have no teacher, it is the mean over all splits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import getdoc
from typing import NamedTuple

from xkd.config import (
    ClipConfig,
    LossConfig,
    OptimConfig,
    PretrainConfig,
    ProjectorConfig,
    RefineConfig,
    RunConfig,
    TransformerConfig,
    VideoAugment,
)
from xkd.errors import UserError, nearest

Build = Callable[[], PretrainConfig]


class Figures(NamedTuple):
    """Top-1 in percent."""

    hmdb51: float
    ucf101: float
    esc50: float | None = None


@dataclass(frozen=True)
class Preset:
    """A named configuration and what the paper says of it."""

    name: str
    source: str
    """Table, figure or section of the paper; empty for what is not in it."""
    paper: Figures | None
    """What the paper measured; None where it prints no figures, or where the run collapsed."""
    build: Build

    @property
    def summary(self) -> str:
        """What it is, or what it changes, in a line."""
        return (getdoc(self.build) or "").splitlines()[0]


PRESETS: dict[str, Preset] = {}


def preset(source: str = "", *paper: float) -> Callable[[Build], Build]:
    """Register a configuration under its function's name, with its place in the paper and its figures."""

    def register(build: Build) -> Build:
        name = build.__name__
        PRESETS[name] = Preset(name, source, Figures(*paper) if paper else None, build)
        return build

    return register


def get_preset(name: str) -> PretrainConfig:
    """The configuration of a preset.

    Raises:
        UserError: the name is unknown; the nearest names are suggested.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}{nearest(name, PRESETS)}; see xkd presets")
    return replace(PRESETS[name].build(), preset=name)


# ---- What the presets below change ----


def _epochs(config: PretrainConfig, epochs: int) -> PretrainConfig:
    return replace(config, optim=replace(config.optim, epochs=epochs))


def _temperatures(
    config: PretrainConfig, *, video: float | tuple[float, float], audio: float | tuple[float, float]
) -> PretrainConfig:
    """Teachers' temperatures, fixed or rising from the first to the second."""
    sections = {"video": (config.video, video), "audio": (config.audio, audio)}
    changed = {
        name: replace(
            section,
            teacher_temperature_start=given[0] if isinstance(given, tuple) else None,
            teacher_temperature=given[1] if isinstance(given, tuple) else given,
        )
        for name, (section, given) in sections.items()
    }
    return replace(config, video=changed["video"], audio=changed["audio"])


def _momentum(base: float) -> PretrainConfig:
    config = ablation()
    return replace(config, optim=replace(config.optim, ema_base=base))


def _local_views(config: PretrainConfig, *, video: int, audio: int) -> PretrainConfig:
    return replace(
        config,
        video=replace(config.video, local_views=video),
        audio=replace(config.audio, local_views=audio),
    )


def _local_seconds(*, video: int, audio: int) -> PretrainConfig:
    config = ablation()
    return replace(
        config,
        video=replace(config.video, local_view=(8 * video, 96, 96)),
        audio=replace(config.audio, local_view=(80, 112 * audio)),
    )


def _mask_ratios(*, video: float, audio: float) -> PretrainConfig:
    config = ablation()
    return replace(
        config,
        video=replace(config.video, mask_ratio=video),
        audio=replace(config.audio, mask_ratio=audio),
    )


def _videomae(*, frames: int, size: int, times: int) -> PretrainConfig:
    """The video autoencoder alone, at XKD's frame rate and with its optimizer; VideoMAE's mask."""
    config, seconds = paper(), frames // 8
    return replace(
        config,
        modalities=("video",),
        clip=ClipConfig(seconds=seconds),
        video=replace(
            config.video,
            global_view=(frames, size, size),
            patch=(times, 16, 16),
            local_views=0,
            mask="tube",
            mask_ratio=0.9,
        ),
        audio=replace(config.audio, global_view=(80, 112 * seconds), local_views=0),
        loss=LossConfig(align=0.0, distill=0.0, reconstruct=1.0),
    )


# ---- The three variants, trained for 800 epochs (Tables S1 to S5, S15) ----


@preset("Tables S4, S15", 59.3, 84.7, 91.0)
def paper() -> PretrainConfig:
    """XKD as published: ViT-B, separate encoders, 800 epochs."""
    return PretrainConfig()


@preset("Tables S5, S15", 56.4, 81.9, 91.0)
def xkd_mas() -> PretrainConfig:
    """XKD-MAS: the students share their transformer blocks."""
    return replace(paper(), share="student")


@preset("Tables S5, S15", 53.5, 80.3, 90.3)
def xkd_mats() -> PretrainConfig:
    """XKD-MATS: the students share their transformer blocks, and so do the teachers."""
    return replace(paper(), share="both")


@preset("authors' code")
def released() -> PretrainConfig:
    """XKD as the authors' code trains it.

    The teachers see the first local view, the sums of the loss are means, the blur is vertical. That code
    takes the audio student's temperature for both students: a run with another one must set both.
    """
    base = paper()
    return replace(
        base,
        views=replace(
            base.views, teacher="local", video_local=replace(base.views.video_local, blur_vertical=True)
        ),
        loss=LossConfig(reduction="mean"),
    )


@preset("authors' code")
def released_mas() -> PretrainConfig:
    """XKD-MAS as the authors' code trains it: rising temperatures, three local views of the video."""
    base = _temperatures(released(), video=(0.09, 0.11), audio=(0.04, 0.06))
    base = replace(base, optim=replace(base.optim, temperature_schedule="linear"))
    return replace(_local_views(base, video=3, audio=1), share="student")


@preset("authors' code")
def released_mats() -> PretrainConfig:
    """XKD-MATS as the authors' code trains it: shared teacher blocks move twice a step, three local views."""
    base = _local_views(released(), video=3, audio=1)
    return replace(base, share="both", optim=replace(base.optim, ema_shared_twice=True))


@preset("section A.3")
def audioset() -> PretrainConfig:
    """XKD on AudioSet: 400 epochs, otherwise the same."""
    return _epochs(paper(), 400)


@preset("section A.3")
def kinetics_sound() -> PretrainConfig:
    """XKD on Kinetics-Sound: the same settings."""
    return paper()


# ---- Backbones ----


@preset()
def vit_tiny() -> PretrainConfig:
    """XKD with ViT-Tiny."""
    return replace(paper(), encoder=TransformerConfig(dim=192, depth=12, heads=3))


@preset()
def vit_small() -> PretrainConfig:
    """XKD with ViT-Small."""
    return replace(paper(), encoder=TransformerConfig(dim=384, depth=12, heads=6))


@preset()
def vit_large() -> PretrainConfig:
    """XKD with ViT-Large."""
    return replace(paper(), encoder=TransformerConfig(dim=1024, depth=24, heads=16))


# ---- Ablations: 400 epochs on Kinetics400, each one change of the first (section B) ----


@preset("section B", 58.5, 82.6, 88.0)
def ablation() -> PretrainConfig:
    """What the ablations change: 400 epochs, both teachers' temperatures from 0.04 to 0.06."""
    return _temperatures(_epochs(paper(), 400), video=(0.04, 0.06), audio=(0.04, 0.06))


@preset("Table S8", 55.3, 80.0, 85.8)
def temperature_004_004() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.04, audio 0.04."""
    return _temperatures(ablation(), video=0.04, audio=0.04)


@preset("Table S8", 57.5, 81.0, 85.3)
def temperature_006_006() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.06, audio 0.06."""
    return _temperatures(ablation(), video=0.06, audio=0.06)


@preset("Table S8", 57.5, 82.0, 84.3)
def temperature_007_007() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.07, audio 0.07."""
    return _temperatures(ablation(), video=0.07, audio=0.07)


@preset("Table S8", 55.6, 81.6, 85.8)
def temperature_008_008() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.08, audio 0.08."""
    return _temperatures(ablation(), video=0.08, audio=0.08)


@preset("Table S8", 54.4, 81.0, 87.0)
def temperature_009_007() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.09, audio 0.07."""
    return _temperatures(ablation(), video=0.09, audio=0.07)


@preset("Table S8", 55.9, 81.9, 89.0)
def temperature_010_007() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.10, audio 0.07, as in Table S4."""
    return _temperatures(ablation(), video=0.10, audio=0.07)


@preset("Table S8", 54.5, 79.5, 89.0)
def temperature_011_007() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.11, audio 0.07."""
    return _temperatures(ablation(), video=0.11, audio=0.07)


@preset("Table S8", 53.8, 78.5, 87.3)
def temperature_012_007() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.12, audio 0.07."""
    return _temperatures(ablation(), video=0.12, audio=0.07)


@preset("Table S8")
def temperature_rising() -> PretrainConfig:
    """Teachers' temperatures rise: video 0.09 to 0.11, audio 0.04 to 0.06."""
    return _temperatures(ablation(), video=(0.09, 0.11), audio=(0.04, 0.06))


@preset("Figure S1")
def ema_0980() -> PretrainConfig:
    """Teachers' momentum from 0.98."""
    return _momentum(0.98)


@preset("Figure S1")
def ema_0990() -> PretrainConfig:
    """Teachers' momentum from 0.99."""
    return _momentum(0.99)


@preset("Figure S1")
def ema_0995() -> PretrainConfig:
    """Teachers' momentum from 0.995."""
    return _momentum(0.995)


@preset("Figure S1")
def ema_0999() -> PretrainConfig:
    """Teachers' momentum from 0.999."""
    return _momentum(0.999)


@preset("Table S9", 55.2, 81.1, 86.8)
def local_seconds_2_2() -> PretrainConfig:
    """Local views of 2 s of video and 2 s of audio."""
    return _local_seconds(video=2, audio=2)


@preset("Table S9", 57.1, 82.3, 87.3)
def local_seconds_2_1() -> PretrainConfig:
    """Local views of 2 s of video and 1 s of audio."""
    return _local_seconds(video=2, audio=1)


@preset("Table S9", 55.6, 81.0, 86.8)
def local_seconds_1_2() -> PretrainConfig:
    """Local views of 1 s of video and 2 s of audio."""
    return _local_seconds(video=1, audio=2)


@preset("Table S9", 58.4, 82.6, 82.3)
def local_seconds_4_1() -> PretrainConfig:
    """Local views of 4 s of video and 1 s of audio."""
    return _local_seconds(video=4, audio=1)


@preset("Table S10", 56.3, 79.5, 85.8)
def local_views_1_2() -> PretrainConfig:
    """One local view of the video, two of the audio."""
    return _local_views(ablation(), video=1, audio=2)


@preset("Table S10", 58.8, 82.2, 87.0)
def local_views_2_1() -> PretrainConfig:
    """Two local views of the video, one of the audio."""
    return _local_views(ablation(), video=2, audio=1)


@preset("Table S10", 56.1, 79.0, 90.8)
def local_views_2_2() -> PretrainConfig:
    """Two local views of the video, two of the audio."""
    return _local_views(ablation(), video=2, audio=2)


@preset("Table S10", 57.5, 82.9, 88.8)
def local_views_3_1() -> PretrainConfig:
    """Three local views of the video, one of the audio."""
    return _local_views(ablation(), video=3, audio=1)


@preset("Figure S2")
def mask_080_075() -> PretrainConfig:
    """Mask ratios: video 0.80, audio 0.75."""
    return _mask_ratios(video=0.80, audio=0.75)


@preset("Figure S2")
def mask_080_080() -> PretrainConfig:
    """Mask ratios: video 0.80, audio 0.80."""
    return _mask_ratios(video=0.80, audio=0.80)


@preset("Figure S2")
def mask_080_085() -> PretrainConfig:
    """Mask ratios: video 0.80, audio 0.85."""
    return _mask_ratios(video=0.80, audio=0.85)


@preset("Figure S2")
def mask_085_075() -> PretrainConfig:
    """Mask ratios: video 0.85, audio 0.75."""
    return _mask_ratios(video=0.85, audio=0.75)


@preset("Figure S2")
def mask_085_085() -> PretrainConfig:
    """Mask ratios: video 0.85, audio 0.85."""
    return _mask_ratios(video=0.85, audio=0.85)


@preset("Figure S2")
def mask_090_075() -> PretrainConfig:
    """Mask ratios: video 0.90, audio 0.75."""
    return _mask_ratios(video=0.90, audio=0.75)


@preset("Figure S2")
def mask_090_080() -> PretrainConfig:
    """Mask ratios: video 0.90, audio 0.80."""
    return _mask_ratios(video=0.90, audio=0.80)


@preset("Figure S2")
def mask_090_085() -> PretrainConfig:
    """Mask ratios: video 0.90, audio 0.85."""
    return _mask_ratios(video=0.90, audio=0.85)


@preset("section B.5")
def without_alignment() -> PretrainConfig:
    """No domain alignment; the paper: it collapses, KLD falls to 0."""
    return replace(ablation(), loss=LossConfig(align=0.0))


@preset("section B.5")
def without_centering() -> PretrainConfig:
    """No centering of the teachers; the paper: it collapses, KD falls to 0."""
    return replace(ablation(), loss=LossConfig(centering=False))


@preset("section B.5")
def without_reconstruction() -> PretrainConfig:
    """No masked reconstruction; the paper: it collapses."""
    return replace(ablation(), loss=LossConfig(reconstruct=0.0))


@preset()
def reconstruction_alone() -> PretrainConfig:
    """Masked reconstruction of both modalities, without distillation and alignment."""
    return replace(ablation(), loss=LossConfig(align=0.0, distill=0.0))


@preset("Figure S5, section B.5")
def projector_without_norm() -> PretrainConfig:
    """Projectors without normalization; the paper: it collapses, KLD falls to 0."""
    return replace(ablation(), projector=ProjectorConfig(norm="none"))


@preset("Figure S5")
def projector_last_norm() -> PretrainConfig:
    """Projectors that normalize their outputs alone."""
    return replace(ablation(), projector=ProjectorConfig(norm="last"))


@preset("Table S11", 55.4, 81.0, 83.4)
def projector_2_layers() -> PretrainConfig:
    """Projectors of two layers."""
    return replace(ablation(), projector=ProjectorConfig(layers=2))


@preset("Table S11", 55.7, 81.0, 84.6)
def projector_4_layers() -> PretrainConfig:
    """Projectors of four layers."""
    return replace(ablation(), projector=ProjectorConfig(layers=4))


@preset("Table S12", 53.2, 78.1, 87.5)
def projector_4096() -> PretrainConfig:
    """Projectors with 4096 outputs."""
    return replace(ablation(), projector=ProjectorConfig(out_dim=4096))


@preset("Table S12", 57.0, 81.5, 84.1)
def projector_16384() -> PretrainConfig:
    """Projectors with 16384 outputs."""
    return replace(ablation(), projector=ProjectorConfig(out_dim=16384))


@preset("Table S12", 54.4, 81.7, 83.8)
def projector_32768() -> PretrainConfig:
    """Projectors with 32768 outputs."""
    return replace(ablation(), projector=ProjectorConfig(out_dim=32768))


@preset("Table S13", 56.1, 81.1, 87.3)
def align_across() -> PretrainConfig:
    """Each teacher aligned with the other modality's student (Equation S1)."""
    return replace(ablation(), loss=LossConfig(align_pairs="across"))


@preset("Table S13", 55.4, 82.2, 87.5)
def align_both() -> PretrainConfig:
    """Both alignments, like with like and across (Equation S2)."""
    return replace(ablation(), loss=LossConfig(align_pairs="both"))


@preset("Table S14", 54.6, 79.8, 88.3)
def refine_softmax() -> PretrainConfig:
    """Refinement by a softmax (Equation S3)."""
    return replace(ablation(), refine=RefineConfig(relevance="softmax"))


@preset("Table S14", 54.5, 79.3, 84.5)
def refine_without_cls() -> PretrainConfig:
    """Refinement by the attention of the patches' mean query, without the class token (B.8)."""
    return replace(ablation(), refine=RefineConfig(query="mean_query"))


@preset("authors' code")
def refine_without_cls_released() -> PretrainConfig:
    """Refinement by the mean attention of all tokens, the authors' code without the class token."""
    return replace(ablation(), refine=RefineConfig(query="mean_attention"))


@preset("main text")
def without_refinement() -> PretrainConfig:
    """Teachers' features as they are, not refined."""
    return replace(ablation(), refine=RefineConfig(relevance="none"))


@preset("Figure S6")
def epochs_200() -> PretrainConfig:
    """XKD for 200 epochs."""
    return _epochs(paper(), 200)


@preset("Figure S6")
def epochs_400() -> PretrainConfig:
    """XKD for 400 epochs."""
    return _epochs(paper(), 400)


@preset("Figure S6")
def epochs_600() -> PretrainConfig:
    """XKD for 600 epochs."""
    return _epochs(paper(), 600)


# ---- VideoMAE (Table S16): the video autoencoder alone, with tubes for a mask; means over all splits ----


@preset("Table S16", 54.3, 80.0)
def videomae_224() -> PretrainConfig:
    """VideoMAE: 16 frames of 224 x 224, patches of 2 x 16 x 16."""
    return _videomae(frames=16, size=224, times=2)


@preset("Table S16", 51.6, 77.1)
def videomae_112() -> PretrainConfig:
    """VideoMAE (112): 16 frames of 112 x 112, patches of 2 x 16 x 16."""
    return _videomae(frames=16, size=112, times=2)


@preset("Table S16", 51.5, 78.9)
def videomae_32() -> PretrainConfig:
    """VideoMAE*: 32 frames of 112 x 112, patches of 4 x 16 x 16, as XKD sees."""
    return _videomae(frames=32, size=112, times=4)


# ---- Small ones, for the embedded dataset ----


@preset()
def embedded() -> PretrainConfig:
    """A small XKD that learns the embedded dataset: half an hour on two CPU cores.

    The paper's clip length and frame rate on 32 x 32 pictures, 128 video and 70 audio tokens. What differs
    from the paper beyond size, and why:

    - Local views last two seconds and show most of the picture: one second of a small crop holds no action.
    - Fewer video tokens are hidden and colors are hardly changed: a few hundred clips teach no invariance.
    - Cooler teachers: at the paper's temperatures their outputs flatten to ln K before they know anything.
    - Momentum hardly rises: in a few thousand steps a teacher that stops moving keeps what it learned early.
    - Distillation and alignment weigh less: their gradients are tens of times the reconstruction's, and one
      clipping bounds the sum.
    """
    paper = PretrainConfig()
    colors = VideoAugment(crop_area=(0.5, 1.0), brightness=0.1, contrast=0.1, saturation=0.1, hue=0.0)
    return PretrainConfig(
        video=replace(
            paper.video,
            global_view=(32, 32, 32),
            local_view=(16, 24, 24),
            patch=(4, 8, 8),
            mask_ratio=0.7,
            teacher_temperature=0.04,
        ),
        audio=replace(paper.audio, local_view=(80, 224), patch=(16, 32), teacher_temperature=0.04),
        views=replace(paper.views, video_global=colors, video_local=replace(colors, crop_area=(0.4, 1.0))),
        encoder=TransformerConfig(dim=64, depth=3, heads=4),
        decoder=TransformerConfig(dim=48, depth=1, heads=4),
        projector=ProjectorConfig(hidden_dim=256, bottleneck_dim=64, out_dim=512),
        loss=LossConfig(align=0.1, distill=0.3),
        optim=OptimConfig(epochs=200, batch_size=32, lr=1e-3, warmup_epochs=20, ema_final=0.998),
        run=RunConfig(workers=1, checkpoint_every=200, metrics_port=0),
    )


@preset()
def toy() -> PretrainConfig:
    """The demo: the preset `embedded` for a quarter of its epochs, minutes on two CPU cores."""
    longer = embedded()
    return replace(longer, optim=replace(longer.optim, epochs=50, warmup_epochs=5))
