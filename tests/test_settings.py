"""The reference of settings: on the command line and in the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from xkd.cli.reference import page
from xkd.config.describe import describe, to_text
from xkd.config.overrides import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Part:
    """A part of
    two lines.
    """

    size: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    """None: unlimited."""
    kind: Literal["a", "b"] = "a"
    """As ``size``."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Base:
    """What others extend."""

    name: str = "x"
    """What it is called."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Whole(Base):
    """Everything."""

    part: Part = Part()
    count: Annotated[int, Field(ge=2, multiple_of=2)] = 4
    """How many."""
    cores: int = Field(default_factory=lambda: 1)
    """Those of the machine."""


def test_each_setting_has_its_value_type_and_meaning() -> None:
    assert to_text(describe(Whole(part=Part(size=(0.5, 1))))).splitlines() == [
        "Everything.",
        "",
        "  cores = computed  (integer)",
        "      Those of the machine.",
        "  name = x  (text)",
        "      What it is called.",
        "  count = 4  (integer ≥ 2, a multiple of 2)",
        "      How many.",
        "",
        "part: A part of two lines.",
        "",
        "  part.size = [0.5, 1.0]  (2 of: number > 0 or null)",
        "      null: unlimited.",
        "  part.kind = a  (one of a, b)",
        "      As `size`.",
    ]


def test_some_settings_alone_are_described() -> None:
    (section,) = describe(Whole(), only=["count"])
    assert [setting.name for setting in section.settings] == ["count"]


def test_the_page_is_generated_from_the_settings() -> None:
    """``python -m xkd.cli.reference > docs/settings.md``."""
    assert Path("docs/settings.md").read_text() == page()


def test_a_setting_without_a_meaning_is_an_error() -> None:
    @dataclass(frozen=True, config=STRICT)
    class Bare:
        """Settings."""

        size: int = 1

    with pytest.raises(KeyError, match="description"):
        describe(Bare())
