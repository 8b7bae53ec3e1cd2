"""Several runs side by side: a row a configuration and encoder, a column a dataset and protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

from xkd.config import MODALITIES
from xkd.config.overrides import difference
from xkd.config.presets.paper_results import ALL_SPLITS
from xkd.errors import UserError
from xkd.evaluate.score import EvaluatedEncoder
from xkd.report.load import Evaluated, changes
from xkd.report.tables import (
    ENCODERS,
    NOTHING,
    PUBLISHED,
    SPLITS,
    Column,
    Line,
    Paper,
    columns_of,
    of_split,
    paper_number,
)

COLUMNS = 4
"""How many fit beside each other on a page."""


class Place(NamedTuple):
    """A column: of a dataset, on its first split or on all."""

    dataset: str
    column: Column
    split: str

    @property
    def title(self) -> str:
        """For people; that of its block goes without saying."""
        return f"{self.dataset}: {self.column.title[:1].lower()}{self.column.title[1:]}"

    @property
    def kind(self) -> str:
        """What it has in common with the columns that it stands beside, as in the paper's tables."""
        how = "Fine-tuning" if self.column.setup.protocol == "finetune" else "Linear evaluation"
        return f"{how}, {SPLITS[self.split]}"


class Block(NamedTuple):
    """Columns of one kind, no more than fit on a page."""

    title: str
    places: tuple[Place, ...]


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ in the seed alone."""

    title: str
    runs: tuple[Evaluated, ...]


class Mean(NamedTuple):
    """A number of a group, in percent."""

    mean: float
    spread: float | None
    """Standard deviation over seeds; of a single run over its folds; None of a single number."""
    n: int
    over: str
    """What `n` counts: seeds or folds."""

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.1f} (n={self.n} {self.over})"
        return f"{self.mean:.1f}{spread}"


@dataclass(frozen=True)
class Comparison:
    """The numbers of one or several runs, by group, encoder and column."""

    groups: tuple[Group, ...]
    places: tuple[Place, ...]
    cells: dict[tuple[Group, EvaluatedEncoder, Place], Mean]
    """Without those that nobody measured."""

    @property
    def runs(self) -> list[Evaluated]:
        """All of them."""
        return [run for group in self.groups for run in group.runs]

    @property
    def several(self) -> bool:
        """Whether there is something to compare."""
        return len(self.runs) > 1

    @property
    def collapsed(self) -> list[str]:
        """The runs that are not in the table, and why."""
        return [
            f"Run {run.run.name} was judged {run.verdict.verdict.replace('_', '-')} and not evaluated."
            for run in self.runs
            if run.skipped_evaluation
        ]

    @property
    def blocks(self) -> list[Block]:
        """The columns with a published encoder's number, by kind."""
        kinds: dict[str, list[Place]] = {}
        for place in self.places:
            if any((group, encoder, place) in self.cells for group in self.groups for encoder in PUBLISHED):
                kinds.setdefault(place.kind, []).append(place)
        # Backwards: linear evaluation before fine-tuning, split 1 before all.
        return [
            Block(kind, tuple(places[start : start + COLUMNS]))
            for kind, places in sorted(kinds.items(), reverse=True)
            for start in range(0, len(places), COLUMNS)
        ]

    def paper(self, group: Group, encoder: EvaluatedEncoder, place: Place) -> Paper | None:
        """What the paper prints for a group's preset, where it prints something."""
        ours = self.cells.get((group, encoder, place))
        preset = group.runs[0].config.preset
        mean = ours.mean if ours else None
        return paper_number(preset, encoder, place.dataset, place.column, place.split, mean)

    def rows(self, places: Sequence[Place]) -> list[tuple[Group, EvaluatedEncoder]]:
        """The groups and their published encoders that have a number in one of the columns."""
        return [
            (group, encoder)
            for group in self.groups
            for encoder in PUBLISHED
            if any((group, encoder, place) in self.cells for place in places)
        ]

    def lines(self, places: Sequence[Place]) -> list[Line]:
        """The rows of some columns as text: each encoder, and below it what the paper prints."""
        found = []
        for group, encoder in self.rows(places):
            means = [self.cells.get((group, encoder, place)) for place in places]
            found.append(Line(f"{group.title}, {encoder}", [str(mean or NOTHING) for mean in means]))
            papers = [self.paper(group, encoder, place) for place in places]
            sources = dict.fromkeys(paper.source for paper in papers if paper)
            if sources:
                title = f"the paper's {encoder} ({'; '.join(sources)})"
                found.append(Line(title, [str(paper or "") for paper in papers], reference=True))
        return found


def compare(runs: Sequence[Evaluated]) -> Comparison:
    """Runs side by side, those that differ in the seed alone as one.

    Raises:
        UserError: two runs hold the same weights.
    """
    _check_distinct(runs)
    groups = _group(runs)
    scores = [score for run in runs for score in run.scores]
    places = tuple(
        Place(dataset, column, split)
        for dataset in sorted({score.dataset for score in scores})
        for column in columns_of(dataset, [score for score in scores if score.dataset == dataset])
        for split in (SPLITS if column.setup.folds > 1 else (ALL_SPLITS,))
    )
    cells = {
        (group, encoder, place): mean
        for group in groups
        for encoder in ENCODERS
        for place in places
        if (mean := _mean(group, encoder, place))
    }
    return Comparison(groups, places, cells)


RUN_FACTS = ("Run", "Row", "Seed", "Verdict", "Pretrained on", "Commit", "Weights", "Evaluated")


def run_facts(comparison: Comparison) -> list[tuple[str, ...]]:
    """What each run is and when it was evaluated, by `RUN_FACTS`."""
    return [
        (
            str(run.run),
            group.title,
            str(run.config.run.seed),
            run.verdict.verdict,
            " ".join(_pretrained_on(run)),
            str(run.facts.get("commit"))[:7],
            ", ".join(
                dict.fromkeys(
                    f"{s.encoder} {s.modality} {s.encoder_hash}"
                    for s in run.scores
                    if s.encoder in PUBLISHED and s.modality in MODALITIES
                )
            ),
            max((score.date[:10] for score in run.scores), default="not"),
        )
        for group in comparison.groups
        for run in group.runs
    ]


def _mean(group: Group, encoder: EvaluatedEncoder, place: Place) -> Mean | None:
    """A group's number; runs that were not evaluated on all of the split do not count."""
    dataset, column, split = place
    each = [
        values
        for run in group.runs
        if (
            values := of_split(
                [s for s in run.scores if (s.dataset, s.encoder) == (dataset, encoder)], column, split
            )
        )
    ]
    if not each:
        return None
    means = [100 * fmean(values) for values in each]
    spread_over = means if len(each) > 1 else [100 * value for value in each[0]]
    return Mean(
        fmean(means),
        stdev(spread_over) if len(spread_over) > 1 else None,
        len(spread_over),
        "seeds" if len(each) > 1 else "folds",
    )


def _group(runs: Sequence[Evaluated]) -> tuple[Group, ...]:
    alike: list[list[Evaluated]] = []
    for run in runs:
        same = next((others for others in alike if _differ_in_seed(run, others[0])), None)
        if same is None:
            alike.append([run])
        else:
            same.append(run)
    several = len({_pretrained_on(run) for run in runs}) > 1
    return tuple(Group(_title(group[0], several), tuple(group)) for group in alike)


def _differ_in_seed(run: Evaluated, other: Evaluated) -> bool:
    """Whether settings and data are the same; what is under ``run`` changes no result but the seed's."""
    settings = [name for name in difference(run.config, other.config) if not name.startswith("run.")]
    return not settings and _pretrained_on(run) == _pretrained_on(other)


def _pretrained_on(run: Evaluated) -> tuple[str, str]:
    return str(run.facts.get("dataset")), str(run.facts.get("data_revision"))[:12]


def _title(run: Evaluated, several: bool) -> str:
    """The preset, with the settings that differ from it, and its data where runs have `several`."""
    differing = (f"{change.name} {change.run}" for change in changes(run.config) or ())
    words = [run.config.preset, *differing]
    if several:
        dataset, revision = _pretrained_on(run)
        words.append(f"on {dataset} {revision}")
    return ", ".join(words)


def _check_distinct(runs: Sequence[Evaluated]) -> None:
    """The same run twice would be a mean with no deviation."""
    holders: dict[tuple[str, str], Evaluated] = {}
    for run in runs:
        for score in run.scores:
            if score.encoder in PUBLISHED:
                holder = holders.setdefault((score.name, score.encoder_hash), run)
                if holder is not run:
                    raise UserError(f"{holder.run} and {run.run} hold the same weights; give one of them")
