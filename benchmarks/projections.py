"""Which quantity of a trained run compares best across modalities: recall on its training clips.

    python benchmarks/projections.py --run runs/embedded/0 --data PREPARED

`xkd embed` writes one of these quantities; the others are its alternatives. Test clips are not read, so that
the retrieval scores of a run, which are on test clips, stay free of this choice.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import parser
from xkd.config import MODALITIES, Modality
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.transforms.views import Views
from xkd.evaluation.protocols.retrieval import rank_of_own
from xkd.model.projector import Projection, Projector
from xkd.parallel.threads import limit_threads
from xkd.progress import progress
from xkd.rundir import ROLES, Role, RunDir
from xkd.weights import load, load_projections, load_saved

WINDOWS = 3
"""Windows of a clip, over which each quantity is averaged."""


@torch.inference_mode()
def pooled_features(run: Path, data: Path, count: int, role: Role) -> dict[Modality, Tensor]:
    """Return the pooled features (clips * WINDOWS, D) of training clips by modality."""
    dataset, encoders = PreparedDataset.open(data), {m: load(run, m, role) for m in MODALITIES}
    clips = [clip for clip in dataset.split("train") if clip.has(*MODALITIES)]
    # From the second on: the published centers are means over every third clip of the embedded dataset.
    clips = clips[1 :: max(1, len(clips) // count)][:count]
    config = encoders["video"].config
    views = Views(config)
    parts: dict[Modality, list[Tensor]] = {m: [] for m in MODALITIES}
    with progress(role, WINDOWS * len(clips)) as bar:
        for batch in evaluation_batches(dataset, clips, config, WINDOWS):
            for m, view in views.plain(batch).items():
                parts[m].append(encoders[m].pool(encoders[m](view)))
            bar.advance(len(view))
    return {m: torch.cat(rows) for m, rows in parts.items()}


def quantities(
    projection: Projection, pooled: Tensor, running_center: Tensor, temperatures: tuple[float, float]
) -> dict[str, Tensor]:
    """Return what the modalities could be compared by, each (rows, any width).

    Args:
        running_center: of the distillation (B.5).
        temperatures: of the student and of the teacher.
    """
    outputs = Projector.forward(projection, pooled)
    hidden = pooled
    for linear in projection.hidden:
        hidden = F.gelu(projection.norm(linear(hidden)))
    return {
        "pooled features": pooled,
        "bottleneck": F.normalize(projection.bottleneck(hidden), dim=-1),
        "outputs": outputs,
        "outputs less the running center": outputs - running_center,
        "outputs less their mean, as published": outputs - projection.center,
        "probabilities of a student": (outputs / temperatures[0]).softmax(dim=-1),
        "probabilities of a teacher": ((outputs - running_center) / temperatures[1]).softmax(dim=-1),
    }


def recalls(queries: Tensor, candidates: Tensor) -> tuple[float, float]:
    """Return recall@1 and @5 of the candidates of the queries' own clips."""
    unit = [
        F.normalize(F.normalize(x, dim=-1).reshape(-1, WINDOWS, x.shape[1]).mean(dim=1), dim=-1).numpy()
        for x in (queries, candidates)
    ]
    ranks = rank_of_own(*unit)
    return float((ranks < 1).mean()), float((ranks < 5).mean())


@torch.inference_mode()
def main() -> None:
    """Print a table with a row per role and quantity."""
    options = parser(__doc__)
    options.add_argument("--run", type=Path, required=True)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--count", type=int, default=200, help="training clips")
    given = options.parse_args()
    limit_threads()
    run = RunDir(given.run)
    checkpoint = run.newest_checkpoint()
    assert checkpoint, f"{run.path} has no checkpoint"
    config, state = run.config(), load_saved(checkpoint)["model"]
    print("| encoder | quantity | video to audio @1 | @5 | audio to video @1 | @5 |")
    print("|---|---|---|---|---|---|")
    for role in ROLES:
        projections = load_projections(given.run, role)
        pooled = pooled_features(given.run, given.data, given.count, role)
        found = {}
        for m in MODALITIES:
            settings = config.modality(m)
            temperatures = (settings.student_temperature, settings.teacher_temperature)
            found[m] = quantities(projections[m], pooled[m], state[f"center_{m}"], temperatures)
        for name, video in found["video"].items():
            audio = found["audio"][name]
            scores = (*recalls(video, audio), *recalls(audio, video))
            print(f"| {role} | {name} |", " | ".join(f"{100 * score:.1f}" for score in scores), "|")
    clips = len(pooled["video"]) // WINDOWS
    print(f"\n{clips} clips; chance {100 / clips:.1f} and {500 / clips:.1f} %.")


if __name__ == "__main__":
    main()
