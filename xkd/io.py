"""Atomic file writes, and locks."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from typing import IO, Any, BinaryIO

from xkd.errors import UserError

PERMANENT = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),  # full
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)
"""Errors that the next attempt would meet again; those of a file server or a device may be transient."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file, then rename it: readers see the old or the new content.

    Raises:
        UserError: the disk is full or the folder not writable; the previous content of `path` is intact.
        OSError, RuntimeError: anything else, which may succeed the next time; also intact.
    """
    # Not the process's number, which processes of two containers share.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        make_folder(path.parent)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        # torch.save reports a full disk as an error about positions.
        reason: Exception = error
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            reason = error.__context__
        if not isinstance(reason, OSError) or reason.errno not in PERMANENT:
            raise reason from None
        raise UserError(f"cannot write {path}: {one_line(reason)}; the previous content is intact") from error


def make_folder(path: Path) -> None:
    """Make a directory, unless it exists, and those above it.

    Raises:
        PermissionError: the file system takes no directories, as that of /proc.
        OSError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # though the directories above it were made
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path)) from None


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
    if (values := find_json(path)) is None:
        raise UserError(f"cannot read {path}: {os.strerror(errno.ENOENT)}")
    return values


def find_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object, or return None where there is no file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} does not contain a JSON object")
    return values


def try_lock(file: IO[Any], *, shared: bool = False) -> bool:
    """Acquire a lock until the file is closed; True without one where locks are unsupported."""
    return try_flock(file, shared=shared) is not False


def try_flock(file: IO[Any], *, shared: bool = False) -> bool | None:
    """Return whether a lock, exclusive or shared, was acquired until closing the file; None: unsupported."""
    try:
        flock(file, (LOCK_SH if shared else LOCK_EX) | LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, or its type when it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def short_hash(text: str) -> str:
    """Return twelve hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def code_hash(*patterns: str) -> str:
    """Return a hash of modules of this package, on which results that are kept depend.

    Args:
        patterns: of paths below the package, such as ``model/*.py``.
    """
    root = Path(__file__).parent
    files = sorted(file for pattern in patterns for file in root.glob(pattern))
    return short_hash("".join(f"{file.relative_to(root)}\n{file.read_text()}" for file in files))


def is_empty(path: Path) -> bool:
    """Return whether a directory is absent or has no entries."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))
