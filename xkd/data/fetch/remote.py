"""Files of a DVC remote: located, and read in ranges with retries."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_chain,
    wait_fixed,
)

from xkd.errors import UserError
from xkd.io import one_line

if TYPE_CHECKING:
    from dvc_objects.fs.base import FileSystem

PAUSES = (1.0, 4.0, 15.0)
"""Seconds before each further attempt; botocore repeats every attempt a few times itself."""

Result = TypeVar("Result")


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


@dataclass(frozen=True)
class RemoteFile:
    """A listed file where its bytes are."""

    file: ListedFile
    system: FileSystem
    path: str
    size: int

    @property
    def url(self) -> str:
        """The location, for messages."""
        return self.system.unstrip_protocol(self.path)

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

    def read_all(self) -> bytes:
        """Read a small file.

        Raises:
            UserError: its content does not match its md5, or it cannot be read.
        """
        data = self.read(0, self.size, Event())
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != self.file.md5:
            raise self.corrupt()
        return data

    def corrupt(self) -> UserError:
        """Return the error of content that does not match its md5."""
        return UserError(
            f"{self.file.name}: {self.url} does not match the registry's md5; delete that object and "
            "`dvc push` it again from an intact copy"
        )


def locate(file: ListedFile, stop: Event) -> RemoteFile:
    """Find the place that has a file.

    Raises:
        UserError: there is none, no access or no response.
    """
    for system, path in file.places:
        url = system.unstrip_protocol(path)
        try:
            size = _retry(functools.partial(_get_size, system, path), url, stop)
        except FileNotFoundError:
            continue
        return RemoteFile(file, system, path, size)
    raise UserError(f"{file.name} is not at {url}; run `dvc push` where it was added to the registry")


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
    retrying = Retrying(
        retry=retry_if_exception(
            lambda error: not isinstance(error, FileNotFoundError) and not _denied(error)
        ),
        wait=wait_chain(*map(wait_fixed, PAUSES)),
        stop=stop_after_attempt(1 + len(PAUSES)) | stop_when_event_set(stop),
        sleep=sleep_using_event(stop),
        reraise=True,
    )
    try:
        return retrying(call)
    except FileNotFoundError:
        raise
    except Exception as error:  # each kind of remote has its own errors
        if _denied(error):
            raise UserError(
                f"no access to {url} ({root_cause(error)}); credentials come from the registry's DVC "
                "configuration, from the AWS_ variables or from ~/.aws"
            ) from error
        raise BrokenConnectionError(f"cannot read {url}: {root_cause(error)}") from error


def _denied(error: BaseException) -> bool:
    # The libraries' errors of missing credentials are not PermissionErrors, but have names that say so.
    return isinstance(error, PermissionError) or "Credential" in type(error).__name__


def root_cause(error: BaseException) -> str:
    """Return the first error in a chain of errors, as one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error).rstrip(".")
