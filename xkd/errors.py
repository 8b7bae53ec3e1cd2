"""The one kind of error a user sees without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend: one clear line that names the field or file and says what to do.

    The command line prints the line and exits with 2; the launcher never retries it.
    """

    exit_code = 2


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean a, b?)' with the closest known names, or '' when none is close."""
    matches = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" (did you mean {', '.join(matches)}?)" if matches else ""
