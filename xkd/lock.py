"""Exclusive use of a directory by one process, also across hosts."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from xkd.errors import UserError
from xkd.io import one_line, try_flock
from xkd.log import get_logger

LOCK = ".lock"
"""File of a directory that is in use: it names the process, which has it locked."""
HEARTBEAT_SECONDS = 10.0
"""Interval at which that process touches the file."""
STALE_SECONDS = 60.0
"""A process on another host counts as ended when it has not touched the file for this long."""

_log = get_logger(__name__)


def is_in_use(path: Path) -> bool:
    """Return whether a process that holds the lock of a directory has shown a sign of life lately."""
    try:
        return time.time() - (path / LOCK).stat().st_mtime < STALE_SECONDS
    except OSError:
        return False


@contextmanager
def locked_directory(
    path: Path, decide: Callable[[Callable[[], bool]], bool] = lambda question: question()
) -> Iterator[DirectoryLock]:
    """Hold the lock of a directory, which need not exist.

    Args:
        decide: for several processes that use the directory together, such as
            `DistributedContext.broadcast_flag`: evaluates a condition on one of them, for all.

    Raises:
        UserError: another process uses the directory, or it is not writable.
    """
    lock = DirectoryLock(path)
    try:
        while not decide(lock.try_acquire):
            time.sleep(1)
        yield lock
    finally:
        lock.release()


class DirectoryLock:
    """The lock of a directory, which the process holds until it ends.

    On one host the kernel knows whether the process that locked the file is still there. File servers do not
    always: some do not pass locks on to other hosts, others keep the lock of a host that is lost. Then the
    file's time decides, which a process that lives changes; the clocks of the hosts do not matter.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path / LOCK
        self._me = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "token": secrets.token_hex(8),
        }
        self._open: IO[bytes] | None = None
        self._watched: tuple[dict[str, Any], int] | None = None
        self._stale_at = 0.0
        self._done = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def try_acquire(self) -> bool:
        """Acquire the lock; return False to try again, while it is unknown whether its process is alive.

        Raises:
            UserError: another process uses the directory, or it is not writable.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = self.file.open("a+b")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {one_line(error)}") from None
        locked = try_flock(file)
        found = os.fstat(file.fileno())
        if found.st_nlink == 0:  # removed by the process that has just ended
            file.close()
            return False
        holder = _parse(file)
        local = locked is not None and holder.get("boot") in (None, self._me["boot"])
        if locked is not False and (local or not holder):
            self._hold(file)
            return True
        file.close()
        now = (holder, found.st_mtime_ns)
        if local or (self._watched and self._watched[0] == holder and self._watched != now):
            raise UserError(f"{self._used_by(holder)}; wait until it ends, or use another directory")
        if self._watched != now:
            self._watched, self._stale_at = now, time.monotonic() + STALE_SECONDS
            _log.info("%s; waiting %.0f s for a sign of life", self._used_by(holder), STALE_SECONDS)
        elif time.monotonic() >= self._stale_at:
            _log.info("no sign of life from process %s on %s; continuing", holder["pid"], holder["host"])
            self._replace()
            return True
        return False

    def check(self) -> None:
        """Check that the lock is still held: a host that was cut off may have lost it to another.

        Raises:
            UserError: another process uses the directory, or it was deleted.
        """
        try:
            with self.file.open("rb") as file:
                holder = _parse(file)
        except FileNotFoundError:
            raise UserError(f"{self.path} was deleted while it was in use") from None
        except OSError:  # a busy file server must not end a run
            return
        if holder != self._me:
            raise UserError(f"{self._used_by(holder)}, which took over from this one")

    def release(self) -> None:
        """Release the lock, if it is held, and remove its file, and the directory if it is empty then."""
        if (file := self._open) is None:
            return
        self._done.set()
        self._heart.join()
        self._open = None
        with suppress(UserError, OSError):
            self.check()
            self.file.unlink()
            self.path.rmdir()
        file.close()

    def _hold(self, file: IO[bytes]) -> None:
        """Name this process in the locked file, and keep its time new."""
        file.truncate(0)
        file.write(json.dumps(self._me).encode())
        file.flush()
        os.fsync(file.fileno())
        # A data loader's worker that outlives this process must not keep the lock.
        os.register_at_fork(after_in_child=file.close)
        self._open = file
        self._heart.start()

    def _replace(self) -> None:
        """Put another file in the place of one that a lost host may have locked for ever."""
        temporary = self.file.with_name(f"{LOCK}.{self._me['token']}")
        file = temporary.open("a+b")
        try_flock(file)
        self._hold(file)
        temporary.replace(self.file)
        time.sleep(1)  # if two processes do this at once, the second has it
        self.check()

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT_SECONDS):
            with suppress(OSError, ValueError):
                os.utime(self._open.fileno())  # type: ignore[union-attr]

    def _used_by(self, holder: dict[str, Any]) -> str:
        if not holder:
            return f"{self.path} is in use by another process"
        return f"{self.path} is in use by process {holder['pid']} on {holder['host']} since {holder['since']}"


def _parse(file: IO[bytes]) -> dict[str, Any]:
    """Return the process that a lock's file names; empty if it names none."""
    file.seek(0)
    with suppress(ValueError):
        return dict(json.loads(file.read()))
    return {}
