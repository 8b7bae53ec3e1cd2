"""Exit codes: one table, in docs/reliability.md, for every command."""

from __future__ import annotations

import re
from pathlib import Path

import xkd.launch.kubernetes.client
import xkd.launch.kubernetes.submit  # noqa: F401 -- these modules have errors of their own
from xkd import errors
from xkd.errors import EXIT_SIGNAL, NON_RETRYABLE_EXIT_CODES, XkdError, as_exit_code

DOCS = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
ROWS = re.findall(r"^\| ([\d +n]+) \|.* \| ?(\w*) \|$", DOCS.read_text(), re.MULTILINE)


def subclasses(of: type[XkdError]) -> set[type[XkdError]]:
    return {of}.union(*map(subclasses, of.__subclasses__()))


def test_the_table_lists_every_code() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")} - {EXIT_SIGNAL}
    assert {code for code, _ in ROWS} == {"0", f"{EXIT_SIGNAL} + n", *map(str, codes)}
    assert {of.exit_code for of in subclasses(XkdError) if of.exit_code < EXIT_SIGNAL} <= codes


def test_the_table_says_which_codes_are_retried() -> None:
    assert {int(code) for code, retried in ROWS if retried == "no"} == set(NON_RETRYABLE_EXIT_CODES)


def test_a_signal_is_added_to_128() -> None:
    assert (as_exit_code(-9), as_exit_code(76), as_exit_code(0)) == (137, 76, 0)
