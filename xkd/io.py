"""Atomic file writes, locks, and output directories with an owner."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import IO, Any, BinaryIO

from xkd.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MISPLACED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_PERMANENT = (*_FULL, *_MISPLACED, errno.ENAMETOOLONG)
"""What the next attempt would meet again; an unreachable file server or a failing device is transient."""
UNFINISHED = ".unfinished"
"""Folder that an `OutputDir` has until it is complete."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file, then rename it: readers see the old or the new content.

    Raises:
        UserError: the disk is full or the folder not writable; the previous content of `path` is intact.
        OSError, RuntimeError: anything else, which may succeed the next time; also intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        # torch.save hides the error of a full disk behind one of its own about positions.
        reason: Exception = error
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            reason = error.__context__
        if not isinstance(reason, OSError) or reason.errno not in _PERMANENT:
            raise reason from None
        raise UserError(f"cannot write {path}: {one_line(reason)}; the previous content is intact") from error


def write_text(path: Path, text: str) -> None:
    """Write a text atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return values


def try_lock(file: IO[Any]) -> bool:
    """Acquire an exclusive lock until the file is closed; True without one where locks are unsupported."""
    try:
        flock(file, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, or its type when it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class OutputDir:
    """A directory that one command fills, for one purpose, and that is then complete.

    Until it is complete it has a folder ``.unfinished`` with its identity, a lock and whatever the command
    needs to resume. A directory of another identity, or with files of another origin, is refused.

    Args:
        path: the directory; absent, empty, unfinished or complete.
        identity: what makes its content this and no other, for `check_identity`.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = path, identity
        self.unfinished = path / UNFINISHED
        """Scratch folder, removed on completion."""

    @contextmanager
    def fill(self) -> Iterator[None]:
        """Claim and lock the directory; it is complete when the context ends without an error.

        Raises:
            UserError: it holds something else, or another process is filling it.
        """
        if not self.unfinished.is_dir() and not is_empty(self.path):
            raise UserError(f"{self.path} is not empty; use a new or empty directory")
        self.unfinished.mkdir(parents=True, exist_ok=True)
        record = self.unfinished / "identity.json"
        with (self.unfinished / "lock").open("w") as file:
            # A worker that outlives its killed parent must not keep the lock.
            os.register_at_fork(after_in_child=file.close)
            if not try_lock(file):
                raise UserError(f"{self.path} is being written by another process; wait for it to finish")
            if record.is_file():
                self.check(read_json(record))
            write_json(record, self.identity)
            yield
            shutil.rmtree(self.unfinished)

    def check(self, found: Mapping[str, Any]) -> None:
        """Compare the identity of what is there with this one.

        Raises:
            UserError: one line with every difference.
        """
        ours = json.loads(json.dumps(self.identity))
        different = [
            f"{name} {found.get(name)} (not {ours.get(name)})"
            for name in dict.fromkeys((*found, *ours))
            if found.get(name) != ours.get(name)
        ]
        if different:
            raise UserError(
                f"{self.path} has another {', '.join(different)}; use another directory or delete it"
            )


def is_empty(path: Path) -> bool:
    """Whether a directory is absent or has no entries."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))
