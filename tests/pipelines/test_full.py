from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler

from components import IMAGE
from components.check import check
from pipelines.xkd_full import xkd_full
from xkd.launch.kubernetes import client
from xkd.launch.kubernetes.config import USER, VOLUME

COMMANDS = ["evaluate", "fetch", "prepare", "pretrain", "tabulate"]

Compiled = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Return both documents of the compiled YAML: the pipeline's spec and its Kubernetes settings."""
    package = tmp_path_factory.mktemp("compiled") / "full.yaml"
    compiler.Compiler().compile(xkd_full, str(package))
    spec, platform = yaml.safe_load_all(Path(package).read_text())
    return spec, platform["platforms"]["kubernetes"]


@pytest.fixture(scope="module")
def dags(compiled: Compiled) -> list[dict[str, Any]]:
    """Return the tasks of every level of the graph, by name."""
    spec = compiled[0]
    levels = [spec["root"], *spec["components"].values()]
    return [level["dag"]["tasks"] for level in levels if "dag" in level]


@pytest.fixture(scope="module")
def containers(compiled: Compiled) -> dict[str, Any]:
    """Return the container of every component that has one."""
    executors = compiled[0]["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): executor["container"] for name, executor in executors.items()}


@pytest.fixture(scope="module")
def pods(compiled: Compiled) -> dict[str, Any]:
    """Return the Kubernetes settings of the pod of every such component."""
    executors = compiled[1]["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): pod for name, pod in executors.items()}


@pytest.fixture(scope="module")
def tasks(dags: list[dict[str, Any]], containers: dict[str, Any]) -> dict[str, Any]:
    """Return the tasks of all levels that have a container; loops and conditions have none."""
    return {
        name: task
        for level in dags
        for name, task in level.items()
        if task["componentRef"]["name"].removeprefix("comp-") in containers
    }


@pytest.fixture(scope="module")
def defaults(compiled: Compiled) -> dict[str, Any]:
    """Return the pipeline's parameters with their defaults."""
    parameters = compiled[0]["root"]["inputDefinitions"]["parameters"]
    return {name: given["defaultValue"] for name, given in parameters.items()}


def test_the_five_commands_run_in_order(dags: list[dict[str, Any]]) -> None:
    root = dags[0]
    assert root["prepare"]["dependentTasks"] == ["fetch"]
    assert {"fetch", "prepare"} <= set(root["pretrain"]["dependentTasks"])
    used = {task["componentRef"]["name"] for level in dags for task in level.values()}
    assert {f"comp-{command}" for command in COMMANDS} <= used


def test_all_parameters_are_checked_first(
    dags: list[dict[str, Any]], tasks: dict[str, Any], defaults: dict[str, Any]
) -> None:
    """Except for what only a server, a registry or a cluster knows: images, quantities, a revision."""
    assert [name for name, task in dags[0].items() if not task.get("dependentTasks")] == ["check"]
    assert dags[0]["fetch"]["dependentTasks"] == ["check"]
    given = tasks["check"]["inputs"]["parameters"]
    checked = {given[name]["componentInputParameter"] for name in signature(check.python_func).parameters}
    assert defaults.keys() - checked == {"expected_revision", "pushgateway", "image", "gpu_image"}


def test_only_a_run_that_has_not_failed_is_evaluated(dags: list[dict[str, Any]]) -> None:
    conditions = {
        task["triggerPolicy"]["condition"]: task["componentRef"]["name"]
        for level in dags
        for task in level.values()
        if "condition" in task.get("triggerPolicy", {})
    }
    worth = "inputs.parameter_values['pipelinechannel--pretrain-evaluate'] == 'yes'"
    assert set(conditions) == {worth, f"!({worth})"}


def test_evaluations_fan_out_over_the_plan_a_few_at_a_time(dags: list[dict[str, Any]]) -> None:
    loops = [task for level in dags for task in level.values() if "parameterIterator" in task]
    over = {loop["parameterIterator"]["items"]["inputParameter"]: loop["iteratorPolicy"] for loop in loops}
    assert over == {
        "pipelinechannel--downstream": {"parallelismLimit": 2},
        "pipelinechannel--plan-Output": {"parallelismLimit": 8},
    }


def test_an_evaluation_gets_its_item_and_settings(tasks: dict[str, Any]) -> None:
    given = tasks["evaluate"]["inputs"]["parameters"]
    assert given["item"] == {"componentInputParameter": "pipelinechannel--plan-Output-loop-item"}
    settings = {"componentInputParameter": "pipelinechannel--finetune_settings"}
    assert given["finetune_settings"] == settings
    assert "plan" not in tasks["evaluate"].get("dependentTasks", [])


def test_downstream_datasets_are_prepared_and_checked_before_pretraining(dags: list[dict[str, Any]]) -> None:
    (loop,) = (name for name, task in dags[0].items() if "parameterIterator" in task)
    assert dags[0][loop]["dependentTasks"] == ["prepare"]
    assert {loop, "prepare"} <= set(dags[0]["plan"]["dependentTasks"])
    assert "plan" in dags[0]["pretrain"]["dependentTasks"]


def test_the_preset_decides_how_every_dataset_is_prepared(tasks: dict[str, Any]) -> None:
    for name, prefix in (("prepare", ""), ("prepare-2", "pipelinechannel--")):
        given = tasks[name]["inputs"]["parameters"]
        assert given["preset"] == {"componentInputParameter": f"{prefix}preset"}
        assert given["settings"] == {"componentInputParameter": f"{prefix}prepare_settings"}
    plans = [task["inputs"]["parameters"] for name, task in tasks.items() if name.startswith("plan")]
    for name in ("preset", "prepare_settings"):
        assert {given[name]["componentInputParameter"].rpartition("-")[2] for given in plans} == {name}
    prepared = tasks["pretrain"]["inputs"]["parameters"]["data"]["taskOutputParameter"]
    assert prepared == {"outputParameterKey": "Output", "producerTask": "prepare"}


def test_the_report_follows_the_evaluations_however_they_end(dags: list[dict[str, Any]]) -> None:
    (level,) = (level for level in dags if "tabulate" in level)
    assert level["tabulate"]["dependentTasks"] == ["xkd-evaluations"]
    assert level["tabulate"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    # KFP's backend turns that into a hook, and drops one that follows a loop.
    assert "parameterIterator" not in level["xkd-evaluations"]


def test_a_run_that_is_not_evaluated_gets_a_report_too(dags: list[dict[str, Any]]) -> None:
    reported = [name for level in dags for name in level if name.startswith("tabulate")]
    assert sorted(reported) == ["tabulate", "tabulate-2"]


def test_later_tasks_record_the_revision_of_their_data(tasks: dict[str, Any]) -> None:
    for task, source in (("prepare", "fetch"), ("pretrain", "fetch"), ("prepare-2", "fetch-2")):
        revision = tasks[task]["inputs"]["parameters"]["revision"]["taskOutputParameter"]
        assert revision == {"outputParameterKey": "Output", "producerTask": source}


def test_every_task_runs_in_the_image_on_the_shared_volume(
    containers: dict[str, Any], pods: dict[str, Any], defaults: dict[str, Any]
) -> None:
    images = {name: container["image"] for name, container in containers.items()}
    # That of an evaluation depends on its GPUs.
    assert images.pop("evaluate") == "{{$.inputs.parameters['pipelinechannel--plan-image']}}"
    assert set(images.values()) == {"{{$.inputs.parameters['pipelinechannel--image']}}"}
    assert (defaults["image"], defaults["gpu_image"]) == (IMAGE, "")
    assert set(pods) == set(containers)
    mounts = [(mount["constant"], mount["mountPath"]) for pod in pods.values() for mount in pod["pvcMount"]]
    assert mounts == [(VOLUME, "/workspace/runs")] * len(pods)


def test_every_task_has_shared_memory(containers: dict[str, Any], pods: dict[str, Any]) -> None:
    memory = [{"volumeName": "dshm", "mountPath": "/dev/shm", "medium": "Memory"}]
    assert {name: pod["emptyDirMounts"] for name, pod in pods.items()} == dict.fromkeys(containers, memory)


def test_datasets_come_from_the_registry_if_one_is_given(
    tasks: dict[str, Any], defaults: dict[str, Any]
) -> None:
    for name in ("repo", "rev"):
        assert tasks["fetch"]["inputs"]["parameters"][name] == {"componentInputParameter": name}
        inner = tasks["fetch-2"]["inputs"]["parameters"][name]
        assert inner == {"componentInputParameter": f"pipelinechannel--{name}"}
        assert defaults[name] == ""


def test_the_kubernetes_settings_of_the_task_are_passed_to_its_job(compiled: Compiled) -> None:
    passed = {
        given["field"]: given.get("applyToTask", False)
        for given in compiled[0]["components"]["comp-pretrain"]["taskConfigPassthroughs"]
    }
    assert passed == {
        "RESOURCES": True,  # the task's own; the job's are inputs
        "KUBERNETES_TOLERATIONS": False,
        "KUBERNETES_NODE_SELECTOR": False,
        "KUBERNETES_AFFINITY": False,
        "ENV": True,
        "KUBERNETES_VOLUMES": True,
    }


def test_by_default_the_task_itself_trains(defaults: dict[str, Any]) -> None:
    assert (defaults["nodes"], defaults["node_type"], defaults["cluster_settings"]) == (0, "", [])


def test_the_network_policies_select_every_pod_and_none_is_root(pods: dict[str, Any]) -> None:
    for pod in pods.values():
        assert pod["podMetadata"]["labels"]["app.kubernetes.io/part-of"] == "xkd"
        user = pod["securityContext"]
        assert user == {"runAsUser": str(USER), "runAsGroup": str(USER), "runAsNonRoot": True}


def test_release_follows_pretraining_however_that_ends(tasks: dict[str, Any]) -> None:
    task = tasks["release"]
    assert task["dependentTasks"] == ["pretrain"]
    assert task["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert task["inputs"]["parameters"]["status"] == {"taskFinalStatus": {"producerTask": "pretrain"}}


def test_tasks_get_the_run_id_from_a_label_and_not_as_an_input(
    compiled: Compiled, pods: dict[str, Any]
) -> None:
    variable = [{"name": "KFP_RUN_ID", "fieldPath": f"metadata.labels['{client.RUN_LABEL}']"}]
    named = {name: pod["fieldPathAsEnv"] for name, pod in pods.items() if "fieldPathAsEnv" in pod}
    assert named == {"pretrain": variable, "release": variable}
    assert "pipeline_job" not in str(compiled[0])


def test_what_kfp_would_round_or_refuse_travels_as_strings(
    compiled: Compiled, containers: dict[str, Any]
) -> None:
    """Inside KFP's own lists and dictionaries integers become floats, and null is refused."""
    types: dict[str, str] = {}
    for name in containers:
        component = compiled[0]["components"][f"comp-{name}"]
        for side in ("inputDefinitions", "outputDefinitions"):
            parameters = component.get(side, {}).get("parameters", {})
            types |= {key: parameter["parameterType"] for key, parameter in parameters.items()}
    assert set(types.values()) == {
        *("STRING", "LIST", "STRUCT", "NUMBER_INTEGER", "BOOLEAN"),
        *("TASK_CONFIG", "TASK_FINAL_STATUS"),
    }
    # No machine has 2**53 of these.
    numbers = {name for name, kind in types.items() if kind == "NUMBER_INTEGER"}
    assert numbers == {"clips", "processes", "nodes"}
    items = {
        parameter["parameterType"]
        for component in compiled[0]["components"].values()
        for name, parameter in component.get("inputDefinitions", {}).get("parameters", {}).items()
        if name.endswith("loop-item")
    }
    assert items == {"STRING"}


def test_nothing_is_installed_when_a_task_starts(compiled: Compiled) -> None:
    assert "pip install" not in str(compiled[0])
