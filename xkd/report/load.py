"""A finished run and the scores of its evaluations, as they lie on the disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from xkd.config import PretrainConfig
from xkd.config.overrides import difference, to_dict
from xkd.config.presets import PRESETS, get_preset
from xkd.errors import UserError
from xkd.evaluate.features import published_hash
from xkd.evaluate.score import INPUTS, Score, read_scores
from xkd.rundir import ROLES, RunDir, Verdict


@dataclass(frozen=True)
class Evaluated:
    """A run and its scores, as many as there are."""

    run: Path
    config: PretrainConfig
    facts: dict[str, Any]
    """run.json"""
    verdict: Verdict
    scores: list[Score]
    folder: Path
    """Of the scores, and of the reasons of failed tasks."""

    @property
    def skipped_evaluation(self) -> bool:
        """Whether there are no scores because the run collapsed."""
        return not self.scores and not self.verdict.healthy


class Change(NamedTuple):
    """A setting in which a run differs from its preset."""

    name: str
    preset: Any
    run: Any


def read_run(run: Path, scores: Path) -> Evaluated:
    """Read a finished run and its scores.

    Raises:
        UserError: the run is not finished; the folder of scores is missing though the run is healthy; a
            score belongs to another run.
    """
    config = RunDir(run).config()
    verdict = RunDir(run).verdict()
    if not scores.is_dir() and verdict.healthy:
        raise UserError(f"no folder of scores at {scores}; xkd evaluate writes one")
    found = read_scores(scores)
    published = cache(partial(published_hash, run))
    for score in found:
        if score.encoder in ROLES:
            ours = "+".join(published(score.encoder, m) for m in INPUTS[score.modality])
            if score.encoder_hash != ours:
                raise UserError(
                    f"{scores / score.name}.json is a score of another run (its encoder is "
                    f"{score.encoder_hash}, the one in {run} {ours}); remove it"
                )
    return Evaluated(run, config, RunDir(run).info(), verdict, found, scores)


def check_revisions(runs: Iterable[Evaluated]) -> None:
    """A table must not mix revisions of a dataset.

    Raises:
        UserError: it would; the line names the first score of another revision.
    """
    revisions: dict[str, str] = {}
    for run in runs:
        for score in run.scores:
            if score.data_revision != revisions.setdefault(score.dataset, score.data_revision):
                raise UserError(
                    f"{run.folder / score.name}.json was measured on another revision of {score.dataset} "
                    f"than the others ({score.data_revision[:12]}, not {revisions[score.dataset][:12]}); "
                    "remove it or evaluate again"
                )


def changes(config: PretrainConfig) -> list[Change] | None:
    """The settings in which a configuration differs from its preset; None if there is no such preset.

    Settings under ``run``, which change no result, are left out; so is the seed, which a report names anyway.
    """
    if config.preset not in PRESETS:
        return None
    preset = get_preset(config.preset)
    return [
        Change(name, _setting(preset, name), _setting(config, name))
        for name in difference(preset, config)
        if not name.startswith("run.")
    ]


def _setting(config: PretrainConfig, name: str) -> Any:
    value: Any = to_dict(config)
    for key in name.split("."):
        value = value[key]
    return value
