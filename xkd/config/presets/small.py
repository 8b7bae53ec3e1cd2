"""Small configurations for the embedded dataset, which run anywhere."""

from __future__ import annotations

from dataclasses import replace

from xkd.config import (
    LossConfig,
    OptimConfig,
    PretrainConfig,
    ProjectorConfig,
    RunConfig,
    TransformerConfig,
    VideoAugment,
)
from xkd.config.presets.published import paper
from xkd.config.presets.registry import preset


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
    base = paper()
    colors = VideoAugment(crop_area=(0.5, 1.0), brightness=0.1, contrast=0.1, saturation=0.1, hue=0.0)
    return PretrainConfig(
        video=replace(
            base.video,
            global_view=(32, 32, 32),
            local_view=(16, 24, 24),
            patch=(4, 8, 8),
            mask_ratio=0.7,
            teacher_temperature=0.04,
        ),
        audio=replace(base.audio, local_view=(80, 224), patch=(16, 32), teacher_temperature=0.04),
        views=replace(base.views, video_global=colors, video_local=replace(colors, crop_area=(0.4, 1.0))),
        encoder=TransformerConfig(dim=64, depth=3, heads=4),
        decoder=TransformerConfig(dim=48, depth=1, heads=4),
        projector=ProjectorConfig(hidden_dim=256, bottleneck_dim=64, out_dim=512),
        loss=LossConfig(align=0.1, distill=0.3),
        optim=OptimConfig(epochs=200, batch_size=32, lr=1e-3, warmup_epochs=20, ema_final=0.998),
        run=RunConfig(workers=1, checkpoint_every=200, metrics_port=0, metrics_host="127.0.0.1"),
    )


@preset()
def toy() -> PretrainConfig:
    """The demo: the preset `embedded` for a quarter of its epochs, minutes on two CPU cores."""
    longer = embedded()
    return replace(longer, optim=replace(longer.optim, epochs=50, warmup_epochs=5))


@preset()
def lab() -> PretrainConfig:
    """The healthy run of the collapse lab (docs/collapse.md): a coarser `embedded`, 15 epochs."""
    longer = embedded()
    return replace(
        longer,
        video=replace(longer.video, patch=(8, 8, 8)),
        audio=replace(longer.audio, patch=(16, 56)),
        encoder=TransformerConfig(dim=64, depth=2, heads=4),
        optim=replace(longer.optim, epochs=15, warmup_epochs=2),
    )


@preset("section B.5")
def lab_without_centering() -> PretrainConfig:
    """The collapse lab without centering; the paper: KD falls to 0."""
    base = lab()
    return replace(base, loss=replace(base.loss, centering=False))


@preset("section B.5")
def lab_without_norms() -> PretrainConfig:
    """The collapse lab without norms in the projectors; the paper: KLD falls to 0."""
    base = lab()
    return replace(base, projector=replace(base.projector, norm="none"))


@preset("section B.5")
def lab_without_alignment() -> PretrainConfig:
    """The collapse lab without domain alignment; the paper: KLD falls to 0."""
    base = lab()
    return replace(base, loss=replace(base.loss, align=0.0))


@preset("section B.5")
def lab_without_reconstruction() -> PretrainConfig:
    """The collapse lab without masked reconstruction; the paper: it collapses."""
    base = lab()
    return replace(base, loss=replace(base.loss, reconstruct=0.0))
