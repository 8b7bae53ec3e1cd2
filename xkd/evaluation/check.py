"""What a pipeline does with its datasets, checked before any of them is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xkd.config import PretrainConfig
from xkd.config.overrides import read_settings, resolve
from xkd.data.fetch.fetch import FetchConfig, check_unregistered, read_seed
from xkd.data.shards.preparation import resolve_prepare
from xkd.data.shards.prepare import PrepareConfig
from xkd.errors import UserError
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
    _check_preparation(resolve_prepare(config.preset, None, prepare_settings), config)
    check_choice(evaluated, encoders, protocols, read_settings(None, finetune_settings))


def _check_preparation(given: PrepareConfig, config: PretrainConfig) -> None:
    """Check that clips are prepared with all that pretraining sees of them."""
    clip, height, without_video = config.clip, config.video.global_view[1], "video" not in config.modalities
    for setting, name, needed, suffices in (
        ("video.global_view", "short_side", height, without_video or given.short_side >= height),
        ("clip.fps", "max_fps", clip.fps, without_video or (given.max_fps or clip.fps) >= clip.fps),
        ("clip.sample_rate", "sample_rate", clip.sample_rate, given.sample_rate == clip.sample_rate),
    ):
        if not suffices:
            raise UserError(
                f"{setting} needs clips prepared with {name}={needed}, not {getattr(given, name):g}; "
                f'add "{name}={needed}" to prepare_settings'
            )
