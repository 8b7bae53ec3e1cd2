"""Weights of another run, from which a run starts (setting `init`)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from xkd.config import MODALITIES, PretrainConfig
from xkd.config.overrides import difference
from xkd.errors import UserError
from xkd.log import get_logger
from xkd.model.xkd import XKD
from xkd.rundir import ROLES, RunDir
from xkd.weights import load_saved, read_weights

_log = get_logger(__name__)


def initial_weights(config: PretrainConfig) -> dict[str, Tensor]:
    """Return the weights of the run `init`, by their names in `XKD`; empty without that setting.

    They are those of its newest checkpoint, or of its encoders if it has none, like an imported run. Where it
    has only a student or only a teacher of a modality, both start from that.

    Raises:
        UserError: it is no run, its weights are missing or unreadable, or its networks have other sizes.
    """
    if config.init is None:
        return {}
    source = RunDir(config.init)
    theirs, checkpoint = source.config(), source.newest_checkpoint()
    weights = _checkpointed(checkpoint) if checkpoint else _published(source)
    with torch.device("meta"):
        expected = {name: value.shape for name, value in XKD(config).state_dict().items()}
    for role, other in (ROLES, ROLES[::-1]):
        for m in config.modalities:
            prefix, given = f"{role}.{m}.", f"{other}.{m}."
            if not any(name.startswith(prefix) for name in weights):
                weights |= {
                    prefix + name.removeprefix(given): value
                    for name, value in weights.items()
                    if name.startswith(given)
                }
    weights = {name: value for name, value in weights.items() if name in expected}
    if not weights:
        raise UserError(f"init: {source.path} has no weights of {' and '.join(config.modalities)}")
    if any(value.shape != expected[name] for name, value in weights.items()):
        unrelated = ("preset", "init", "optim.", "run.", "loss.")
        names = [name for name in difference(theirs, config) if not name.startswith(unrelated)]
        raise UserError(
            f"init: the networks of {source.path} have other sizes; it differs in {', '.join(names)}"
        )
    missing = {".".join(name.split(".")[:3]) for name in expected.keys() - weights.keys()}
    rest = f"; it has no {', '.join(sorted(missing))}, which start at random" if missing else ""
    _log.info(f"pretrain: starts from the weights of {checkpoint or source.encoders}{rest}")
    return weights


def _checkpointed(path: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint by their names in `XKD`."""
    state = load_saved(path)
    weights = state.get("model") if isinstance(state, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"init: {path} is not a checkpoint of xkd pretrain")
    return weights


def _published(run: RunDir) -> dict[str, Tensor]:
    """Return the weights of a run's encoders by their names in `XKD`."""
    return {
        f"{role}.{m}.encoder.{name}": value
        for role in ROLES
        for m in MODALITIES
        if (path := run.encoder(role, m)).is_file()
        for name, value in read_weights(path)[0].items()
    }
