"""`dvc plots show` of runs whose history has gaps, and of runs without some of the curves."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.report.synthetic import write_run
from tests.tiny import tiny_config
from xkd.config import PretrainConfig
from xkd.config.presets import get_preset
from xkd.model.terms import ALIGN, KD, KLD, RECONSTRUCT, TEACHER_ENTROPY
from xkd.report.tabulate import tabulate
from xkd.rundir import Verdict
from xkd.train.pretrain import pretrain

ROOT = Path(__file__).resolve().parents[2]
EVERYWHERE = {"objective": {"loss"}, "schedule": {"lr"}}
DISTILLATION = {*KD.values(), *KLD.values(), *TEACHER_ENTROPY.values()}

# DVC uses a deprecated API of the package pygtrie.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")


def plots(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the Vega-Lite specification of each plot of dvc.yaml, in a repository with this curves.csv."""
    definitions = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"plots": definitions}))
    dvc = str(Path(sys.executable).with_name("dvc"))
    for command in ("git", "init", "--quiet"), (dvc, "init", "--quiet"):
        subprocess.run(command, cwd=folder, check=True)
    shown = subprocess.run((dvc, "plots", "show", "--json"), cwd=folder, check=True, capture_output=True)
    found = json.loads(shown.stdout)
    assert "errors" not in found
    return {name: content["content"] for name, (content,) in found["data"].items()}


def points(plot: dict[str, Any]) -> dict[str, list[float]]:
    """Return the values of each curve as JavaScript reads them: an empty text would be 0."""
    name = plot["encoding"]["y"]["field"]
    curves: dict[str, list[float]] = {}
    for point in plot["data"]["values"]:
        assert point[name] != ""
        curves.setdefault(point.get("field", name), []).append(float(point[name]))
    return curves


def test_values_that_are_not_finite_are_gaps(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", get_preset("toy"), Verdict("non_finite", "loss not finite", 40), rows=6)
    (run / "reconstruction.pt").unlink()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[3]["loss"], rows[4]["loss"], rows[5]["loss"] = math.nan, math.inf, -math.inf
    del rows[2]["lr"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tabulate(run, run / "scores", tmp_path / "runs" / "dvc" / "report")
    shown = plots(tmp_path)
    # A line, without the default template's smoothing, which would join the points around a gap.
    assert all(plot["mark"]["type"] == "line" and "layer" not in plot for plot in shown.values())
    (loss,), (lr,) = points(shown["objective"]).values(), points(shown["schedule"]).values()
    assert [math.isfinite(value) for value in loss] == [True, True, True, False, False, False]
    assert [math.isfinite(value) for value in lr] == [True, True, False, True, True, True]


ALONE = replace(
    tiny_config(), modalities=("video",), loss=replace(tiny_config().loss, align=0.0, distill=0.0)
)
ACROSS = replace(tiny_config(), loss=replace(tiny_config().loss, align_pairs="across"))


@pytest.mark.parametrize(
    ("config", "drawn"),
    [
        (ALONE, {"reconstruction": {RECONSTRUCT["video"]}, "distillation": set(), "alignment": set()}),
        (
            ACROSS,
            {
                "reconstruction": {*RECONSTRUCT.values()},
                "distillation": DISTILLATION,
                "alignment": {ALIGN["video_to_audio"], ALIGN["audio_to_video"]},
            },
        ),
    ],
    ids=["a single modality", "align_pairs across"],
)
def test_a_run_without_some_curves_shows_the_others(
    prepared: Path, tmp_path: Path, config: PretrainConfig, drawn: dict[str, set[str]]
) -> None:
    config = replace(config, optim=replace(config.optim, epochs=2, batch_size=10, warmup_epochs=0))
    run = tmp_path / "run"
    pretrain(config, prepared, run)
    (run / "scores").mkdir()
    tabulate(run, run / "scores", tmp_path / "runs" / "dvc" / "report")
    shutil.rmtree(run)
    finite = {
        name: {field for field, values in points(plot).items() if all(map(math.isfinite, values))}
        for name, plot in plots(tmp_path).items()
    }
    assert finite == EVERYWHERE | drawn
