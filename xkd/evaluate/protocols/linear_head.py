"""A fully connected layer on frozen features (supplement A.5: FSD50K, and FC-tuning on Kinetics400)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from xkd.evaluate.protocols.svm import Rows, Windows, mean_by_clip
from xkd.progress import progress
from xkd.train.schedules import cosine


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the layer is trained; AdamW with its usual betas."""

    lr: float
    decays: bool
    """Whether the learning rate follows a cosine to zero."""
    weight_decay: float
    dropout: float
    batch_size: int
    epochs: int
    many_labels: bool
    """Binary cross-entropy for each class and sigmoids, instead of cross-entropy and a softmax."""


RECIPES = {
    "fsd50k": Recipe(
        lr=1e-3, decays=False, weight_decay=1e-5, dropout=0.3, batch_size=256, epochs=50, many_labels=True
    ),
    # The text says neither weight decay nor dropout; the authors' code has none.
    "kinetics400": Recipe(
        lr=1e-2, decays=True, weight_decay=0.0, dropout=0.0, batch_size=512, epochs=20, many_labels=False
    ),
}
"""By dataset."""


def fit_and_decide(
    train: Windows, labels: NDArray[np.bool_], test: Windows, test_clips: int, recipe: Recipe, seed: int
) -> Rows:
    """Train the layer on training windows, each a row of its own; mean probabilities of test clips.

    The last epoch counts: nothing is chosen on the test split.

    Args:
        train: features of the training windows.
        labels: (training clips, classes), which of the classes a clip has, indexed by ``train.clip``.
        test: features of the test windows.
        test_clips: number of test clips, indexed by ``test.clip``.
        recipe: how.
        seed: of the layer, the order of rows, and dropout.

    Returns:
        (test_clips, classes) in [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    features = torch.from_numpy(np.ascontiguousarray(train.features))
    targets = torch.from_numpy(labels.astype(np.float32))
    rows = torch.from_numpy(np.asarray(train.clip))
    layer = nn.Linear(features.shape[1], labels.shape[1])
    nn.init.orthogonal_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    batches = -(-len(rows) // recipe.batch_size)
    steps = batches * recipe.epochs
    with progress("training the layer", recipe.epochs) as bar:
        for epoch in range(recipe.epochs):
            order = torch.randperm(len(rows), generator=generator)
            for number, batch in enumerate(torch.tensor_split(order, batches)):
                if recipe.decays:
                    step = epoch * batches + number
                    optimizer.param_groups[0]["lr"] = cosine(step, steps, recipe.lr, 0.0)
                seen = _dropped(features[batch], recipe.dropout, generator)
                loss = _loss(layer(seen), targets[rows[batch]], recipe)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
            bar.note(f"loss {loss.item():.3f}")
            bar.advance()
    with torch.no_grad():
        outputs = layer(torch.from_numpy(np.ascontiguousarray(test.features)))
        shares: NDArray[Any] = (outputs.sigmoid() if recipe.many_labels else outputs.softmax(-1)).numpy()
    return mean_by_clip(shares, test.clip, test_clips)


def _loss(outputs: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    if recipe.many_labels:
        return F.binary_cross_entropy_with_logits(outputs, targets)
    return F.cross_entropy(outputs, targets)


def _dropped(features: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Dropout with random numbers of our own, so that a seed repeats the result."""
    if not share:
        return features
    kept = torch.rand(features.shape, generator=generator) >= share
    return features * kept / (1 - share)
