"""A configuration small enough for tests to train in seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from xkd.config import (
    MODALITIES,
    ModalityConfig,
    OptimConfig,
    PretrainConfig,
    ProjectorConfig,
    RunConfig,
    TransformerConfig,
)
from xkd.rundir import ROLES
from xkd.train.publish import Centers


def tiny_config() -> PretrainConfig:
    """The paper's clips and augmentations, seen coarsely by a very small model."""
    return PretrainConfig(
        preset="tiny",
        video=ModalityConfig(
            global_view=(32, 32, 32),
            local_view=(8, 16, 16),
            patch=(8, 16, 16),
            mask_ratio=0.75,
            teacher_temperature=0.1,
        ),
        audio=ModalityConfig(
            global_view=(80, 448),
            local_view=(80, 112),
            patch=(40, 56),
            mask_ratio=0.75,
            teacher_temperature=0.07,
        ),
        encoder=TransformerConfig(dim=32, depth=2, heads=2),
        decoder=TransformerConfig(dim=16, depth=1, heads=2),
        projector=ProjectorConfig(hidden_dim=32, bottleneck_dim=16, out_dim=64),
        optim=OptimConfig(epochs=4, batch_size=4, lr=1e-3, warmup_epochs=1),
        run=RunConfig(workers=0, log_every=1, checkpoint_every=2, metrics_port=None),
    )


def zero_centers(config: PretrainConfig) -> Centers:
    """Return centers for `xkd.train.publish.save_encoders`, where what is retrieved does not matter."""
    center = torch.zeros(config.projector.out_dim)
    return {role: dict.fromkeys(MODALITIES, center) for role in ROLES}


def collapsing_config() -> PretrainConfig:
    """Return a configuration whose distillation is constant by construction, on any processor.

    The projector's 64 outputs have mean 0 and variance 1, so that none exceeds 8, nor does a center. At a
    temperature of 1000 the logarithms of probabilities then differ by at most 0.032: KLD and information are
    below 0.001, where 0.02 ln 64 = 0.083 and 0.02 ln 4 = 0.028 count as zero. The warm-up is 7 steps, so the
    collapse is reported after the ten rows that follow it, at `COLLAPSE_STEP`.
    """
    config = tiny_config()
    flat: dict[str, Any] = {"student_temperature": 1000.0, "teacher_temperature": 1000.0}
    return replace(
        config,
        video=replace(config.video, **flat),
        audio=replace(config.audio, **flat),
        optim=replace(config.optim, epochs=10),
    )


COLLAPSE_STEP, COLLAPSE_ONSET = 17, 8
"""When `collapsing_config` is reported on 30 clips with a row per step, and the first step of that window."""
