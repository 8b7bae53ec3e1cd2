"""Files by their md5 from where DVC keeps them: in pieces, several at a time, going on after each break."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, TypeVar

from xkd.errors import UserError
from xkd.io import try_lock
from xkd.progress import progress

if TYPE_CHECKING:
    from dvc_objects.fs.base import FileSystem

PARTIAL = ".partial"
"""Ends the name of a file that is not yet whole."""

_CHUNK = 4 * 2**20
"""Bytes of one request: what a broken connection or a killed process loses of a file, at the most."""
_THREADS = 8
"""Files that are transferred at a time."""
_PAUSES = (1.0, 4.0, 15.0)
"""Seconds between a failure and the next try, each of which botocore repeats a few times by itself."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ListedFile:
    """A file as a registry lists it."""

    name: str
    """Its place in the dataset, with slashes."""
    md5: str
    places: tuple[tuple[FileSystem, str], ...]
    """Where its bytes may be, the nearest first; at least one."""


@dataclass(frozen=True)
class Source:
    """Where a file's bytes are."""

    file: ListedFile
    system: FileSystem
    path: str
    size: int

    @property
    def url(self) -> str:
        """The place, for people."""
        return self.system.unstrip_protocol(self.path)


class _BrokenError(UserError):
    """A remote that does not answer, or breaks off again and again."""


def get_bytes(file: ListedFile) -> bytes:
    """All of a small file.

    Raises:
        UserError: it is missing, has other bytes than its md5 says, or cannot be read.
    """
    stop = Event()
    source = _locate(file, stop)
    data = _read(source, 0, source.size, stop)
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != file.md5:
        raise UserError(_other_bytes(source))
    return data


def find_missing(files: Sequence[ListedFile], out: Path, *, thorough: bool) -> list[Source]:
    """The files that `out` lacks; what their remote lacks is told here, before hours are spent on the others.

    Args:
        thorough: check the md5 of every file that is there, and delete those that fail. Otherwise the name is
            enough: a file gets it when its bytes are verified and on the disk.

    Raises:
        UserError: a file is nowhere, cannot be reached, or the disk has no space for all.
    """

    def look(file: ListedFile, stop: Event) -> Source | None:
        path = out / file.name
        with _on_disk(path):
            if path.is_file():
                if not thorough or _md5(path) == file.md5:
                    _partial(path).unlink(missing_ok=True)
                    return None
                path.unlink()
        return _locate(file, stop)

    with progress(f"check {out}, files", len(files), show=thorough) as bar:
        missing = [source for source in _in_threads(look, files, bar.advance) if source]
    needed = sum(source.size - _size(_partial(out / source.file.name)) for source in missing)
    existing = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    if needed > (free := shutil.disk_usage(existing).free):
        raise UserError(f"{out} needs {needed:,} bytes more, and the disk has {free:,} free")
    return missing


def transfer(name: str, missing: Sequence[Source], out: Path, there: int) -> None:
    """Get files, several at a time, each checked against its md5 before it gets its name.

    Args:
        name: the dataset, for people.
        missing: the files to get; what there is of them is not transferred again.
        out: the dataset's directory.
        there: bytes of the other files, which are there already.

    Raises:
        UserError: one of them cannot be got; the others stop too, and keep what they have.
    """
    total = there + sum(source.size for source in missing)
    done = there + sum(_size(_partial(out / source.file.name)) for source in missing)
    lock = Lock()
    with progress(f"fetch {name}, bytes", total, done=done) as bar:

        def advance(count: int) -> None:
            nonlocal done
            with lock:
                done += count
                bar.advance(count)

        try:
            _in_threads(lambda source, stop: _get(source, out, advance, stop), missing)
        except _BrokenError as error:
            raise UserError(
                f"{error}; {done:,} of {total:,} bytes of {name} are in {out}, and the same command goes on "
                "from there"
            ) from error


def _locate(file: ListedFile, stop: Event) -> Source:
    """Where a file's bytes are.

    Raises:
        UserError: nowhere, or no access, or no answer.
    """
    for system, path in file.places:
        url = system.unstrip_protocol(path)
        try:
            size = _persist(functools.partial(_remote_size, system, path), url, stop)
        except FileNotFoundError:
            continue
        return Source(file, system, path, size)
    raise UserError(f"{file.name} is not at {url}; run `dvc push` where it was added to the registry")


def _remote_size(system: FileSystem, path: str) -> int:
    # s3fs tries a request 5 times, and each of these 5 times: minutes, in which nobody hears what is wrong.
    if hasattr(system.fs, "retries"):
        system.fs.retries = 1
    return int(system.info(path)["size"])


def _get(source: Source, out: Path, advance: Callable[[int], None], stop: Event) -> None:
    """Get one file whole.

    Raises:
        UserError: it has other bytes than the registry says, cannot be read, or cannot be written.
    """
    path = out / source.file.name
    partial = _partial(path)
    with _on_disk(partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        resumed = partial.exists()
        digest = _download(source, partial, advance, stop)
        if digest != source.file.md5 and resumed:
            # A part that lay there through a power failure, say, may not hold what was written to it.
            advance(-_size(partial))
            partial.unlink()
            digest = _download(source, partial, advance, stop)
        if digest != source.file.md5:
            partial.unlink()
            raise UserError(_other_bytes(source))
        partial.replace(path)


def _download(source: Source, partial: Path, advance: Callable[[int], None], stop: Event) -> str:
    """Add to the part of a file what it lacks; the md5 of all of it."""
    digest = hashlib.md5(usedforsecurity=False)
    with partial.open("a+b") as file:
        if not try_lock(file):
            raise UserError(f"{partial} is being written by another fetch; wait for its end")
        file.seek(0)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        position = file.tell()
        while position < source.size:
            chunk = _read(source, position, min(position + _CHUNK, source.size), stop)
            file.write(chunk)
            file.flush()
            digest.update(chunk)
            position += len(chunk)
            advance(len(chunk))
        os.fsync(file.fileno())
    return digest.hexdigest()


def _read(source: Source, start: int, end: int, stop: Event) -> bytes:
    """The bytes of a file from `start` up to `end`, by a request for them alone, which nothing caches.

    Raises:
        UserError: the file went away, or it cannot be read.
    """

    def request() -> bytes:
        data = bytes(source.system.cat_file(source.path, start=start, end=end))
        if len(data) != end - start:
            raise OSError(f"{len(data)} of {end - start} bytes came")
        return data

    if stop.is_set():
        raise _BrokenError("stopped, because another file failed")
    try:
        return _persist(request, source.url, stop)
    except FileNotFoundError as error:
        raise UserError(f"{source.file.name} is no longer at {source.url}") from error


def _persist(call: Callable[[], Result], url: str, stop: Event) -> Result:
    """The outcome of a call over the network, which is made a few times if need be.

    Raises:
        FileNotFoundError: there is nothing at the place.
        UserError: no access.
        _BrokenError: no answer to the last call either.
    """
    pauses = iter(_PAUSES)
    while True:
        try:
            return call()
        except FileNotFoundError:
            raise
        except Exception as error:  # each kind of remote has its own
            # What the libraries raise for missing credentials is no PermissionError, but says so by its name.
            if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
                raise UserError(
                    f"no access to {url} ({reason(error)}); credentials come from the registry's DVC "
                    "configuration, from the AWS_ variables or from ~/.aws"
                ) from error
            pause = next(pauses, None)
            if pause is None or stop.wait(pause):
                raise _BrokenError(f"cannot read {url}: {reason(error)}") from error


def _in_threads(
    work: Callable[[Item, Event], Result], items: Iterable[Item], tell: Callable[[], object] = lambda: None
) -> list[Result]:
    """The outcomes of work on each item, several at a time; the first error stops the rest and is raised.

    Args:
        work: given an item, and the event that tells it to stop.
        tell: called after each.
    """
    stop = Event()
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(work, item, stop) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
                tell()
        except BaseException:  # an interrupt as well
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


@contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    """What the operating system has against a file of ours, as one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read or write {path}: {reason(error)}; the same command goes on from what there is"
        ) from error


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def _size(path: Path) -> int:
    """Bytes of a file, which may be absent."""
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _other_bytes(source: Source) -> str:
    return (
        f"{source.file.name}: {source.url} holds other bytes than the registry says; delete that object and "
        "`dvc push` it again from where it is intact"
    )


def reason(error: BaseException) -> str:
    """The first cause in a chain of errors, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
