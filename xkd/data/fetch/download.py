"""Parallel downloads in ranges: resumed within a file, and verified by md5.

DVC's own fetch verifies too, but restarts a file of many gigabytes after a broken connection or a kill.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import TypeVar

from xkd.data.fetch.remote import BrokenConnectionError, ListedFile, RemoteFile, locate
from xkd.errors import UserError
from xkd.progress import progress

CHUNK = 4 * 2**20
"""Bytes per request: the most of a file that a broken connection or a killed process loses."""
_THREADS = 8
"""Files that are downloaded at a time."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Download:
    """A download of listed files into a directory; those that it already has are not downloaded again.

    Args:
        name: of the dataset, for messages.
        out: the dataset's directory.
        parts: a folder on the same file system, for files that are not complete.
        files: all files of the dataset.
    """

    name: str
    out: Path
    parts: Path
    files: Sequence[ListedFile]

    def run(self, *, verify: bool) -> None:
        """Download what is missing.

        Args:
            verify: check the md5 of every existing file and replace those that fail. Otherwise the name is
                enough: a file gets it when its content is verified and on the disk.

        Raises:
            UserError: a file is missing from the remote, or the disk has too little space, before any
                download; later a file cannot be read or does not match its md5; everything received is kept.
        """
        with progress(f"check {self.out}, files", len(self.files), show=verify) as bar:

            def find(file: ListedFile, stop: Event) -> RemoteFile | None:
                path = self.out / file.name
                if path.is_file() and verify and _md5(path) != file.md5:
                    path.unlink()
                return None if path.is_file() else locate(file, stop)

            missing = [remote for remote in _in_threads(find, self.files, bar.advance) if remote]
        done, needed = self._count_bytes(), sum(remote.size - _size(self._part(remote)) for remote in missing)
        if needed > (free := shutil.disk_usage(self.out).free):
            raise UserError(f"{self.out} needs {needed:,} more bytes, and the disk has {free:,} free")
        lock = Lock()
        with progress(f"fetch {self.name}, bytes", done + needed, done=done) as bar:

            def advance(count: int) -> None:
                with lock:
                    bar.advance(count)

            try:
                _in_threads(lambda remote, stop: self._download(remote, advance, stop), missing)
            except BrokenConnectionError as error:
                have = f"{self._count_bytes():,} of {done + needed:,} bytes of {self.name} are in {self.out}"
                raise UserError(f"{error}; {have}; rerun to resume") from error

    def _part(self, remote: RemoteFile) -> Path:
        return self.parts / remote.file.name

    def _count_bytes(self) -> int:
        """Count the bytes of complete and partial files."""
        return sum(_size(folder / file.name) for folder in (self.out, self.parts) for file in self.files)

    def _download(self, remote: RemoteFile, advance: Callable[[int], None], stop: Event) -> None:
        """Complete one file.

        Raises:
            UserError: it does not match its md5, or cannot be read.
        """
        part, path = self._part(remote), self.out / remote.file.name
        for folder in (part.parent, path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        resumed = part.exists()
        while _append(remote, part, advance, stop) != remote.file.md5:
            advance(-_size(part))
            part.unlink()
            if not resumed:
                raise remote.corrupt()
            resumed = False  # a part from before a power failure, for example, may be damaged: restart
        part.replace(path)


def _append(remote: RemoteFile, part: Path, advance: Callable[[int], None], stop: Event) -> str:
    """Append to a part of a file what is missing; return the md5 of the result."""
    digest = hashlib.md5(usedforsecurity=False)
    with part.open("a+b") as file:
        file.seek(0)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
        position = file.tell()
        while position < remote.size:
            chunk = remote.read(position, min(position + CHUNK, remote.size), stop)
            file.write(chunk)
            file.flush()
            digest.update(chunk)
            position += len(chunk)
            advance(len(chunk))
        os.fsync(file.fileno())
    return digest.hexdigest()


def _in_threads(
    work: Callable[[Item, Event], Result], items: Iterable[Item], on_done: Callable[[], object] = lambda: None
) -> list[Result]:
    """Return the results for all items; the first error stops the other threads and is raised.

    Args:
        work: takes an item, and the event that is set when it must stop.
        items: its arguments.
        on_done: called after each item.
    """
    stop = Event()
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(work, item, stop) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
                on_done()
        except BaseException:  # including an interrupt
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _size(path: Path) -> int:
    """Return the bytes of a file, 0 when there is none."""
    return path.stat().st_size if path.is_file() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
