"""plan: which evaluations a run gets, from what the prepared datasets hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

from xkd.config import MODALITIES, Modality, PretrainConfig
from xkd.config.overrides import resolve, to_dict
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import UserError, nearest
from xkd.evaluate.features import published_hash
from xkd.evaluate.score import INPUTS, EvaluatedEncoder, ProtocolName
from xkd.evaluate.specs import EVAL_SPECS
from xkd.evaluate.task import Task, tuning_of
from xkd.rundir import ROLES, RunDir

ENCODERS: tuple[EvaluatedEncoder, ...] = get_args(EvaluatedEncoder)
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)


def plan(
    run: Path,
    data: Sequence[Path],
    encoders: Sequence[str] = (),
    protocols: Sequence[str] = (),
    finetune: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The evaluations of a run, each with all that its outcome depends on, to be a caching key.

    Args:
        run: directory of a finished pretraining; one of a single modality is evaluated on that alone.
        data: prepared directories.
        encoders: which to evaluate; empty: the published ones (an autoencoder alone has no teacher) and
            both baselines.
        protocols: by which; empty: all.
        finetune: settings of every fine-tuning (`xkd.config.FinetuneConfig`), each ``dotted.name=value``.

    Returns:
        For each evaluation ``data`` (the directory), ``revision`` and ``preparation`` (what it was prepared
        from, and how), ``weights`` (the hash of a published encoder; of a baseline one of the settings that
        make it) and ``task`` (fields of `Task`).

    Raises:
        UserError: as `choose` and `tuning_of` do; or the run lacks an encoder.
    """
    config = RunDir(run).config()
    published = [role for role in ROLES if list(run.glob(f"encoders/{role}_*"))]
    if not published:
        raise UserError(f"no encoders in {run}; a finished run has them under encoders/")
    wanted = [encoder for encoder in ENCODERS if encoder in published or encoder not in ROLES]
    chosen = choose(data, encoders or wanted, protocols, config.modalities)
    tuned = _tuned(chosen, finetune)

    @cache
    def weights(encoder: EvaluatedEncoder, modality: Modality) -> str:
        return _weights(run, config, encoder, modality)

    return [
        {
            "data": str(manifest.root),
            "revision": manifest.revision,
            "preparation": manifest.preparation,
            "weights": "+".join(weights(task.encoder, m) for m in INPUTS[task.modality]),
            "task": _fields(task) | ({"finetune": tuned} if task.protocol == "finetune" else {}),
        }
        for manifest, task in chosen
    ]


def check(
    data: Sequence[Path], encoders: Sequence[str], protocols: Sequence[str], finetune: Sequence[str]
) -> int:
    """How many evaluations are asked for, at the most, before there is a run; arguments as of `plan`.

    Raises:
        UserError: as `plan` does, but for the encoders.
    """
    chosen = choose(data, encoders, protocols, MODALITIES)
    _tuned(chosen, finetune)
    return len(chosen)


def stages(
    data: Sequence[Path], encoders: Sequence[str] = (), protocols: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """The evaluations under ``tasks`` of ``params.yaml``: by name ``data`` and the fields of `Task`.

    Raises:
        UserError: as `choose` does.
    """
    chosen = choose(data, encoders, protocols, MODALITIES)
    return {task.name: {"data": str(manifest.root), **_fields(task)} for manifest, task in chosen}


def choose(
    data: Sequence[Path], encoders: Sequence[str], protocols: Sequence[str], modalities: Sequence[Modality]
) -> list[tuple[PreparedDataset, Task]]:
    """Every protocol of each dataset (`EVAL_SPECS`), on all its folds, with every encoder.

    All first folds come first: they make the features that the later ones would wait for. The raw input is
    nothing to fine-tune, and what no clip has is left out.

    Raises:
        UserError: an encoder or a protocol is unknown, a dataset is not evaluated or was given twice, or
            nothing is left to evaluate.
    """
    _check_known("encoder", encoders, ENCODERS)
    _check_known("protocol", protocols, PROTOCOLS)
    manifests: dict[str, PreparedDataset] = {}
    for manifest in map(PreparedDataset.open, data):
        if manifest.name not in EVAL_SPECS:
            raise UserError(
                f"{manifest.root} holds {manifest.name}, which has no evaluation; "
                f"{', '.join(EVAL_SPECS)} have"
            )
        other = manifests.setdefault(manifest.name, manifest)
        if other is not manifest:
            raise UserError(f"{other.root} and {manifest.root} both hold {manifest.name}; give one of them")
    chosen = [
        (manifest, task)
        for manifest in manifests.values()
        for task in _tasks(manifest, encoders or ENCODERS, protocols or PROTOCOLS, modalities)
    ]
    chosen.sort(key=lambda pair: pair[1].fold)
    if not chosen:
        raise UserError(
            f"nothing to evaluate: none of {', '.join(manifests) or 'no dataset'} has an evaluation by "
            f"{', '.join(protocols or PROTOCOLS)} of {', '.join(modalities)}"
        )
    return chosen


def _tasks(
    manifest: PreparedDataset,
    encoders: Sequence[str],
    protocols: Sequence[str],
    modalities: Sequence[Modality],
) -> list[Task]:
    there = {m for m in modalities if any(clip.has((m,)) for clip in manifest.clips)}
    return [
        Task(
            dataset=manifest.name,
            modality=setup.modality,
            protocol=setup.protocol,
            encoder=encoder,
            fold=fold,
        )
        for fold in range(1, manifest.folds + 1)
        for setup in EVAL_SPECS[manifest.name]
        if setup.protocol in protocols and there.issuperset(INPUTS[setup.modality])
        for encoder in ENCODERS
        if encoder in encoders and (encoder, setup.protocol) != ("raw", "finetune")
    ]


def _tuned(chosen: Sequence[tuple[PreparedDataset, Task]], finetune: Sequence[str]) -> dict[str, Any]:
    """The settings of every fine-tuning, as `Task` has them, tried on each that is chosen."""
    settings = [f"finetune.{setting}" for setting in finetune]
    tuned = resolve(Task(protocol="finetune"), None, settings).finetune
    for _, task in chosen:
        if task.protocol == "finetune":
            tuning_of(replace(task, finetune=tuned))
    return tuned


def _fields(task: Task) -> dict[str, Any]:
    """What tells a task from the others of its run."""
    return {name: getattr(task, name) for name in ("dataset", "modality", "protocol", "encoder", "fold")}


def _weights(run: Path, config: PretrainConfig, encoder: EvaluatedEncoder, modality: Modality) -> str:
    if encoder in ROLES:
        return published_hash(run, encoder, modality)
    values = to_dict(config)
    del values["run"]
    return f"{encoder}-{_digest(values)}"


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _check_known(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"no {what} {name}{nearest(name, known)}; there are {', '.join(known)}")
