"""Fixtures that several packages' tests share."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from tests.prepared import prepared as prepared
from xkd.data.synthetic.miniatures import generate_miniature

if TYPE_CHECKING:
    from tests.cluster.apiserver import ApiServer

# Each worker of pytest-xdist has a core. The processes that tests start have as many threads as this one, or
# the same work would not give the same bits.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
# Helps and progress bars are compared as they are where nothing is known of a terminal.
for name in ("COLUMNS", "LINES", "FORCE_COLOR", "GITHUB_ACTIONS", "NO_COLOR", "PY_COLORS"):
    os.environ.pop(name, None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A script's background job ignores it, and would pass that on to the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


SYSTEM = Path(__file__).with_name("system")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put every test under tests/system into the tier of that name; others are marked one by one."""
    for item in items:
        if SYSTEM in item.path.parents:
            item.add_marker(pytest.mark.system)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    """Let what a fixture draws depend on no other, nor on which worker and in which order tests run."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Let what a test draws depend on no other."""
    torch.manual_seed(1)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Return the directory of numbers recorded from the authors' code."""
    return Path(__file__).with_name("reference")


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives miniatures by name, each generated once; tests must not change them."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    folder = folder / "miniatures"
    folder.mkdir(exist_ok=True)

    def get(name: str) -> Path:
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            generate_miniature(name, folder / name)
        return folder / name

    return get


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server with the manifests for a laptop, for tests marked `apiserver`."""
    from tests.cluster.apiserver import serve  # few tests need Kubernetes' client

    with serve(tmp_path_factory.mktemp("apiserver")) as server:
        yield server
