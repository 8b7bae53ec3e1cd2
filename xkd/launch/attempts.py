"""How often a job was started without getting any further: the budget of its restarts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from xkd.errors import UserError
from xkd.io import find_json, write_json
from xkd.rundir import RunDir


@dataclass(frozen=True)
class Attempts:
    """Starts of a job since its newest checkpoint, as the file `RunDir.attempts_file` holds them."""

    submission: str = ""
    """Identifies the submission of the job; another one has all its restarts again."""
    checkpoint: str = ""
    """Name of the newest checkpoint when they began."""
    count: int = 0
    reason: str = ""
    """How the last one failed."""

    @classmethod
    def begin(cls, run: Path, submission: str) -> Attempts:
        """Count another start; one that follows a new checkpoint is the first again."""
        newest, before = RunDir(run).newest_checkpoint(), None
        with suppress(OSError, UserError, TypeError):  # a damaged file must not end a run
            before = cls(**find_json(RunDir(run).attempts_file) or {})
        now = cls(submission, newest.name if newest else "")
        if before and (before.submission, before.checkpoint) == (now.submission, now.checkpoint):
            now = before
        now = replace(now, count=now.count + 1)
        now.save(run)
        return now

    def save(self, run: Path) -> None:
        """Write the file, unless the file system is in trouble, which a worker reports better."""
        with suppress(OSError):
            run.mkdir(parents=True, exist_ok=True)
            write_json(RunDir(run).attempts_file, asdict(self))
