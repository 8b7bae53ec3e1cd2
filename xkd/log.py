"""Messages for people on stderr, one line each: ``xkd: MESSAGE``."""

from __future__ import annotations

import logging
import sys


class _StderrHandler(logging.Handler):
    """Writes to the present `sys.stderr`, whatever that was at import."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record and flush."""
        print(self.format(record), file=sys.stderr, flush=True)


def get_logger(name: str) -> logging.Logger:
    """Return a logger of this package whose messages of level INFO and above are shown."""
    root = logging.getLogger("xkd")
    if not root.handlers:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("xkd: %(message)s"))
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        root.propagate = False  # an application's root logger would print each message again
    return logging.getLogger(name)
