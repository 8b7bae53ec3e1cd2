from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler

from components import IMAGE
from pipelines.xkd_full import TASKS, VOLUME, xkd_full
from xkd.evaluate import task as evaluation

VERBS = ["evaluate", "fetch", "prepare", "pretrain", "tabulate"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's spec and what it asks of Kubernetes."""
    package = tmp_path_factory.mktemp("compiled") / "full.yaml"
    compiler.Compiler().compile(xkd_full, str(package))
    spec, platform = yaml.safe_load_all(Path(package).read_text())
    return spec, platform


@pytest.fixture(scope="module")
def dags(compiled: tuple[dict[str, Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """The tasks of every level of the graph, by name."""
    spec = compiled[0]
    levels = [spec["root"], *spec["components"].values()]
    return [level["dag"]["tasks"] for level in levels if "dag" in level]


def test_it_runs_the_five_verbs_in_order(dags: list[dict[str, Any]]) -> None:
    root = dags[0]
    assert root["prepare"]["dependentTasks"] == ["fetch"]
    assert sorted(root["pretrain"]["dependentTasks"]) == ["fetch", "prepare"]
    used = {task["componentRef"]["name"] for level in dags for task in level.values()}
    assert {f"comp-{verb}" for verb in VERBS} <= used


def test_only_a_healthy_run_is_evaluated(dags: list[dict[str, Any]]) -> None:
    conditions = {
        task["triggerPolicy"]["condition"]: task["componentRef"]["name"]
        for level in dags
        for task in level.values()
        if "triggerPolicy" in task
    }
    healthy = "inputs.parameter_values['pipelinechannel--pretrain-verdict'] == 'healthy'"
    assert set(conditions) == {healthy, f"!({healthy})"}


def test_scores_fan_out_and_come_together(dags: list[dict[str, Any]]) -> None:
    loops = [level for level in dags if any("parameterIterator" in task for task in level.values())]
    assert len(loops) == 1
    (loop,) = (task for task in loops[0].values() if "parameterIterator" in task)
    items = loop["parameterIterator"]["items"]
    assert items == {"inputParameter": "pipelinechannel--tasks"}
    collected = loops[0]["tabulate"]["inputs"]["artifacts"]["scores"]["taskOutputArtifact"]
    assert collected["producerTask"] in loops[0]


def test_a_run_that_is_not_evaluated_is_reported_too(dags: list[dict[str, Any]]) -> None:
    reported = [name for level in dags for name in level if name.startswith("tabulate")]
    assert sorted(reported) == ["tabulate", "tabulate-2"]


def test_the_data_revision_is_part_of_every_later_key(dags: list[dict[str, Any]]) -> None:
    for verb in ("prepare", "pretrain"):
        revision = dags[0][verb]["inputs"]["parameters"]["revision"]["taskOutputParameter"]
        assert revision == {"outputParameterKey": "Output", "producerTask": "fetch"}


def test_every_task_runs_in_the_image_on_the_shared_volume(
    compiled: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    spec, platform = compiled
    executors = spec["deploymentSpec"]["executors"]
    images = {executor["container"]["image"] for executor in executors.values()}
    assert images == {"{{$.inputs.parameters['pipelinechannel--image']}}"}
    assert spec["root"]["inputDefinitions"]["parameters"]["image"]["defaultValue"] == IMAGE
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(placed) == set(executors)
    assert {mount["constant"] for executor in placed.values() for mount in executor["pvcMount"]} == {VOLUME}


def test_pretraining_knows_whose_step_it_is_and_its_caching_key_does_not(
    compiled: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    spec, platform = compiled
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    named = {executor: config.get("fieldPathAsEnv") for executor, config in placed.items()}
    told = {"name": "KFP_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}
    assert {executor: fields for executor, fields in named.items() if fields} == {"exec-pretrain": [told]}
    assert "pipeline_job" not in str(spec)


def test_nothing_is_installed_when_a_task_starts(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert "pip install" not in str(compiled[0])


def test_the_default_fan_out_is_the_evaluations_own() -> None:
    assert [evaluation.parse_task(values) for values in TASKS] == list(evaluation.TASKS)
