"""Pushing scores to a real Pushgateway."""

from __future__ import annotations

import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from k8s.monitoring.recording import served
from tests.ports import refusing_port
from tests.waiting import until
from xkd.monitor.exporter import push_scores
from xkd.monitor.metrics import SCORE, SCORE_LABELS

LABELS = dict(zip(SCORE_LABELS, ("embedded", "video", "svm", "teacher", "1"), strict=True))


def scores(address: str) -> list[str]:
    with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
        return [line for line in answer.read().decode().splitlines() if line.startswith(f"{SCORE}{{")]


@contextmanager
def started(folder: Path) -> Iterator[str]:
    """Start a Pushgateway that keeps its metrics in a folder."""
    if not shutil.which("prometheus-pushgateway"):
        pytest.skip("needs the Debian package prometheus-pushgateway")
    # Without a file of its own, Debian's build reads and writes one that all of this machine share.
    command = ["prometheus-pushgateway", f"--persistence.file={folder / 'pushgateway.data'}"]
    with served(command, folder / "pushgateway.log") as address:
        yield address


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[str]:
    with started(tmp_path) as address:
        yield address


def test_a_gateway_of_another_test_leaves_nothing_behind(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        with started(tmp_path / name) as address:
            assert scores(address) == []
            body = f'{SCORE}{{dataset="embedded"}} 0.5\n'.encode()
            request = urllib.request.Request(f"{address}/metrics/job/{name}", body, method="PUT")
            urllib.request.urlopen(request, timeout=5).close()
            assert len(scores(address)) == 1
        assert (tmp_path / name / "pushgateway.data").exists()  # written when it ends


def test_pushed_scores_are_deleted_after_a_while(gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed, sleep = list[str](), time.sleep

    def look(seconds: float) -> None:
        """Look while the scores are held; threads of other tests may sleep too."""
        if seconds == 15.0:
            pushed.extend(scores(gateway))
        else:
            sleep(seconds)

    monkeypatch.setattr("xkd.monitor.exporter.time.sleep", look)
    push_scores("mine", [(LABELS, 0.61)], gateway, 15.0)
    (line,) = pushed
    assert line.endswith(" 0.61")
    for label in (*(f'{name}="{value}"' for name, value in LABELS.items()), 'run="mine"'):
        assert label in line
    until(lambda: scores(gateway) == [])  # it confirms a deletion before it makes it


def test_an_unreachable_gateway_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with refusing_port() as port:
        address = f"http://127.0.0.1:{port}"
        push_scores("mine", [(LABELS, 0.61)], address, 0.0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"xkd: cannot push the scores to the Pushgateway {address}: ")
    assert "refused" in line


def test_a_server_that_is_not_a_gateway_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"http://127.0.0.1:{other.getsockname()[1]}"

        def answer_as_a_mail_server() -> None:
            caller, _ = other.accept()
            with caller:
                caller.recv(4096)
                caller.sendall(b"220 mail.example ESMTP\r\n")

        threading.Thread(target=answer_as_a_mail_server, daemon=True).start()
        push_scores("mine", [(LABELS, 0.61)], address, 0.0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"xkd: cannot push the scores to the Pushgateway {address}: ")
