"""Parallel downloads from a DVC remote in ranges: retried, resumed within a file, and verified by md5.

DVC's own fetch verifies too, but restarts a file of many gigabytes after a broken connection or a kill.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, TypeVar

import tenacity

from xkd.errors import UserError
from xkd.io import one_line
from xkd.progress import progress

if TYPE_CHECKING:
    from dvc_objects.fs.base import FileSystem

CHUNK = 4 * 2**20
"""Bytes per request: the most of a file that a broken connection or a killed process loses."""
PAUSES = (1.0, 4.0, 15.0)
"""Seconds before each further attempt; botocore repeats every attempt a few times itself."""
_THREADS = 8
"""Files that are downloaded at a time."""

Item = TypeVar("Item")
Result = TypeVar("Result")

new_md5 = functools.partial(hashlib.md5, usedforsecurity=False)


class BrokenConnectionError(UserError):
    """A remote does not respond, or fails repeatedly."""


@dataclass(frozen=True)
class ListedFile:
    """A file as a registry lists it."""

    name: str
    """Its path in the dataset, with slashes."""
    md5: str
    places: tuple[tuple[FileSystem, str], ...]
    """File systems and paths that may have it, the nearest first; at least one."""

    def locate(self, stop: Event) -> RemoteFile:
        """Find the place that has the file.

        Raises:
            UserError: there is none, no access or no response.
        """
        for system, path in self.places:
            url = system.unstrip_protocol(path)
            try:
                size = _retry(functools.partial(_get_size, system, path), url, stop)
            except FileNotFoundError:
                continue
            return RemoteFile(self, system, path, url, size)
        raise UserError(
            f"{self.name} is not at {url}; run `dvc push` in the clone that added it to the registry"
        )


@dataclass(frozen=True)
class RemoteFile:
    """A listed file where its bytes are."""

    file: ListedFile
    system: FileSystem
    path: str
    url: str
    """The location, for messages."""
    size: int

    def read(self, start: int, end: int, stop: Event) -> bytes:
        """Read the bytes from `start` up to `end` with a request for this range, uncached.

        Raises:
            UserError: the file is gone, or cannot be read.
        """

        def request() -> bytes:
            data = bytes(self.system.cat_file(self.path, start=start, end=end))
            if len(data) != end - start:
                raise OSError(f"received {len(data)} of {end - start} bytes")
            return data

        if stop.is_set():
            raise BrokenConnectionError("stopped, because another file failed")
        try:
            return _retry(request, self.url, stop)
        except FileNotFoundError as error:
            raise UserError(f"{self.file.name} is no longer at {self.url}") from error

    def corrupt(self) -> UserError:
        """Return the error of content that does not match its md5."""
        return UserError(
            f"{self.file.name}: {self.url} does not match the registry's md5; delete that object and "
            "`dvc push` it again from an intact copy"
        )


def download(name: str, files: Sequence[ListedFile], out: Path, parts: Path, *, verify: bool) -> None:
    """Download the listed files that a directory does not have yet.

    Args:
        name: of the dataset, for messages.
        files: all files of the dataset.
        out: its directory.
        parts: a folder on the same file system, for files that are not complete.
        verify: check the md5 of every existing file and replace those that fail. Otherwise the name is
            enough: a file gets it when its content is verified and on the disk.

    Raises:
        UserError: a file is missing from the remote, or the disk has too little space, before any download;
            later a file cannot be read or does not match its md5; everything received is kept.
    """
    with progress(f"check {out}, files", len(files), show=verify) as bar:

        def find(file: ListedFile, stop: Event) -> RemoteFile | None:
            path = out / file.name
            if path.is_file() and verify:
                with path.open("rb") as opened:
                    intact = hashlib.file_digest(opened, new_md5).hexdigest() == file.md5
                if not intact:
                    path.unlink()
            return None if path.is_file() else file.locate(stop)

        missing = [remote for remote in _in_threads(find, files, bar.advance) if remote]

    def count_bytes() -> int:
        return sum(_size(folder / file.name) for folder in (out, parts) for file in files)

    done, needed = count_bytes(), sum(remote.size - _size(parts / remote.file.name) for remote in missing)
    if needed > (free := shutil.disk_usage(out).free):
        raise UserError(f"{out} needs {needed:,} more bytes, and the disk has {free:,} free")
    lock = Lock()
    with progress(f"fetch {name}, bytes", done + needed, done=done) as bar:

        def advance(count: int) -> None:
            with lock:
                bar.advance(count)

        def complete(remote: RemoteFile, stop: Event) -> None:
            _complete(remote, parts / remote.file.name, out / remote.file.name, advance, stop)

        try:
            _in_threads(complete, missing)
        except BrokenConnectionError as error:
            have = f"{count_bytes():,} of {done + needed:,} bytes of {name} are in {out}"
            raise UserError(f"{error}; {have}; rerun to resume") from error


def _complete(
    remote: RemoteFile, part: Path, path: Path, advance: Callable[[int], None], stop: Event
) -> None:
    """Complete a part of a file, and give it its name once it matches its md5."""
    for folder in (part.parent, path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    # A part from before a power failure, for example, may be damaged: restart.
    for _ in range(2 if part.exists() else 1):
        if _append(remote, part, advance, stop) == remote.file.md5:
            part.replace(path)
            return
        advance(-_size(part))
        part.unlink()
    raise remote.corrupt()


def _append(remote: RemoteFile, part: Path, advance: Callable[[int], None], stop: Event) -> str:
    """Append to a part of a file what is missing; return the md5 of the result."""
    digest = new_md5()
    with part.open("a+b") as file:
        file.seek(0)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
        for position in range(file.tell(), remote.size, CHUNK):
            chunk = remote.read(position, min(position + CHUNK, remote.size), stop)
            file.write(chunk)
            file.flush()
            digest.update(chunk)
            advance(len(chunk))
        os.fsync(file.fileno())
    return digest.hexdigest()


def _in_threads(
    work: Callable[[Item, Event], Result], items: Iterable[Item], on_done: Callable[[], object] = lambda: None
) -> list[Result]:
    """Return the results of `work(item, stop)`; `on_done` is called after each.

    The first error is raised after setting `stop`, so that the work in the other threads ends.
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


def _get_size(system: FileSystem, path: str) -> int:
    # s3fs tries a request 5 times, each of which botocore tries 5 times: minutes without any message.
    if hasattr(system.fs, "retries"):
        system.fs.retries = 1
    return int(system.info(path)["size"])


def _retry(call: Callable[[], Result], url: str, stop: Event) -> Result:
    """Return the result of a call over the network, with several attempts.

    Raises:
        FileNotFoundError: there is nothing at the URL.
        UserError: no access.
        BrokenConnectionError: the last attempt failed too.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: not _is_final(error)),
        wait=tenacity.wait_chain(*map(tenacity.wait_fixed, PAUSES)),
        stop=tenacity.stop_after_attempt(1 + len(PAUSES)) | tenacity.stop_when_event_set(stop),
        sleep=tenacity.sleep_using_event(stop),
        reraise=True,
    )
    try:
        return retrying(call)
    except FileNotFoundError:
        raise
    except Exception as error:  # each kind of remote has its own errors
        if _is_final(error):
            raise UserError(
                f"no access to {url} ({root_cause(error)}); set credentials in the registry's DVC "
                "configuration, from the AWS_ variables or from ~/.aws"
            ) from error
        raise BrokenConnectionError(f"cannot read {url}: {root_cause(error)}") from error


def _is_final(error: BaseException) -> bool:
    """Return whether another attempt would meet the error again: there is no file, or no access."""
    # The libraries' errors of missing credentials are not PermissionErrors, but have names that say so.
    return isinstance(error, FileNotFoundError | PermissionError) or "Credential" in type(error).__name__


def root_cause(error: BaseException) -> str:
    """Return the first error in a chain of errors, as one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error).rstrip(".")
