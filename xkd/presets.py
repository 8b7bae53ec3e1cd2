"""Named configurations: the paper's, and small ones that run anywhere.

A preset is a function whose docstring says what it is; its first line is what ``xkd presets`` shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from inspect import getdoc

from xkd.config import (
    LossConfig,
    OptimConfig,
    PretrainConfig,
    ProjectorConfig,
    RunConfig,
    TransformerConfig,
    ViewsConfig,
)
from xkd.errors import UserError, nearest

Preset = Callable[[], PretrainConfig]
_PRESETS: dict[str, Preset] = {}


def preset(build: Preset) -> Preset:
    """Register a preset under its function's name."""
    _PRESETS[build.__name__] = build
    return build


def get_preset(name: str) -> PretrainConfig:
    """The configuration of a preset.

    Raises:
        UserError: the name is unknown; the nearest names are suggested.
    """
    if name not in _PRESETS:
        raise UserError(f"unknown preset {name!r}{nearest(name, _PRESETS)}; see xkd presets")
    return replace(_PRESETS[name](), preset=name)


def list_presets() -> dict[str, str]:
    """Every preset's name with the first line of its docstring."""
    return {name: (getdoc(build) or "").splitlines()[0] for name, build in _PRESETS.items()}


@preset
def paper() -> PretrainConfig:
    """XKD with ViT-B (Tables S1-S4); the paper: HMDB51 59.3, UCF101 84.7, ESC50 91.0.

    The figures are the teachers' linear probes on the first splits after 800 epochs of Kinetics400
    (Table S15). ``xkd pretrain --preset paper --data kinetics400-prepared --out runs/paper``
    """
    return PretrainConfig()


@preset
def toy() -> PretrainConfig:
    """The demo: a small XKD on the embedded dataset, minutes on two CPU cores.

    The paper's clip length and frame rate on 48 x 48 pictures, with about 70 video and 140 audio tokens. At
    this size the distillation's gradient is tens of times the reconstruction's and, clipped with it,
    leaves the encoders where they began; a tenth of its weight and of the alignment's lets them learn.
    Gentler crops keep the moving object in the picture.
    """
    paper = PretrainConfig()
    return PretrainConfig(
        video=replace(paper.video, global_view=(32, 48, 48), local_view=(8, 32, 32)),
        audio=replace(paper.audio, patch=(16, 16)),
        views=ViewsConfig(
            video_global=replace(paper.views.video_global, crop_area=(0.5, 1.0)),
            video_local=replace(paper.views.video_local, crop_area=(0.2, 0.6)),
        ),
        encoder=TransformerConfig(dim=128, depth=4, heads=4),
        decoder=TransformerConfig(dim=64, depth=2, heads=2),
        projector=ProjectorConfig(hidden_dim=512, bottleneck_dim=64, out_dim=1024),
        loss=LossConfig(align=0.1, distill=0.1),
        optim=OptimConfig(epochs=24, batch_size=32, lr=1e-3, warmup_epochs=2),
        run=RunConfig(workers=0, log_every=5, checkpoint_every=100, metrics_port=0),
    )
