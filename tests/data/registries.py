"""Real DVC data registries, an S3 server, and a link to it with faults."""

from __future__ import annotations

import logging
import os
import select
import shutil
import socket
import socketserver
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, Thread

import pytest
from dvc.repo import Repo
from moto.server import ThreadedMotoServer

BUCKET = "data"


@contextmanager
def isolated_settings(home: Path) -> Iterator[None]:
    """Isolate from the machine's git, DVC and AWS settings, and from its scratch space.

    DVC leaves a folder there when a registry cannot be cloned, and a killed process leaves its own.
    """
    settings = {
        "HOME": home,
        "TMPDIR": home / "scratch",
        "XDG_CONFIG_HOME": home / "config",
        "XDG_CACHE_HOME": home / "cache",
        "DVC_GLOBAL_CONFIG_DIR": home / "dvc",
        "DVC_SYSTEM_CONFIG_DIR": home / "dvc-system",
        "DVC_SITE_CACHE_DIR": home / "dvc-cache",
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "owner",
        "GIT_AUTHOR_EMAIL": "owner@example.org",
        "GIT_COMMITTER_NAME": "owner",
        "GIT_COMMITTER_EMAIL": "owner@example.org",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CONFIG_FILE": home / "aws-config",
        "AWS_SHARED_CREDENTIALS_FILE": home / "aws-credentials",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "DVC_", "GIT_"))]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(name, str(value))
        (home / "scratch").mkdir(parents=True)
        patch.setattr("tempfile.tempdir", str(home / "scratch"))
        yield


class Registry:
    """A git repository in which DVC tracks data."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def create(cls, root: Path, remote: Mapping[str, str]) -> Registry:
        """Create a registry with a default remote and no commit."""
        root.mkdir(parents=True)
        registry = cls(root)
        registry.git("init", "--quiet", "--initial-branch=main")
        Repo.init(str(root)).close()
        registry.configure(remote)
        return registry

    def configure(self, remote: Mapping[str, str]) -> None:
        """Set the default remote, or remove it when there are no settings."""
        lines = ["[core]", "remote = store", "['remote \"store\"']"] if remote else []
        lines += [f"{name} = {value}" for name, value in remote.items()]
        (self.root / ".dvc" / "config").write_text("\n".join(lines))

    def git(self, *command: str) -> str:
        """Return the output of git."""
        done = subprocess.run(["git", *command], cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def track(self, datasets: Mapping[str, Mapping[str, bytes]], tag: str) -> None:
        """Add datasets to DVC, push and commit them."""
        for dataset, files in datasets.items():
            shutil.rmtree(self.root / dataset, ignore_errors=True)
            for name, data in files.items():
                path = self.root / dataset / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        with Repo(str(self.root)) as repo:
            repo.add([str(self.root / dataset) for dataset in datasets])
            repo.push()
        self.commit(tag)

    def commit(self, tag: str) -> None:
        """Commit all changes with an annotated tag."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", tag)
        self.git("tag", "--annotate", "--message", tag, tag)

    def forget(self) -> None:
        """Remove the cache, so that only the remote has the files."""
        shutil.rmtree(self.root / ".dvc" / "cache")


class Link:
    """A link to a local server that counts its bytes, and can break, hold or refuse them."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._lock, self._closing = Lock(), Event()
        self.held = Event()
        """Set when the link is held."""
        link = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                link._serve(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self.heal()
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Link:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()  # waits for the connections' threads
        self._thread.join()

    def heal(self) -> None:
        """Remove all faults and reset the count."""
        with self._lock:
            self.passed = 0
            """Bytes received from the server."""
            self._cuts: list[int] = []
            self._dead_after = self._hold_after = 2**62
            self.held.clear()

    def cut_after(self, *counts: int) -> None:
        """Break the connection in use after so many bytes, once per count."""
        self._cuts = sorted(counts)

    def dead_after(self, count: int) -> None:
        """Break every connection after so many bytes."""
        self._dead_after = count

    def hold_after(self, count: int) -> None:
        """Hold all bytes after so many."""
        self._hold_after = count

    def _serve(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            other = {client: server, server: client}
            while not self._closing.is_set():
                for one in select.select(list(other), [], [], 0.05)[0]:
                    try:
                        data = one.recv(2**16)
                        passing = self._admit(data) if one is server else data
                        other[one].sendall(passing)
                    except OSError:
                        return
                    if not data or len(passing) < len(data):
                        return

    def _admit(self, data: bytes) -> bytes:
        """Return the data that may pass; less than all of it breaks the connection."""
        with self._lock:
            if self.passed >= self._hold_after:
                self.held.set()
            allowed = min([self._dead_after, *self._cuts[:1]]) - self.passed
            if len(data) > allowed and self._cuts[:1] == [self.passed + allowed]:
                self._cuts.pop(0)
            data = data[: max(allowed, 0)]
            self.passed += len(data)
        while self.held.is_set() and not self._closing.wait(0.05):
            pass
        return data


@contextmanager
def s3_server() -> Iterator[int]:
    """Return the port of a server with the S3 protocol and an empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        port = int(server.get_host_and_port()[1])
        put(port, "", b"")
        yield port
    finally:
        server.stop()


def put(port: int, key: str, data: bytes) -> None:
    """Write an object, or create the bucket."""
    _request(port, f"{BUCKET}/{key}", data, "PUT")


def forbid(port: int, forbidden: bool) -> None:
    """Make the server reject all keys, or accept all."""
    _request(port, "moto-api/reset-auth", b"0" if forbidden else b"inf", "POST")


def _request(port: int, path: str, data: bytes, method: str) -> None:
    signed = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"  # moto requires no more
    headers = {"Authorization": signed, "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data, headers, method=method)
    with urllib.request.urlopen(request):
        pass
