"""`dvc repro` after changes of params.yaml: the table has what was asked for, or says why not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.registries import isolated_settings
from tests.system.test_dvc import checkout, run, task
from tests.tiny import collapsing_config, tiny_config
from xkd.config import PretrainConfig
from xkd.config.overrides import to_dict

# DVC uses a deprecated API of the package pygtrie.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """Return a repository that evaluates a small run and both baselines on one task."""

    def change(params: dict[str, Any]) -> None:
        params["fetch"]["clips"] = 40
        params["prepare"]["short_side"] = 32
        params["svm"] |= {"train_windows": 1, "test_windows": 1}
        params["pretrain"] = pretraining(tiny_config())
        params["tasks"] = {
            f"embedded-audio-svm-{encoder}": task(
                "data/embedded-prepared", "embedded", "audio", "svm", encoder
            )
            for encoder in ("teacher", "random", "raw")
        }

    with isolated_settings(tmp_path / "home"):
        yield checkout(tmp_path / "mine", change)


def pretraining(config: PretrainConfig) -> dict[str, Any]:
    """Return the section of params.yaml; a run that collapses ends."""
    return to_dict(replace(config, preset="toy", run=replace(config.run, on_collapse="stop")))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    change(params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def test_a_table_has_the_tasks_and_the_network_of_params_yaml(mine: Path) -> None:
    scores, report = mine / "runs" / "dvc" / "scores", mine / "runs" / "dvc" / "report"
    run(mine, "dvc", "repro")
    assert json.loads((report / "scores.json").read_text())["embedded"].keys() >= {"teacher", "random", "raw"}
    assert not (mine / "runs" / "dvc" / "ablations").exists()  # another pipeline

    def change(params: dict[str, Any]) -> None:
        del params["tasks"]["embedded-audio-svm-random"], params["tasks"]["embedded-audio-svm-raw"]
        params["pretrain"]["encoder"]["depth"] = 1

    edit(mine, change)
    run(mine, "dvc", "repro")
    assert (scores / "embedded-audio-svm-random.json").is_file()  # DVC leaves it
    shown = json.loads((report / "scores.json").read_text())["embedded"]
    assert shown.keys() == {"teacher", "chance"}
    left = "runs/dvc/scores/embedded-audio-svm-{}.json: not among the tasks"
    for encoder in ("random", "raw"):
        assert f"- {left.format(encoder)}\n" in (report / "tables.md").read_text()

    # A run that collapses fails, and the report tells why.
    edit(mine, lambda params: params.update(pretrain=pretraining(collapsing_config())))
    run(mine, "dvc", "repro", code=255)
    assert json.loads((report / "scores.json").read_text())["verdict"] == "constant"
    table = (report / "tables.md").read_text()
    assert "The run collapsed, so evaluation was skipped and there are no tables." in table
