"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import IO, Any, BinaryIO

from xkd.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MISPLACED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_MISTAKES = (*_FULL, *_MISPLACED, errno.ENAMETOOLONG)
"""What the next attempt would find again. A file server that is away, or a device in trouble, is none."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill a temporary file, then give it its name: readers see all of it or the one before.

    Raises:
        UserError: the disk is full or the folder not writable; whatever `path` held before is intact.
        OSError, RuntimeError: anything else that may go well the next time; intact as well.
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
        # torch.save covers a full disk's error with one of its own about positions.
        reason: Exception = error
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            reason = error.__context__
        if not isinstance(reason, OSError) or reason.errno not in _MISTAKES:
            raise reason from None
        raise UserError(
            f"cannot write {path}: {' '.join(str(reason).split())}; what was saved before is intact"
        ) from error


def write_text(path: Path, text: str) -> None:
    """`write_atomically` of a text."""
    write_atomically(path, lambda file: file.write(text.encode()))


def lock(file: IO[Any], *, wait: bool = False) -> bool:
    """Have an open file to oneself until it is closed; False if another process has it.

    Where the file system knows no locks, one goes without.
    """
    try:
        flock(file, LOCK_EX if wait else LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
