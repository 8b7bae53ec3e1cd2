"""Retrieval across modalities: find the sound of a video, and the video of a sound, among the test clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xkd.config import MODALITIES, Modality, PretrainConfig
from xkd.data.media.damage import MediaError
from xkd.data.media.thumbnail import to_thumbnail
from xkd.data.shards.clips import Clip
from xkd.data.shards.reader import read_picture
from xkd.errors import UserError
from xkd.evaluation.features import ClipFeatures
from xkd.evaluation.protocols.protocol import Evaluation, FeatureProtocol, FeatureReader, Prediction
from xkd.model.projector import Projection, share_basis
from xkd.rundir import ROLES
from xkd.weights import load_projections, require_weights

EXAMPLES, NEAREST = 5, 4
"""Queries that a score shows, and their nearest clips."""
_BLOCK = 1024

Vectors = NDArray[np.floating[Any]]
"""(clips, D), unit vectors."""


class Retrieval(FeatureProtocol):
    """Nearest neighbors by the cosine of projected features, without labels and without training."""

    encoders = (*ROLES, "random")
    why_not_raw = "raw input has no features that compare across modalities"
    settings = ("test_windows", "seed")
    parts = ("test",)

    def check(self, evaluation: Evaluation) -> None:
        """Check also that the run published projectors."""
        super().check(evaluation)
        task, run = evaluation.task, evaluation.run
        for modality in task.inputs if task.encoder in ROLES else ():
            require_weights(run.projector(task.encoder, modality), "projector")

    def fit(self, evaluation: Evaluation, read: FeatureReader) -> Prediction:
        """Rank the test clips for each of them."""
        task, clips = evaluation.task, evaluation.splits.test
        if task.encoder == "random":
            projections = random_projections(evaluation.config, task.seed)
        else:
            projections = load_projections(evaluation.run.path, task.encoder)  # type: ignore[arg-type]
        features = read(clips, "test")
        dim = evaluation.extractors[0].dim
        pooled: dict[Modality, ClipFeatures] = {
            "video": features._replace(features=features.features[:, :dim]),
            "audio": features._replace(features=features.features[:, dim:]),
        }
        projected = {m: _unit_means(_project(projections[m], pooled[m])) for m in MODALITIES}
        ranks, reverse = (
            rank_of_own(projected["video"], projected["audio"]),
            rank_of_own(projected["audio"], projected["video"]),
        )
        measures = {**recalls(ranks), "per_class": {}}
        retrieval: dict[str, Any] = {"audio_to_video": recalls(reverse)}
        if task.encoder in ROLES:
            retrieval |= _examples(evaluation, projected, _unit_means(pooled["video"]), ranks)
        return Prediction(None, {"retrieval": retrieval}, measures=measures)


def random_projections(config: PretrainConfig, seed: int) -> dict[Modality, Projection]:
    """Return projectors that were never trained."""
    torch.manual_seed(seed)
    projections = {m: Projection(config.encoder.dim, config.projector) for m in MODALITIES}
    share_basis(projections.values())
    return projections


def rank_of_own(queries: Vectors, candidates: Vectors) -> NDArray[np.int64]:
    """Return how many candidates come before that of the query's own row (of ties the first), (clips,)."""
    ranks = np.empty(len(queries), np.int64)
    for first in range(0, len(queries), _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, len(queries)))
        similar = queries[rows] @ candidates.T
        own = similar[np.arange(len(rows)), rows][:, None]
        ties = (similar == own) & (np.arange(len(candidates)) < rows[:, None])
        ranks[rows] = ((similar > own) | ties).sum(axis=1)
    return ranks


def recalls(ranks: NDArray[np.int64]) -> dict[str, Any]:
    """Return recall@1 and @5, the latter only among more than five clips, and the chance of the former."""
    top5 = float((ranks < 5).mean()) if len(ranks) > 5 else None
    return {"score": float((ranks == 0).mean()), "top5": top5, "chance": 1 / len(ranks)}


@torch.no_grad()
def _project(projection: Projection, pooled: ClipFeatures) -> ClipFeatures:
    parts = torch.split(torch.from_numpy(np.ascontiguousarray(pooled.features)), _BLOCK)
    return pooled._replace(features=torch.cat([projection(part) for part in parts]).numpy())


def _unit_means(features: ClipFeatures) -> Vectors:
    """Return the direction of each clip's mean over its windows."""
    means = features.mean(features.features)
    unit: Vectors = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return unit


def _examples(
    evaluation: Evaluation, projected: dict[Modality, Vectors], pooled: Vectors, ranks: NDArray[np.int64]
) -> dict[str, Any]:
    """Return evenly spaced test clips with their nearest clips, and a picture of each clip named."""
    clips = evaluation.splits.test
    chosen = np.unique(np.linspace(0, len(clips) - 1, EXAMPLES).astype(int))
    examples, named = [], dict[str, Clip]()
    for row in chosen.tolist():
        sounds = _nearest(projected["audio"] @ projected["video"][row])
        similar = pooled @ pooled[row]
        similar[row] = -np.inf
        videos = _nearest(similar)[: len(clips) - 1]
        named |= {clips[number].id: clips[number] for number in (row, *sounds, *videos)}
        examples.append(
            {
                "clip": clips[row].id,
                "rank": int(ranks[row]) + 1,
                "audio": [clips[number].id for number in sounds],
                "video": [clips[number].id for number in videos],
            }
        )
    root = evaluation.splits.dataset.root
    return {
        "examples": examples,
        "labels": {name: ", ".join(clip.labels) for name, clip in named.items()},
        "pictures": {name: _picture(root, clip) for name, clip in named.items()},
    }


def _nearest(similar: Vectors) -> Sequence[int]:
    order: list[int] = np.argsort(-similar, kind="stable")[:NEAREST].tolist()
    return order


def _picture(root: Path, clip: Clip) -> str:
    try:
        return to_thumbnail(read_picture(root, clip))
    except MediaError as error:
        raise UserError(f"clip {clip.id} cannot be read ({error}); prepare its dataset again") from None
