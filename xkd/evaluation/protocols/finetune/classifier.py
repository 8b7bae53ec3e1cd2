"""The network that fine-tuning trains: an encoder with a classifier on top (supplement A.6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xkd.config import FinetuneConfig, PretrainConfig
from xkd.config.overrides import build
from xkd.errors import UserError
from xkd.model.vit import Encoder, build_encoder
from xkd.weights import read_weights


class Classifier(nn.Module):
    """An encoder, the mean of its patch tokens, dropout and a linear layer."""

    def __init__(self, encoder: Encoder, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.norm.normalized_shape[0], classes)
        nn.init.orthogonal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, view: Tensor) -> Tensor:
        """Return logits (B, classes) of views (B, C, *sizes) of any size that is a multiple of the patch."""
        features: Tensor = self.dropout(self.encoder.pool(self.encoder(view)))
        logits: Tensor = self.head(features)
        return logits

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:  # noqa: ARG002
        """Return timm's patterns of layer 0 and of the blocks; the rest is the top."""
        return {"stem": r"^encoder\.(?:embed|cls_token|positions)", "blocks": r"^encoder\.blocks\.(\d+)\."}


def load_classifier(path: str | Path) -> tuple[Classifier, tuple[str, ...]]:
    """Load a ``classifier.safetensors`` in evaluation mode, and the names of its classes.

    Raises:
        UserError: the file is missing or not a classifier that xkd wrote.
    """
    weights, facts = read_weights(Path(path), "classifier")
    if "classes" not in facts:
        raise UserError(f"{path} contains an encoder without a classifier; use xkd.load")
    config = build(PretrainConfig, facts["config"], str(path))
    encoder = build_encoder(config, facts["modality"])
    # Position tables have pretraining's size; the encoder interpolates them to larger views.
    classifier = Classifier(encoder, len(facts["classes"]), 0.0)
    classifier.load_state_dict(weights)
    return classifier.eval(), tuple(facts["classes"])


def layer_groups(classifier: Classifier, settings: FinetuneConfig) -> list[dict[str, Any]]:
    """Return parameter groups with layer-wise decay: ``lr_scale`` is `layer_decay` ** (depth + 1 - layer).

    Layer 0 is the patch projection, the class token and the position table; layer i + 1 is block i; final
    norm and classifier are layer depth + 1. Biases, norms, class token and positions do not decay.
    """
    from timm.optim import param_groups_layer_decay  # slow import

    groups: list[dict[str, Any]] = param_groups_layer_decay(
        classifier,
        weight_decay=settings.weight_decay,
        no_weight_decay_list=("encoder.cls_token", "encoder.positions"),
        layer_decay=settings.layer_decay,
    )
    return groups
