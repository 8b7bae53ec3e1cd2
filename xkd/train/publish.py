"""The encoders and projectors that a run publishes at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from xkd.config import Modality
from xkd.config.overrides import to_yaml
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.datasets.training import TrainingClips
from xkd.data.transforms.views import Views
from xkd.errors import UserError
from xkd.io import write_json, write_text
from xkd.log import get_logger
from xkd.model.xkd import XKD
from xkd.rundir import ROLES, Role, RunDir, Verdict
from xkd.train.run_state import RunState
from xkd.weights import save_encoder, save_projector

_log = get_logger(__name__)

CENTER_CLIPS = 200
"""Training clips over which outputs are averaged at most."""

Centers = Mapping[Role, Mapping[Modality, Tensor]]
"""Mean outputs (K,) of the projectors."""


@torch.no_grad()
def mean_outputs(model: XKD, training: TrainingClips) -> Centers:
    """Return the mean outputs of every projector on training clips, seen without augmentation.

    The running centers of the distillation are means over refined features of augmented views, and not those
    of plain ones, which retrieval compares (docs/embeddings.md).
    """
    if not model.teacher:
        return {}
    step = -(-len(training.clips) // CENTER_CLIPS)
    clips = training.clips[::step]
    views = Views(model.config).to(next(model.parameters()).device)
    sums = {
        role: {m: torch.zeros_like(model.get_buffer(f"center_{m}")) for m in model.teacher} for role in ROLES
    }
    count = 0
    try:
        for batch in evaluation_batches(training.dataset, clips, model.config, 1):
            for m, view in views.plain(batch).items():
                for role in ROLES:
                    network = getattr(model, role)[m]
                    outputs = network.projector(network.encoder.pool(network.encoder(view)))
                    sums[role][m] += outputs.sum(dim=0)
            count += len(view)
    except UserError as error:  # training skips clips that cannot be read
        _log.warning("retrieval: the projectors' outputs are averaged over %d clips only: %s", count, error)
    return {role: {m: total / max(count, 1) for m, total in sums[role].items()} for role in ROLES}


def save_encoders(model: XKD, run: RunDir, centers: Centers) -> None:
    """Publish the encoders of all students and teachers and, if there are teachers, the projectors.

    Args:
        centers: see `mean_outputs`.
    """
    for role in ROLES:
        for m, network in getattr(model, role).items():
            save_encoder(network.encoder.state_dict(), model.config, m, run.encoder(role, m))
            if model.teacher:
                weights = network.projector.state_dict() | {"center": centers[role][m]}
                save_projector(weights, model.config, m, run.projector(role, m))


def save_snapshot(
    model: XKD, training: TrainingClips, state: RunState, step: int, per_epoch: int, verdict: Verdict
) -> None:
    """Publish the encoders as a run (`RunDir.snapshot`) if the step ends an epoch of `run.snapshots`.

    Its configuration is that of the whole run, whose schedules continue after the snapshot.
    """
    epoch, rest = divmod(step, per_epoch)
    if rest or epoch not in training.config.run.snapshots or not state.context.is_main:
        return
    snapshot = state.dir.snapshot(epoch)
    save_encoders(model, snapshot, mean_outputs(model, training))
    write_text(snapshot.config_file, to_yaml(training.config))
    write_json(snapshot.info_file, state.info)
    write_json(snapshot.verdict_file, replace(verdict, step=step).to_dict())
