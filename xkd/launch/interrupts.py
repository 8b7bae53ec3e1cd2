"""Why a run may end before its last step: it was asked to, or its verdict; the exit code says which."""

from __future__ import annotations

import signal
from types import TracebackType

ASKING = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Inside its context SIGTERM and SIGINT are only noted, so that a step can be finished and saved."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> StopSignal:
        self._before = {number: signal.signal(number, self._note) for number in ASKING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        self.received = True
