"""What a pipeline does with its datasets, checked before any of them is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xkd.config import PretrainConfig
from xkd.config.overrides import read_settings, resolve
from xkd.data.fetch.fetch import FetchConfig, check_unregistered, read_seed
from xkd.data.shards.manifest import check_preparation
from xkd.data.shards.preparation import ADD_SETTING, resolve_prepare
from xkd.evaluation.plan import check_choice


def check_datasets(
    config: PretrainConfig,
    datasets: Sequence[str],
    evaluated: Sequence[str],
    *,
    data: Path,
    repo: str,
    rev: str,
    clips: int,
    seed: str,
    prepare_settings: Sequence[str],
    encoders: Sequence[str],
    protocols: Sequence[str],
    finetune_settings: Sequence[str],
) -> None:
    """Check how datasets are fetched, prepared and evaluated; arguments as of the components that do it.

    Names in a data registry are known only to the task that opens it.

    Args:
        config: the settings of pretraining.
        datasets: all of them.
        evaluated: those to evaluate on.
        data: directory of each dataset by its name.

    Raises:
        UserError: one line naming what is unknown or out of range, or what pretraining cannot use.
    """
    resolve(FetchConfig(), clips=clips, seed=read_seed(seed))
    for name in datasets if not repo else ():
        check_unregistered(name, data / name, rev)
    prepared = resolve_prepare(config.preset, None, prepare_settings)
    check_preparation(prepared.settings(own=False), config, config.modalities, ADD_SETTING)
    check_choice(evaluated, encoders, protocols, read_settings(None, finetune_settings))
