"""The first task of a pipeline finds mistakes that later tasks would find after hours."""

from __future__ import annotations

import logging
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from components.check import check
from components.plan import plan
from xkd.config.presets import PRESETS
from xkd.errors import UserError
from xkd.launch.kfp_cli import LINE, _shorten

GIVEN: dict[str, Any] = {
    "preset": "toy",
    "settings": ["optim.lr=1e-4"],
    "dataset": "embedded",
    "downstream": ["ucf101-mini", "esc50-mini"],
    "repo": "",
    "rev": "",
    "clips": 40,
    "seed": "0",
    "prepare_settings": ["short_side=48"],
    "encoders": ["teacher"],
    "protocols": ["svm"],
    "finetune_settings": ["epochs=20"],
    "data": "data",
    "run": "run",
    "processes": 1,
    "nodes": 0,
    "node_type": "",
    "cpu": "",
    "memory": "",
    "gpus": "8",
    **{f"{stage}_cpu": "4" for stage in ("fetch", "prepare", "pretrain", "evaluation")},
    **{f"{stage}_memory": "8Gi" for stage in ("fetch", "prepare", "pretrain", "evaluation")},
    "evaluation_gpus": "0",
    "node_selector": {},
    "tolerations": [],
    "cluster_settings": [],
}


def run(**changed: Any) -> None:
    check.python_func(**GIVEN | changed)


def test_what_is_right_passes(tmp_path: Path) -> None:
    run()
    run(nodes=2, node_type="v100_gke", settings=["optim.batch_size=256"], evaluation_gpus="1")
    run(repo="registry", rev="v1", dataset="kinetics400", downstream=["ucf101"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.mp4").touch()
    run(data=str(tmp_path), dataset="mine", downstream=[])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_preparation_of_a_preset_suffices(preset: str) -> None:
    run(preset=preset, settings=[], prepare_settings=[])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"preset": "tooy"}, r"unknown preset 'tooy' \(did you mean toy\?\)"),
        ({"settings": ["lr=1"]}, r"unknown setting lr \(did you mean optim\.lr\?\)"),
        ({"settings": ["run.workers=-1"]}, r"run\.workers: must be at least 0"),
        ({"dataset": "embeded"}, r"no dataset embeded \(did you mean embedded\?\)"),
        ({"downstream": ["ucf101"]}, r"no dataset ucf101 \(did you mean ucf101-mini"),
        ({"downstream": [], "dataset": "audioset-mini"}, "no evaluation of dataset audioset"),
        ({"rev": "v1"}, "rev: v1 needs a data registry"),
        ({"clips": 5}, "clips: must be at least 20"),
        ({"seed": "-1"}, "embedded_seed: expected an integer"),
        ({"prepare_settings": ["short_sid=64"]}, r"did you mean short_side"),
        ({"prepare_settings": ["short_side=16"]}, r"video\.global_view needs .* short_side=32, not 16; add"),
        ({"prepare_settings": ["max_fps=7.5"]}, r"clip\.fps needs .* max_fps=8, not 7\.5; add"),
        (
            {"prepare_settings": ["sample_rate=8000"]},
            r'needs .* sample_rate=16000, not 8000; add "sample_rate=16000" to prepare_settings',
        ),
        ({"encoders": ["techer"]}, "no encoder techer"),
        ({"protocols": ["svn"]}, "no protocol svn"),
        ({"finetune_settings": ["epoch=1"]}, "finetune on ucf101: unknown setting epoch"),
        ({"processes": 0}, "processes must be at least 1"),
        ({"processes": 3}, r"optim\.batch_size \d+ must be a multiple of the 3 processes"),
        ({"nodes": 2, "node_type": "v100_gcp"}, "unknown node type 'v100_gcp'"),
        ({"nodes": 2, "cluster_settings": ["restart=1"]}, "did you mean restarts"),
        ({"evaluation_gpus": "one"}, "evaluation_gpus: expected a number"),
        ({"fetch_memory": "4Gb"}, "fetch_memory: '4Gb' is not a quantity such as 4, 500m or 16Gi"),
        ({"evaluation_cpu": ""}, "evaluation_cpu: '' is not a quantity"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        run(**changed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "amount"), [("cpu", ""), ("memory", "4Gb")])
def test_evaluations_alone_are_checked_too(name: str, amount: str) -> None:
    """The pipeline of evaluations has no task `check`; its first is `plan`."""
    arguments = dict.fromkeys(signature(plan.python_func).parameters, "") | {"cpu": "4", "memory": "16Gi"}
    with pytest.raises(UserError, match=f"^{name}: '{amount}' is not a quantity"):
        plan.python_func(**arguments | {name: amount})


def test_the_local_log_cuts_long_lines() -> None:
    outputs = logging.LogRecord("root", logging.INFO, "", 0, "outputs:\n%s", (["evaluation"] * 300,), None)
    assert _shorten(outputs)
    first, second = outputs.getMessage().splitlines()
    assert first == "outputs:"
    assert second.endswith("... (4200 characters)")
    assert len(second) < LINE + 30


def test_the_local_log_leaves_out_what_says_nothing() -> None:
    def shown(text: str) -> str | None:
        record = logging.LogRecord("root", logging.INFO, "", 0, text, (), None)
        return record.getMessage() if _shorten(record) else None

    artifact = "    score: Artifact( name='score',\n          uri='/runs/score',\n          metadata={} )"
    assert shown("Streamed logs:\n") is None
    assert shown(f"Task 'evaluate' outputs:\n{artifact}") is None
    assert shown("Task 'release' has no outputs") is None
    outputs = "Task 'pretrain' outputs:\n    verdict: 'healthy'"
    assert shown(f"{outputs}\n{artifact}") == outputs
    finished = "Task 'pretrain' finished with status SUCCESS"
    assert shown(finished) == finished
