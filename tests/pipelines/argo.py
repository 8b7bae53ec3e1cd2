"""The size of Argo's record of a pipeline run, from the compiled pipeline; the format is that of Argo 4.0.5.

Kubeflow Pipelines 2.17 makes twelve nodes of each task in a loop: of the iteration, its graph, the task's
graph, and the drivers and the executor, each with the node of its retries. A node repeats its inputs and
outputs, and several have the patch of the pod, which holds the component, its source and the input. What
differs between tasks (times, ids, names of artifacts) is random here, so that it compresses as there.
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
PGZIP = 1.12
"""Argo compresses with pgzip 1.2.6, which made 12 % more bytes of such nodes than Python does."""
TEMPLATES = 32 * 1024
"""Bytes of the templates of drivers and executors, which do not depend on the pipeline."""
_RANDOM = random.Random(0)
_WORKFLOW = "xkd-full-x5k2p"
Parameters = dict[str, str]


def workflow_size(
    spec: Mapping[str, Any], platform: Mapping[str, Any], items: Sequence[str], attempts: int = 1
) -> int:
    """Return the bytes of the workflow once every evaluation has ended, each at its last attempt."""
    nodes = [
        node for number, item in enumerate(items) for node in _nodes(spec, platform, number, item, attempts)
    ]
    _RANDOM.shuffle(nodes)  # a mapping by id, in order of random ids
    text = _dump({node["id"]: node for node in nodes})
    packed = base64.b64encode(gzip.compress(text.encode(), compresslevel=6))
    # The workflow has the whole pipeline as arguments, which are strings, and its tasks in templates, those
    # of a loop twice. Argo stores no template again that is the workflow's own.
    levels = [spec["root"], *spec["components"].values()]
    tasks = [task for level in levels for task in level.get("dag", {}).get("tasks", {}).values()]
    arguments = [_dump(part) for part in (spec, platform, *tasks, *tasks)]
    return TEMPLATES + len(_dump(arguments)) + int(PGZIP * len(packed))


def _nodes(
    spec: Mapping[str, Any], platform: Mapping[str, Any], number: int, item: str, attempts: int
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
    id_of_driver = _execution()
    parent, execution = {"parent-dag-id": "123456"}, {"parent-dag-id": id_of_driver}
    iteration = {"iteration-index": str(number)}
    inputs = dict.fromkeys(task["inputs"]["parameters"], "registry/xkd@sha256:digest") | {"item": item}
    patch = {"pod-spec-patch": _pod_spec_patch(container, component, pod, inputs)}
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
        (f"{place}.iteration-item-driver", parent | iteration | dag_driver, {"execution-id": id_of_driver}),
        (inside, execution | {"condition": ""}, {}),
        (f"{inside}.evaluate-driver", execution | container_driver, patch | {"cached-decision": "false"}),
        (executor, patch | metadata | retry | {"cached-decision": "false"}, {}),
        (f"{executor}.executor", patch | metadata | retry, {"exit-code": "0"}),
    ]
    ids = {name + suffix: f"{_WORKFLOW}-{_digits()}" for name, *_ in graphs for suffix in ("", "(0)")}
    names = list(ids)
    nodes = [
        _node(ids, names, place, index, number, graphs[index // 2][1:]) for index, place in enumerate(names)
    ]
    for attempt in range(1, attempts):
        last, id_ = nodes[-1], f"{_WORKFLOW}-{_digits()}"
        nodes[-2]["children"] = [*nodes[-2]["children"], id_]
        nodes.append(last | {"id": id_, "name": f"{names[-2]}({attempt})", "message": "Error (exit code 1)"})
    return nodes


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
        pod = following[0] if is_retry else ids[name]
        node["outputs"] = {
            "parameters": [{"name": key, "value": value} for key, value in parameters[1].items()],
            # The pod's name ends like its node's id.
            "artifacts": [{"name": "main-logs", "s3": {"key": f"artifacts/{_WORKFLOW}/{pod}/main.log"}}],
        }
    if not is_retry:
        node["nodeFlag"] = {"retried": True}
    if is_pod:
        node |= {"hostNodeName": f"gke-xkd-default-pool-{_RANDOM.randrange(20)}", "taskResultSynced": True}
    elif not is_retry:
        node["outboundNodes"] = [ids[names[-1]]]
    return node


def _pod_spec_patch(
    container: Mapping[str, Any], component: str, pod: Mapping[str, Any], inputs: Parameters
) -> str:
    """Return the patch that KFP's driver makes (``initPodSpecPatch``)."""
    run, root = "cb0e2f8c-6d29-4f0d-9d3a-0c3f5d0f4d7a", _hex(32)
    place = f"minio://mlpipeline/v2/artifacts/xkd-full/{run}/evaluate/{root}"
    artifacts: dict[str, Any] = {
        name: {"artifacts": [{"name": name, "uri": f"{place}/{name}", "metadata": {}}]}
        for name in ("score", "metrics", "executor-logs")
    }
    outputs = {"artifacts": artifacts, "outputFile": f"{place}/output_metadata.json"}
    executor_input = json.dumps({"inputs": {"parameterValues": inputs}, "outputs": outputs})
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
        _execution(),
        "--executor_input",
        executor_input,
        "--component_spec",
        component,
    ]
    command += ["--pod_name", "$(KFP_POD_NAME)", "--pod_uid", "$(KFP_POD_UID)", "--mlmd_server_address"]
    main = {"name": "main", "command": command, "args": [*container["command"], *container["args"]]}
    return json.dumps({"containers": [main | {"resources": container["resources"]}], "config": pod})


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _hex(length: int) -> str:
    return f"{_RANDOM.getrandbits(4 * length):0{length}x}"


def _digits() -> str:
    return str(_RANDOM.getrandbits(32))


def _execution() -> str:
    """Return the id of an execution; the store of metadata counts them."""
    return str(_RANDOM.randrange(10**6))
