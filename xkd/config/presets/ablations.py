"""The ablations of section B: 400 epochs on Kinetics400, each one change of the first."""

from __future__ import annotations

from dataclasses import replace

from xkd.config import LossConfig, PretrainConfig, ProjectorConfig, RefineConfig
from xkd.config.presets.changes import epochs, local_views, temperatures
from xkd.config.presets.published import paper
from xkd.config.presets.registry import preset


@preset("section B")
def ablation() -> PretrainConfig:
    """What the ablations change: 400 epochs, both teachers' temperatures from 0.04 to 0.06."""
    return temperatures(epochs(paper(), 400), video=(0.04, 0.06), audio=(0.04, 0.06))


@preset("Table S8")
def temperature_004_004() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.04, audio 0.04."""
    return temperatures(ablation(), video=0.04, audio=0.04)


@preset("Table S8")
def temperature_006_006() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.06, audio 0.06."""
    return temperatures(ablation(), video=0.06, audio=0.06)


@preset("Table S8")
def temperature_007_007() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.07, audio 0.07."""
    return temperatures(ablation(), video=0.07, audio=0.07)


@preset("Table S8")
def temperature_008_008() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.08, audio 0.08."""
    return temperatures(ablation(), video=0.08, audio=0.08)


@preset("Table S8")
def temperature_009_007() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.09, audio 0.07."""
    return temperatures(ablation(), video=0.09, audio=0.07)


@preset("Table S8")
def temperature_010_007() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.10, audio 0.07, as in Table S4."""
    return temperatures(ablation(), video=0.10, audio=0.07)


@preset("Table S8")
def temperature_011_007() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.11, audio 0.07."""
    return temperatures(ablation(), video=0.11, audio=0.07)


@preset("Table S8")
def temperature_012_007() -> PretrainConfig:
    """Teachers' temperatures fixed: video 0.12, audio 0.07."""
    return temperatures(ablation(), video=0.12, audio=0.07)


@preset("Table S8")
def temperature_rising() -> PretrainConfig:
    """Teachers' temperatures rise: video 0.09 to 0.11, audio 0.04 to 0.06."""
    return temperatures(ablation(), video=(0.09, 0.11), audio=(0.04, 0.06))


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


@preset("Table S9")
def local_seconds_2_2() -> PretrainConfig:
    """Local views of 2 s of video and 2 s of audio."""
    return _local_seconds(video=2, audio=2)


@preset("Table S9")
def local_seconds_2_1() -> PretrainConfig:
    """Local views of 2 s of video and 1 s of audio."""
    return _local_seconds(video=2, audio=1)


@preset("Table S9")
def local_seconds_1_2() -> PretrainConfig:
    """Local views of 1 s of video and 2 s of audio."""
    return _local_seconds(video=1, audio=2)


@preset("Table S9")
def local_seconds_4_1() -> PretrainConfig:
    """Local views of 4 s of video and 1 s of audio."""
    return _local_seconds(video=4, audio=1)


@preset("Table S10")
def local_views_1_2() -> PretrainConfig:
    """One local view of the video, two of the audio."""
    return local_views(ablation(), video=1, audio=2)


@preset("Table S10")
def local_views_2_1() -> PretrainConfig:
    """Two local views of the video, one of the audio."""
    return local_views(ablation(), video=2, audio=1)


@preset("Table S10")
def local_views_2_2() -> PretrainConfig:
    """Two local views of the video, two of the audio."""
    return local_views(ablation(), video=2, audio=2)


@preset("Table S10")
def local_views_3_1() -> PretrainConfig:
    """Three local views of the video, one of the audio."""
    return local_views(ablation(), video=3, audio=1)


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


@preset("Table S11")
def projector_2_layers() -> PretrainConfig:
    """Projectors of two layers."""
    return replace(ablation(), projector=ProjectorConfig(layers=2))


@preset("Table S11")
def projector_4_layers() -> PretrainConfig:
    """Projectors of four layers."""
    return replace(ablation(), projector=ProjectorConfig(layers=4))


@preset("Table S12")
def projector_4096() -> PretrainConfig:
    """Projectors with 4096 outputs."""
    return replace(ablation(), projector=ProjectorConfig(out_dim=4096))


@preset("Table S12")
def projector_16384() -> PretrainConfig:
    """Projectors with 16384 outputs."""
    return replace(ablation(), projector=ProjectorConfig(out_dim=16384))


@preset("Table S12")
def projector_32768() -> PretrainConfig:
    """Projectors with 32768 outputs."""
    return replace(ablation(), projector=ProjectorConfig(out_dim=32768))


@preset("Table S13")
def align_across() -> PretrainConfig:
    """Each teacher aligned with the other modality's student (Equation S1)."""
    return replace(ablation(), loss=LossConfig(align_pairs="across"))


@preset("Table S13")
def align_both() -> PretrainConfig:
    """Both alignments, like with like and across (Equation S2)."""
    return replace(ablation(), loss=LossConfig(align_pairs="both"))


@preset("Table S14")
def refine_softmax() -> PretrainConfig:
    """Refinement by a softmax (Equation S3)."""
    return replace(ablation(), refine=RefineConfig(relevance="softmax"))


@preset("Table S14")
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


def _momentum(base: float) -> PretrainConfig:
    config = ablation()
    return replace(config, optim=replace(config.optim, ema_base=base))


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
