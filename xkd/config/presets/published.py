"""The published variants, the authors' code, other datasets, backbones and lengths, and VideoMAE."""

from __future__ import annotations

from dataclasses import replace

from xkd.config import ClipConfig, LossConfig, PretrainConfig, TransformerConfig
from xkd.config.presets.changes import epochs, local_views, temperatures
from xkd.config.presets.registry import preset


@preset("Tables S4, S15")
def paper() -> PretrainConfig:
    """XKD as published: ViT-B, separate encoders, 800 epochs.

    Made for 8 V100s of 32 GB with 32 clips each. By calculation a GPU needs at most 15.8 GiB of its 32:
    weights, gradients and moments 3.8, half-precision copies of the weights 0.7, what the backward pass
    needs at most 10.5 (0.33 a clip, measured in fp32), the teachers' largest layers 0.8 (docs/benchmarks.md).
    """
    return PretrainConfig()


@preset("Tables S5, S15")
def xkd_mas() -> PretrainConfig:
    """XKD-MAS: the students share their transformer blocks."""
    return replace(paper(), share="student")


@preset("Tables S5, S15")
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
    base = temperatures(released(), video=(0.09, 0.11), audio=(0.04, 0.06))
    base = replace(base, optim=replace(base.optim, temperature_schedule="linear"))
    return replace(local_views(base, video=3, audio=1), share="student")


@preset("authors' code")
def released_mats() -> PretrainConfig:
    """XKD-MATS as the authors' code trains it: shared teacher blocks move twice a step, three local views."""
    base = local_views(released(), video=3, audio=1)
    return replace(base, share="both", optim=replace(base.optim, ema_shared_twice=True))


@preset("section A.3")
def audioset() -> PretrainConfig:
    """XKD on AudioSet: 400 epochs, otherwise the same."""
    return epochs(paper(), 400)


@preset("section A.3")
def kinetics_sound() -> PretrainConfig:
    """XKD on Kinetics-Sound: the same settings."""
    return paper()


@preset("Figure S6")
def epochs_200() -> PretrainConfig:
    """XKD for 200 epochs."""
    return epochs(paper(), 200)


@preset("Figure S6")
def epochs_400() -> PretrainConfig:
    """XKD for 400 epochs."""
    return epochs(paper(), 400)


@preset("Figure S6")
def epochs_600() -> PretrainConfig:
    """XKD for 600 epochs."""
    return epochs(paper(), 600)


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


@preset("Table S16")
def videomae_224() -> PretrainConfig:
    """VideoMAE: 16 frames of 224 x 224, patches of 2 x 16 x 16."""
    return _videomae(frames=16, size=224, times=2)


@preset("Table S16")
def videomae_112() -> PretrainConfig:
    """VideoMAE (112): 16 frames of 112 x 112, patches of 2 x 16 x 16."""
    return _videomae(frames=16, size=112, times=2)


@preset("Table S16")
def videomae_32() -> PretrainConfig:
    """VideoMAE*: 32 frames of 112 x 112, patches of 4 x 16 x 16, as XKD sees."""
    return _videomae(frames=32, size=112, times=4)


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
