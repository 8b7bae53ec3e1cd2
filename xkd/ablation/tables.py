"""The supplement's tables and figures of ablations, as data (tables.yaml)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from xkd.config.overrides import STRICT, build, load_yaml
from xkd.errors import UserError, nearest
from xkd.evaluation.score import EvaluatedModality, ProtocolName
from xkd.rundir import Role

_DATASETS = {
    "hmdb51": "HMDB51",
    "ucf101": "UCF101",
    "esc50": "ESC-50",
    "kinetics400": "Kinetics400",
    "kinetics_sound": "Kinetics-Sound",
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Column:
    """An evaluation that a table reports."""

    dataset: str
    modality: EvaluatedModality
    protocol: ProtocolName
    split: Literal["1", "all"] = "1"
    """The first fold alone, or the mean over all of the dataset's."""

    @property
    def dataset_title(self) -> str:
        """The dataset as the paper writes it, and ``(FC)`` for that protocol."""
        name = _DATASETS.get(self.dataset, self.dataset)
        return f"{name} (FC)" if self.protocol == "fc" else name

    @property
    def title(self) -> str:
        """Heading of what is measured, such as ``embedded, video``."""
        return f"{self.dataset_title}, {self.modality}"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Table:
    """One table or figure: presets that are compared with the first of them."""

    name: str
    """Its number in the supplement, such as ``S9``."""
    kind: Literal["Table", "Figure", "Section"] = "Table"
    title: str
    question: str
    """What it asks, in one sentence."""
    finding: str
    """What the paper finds."""
    presets: tuple[str, ...]
    encoders: tuple[Role, ...] = ("teacher",)
    """Reported encoders; of a run without teachers, the student is reported in their place."""
    snapshots: tuple[PositiveInt, ...] = ()
    """Epochs of 800 after which the run is evaluated too, besides its end."""
    columns: tuple[Column, ...] = (
        Column(dataset="hmdb51", modality="video", protocol="svm"),
        Column(dataset="ucf101", modality="video", protocol="svm"),
        Column(dataset="esc50", modality="audio", protocol="svm"),
    )
    """What the paper reports."""

    @property
    def default(self) -> str:
        """The preset that the others are compared with."""
        return self.presets[0]

    @property
    def label(self) -> str:
        """Its kind and number."""
        return f"{self.kind} {'B.5' if self.name == 'B5' else self.name}"


@cache
def all_tables() -> dict[str, Table]:
    """Return the tables by name, in the supplement's order."""
    file = Path(__file__).with_name("tables.yaml")
    return {
        name: build(Table, {"name": name, **values}, file.name) for name, values in load_yaml(file).items()
    }


def find_tables(names: Sequence[str]) -> list[Table]:
    """Return tables by name, each once; ``all`` names every one.

    Raises:
        UserError: there is no such table; the nearest names are suggested.
    """
    known = all_tables()
    for name in names:
        if name not in known and name != "all":
            raise UserError(
                f"unknown table {name!r}{nearest(name, known)}; known: {', '.join(known)} and all"
            )
    return list(known.values()) if "all" in names else [known[name] for name in dict.fromkeys(names)]
