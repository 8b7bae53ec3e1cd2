"""What a pipeline does with its datasets, checked before any of them is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xkd.config.overrides import read_settings, resolve
from xkd.data.fetch.fetch import FetchConfig, check_unregistered, read_seed
from xkd.data.shards.prepare import PrepareConfig
from xkd.evaluation.plan import check_choice


def check_datasets(
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
        datasets: all of them.
        evaluated: those to evaluate on.
        data: directory of each dataset by its name.

    Raises:
        UserError: one line naming what is unknown or out of range.
    """
    resolve(FetchConfig(), clips=clips, seed=read_seed(seed))
    for name in datasets if not repo else ():
        check_unregistered(name, data / name, rev)
    resolve(PrepareConfig(), None, prepare_settings)
    check_choice(evaluated, encoders, protocols, read_settings(None, finetune_settings))
