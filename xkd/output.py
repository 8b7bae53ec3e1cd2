"""Output directories: each is filled by one command, for one purpose, and then complete."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from xkd.errors import UserError
from xkd.io import PERMANENT, find_json, is_empty, make_folder, one_line, try_lock, write_json
from xkd.log import get_logger

UNFINISHED = ".unfinished"
"""Folder that an `OutputDir` has until it is complete."""


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

    def find_identity(self) -> Mapping[str, Any] | None:
        """Return the identity of the directory as it is, complete or not; None if it has none."""
        return self._find() or find_json(self._marker)

    def check(self) -> None:
        """Refuse at once what `fill` would refuse.

        Raises:
            UserError: see `is_complete`; or the directory is not writable.
        """
        if self.is_complete():
            return
        folder = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {one_line(error)}") from error

    def is_complete(self) -> bool:
        """Return whether nothing is left to write; False when the directory is absent, empty or unfinished.

        Raises:
            UserError: it has another identity, with every difference, or files of another origin.
        """
        record = self._find()
        found = find_json(self._marker) if record is None else record
        if found is not None:
            wanted = json.loads(json.dumps(self.identity))
            different = [
                f"{name} {found[name]} (not {value})"
                for name, value in wanted.items()
                if name in found and found[name] != value
            ]
            foreign = not found.keys() >= wanted.keys()
            if foreign or different:
                state = "is unfinished, and " if record is None else ""
                what = f"has another {', '.join(different)}"
                if foreign:
                    what = "holds the output of another command, or of another version of xkd"
                raise UserError(f"{self.path} {state}{what}; use another directory or delete it")
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
            if error.errno not in PERMANENT:
                raise
            raise UserError(f"cannot complete {self.path}: {one_line(error)}; rerun to resume") from error
        except (KeyboardInterrupt, SystemExit) as error:
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
