"""What a run of many days needs of compiled pipelines: retries, retention, no cache, resources, placement."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from kfp import compiler

from pipelines.xkd_ablations import xkd_ablations
from pipelines.xkd_evaluations import xkd_evaluations
from pipelines.xkd_full import xkd_full
from xkd.errors import UserError
from xkd.launch.kubernetes.config import GPU, NODE_TYPES, TOLERATIONS
from xkd.launch.kubernetes.from_kfp import place_evaluation

YEAR = 365 * 24 * 3600
WEEK = 7 * 24 * 3600
RESOURCES = ("resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit")


class Compiled(NamedTuple):
    """A compiled pipeline; tasks, containers and pods by the name of their component."""

    tasks: dict[str, list[dict[str, Any]]]
    containers: dict[str, Any]
    pods: dict[str, Any]
    parameters: dict[str, Any]
    config: dict[str, Any]
    evaluation: str
    """Component that evaluates."""
    loop_inputs: set[str]
    """Of the loop over the evaluations."""
    undeclared: list[str]
    """Inputs that tasks take from their pipeline or loop, which does not have them."""


@pytest.fixture(
    scope="module", params=[xkd_full, xkd_evaluations, xkd_ablations], ids=lambda pipeline: pipeline.name
)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    package = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compiler.Compiler().compile(request.param, str(package))
    spec, platform = yaml.safe_load_all(Path(package).read_text())
    kubernetes = platform["platforms"]["kubernetes"]
    containers = {
        name.removeprefix("exec-"): executor["container"]
        for name, executor in spec["deploymentSpec"]["executors"].items()
    }
    tasks: dict[str, list[dict[str, Any]]] = {}
    for level in (spec["root"], *spec["components"].values()):
        for task in level.get("dag", {}).get("tasks", {}).values():
            name = task["componentRef"]["name"].removeprefix("comp-")
            if name in containers:  # loops and conditions have none
                tasks.setdefault(name, []).append(task)
    assert tasks.keys() == containers.keys()
    pods = kubernetes["deploymentSpec"]["executors"]
    evaluation = "evaluate-run" if "evaluate-run" in containers else "evaluate"
    (loop,) = (
        each for each in spec["components"].values() if evaluation in each.get("dag", {}).get("tasks", {})
    )
    return Compiled(
        tasks,
        containers,
        {name.removeprefix("exec-"): pod for name, pod in pods.items()},
        spec["root"]["inputDefinitions"]["parameters"],
        kubernetes["pipelineConfig"],
        evaluation,
        set(loop["inputDefinitions"]["parameters"]),
        [
            given["componentInputParameter"]
            for level in (spec["root"], *spec["components"].values())
            for task in level.get("dag", {}).get("tasks", {}).values()
            for given in task.get("inputs", {}).get("parameters", {}).values()
            if given.get("componentInputParameter", "") not in {"", *level["inputDefinitions"]["parameters"]}
        ],
    )


def test_a_task_is_retried_however_long_it_ran(compiled: Compiled) -> None:
    for task in (task for tasks in compiled.tasks.values() for task in tasks):
        assert task["retryPolicy"] == {
            "maxRetryCount": 2,
            "backoffDuration": "60s",
            "backoffFactor": 2.0,
            # Counted from the first start, and the deadline of a retry.
            "backoffMaxDuration": f"{YEAR}s",
        }


def test_an_ended_workflow_is_kept_for_a_week_however_it_ended(compiled: Compiled) -> None:
    outcomes = ("Completion", "Success", "Failure")
    assert compiled.config == {f"resourceTtlOn{outcome}": WEEK for outcome in outcomes}


def test_nothing_comes_from_the_cache(compiled: Compiled) -> None:
    for task in (task for tasks in compiled.tasks.values() for task in tasks):
        assert not task["cachingOptions"].get("enableCache")


def test_every_task_has_requests_and_limits(compiled: Compiled) -> None:
    for name, container in compiled.containers.items():
        given = container["resources"]
        assert given.keys() >= set(RESOURCES)
        for value in given.values():
            parameter = str(value).partition("inputs.parameters['")[2].partition("']")[0]
            # In a loop too, the placeholder's value is an input of the task.
            assert all(
                not parameter or parameter in task["inputs"]["parameters"] for task in compiled.tasks[name]
            )
    sizes = {name for name in compiled.parameters if name.endswith(("cpu", "memory", "gpus"))}
    # KFP's backend reads these parameters as strings; a number would be empty, and set no limit.
    assert {compiled.parameters[name]["parameterType"] for name in sizes} == {"STRING"}


def test_only_evaluations_request_gpus_of_their_own(compiled: Compiled) -> None:
    found = {name for name, given in compiled.containers.items() if "accelerator" in given["resources"]}
    assert found == {compiled.evaluation}
    accelerator = compiled.containers[compiled.evaluation]["resources"]["accelerator"]
    assert accelerator["resourceType"] == GPU
    channel = "gpus" if compiled.evaluation == "evaluate" else "evaluation_gpus"
    assert accelerator["resourceCount"] == f"{{{{$.inputs.parameters['pipelinechannel--{channel}']}}}}"
    name = "evaluation_gpus" if "evaluation_gpus" in compiled.parameters else "gpus"
    assert compiled.parameters[name]["defaultValue"] == "0"


def test_the_launcher_is_small_and_not_evicted(compiled: Compiled) -> None:
    if "pretrain" in compiled.containers:
        given = compiled.containers["pretrain"]["resources"]
        assert (given["resourceCpuRequest"], given["resourceMemoryRequest"]) == ("500m", "1Gi")
        assert "pretrain_cpu" in given["resourceCpuLimit"]
        labels = compiled.pods["pretrain"]["podMetadata"]["labels"]
        assert labels["app.kubernetes.io/component"] == "pretrain"  # the disruption budget selects it
    for pod in compiled.pods.values():
        assert pod["podMetadata"]["annotations"] == {
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            "karpenter.sh/do-not-disrupt": "true",
        }


def test_only_the_job_and_evaluations_with_gpus_run_on_gpu_nodes(compiled: Compiled) -> None:
    placed = {name: pod for name, pod in compiled.pods.items() if {"tolerations", "nodeSelector"} & set(pod)}
    evaluation = placed.pop(compiled.evaluation)
    # The plan says where; in a loop, its outputs are inputs.
    prefix = "pipelinechannel--" + ("plan-" if compiled.evaluation == "evaluate" else "evaluation_")
    assert evaluation["tolerations"] == [
        {"tolerationJson": {"componentInputParameter": f"{prefix}tolerations"}}
    ]
    selector = {"componentInputParameter": f"{prefix}node_selector"}
    assert evaluation["nodeSelector"] == {"nodeSelectorJson": selector}
    assert {f"{prefix}tolerations", f"{prefix}node_selector"} <= compiled.loop_inputs
    level = "" if compiled.evaluation == "evaluate" else "pipelinechannel--"  # in a loop
    # The task `pretrain` passes its own settings on to the job (see the component).
    for name, pod in placed.items():
        assert name == "pretrain"
        assert pod["tolerations"] == [
            *TOLERATIONS,
            {"tolerationJson": {"componentInputParameter": f"{level}tolerations"}},
        ]


def test_every_input_that_a_task_gets_from_its_level_is_declared_there(compiled: Compiled) -> None:
    assert compiled.undeclared == []


def test_an_evaluation_with_gpus_runs_as_and_where_the_job_does() -> None:
    extra = {"key": "pool", "operator": "Equal", "value": "research"}
    selector = NODE_TYPES["v100_gke"]["node_selector"]
    images = ("xkd:1-cpu", "xkd:1")
    assert place_evaluation("1", *images, "v100_gke", {}, [extra]) == (
        *("xkd:1", selector),
        [*TOLERATIONS, extra],
    )
    assert place_evaluation("2", *images, "v100_gke", {"pool": "a"}, [])[1:] == (
        {"pool": "a"},
        [*TOLERATIONS],
    )
    assert place_evaluation("1", "xkd:1", "", "", {}, []) == ("xkd:1", {}, [*TOLERATIONS])


def test_an_evaluation_on_the_cpu_keeps_off_gpu_nodes() -> None:
    found = place_evaluation("0", "xkd:1-cpu", "xkd:1", "v100_gke", {"pool": "gpus"}, [{"key": "pool"}])
    assert found == ("xkd:1-cpu", {}, [])


@pytest.mark.parametrize(("gpus", "node_type"), [("one", ""), ("0.5", ""), ("", ""), ("0", "v1000")])
def test_wrong_numbers_and_node_types_are_found_before_training(gpus: str, node_type: str) -> None:
    with pytest.raises(UserError, match=r"evaluation_gpus|unknown node type"):
        place_evaluation(gpus, "xkd:1", "", node_type, {}, [])
