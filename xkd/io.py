"""Atomic file writes, locks, and output directories with an owner."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from typing import IO, Any, BinaryIO

from xkd.errors import UserError
from xkd.log import get_logger

_PERMANENT = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),  # full
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)
"""Errors that the next attempt would meet again; those of a file server or a device may be transient."""
UNFINISHED = ".unfinished"
"""Folder that an `OutputDir` has until it is complete."""


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
        if not isinstance(reason, OSError) or reason.errno not in _PERMANENT:
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


def require_finished(path: Path) -> None:
    """Refuse a directory that is being filled, or whose filling was interrupted.

    Raises:
        UserError: it is unfinished.
    """
    if (path / UNFINISHED).is_dir():
        raise UserError(f"{path} is unfinished: rerun the command that writes it")


class OutputDir:
    """A directory that one command fills, for one purpose, and that is then complete.

    Until then it has a folder ``.unfinished`` with the identity, a lock and whatever the command keeps there
    to resume; readers refuse it by `require_finished`. The command writes a record of the identity last.

    Args:
        identity: what distinguishes its content from other content.
        find: returns the identity recorded in a complete directory, None when there is no record.
    """

    def __init__(
        self, path: Path, identity: Mapping[str, Any], find: Callable[[], Mapping[str, Any] | None]
    ) -> None:
        self.path, self.identity, self._find = path, identity, find
        self.unfinished = path / UNFINISHED
        """Scratch folder while the directory is filled; removed on completion."""
        self._marker = self.unfinished / "identity.json"
        self._locks: Sequence[IO[Any]] = ()
        self._announced = False

    def is_complete(self) -> bool:
        """Return whether nothing is left to write; False when the directory is absent, empty or unfinished.

        Raises:
            UserError: it has another identity, with every difference, or files of another origin.
        """
        record = self._find()
        found = find_json(self._marker) if record is None else record
        if found is not None:
            different = [
                f"{name} {found.get(name)} (not {value})"
                for name, value in json.loads(json.dumps(self.identity)).items()
                if found.get(name) != value
            ]
            if different:
                differences = ", ".join(different)
                raise UserError(f"{self.path} has another {differences}; use another directory or delete it")
        elif self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is not a directory; use a new or empty directory")
        elif not self.unfinished.is_dir() and not is_empty(self.path):
            # Another process may have begun or completed it since the first line.
            others = {entry.name for entry in self.path.iterdir()} - {UNFINISHED}
            if self._find() is not None:
                return self.is_complete()
            if others:
                line = f"{self.path} is not empty, it has {min(others)}; use a new or empty directory"
                raise UserError(line)
        return record is not None

    @contextmanager
    def fill(
        self,
        *,
        decide: Callable[[Callable[[], bool]], bool] = lambda question: question(),
        part: str = "",
    ) -> Iterator[bool]:
        """Claim and lock the directory; without an error it is complete at the end.

        While another process fills it, this one waits. An error before anything was written leaves no
        directory, a later one what `fill` resumes from.

        Args:
            decide: for several processes that fill the directory together, such as
                `DistributedContext.broadcast_flag`: evaluates a condition on one of them, for all.
            part: claimed instead of the directory, which stays unfinished; others may fill other parts.

        Yields:
            Whether there is anything to write; False when the directory is complete.

        Raises:
            UserError: see `is_complete`; or the directory is not writable or full.
        """
        try:
            while not decide(functools.partial(self._claim, part)):
                time.sleep(1)
            yield decide(lambda: bool(self._locks))
            decide(functools.partial(self._release, complete=not part))
        except OSError as error:
            if error.errno not in _PERMANENT:
                raise
            raise UserError(f"cannot complete {self.path}: {one_line(error)}; rerun to resume") from error
        except KeyboardInterrupt as error:
            self._release()
            if self.unfinished.is_dir():
                error.add_note(f"{self.path} is unfinished: rerun the command to resume")
            raise
        finally:
            self._release()

    def _claim(self, part: str) -> bool:
        """Lock the directory, or a part, unless the directory is complete; return False to try again."""
        if self.is_complete() and not self.unfinished.is_dir():
            return True
        try:
            make_folder(self.path)
            self.unfinished.mkdir(exist_ok=True)
            names = ("lock", f"{part}.lock") if part else ("lock",)
            locks = [(self.unfinished / name).open("w") for name in names]
        except FileNotFoundError:  # another process has just removed the folder
            return False
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {one_line(error)}") from error
        # No part is written while the directory is completed.
        locked = all(try_lock(file, shared=bool(part) and file is locks[0]) for file in locks)
        if not locked or os.fstat(locks[0].fileno()).st_nlink == 0:  # 0: removed before the lock
            for file in locks:
                file.close()
            if not self._announced:
                get_logger(__name__).info("waiting for another process to write %s", self.path)
            self._announced = True
            return False
        self._locks = locks
        for file in locks:  # a worker that outlives its killed parent must not keep them
            os.register_at_fork(after_in_child=file.close)
        if self.is_complete():  # another process has just completed it, or was killed while it did
            return self._release(complete=True)
        write_json(self._marker, self.identity)
        return True

    def _release(self, *, complete: bool = False) -> bool:
        """Unlock the directory; remove what it has only until it is complete, or if nothing was written."""
        if locks := self._locks:
            self._locks = ()
            unused = {self.unfinished, self._marker, *self.unfinished.glob("*lock")}
            if complete:
                locks[0].close()  # before its removal: NFS keeps a removed file while it is open
            # Where other parts share the lock, they remove the folder.
            if complete or (try_lock(locks[0]) and unused.issuperset(self.path.rglob("*"))):
                shutil.rmtree(self.unfinished, ignore_errors=True)
                with suppress(OSError):  # it is not empty
                    self.path.rmdir()
            for lock in locks:
                lock.close()
        return True
