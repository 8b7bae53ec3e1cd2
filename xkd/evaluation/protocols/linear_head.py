"""A fully connected layer on frozen features (supplement A.5: FSD50K, and FC-tuning on Kinetics400)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xkd.evaluation.features import ClipFeatures
from xkd.evaluation.metrics import LabelSets, Predictions
from xkd.evaluation.protocols.protocol import Evaluation, FeatureProtocol, FeatureReader, Prediction
from xkd.progress import progress
from xkd.train.schedules import cosine


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters of the layer's training; AdamW with its default betas."""

    lr: float
    decays: bool
    """Whether the learning rate follows a cosine to zero."""
    weight_decay: float
    dropout: float
    batch_size: int
    epochs: int


RECIPES = {
    "fsd50k": Recipe(lr=1e-3, decays=False, weight_decay=1e-5, dropout=0.3, batch_size=256, epochs=50),
    # The paper gives neither weight decay nor dropout; the authors' code has none.
    "kinetics400": Recipe(lr=1e-2, decays=True, weight_decay=0.0, dropout=0.0, batch_size=512, epochs=20),
}
"""By dataset; one of one's own has Kinetics400's, or with several labels a clip FSD50K's."""


class LinearHead(FeatureProtocol):
    """A fully connected layer on frozen features."""

    def fit(self, evaluation: Evaluation, read: FeatureReader) -> Prediction:
        """Train by the recipe of the dataset."""
        task, splits = evaluation.task, evaluation.splits
        train, test = read(splits.train, "train"), read(splits.test, "test")
        labels, default = (
            splits.label_sets(splits.train),
            "fsd50k" if evaluation.multi_label else "kinetics400",
        )
        recipe = RECIPES.get(task.dataset, RECIPES[default])
        values = fit_and_predict(train, labels, test, recipe, task.seed, multi_label=evaluation.multi_label)
        return Prediction(values)


def fit_and_predict(
    train: ClipFeatures,
    labels: LabelSets,
    test: ClipFeatures,
    recipe: Recipe,
    seed: int,
    *,
    multi_label: bool,
) -> Predictions:
    """Train the layer on training windows, one row each; predict test clips by the mean probability.

    Returns (test clips, classes) in [0, 1]. The last epoch is used: nothing is chosen on the test split.

    Args:
        seed: of the layer, the order of rows, and dropout.
        multi_label: sigmoids instead of a softmax, see `classification_loss`.
    """
    generator = torch.Generator().manual_seed(seed)
    features = torch.from_numpy(np.ascontiguousarray(train.features))
    targets = torch.from_numpy(labels.astype(np.float32))
    rows = torch.from_numpy(np.asarray(train.clip))
    layer = nn.Linear(features.shape[1], labels.shape[1])
    nn.init.orthogonal_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    batches = math.ceil(len(rows) / recipe.batch_size)
    steps = batches * recipe.epochs
    with progress("training the layer", recipe.epochs) as bar:
        for epoch in range(recipe.epochs):
            order = torch.randperm(len(rows), generator=generator)
            for number, batch in enumerate(torch.tensor_split(order, batches)):
                if recipe.decays:
                    step = epoch * batches + number
                    optimizer.param_groups[0]["lr"] = cosine(step, steps, recipe.lr, 0.0)
                inputs = features[batch]
                if recipe.dropout:  # not torch's, which takes no generator: the seed alone decides
                    kept = torch.rand(inputs.shape, generator=generator) >= recipe.dropout
                    inputs = inputs * kept / (1 - recipe.dropout)
                loss = classification_loss(layer(inputs), targets[rows[batch]], multi_label=multi_label)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
            bar.note(f"loss {loss.item():.3f}")
            bar.advance()
    with torch.no_grad():
        outputs = layer(torch.from_numpy(np.ascontiguousarray(test.features)))
        probabilities = outputs.sigmoid() if multi_label else outputs.softmax(-1)
    return test.mean(probabilities.numpy())


def classification_loss(logits: Tensor, targets: Tensor, *, multi_label: bool) -> Tensor:
    """Return binary cross-entropy per class, or cross-entropy; `targets` are (B, classes)."""
    return (F.binary_cross_entropy_with_logits if multi_label else F.cross_entropy)(logits, targets)
