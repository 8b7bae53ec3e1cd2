"""Which evaluations a run gets, from the prepared datasets and the protocols that belong to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from xkd.config import MODALITIES, Modality
from xkd.config.overrides import build, load_yaml, overlay
from xkd.config.presets.finetune import finetuning
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import UserError, nearest
from xkd.evaluation.protocols import PROTOCOLS
from xkd.evaluation.protocols.protocol import ENCODERS
from xkd.evaluation.score import INPUTS, Task, TaskKey
from xkd.evaluation.specs import find_eval_spec, no_evaluation, specs_by_name, specs_of
from xkd.log import get_logger
from xkd.rundir import ROLES, RunDir

_LOG = get_logger(__name__)


def make_task(
    dataset: str,
    modality: str,
    protocol: str,
    encoder: str,
    fold: int = 1,
    settings: Mapping[str, Any] | None = None,
) -> Task:
    """Return a task with its dataset's windows and settings of fine-tuning, and `settings` laid over them.

    Settings are ``train_windows``, ``test_windows``, ``seed`` (null: the default), ``solver`` of the SVM, and
    for fine-tuning fields of `xkd.config.FinetuneConfig`.

    Raises:
        UserError: the dataset has no such evaluation, or a setting is unknown or out of range.
    """
    spec = find_eval_spec(dataset, modality, protocol)
    method, source = PROTOCOLS[spec.protocol], f"{protocol} on {dataset}"
    _check_known(f"protocol {protocol} has no encoder", [encoder], method.encoders)
    given = dict(settings or {})
    own = {name: given.pop(name) for name in method.settings if name in given}
    if method.trains_encoder:
        own["finetune"] = overlay(finetuning(dataset, INPUTS[spec.modality][0]), given, source)
    else:
        _check_known(f"protocol {protocol} has no setting", list(given), method.settings)
    task = TaskKey(dataset, modality, protocol, encoder, fold)._asdict()
    windows = {"train_windows": spec.train_windows, "test_windows": spec.test_windows}
    changed = {name: value for name, value in own.items() if value is not None}
    return build(Task, task | windows | changed, source)


def choose(
    data: Sequence[Path],
    encoders: Sequence[str] = (),
    protocols: Sequence[str] = (),
    modalities: Sequence[Modality] = MODALITIES,
    finetune: Mapping[str, Any] | None = None,
) -> list[tuple[PreparedDataset, Task]]:
    """Return every protocol of each dataset (`specs_of`), on all its folds, with every encoder.

    All first folds come first: they extract the features that the later ones would wait for.

    Args:
        encoders, protocols: empty: all.
        modalities: those of the run; what no clip of a dataset has is left out.
        finetune: settings of every fine-tuning, see `make_task`.

    Raises:
        UserError: an encoder, a protocol or a setting is unknown, a dataset is not evaluated or given twice,
            or nothing is left to evaluate.
    """
    _check_known("no encoder", encoders, ENCODERS)
    _check_known("no protocol", protocols, list(PROTOCOLS))
    datasets: dict[str, PreparedDataset] = {}
    for dataset in map(PreparedDataset.open, data):
        if not specs_of(dataset):
            raise UserError(f"{dataset.root}: {no_evaluation(dataset.name)}")
        other = datasets.setdefault(dataset.name, dataset)
        if other is not dataset:
            raise UserError(
                f"{other.root} and {dataset.root} both hold {dataset.name}; give only one of them"
            )
    chosen = []
    for dataset in datasets.values():
        available = {m for m in modalities if dataset.clips.has(m).any()}
        specs = [s for s in specs_of(dataset) if available.issuperset(INPUTS[s.modality])]
        for fold, spec in product(range(1, dataset.folds + 1), specs):
            method, names = PROTOCOLS[spec.protocol], (dataset.name, spec.modality, spec.protocol)
            settings = finetune if method.trains_encoder else None
            chosen += [
                (dataset, make_task(*names, encoder, fold, settings))
                for encoder in method.encoders
                if encoder in (encoders or ENCODERS) and spec.protocol in (protocols or PROTOCOLS)
            ]
    if not chosen:
        raise UserError(
            f"nothing to evaluate: none of {', '.join(datasets) or 'no dataset'} has an evaluation by "
            f"{', '.join(protocols or PROTOCOLS)} of {', '.join(modalities)}"
        )
    return sorted(chosen, key=lambda pair: pair[1].fold)


def check_choice(
    datasets: Sequence[str],
    encoders: Sequence[str] = (),
    protocols: Sequence[str] = (),
    finetune: Mapping[str, Any] | None = None,
) -> None:
    """Check the arguments of `choose` as far as the names of the datasets tell, before they are prepared.

    Args:
        datasets: names as of `xkd.data.fetch.fetch.fetch`, also of miniatures.

    Raises:
        UserError: an encoder, a protocol or a setting is unknown, or a dataset is not evaluated.
    """
    _check_known("no encoder", encoders, ENCODERS)
    _check_known("no protocol", protocols, list(PROTOCOLS))
    for dataset in datasets:
        name = dataset.rpartition("/")[2].removesuffix("-mini")
        if not (specs := specs_by_name(name)):
            raise no_evaluation(name)
        for spec in specs:
            if (method := PROTOCOLS[spec.protocol]).trains_encoder:
                make_task(name, spec.modality, spec.protocol, method.encoders[0], settings=finetune)


def plan(
    run: Path,
    data: Sequence[Path],
    encoders: Sequence[str] = (),
    protocols: Sequence[str] = (),
    finetune: Mapping[str, Any] | None = None,
) -> list[tuple[PreparedDataset, Task]]:
    """Return the evaluations of a run.

    Args:
        run: directory of a finished pretraining; one of a single modality is evaluated on that alone.
        encoders: empty: the published ones (an autoencoder alone has no teacher) and both baselines; the
            other arguments as of `choose`.

    Raises:
        UserError: see `choose`; or the run lacks an encoder.
    """
    directory = RunDir(run)
    modalities, published = directory.config().modalities, directory.published_roles()
    available = [encoder for encoder in ENCODERS if encoder in published or encoder not in ROLES]
    chosen = choose(data, encoders or available, protocols, modalities, finetune)
    lacking = [role for role in ROLES if not all(directory.projector(role, m).is_file() for m in MODALITIES)]
    if "retrieval" not in protocols:
        retrievable = [
            pair for pair in chosen if pair[1].protocol != "retrieval" or pair[1].encoder not in lacking
        ]
        if len(retrievable) < len(chosen):
            _LOG.info("no retrieval: %s published no projectors", run)
        chosen = retrievable
    for _, task in chosen:
        for modality in task.inputs if task.encoder in ROLES else ():
            if not (path := directory.encoder(task.encoder, modality)).is_file():
                raise UserError(f"no encoder at {path}; encoders of this run: {', '.join(available)}")
    return chosen


def stages(
    data: Sequence[Path], encoders: Sequence[str] = (), protocols: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return the section ``tasks`` of ``params.yaml``; see `choose`."""
    for directory in data:
        if "'" in str(directory):
            raise UserError(f"{directory}: dvc.yaml cannot pass on a name with an apostrophe; rename it")
    chosen = choose(data, encoders, protocols)
    return {task.name: {"data": str(dataset.root), **task.key._asdict()} for dataset, task in chosen}


def read_tasks(file: str | Path) -> dict[TaskKey, dict[str, Any]]:
    """Return the tasks of a file such as ``params.yaml``, each with the fields that its score must have.

    A section named after a protocol has its settings. Fields of data that is not there are missing.

    Raises:
        UserError: see `load_yaml`, `make_task` and `PreparedDataset.open`.
    """
    values, tasks = load_yaml(file), load_yaml(file, "tasks")
    names = ("data", *TaskKey._fields)

    @cache
    def identity(data: str) -> dict[str, str]:
        return PreparedDataset.open(Path(data)).identity if Path(data).is_dir() else {}

    chosen = {}
    for name, entry in tasks.items():
        if not isinstance(entry, dict) or not entry.keys() >= set(names):
            raise UserError(
                f"{file}: tasks.{name} must have {', '.join(names)}; xkd tasks prints such entries"
            )
        arguments = {field: entry[field] for field in TaskKey._fields}
        for field in names[:-1]:
            if not isinstance(entry[field], str):
                raise UserError(f"{file}: tasks.{name}.{field} must be a string, got {entry[field]!r}")
        settings = values.get(entry["protocol"])
        if not isinstance(settings, dict | None):
            raise UserError(f"{file}: {entry['protocol']} must be a mapping of settings, got {settings!r}")
        task = make_task(**arguments, settings=settings)
        chosen[task.key] = identity(entry["data"]) | task.identity
    return chosen


def _check_known(problem: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"{problem} {name}{nearest(name, known)}; available: {', '.join(known)}")
