"""Mistakes in a command `kfp run submit` are one line, and nothing is sent; so is what servers answer."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from tests.ports import refusing_port
from tests.system.kfp_command import FULL, ROOT, Server, kfp, serving

EVALUATIONS = str(ROOT / "pipelines" / "xkd_evaluations.py")

EXAMPLE = 'write it as JSON, for example settings=["a", "b"]'


def error(*arguments: str, code: int = 2) -> str:
    """Return the only line that a command prints before it fails."""
    done = kfp(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "run submit needs the file of a pipeline: FILE.py"),
        (["nowhere.py"], "no pipeline file nowhere.py"),
        (["a=b/nowhere.py"], "run submit needs the file of a pipeline: a=b/nowhere.py"),
        ([FULL, "prest=toy"], "the pipeline has no parameter 'prest' (did you mean preset?)"),
        ([FULL, "toy"], "run submit takes parameters as name=value, not 'toy'"),
        ([EVALUATIONS, "run=a"], "the pipeline needs data, dataset; give each as name=value"),
        ([FULL, "run="], "run: must not be empty; give a value or leave it out"),
        ([EVALUATIONS, "data="], "data: must not be empty; give a value or leave it out"),
        ([FULL, "nodes=two"], "nodes: must be an integer, got 'two'"),
        ([FULL, "nodes=1.5"], "nodes: must be an integer, got 1.5"),
        ([FULL, "settings=a"], f"settings: must be a list, got 'a'; {EXAMPLE}"),
        ([FULL, 'node_selector={"pool": 1}'], "node_selector['pool']: must be a string, got 1"),
        ([FULL, 'tolerations=[{"a": null}]'], "tolerations: KFP's local runner refuses null; leave it out"),
        (
            [FULL, 'tolerations=[{"tolerationSeconds": 9007199254740993}]'],
            "tolerations: KFP rounds integers above 2**53, such as 9007199254740993",
        ),
        (
            [FULL, "--experiment=x"],
            "run submit: No such option '--experiment'. Did you mean '--experiment-name'?",
        ),
    ],
)
def test_a_mistake_is_found_before_anything_is_sent(arguments: list[str], line: str) -> None:
    class Untouched(Server):
        def log_message(self, *arguments: Any) -> None:
            self.server.touched = True  # type: ignore[attr-defined]

    with serving(Untouched) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        assert error("--endpoint", address, "run", "submit", *arguments) == line
        assert not hasattr(server, "touched")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["prest=toy"], "the pipeline has no parameter 'prest' (did you mean preset?)"),
        (["nodes=two"], "nodes: must be an integer, got 'two'"),
        (["-w"], "--watch needs a server; leave it or --local out"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(arguments: list[str], line: str) -> None:
    assert error("run", "submit", FULL, "--local", *arguments) == line


def answering(status: int, body: str, kind: str = "application/json") -> type[BaseHTTPRequestHandler]:
    """Return a handler that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


LOGIN = "<!doctype html>\n<title>Log in</title>\n"


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (answering(404, "404 page not found\n", "text/plain"), "404 Not Found"),
        (answering(401, LOGIN, "text/html"), "401 Unauthorized"),
        (answering(503, '{"message": "no\\nupstream"}'), "503 Service Unavailable: no upstream"),
        (answering(200, LOGIN, "text/html"), "an answer of text/html, perhaps a page to log in"),
        (answering(200, "[]"), "an answer of application/json, perhaps a page to log in"),
    ],
)
def test_an_endpoint_that_is_no_server_is_one_line(
    handler: type[BaseHTTPRequestHandler], reason: str
) -> None:
    with serving(handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        line = error("--endpoint", address, "run", "submit", FULL)
    assert line.startswith(f"no Kubeflow Pipelines server responds at {address} ({reason}); give its address")
    assert line.endswith(f"or run on this machine with `kfp run submit {FULL} --local`")


def test_an_address_without_a_server_is_one_line() -> None:
    with refusing_port() as port, serving(Server) as server, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for address, reason in (
            (f"http://127.0.0.1:{port}", "Connection refused"),
            (f"127.0.0.1:{server.server_port}", "SSL"),
            (f"http://127.0.0.1:{silent.getsockname()[1]}", "Read timed out"),
            ("http://nowhere.invalid", "Failed to resolve"),
        ):
            line = error("--endpoint", address, "run", "submit", FULL)
            assert line.startswith(f"no Kubeflow Pipelines server responds at {address} (")
            assert reason in line
    assert "no Kubeflow Pipelines server responds (" in error("run", "submit", FULL)


@pytest.mark.parametrize(("status", "code"), [(400, 2), (500, 1)])
def test_a_refused_run_is_one_line(status: int, code: int) -> None:
    class Refusing(Server):
        def answer(self, values: dict[str, Any], code: int = 200) -> None:
            if self.path.endswith("/runs"):
                values, code = {"code": 3, "message": "Failed:\nnot unique"}, status
            super().answer(values, code)

    with serving(Refusing) as server:
        done = kfp("--endpoint", f"http://127.0.0.1:{server.server_port}", "run", "submit", FULL)
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    reason = {400: "Bad Request", 500: "Internal Server Error"}[status]
    assert line == f"error: the server refused the run: {status} {reason}: Failed: not unique"
