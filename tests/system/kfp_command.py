"""The `kfp` command as a process, and the part of KFP's API that it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KFP = str(Path(sys.executable).with_name("kfp"))
FULL = str(ROOT / "pipelines" / "xkd_full.py")


def environment() -> dict[str, str]:
    """Return an environment without a server: neither a kubeconfig nor KFP's variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KF_", "KFP_", "KUBE"))}
    return kept | {"KUBECONFIG": "/nonexistent"}


def kfp(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [KFP, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        timeout=120,
        check=False,
    )


class Server(BaseHTTPRequestHandler):
    """A server with one experiment and one run; the server object keeps what was submitted."""

    def do_GET(self) -> None:
        if self.path.endswith("/healthz"):
            self.answer({"multi_user": False})
        elif "/experiments" in self.path:
            self.answer({"experiments": []})
        else:
            self.answer(self.submitted)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "/experiments" in self.path:
            self.server.experiment = body  # type: ignore[attr-defined]
            self.answer({**body, "experiment_id": "e1"})
        else:
            self.server.run = body  # type: ignore[attr-defined]
            self.answer(self.submitted)

    @property
    def submitted(self) -> dict[str, Any]:
        run: dict[str, Any] = self.server.run  # type: ignore[attr-defined]
        return {
            "run_id": "r1",
            "experiment_id": "e1",
            "display_name": run["display_name"],
            "state": "PENDING",
            "created_at": "2026-01-01T00:00:00Z",
        }

    def answer(self, values: dict[str, Any], code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(values).encode())

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    """Serve until the end of the context."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
