"""The size of Argo's record of a pipeline run, from the compiled pipeline; the format is that of Argo 4.0.5.

Kubeflow Pipelines 2.17 makes twelve nodes of each evaluation: of the iteration, its graph, the evaluation's
graph, and the drivers and the executor, each with the node of its retries. A node repeats its inputs and
outputs, and several have the patch of the pod, which holds the component, its source and the input. What
differs between evaluations (times, ids, names of artifacts) is random here, so that it compresses as there.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

LIMIT = 1024 * 1024
"""Bytes of a workflow with its nodes compressed (``workflow/packer/packer.go``)."""
_RANDOM = random.Random(0)
_WORKFLOW = "xkd-full-x5k2p"
Parameters = dict[str, str]


def workflow_size(spec: Mapping[str, Any], platform: Mapping[str, Any], items: Sequence[str]) -> int:
    """Return the bytes of the workflow once every evaluation has ended."""
    nodes = [node for number, item in enumerate(items) for node in _nodes(spec, platform, number, item)]
    _RANDOM.shuffle(nodes)  # a mapping by id, in order of random ids
    text = json.dumps({node["id"]: node for node in nodes}, separators=(",", ":"))
    # The workflow also has the whole pipeline: as arguments, and as stored templates and their specification.
    rest = 3 * len(json.dumps([spec, platform]))
    return rest + len(base64.b64encode(gzip.compress(text.encode(), compresslevel=6)))


def _nodes(
    spec: Mapping[str, Any], platform: Mapping[str, Any], number: int, item: str
) -> list[dict[str, Any]]:
    component = json.dumps(spec["components"]["comp-evaluate"])
    container = spec["deploymentSpec"]["executors"]["exec-evaluate"]["container"]
    (loop_name, loop), *_ = (
        (name, each)
        for name, each in spec["components"].items()
        if "evaluate" in each.get("dag", {}).get("tasks", {})
    )
    task = loop["dag"]["tasks"]["evaluate"]
    pod = platform["deploymentSpec"]["executors"]["exec-evaluate"]
    place = (
        f"{_WORKFLOW}.root.condition-2.xkd-evaluations.{loop_name}.iteration-iterations({number}:{number})"
    )
    parent, execution = {"parent-dag-id": _digits()}, {"parent-dag-id": _digits()}
    iteration = {"iteration-index": str(number)}
    patch = {"pod-spec-patch": _pod_spec_patch(container, component, pod, item)}
    metadata = {
        f"pod-metadata-{kind}-{field}-{place}": value
        for kind in ("annotation", "label")
        for place, entry in enumerate(pod["podMetadata"][f"{kind}s"].items())
        for field, value in zip(("key", "val"), entry, strict=True)
    }
    retry = {
        f"retry-{name}": "31536000" for name in ("max-count", "backoff-duration", "backoff-max-duration")
    }
    inside, executor = f"{place}.iteration-item", f"{place}.iteration-item.evaluate"
    dag_driver = {"component": json.dumps(loop), "task": json.dumps(task), "task-name": loop_name}
    container_driver = {
        "component": component,
        "task": json.dumps(task),
        "container": json.dumps(container),
        "task-name": "evaluate",
        "kubernetes-config": json.dumps(pod),
    }
    graphs = [
        (place, parent | iteration, {}),
        (f"{place}.iteration-item-driver", parent | iteration | dag_driver, execution),
        (inside, execution | {"condition": ""}, {}),
        (f"{inside}.evaluate-driver", execution | container_driver, patch | {"condition": "true"}),
        (executor, patch | metadata | retry | {"cached-decision": "false"}, {}),
        (f"{executor}.executor", patch | metadata | retry, {"exit-code": "0"}),
    ]
    ids = {name + suffix: f"{_WORKFLOW}-{_digits()}" for name, *_ in graphs for suffix in ("", "(0)")}
    names = list(ids)
    return [
        _node(ids, names, place, index, number, graphs[index // 2][1:]) for index, place in enumerate(names)
    ]


def _node(
    ids: Parameters,
    names: Sequence[str],
    name: str,
    index: int,
    number: int,
    parameters: tuple[Parameters, Parameters],
) -> dict[str, Any]:
    """Return a node; every node but the last has the next one as its child."""
    is_retry, is_pod = index % 2 == 0, index % 2 == 1 and bool(parameters[1])
    start = 600 * (number // 8) + 20 * index + _RANDOM.randrange(20)
    times = {"startedAt": start, "finishedAt": start + _RANDOM.randrange(600)}
    following = [ids[each] for each in names[index + 1 : index + 2]]
    node: dict[str, Any] = {
        "id": ids[name],
        "name": name,
        "displayName": name.rpartition(".")[2],
        "type": "Retry" if is_retry else "Pod" if is_pod else "DAG",
        "templateName": "metadata-2-1-retry-system-container-executor",
        "templateScope": f"local/{_WORKFLOW}",
        "phase": "Succeeded",
        "boundaryID": ids[names[max(0, 2 * (index // 4) - 1)]],
        **{
            when: f"2026-11-{28 + t // 86400}T{t // 3600 % 24:02}:{t // 60 % 60:02}:{t % 60:02}Z"
            for when, t in times.items()
        },
        "progress": "1/1",
        "resourcesDuration": {"cpu": _RANDOM.randrange(10**3), "memory": _RANDOM.randrange(10**4)},
        "inputs": {"parameters": [{"name": key, "value": value} for key, value in parameters[0].items()]},
        "children": following,
    }
    if parameters[1]:
        node["outputs"] = {
            "parameters": [{"name": key, "value": value} for key, value in parameters[1].items()]
        }
    if not is_retry:
        node["nodeFlag"] = {"retried": True}
    if is_pod:
        node |= {"hostNodeName": f"gke-xkd-default-pool-{_RANDOM.randrange(20)}", "taskResultSynced": True}
    elif not is_retry:
        node["outboundNodes"] = [ids[names[-1]]]
    return node


def _pod_spec_patch(container: Mapping[str, Any], component: str, pod: Mapping[str, Any], item: str) -> str:
    """Return the patch that KFP's driver makes (``initPodSpecPatch``)."""
    run, root = "cb0e2f8c-6d29-4f0d-9d3a-0c3f5d0f4d7a", _hex(32)
    place = f"minio://mlpipeline/v2/artifacts/xkd-full/{run}/evaluate/{root}"
    artifacts: dict[str, Any] = {
        name: {"artifacts": [{"name": name, "uri": f"{place}/{name}", "metadata": {}}]}
        for name in ("score", "metrics")
    }
    given = dict.fromkeys(container["resources"], "pipelinechannel") | {"image": "registry/xkd@sha256:digest"}
    inputs = {"parameterValues": given | {"run": "runs/paper", "item": item, "out": "runs/paper/scores"}}
    outputs = {"artifacts": artifacts, "outputFile": f"{place}/output_metadata.json"}
    executor_input = json.dumps({"inputs": inputs, "outputs": outputs})
    command = [
        "/kfp-launcher/launch",
        "--pipeline_name",
        "xkd-full",
        "--run_id",
        run,
        "--run_name",
        _WORKFLOW,
    ]
    command += [
        "--execution_id",
        _digits(),
        "--executor_input",
        executor_input,
        "--component_spec",
        component,
    ]
    command += ["--pod_name", "$(KFP_POD_NAME)", "--pod_uid", "$(KFP_POD_UID)", "--mlmd_server_address"]
    main = {"name": "main", "command": command, "args": [*container["command"], *container["args"]]}
    return json.dumps({"containers": [main | {"resources": container["resources"]}], "config": pod})


def _hex(length: int) -> str:
    return f"{_RANDOM.getrandbits(4 * length):0{length}x}"


def _digits() -> str:
    return str(_RANDOM.getrandbits(32))
