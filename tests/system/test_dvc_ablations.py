"""`dvc repro ablations/dvc.yaml`: stopped, resumed, and given again after changes of params.yaml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.registries import isolated_settings
from tests.system.test_ablate import TINY
from tests.system.test_dvc import checkout, fail, run
from tests.system.test_dvc_scores import edit
from tests.waiting import until
from xkd.rundir import RunDir

# DVC uses a deprecated API of the package pygtrie.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")

REPRO = ("dvc", "repro", "ablations/dvc.yaml")


@pytest.fixture
def mine(prepared: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a repository with prepared data and the runs that params.yaml lists, at a tiny size."""

    def change(params: dict[str, Any]) -> None:
        params["datasets"] = {}
        params["ablations"]["settings"] = list(TINY)

    with isolated_settings(tmp_path / "home"):
        repository = checkout(tmp_path / "mine", change)
        shutil.copytree(prepared, repository / "data" / "embedded-prepared")
        yield repository


def test_stages_make_a_table_and_repeat_nothing(mine: Path) -> None:
    out = mine / "runs" / "dvc" / "ablations"
    first, second = (RunDir(out / "runs" / f"{name}-seed0") for name in ("ablation", "align_across"))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(
        REPRO, cwd=mine, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        until(lambda: first.ended)
        until(lambda: len([*first.scores.glob("*.json")]) == 4)
        until(second.metrics)
        process.terminate()
        said = process.communicate(timeout=120)[0]  # of the command too, which ends later
    assert "to resume" in said
    began = second.info()["id"]
    done = [first.verdict_file, first.metrics_file, *first.scores.glob("*.json")]
    assert len(done) == 6
    times = [file.stat().st_mtime_ns for file in done]

    finished = run(mine, *REPRO)
    assert "Stage 'ablations/dvc.yaml:run@ablation-seed0' didn't change, skipping" in finished
    assert second.info()["id"] == began
    assert "## Table S13: Pairs that are aligned" in finished
    rows = (out / "ablations.csv").read_text().splitlines()[1:]
    assert len(rows) == 8
    assert all(",0:" in row for row in rows)  # a score of seed 0 in every cell
    assert run(mine, *REPRO).count("didn't change, skipping") == 4

    # A stage that runs again finds its outputs.
    edit(mine, lambda params: params["ablations"].update(downstream=["data/embedded-prepared"]))
    assert run(mine, *REPRO).count("Running stage 'ablations/dvc.yaml:run@") == 3
    assert times == [file.stat().st_mtime_ns for file in done]

    edit(mine, lambda params: params["ablations"].update(seeds=2))
    (line,) = (line for line in fail(mine, *REPRO).splitlines() if line.startswith("xkd: "))
    assert line.startswith(
        "xkd: runs: ablation-seed1 is not listed; xkd ablate --config FILE:SECTION --params "
    )


def test_a_collapsed_run_is_a_result(mine: Path) -> None:
    flat = [f"{m}.{who}_temperature=1000.0" for m in ("video", "audio") for who in ("student", "teacher")]
    steps = ["optim.epochs=10", "optim.batch_size=4", "run.on_collapse=stop"]
    edit(mine, lambda params: params["ablations"]["settings"].extend([*flat, *steps]))
    run(mine, "dvc", "repro", "ablations/dvc.yaml:run@align_both-seed0")
    run(mine, "dvc", "repro", "--single-item", "ablations/dvc.yaml:page")
    page = (mine / "runs" / "dvc" / "ablations" / "ablations.md").read_text()
    assert "collapsed: constant from step " in page
    assert "seed 0: not trained" in page

    # As docs/ablations.md says, to train one again.
    trained = RunDir(mine / "runs" / "dvc" / "ablations" / "runs" / "align_both-seed0")
    before = trained.info()["id"]
    shutil.rmtree(trained.path)
    run(mine, "dvc", "repro", "--force", "--single-item", "ablations/dvc.yaml:run@align_both-seed0")
    assert trained.ended
    assert trained.info()["id"] != before
