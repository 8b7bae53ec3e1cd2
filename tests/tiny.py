"""A configuration small enough for tests to train in seconds."""

from __future__ import annotations

from xkd.config import (
    ModalityConfig,
    OptimConfig,
    PretrainConfig,
    ProjectorConfig,
    RunConfig,
    TransformerConfig,
)


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
