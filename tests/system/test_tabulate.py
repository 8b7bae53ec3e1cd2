"""`xkd tabulate` and `xkd watch` as programs: what they call a run, and the Pushgateway."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.monitor.test_pushgateway import gateway as gateway
from tests.monitor.test_pushgateway import scores as pushed
from tests.report.synthetic import TASKS, write_run, write_scores
from tests.tiny import tiny_config
from tests.waiting import until
from xkd.rundir import RunDir

XKD = str(Path(sys.executable).with_name("xkd"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run with a score, without metrics and sample clips."""
    run = write_run(tmp_path / "mine", tiny_config(), rows=0)
    (run / "reconstruction.pt").unlink()
    write_scores(run / "scores", run, TASKS[:1])
    return run


def tabulate(run: str, folder: Path, gateway: str) -> subprocess.Popen[str]:
    """Start the command, and wait until it has printed the tables."""
    command = (XKD, "tabulate", "--run", run)
    process = subprocess.Popen(
        (*command, "--pushgateway", gateway), cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert any(line.startswith("report: ") for line in process.stdout)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_scores_are_deleted_from_the_gateway_on_an_interruption(
    run: Path, gateway: str, number: signal.Signals
) -> None:
    with tabulate(str(run), run, gateway) as process:
        until(lambda: pushed(gateway) != [])
        process.send_signal(number)
        assert process.wait(30) != 0
    until(lambda: pushed(gateway) == [])


@pytest.mark.parametrize("how", [".", "../mine/", "../link"])
def test_a_run_has_the_same_name_everywhere(
    run: Path, gateway: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.parent / "link").symlink_to(run)
    monkeypatch.chdir(run)
    assert RunDir(how).name == "mine"  # the label of training
    with tabulate(how, run, gateway) as process:
        until(lambda: pushed(gateway) != [])
        assert 'run="mine"' in pushed(gateway)[0]
        process.terminate()
    for file in ("tables.md", "report.html", "tables.tex"):
        assert "XKD run mine" in (run / "report" / file).read_text()
    watch = subprocess.run((XKD, "watch", how, "--once"), capture_output=True, text=True, check=True)
    assert watch.stdout.startswith("mine  tiny on embedded")
