"""The preflight of a job: real agents of two hosts, whose workers find a bad device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.tiny import tiny_config
from xkd.config.overrides import to_dict
from xkd.errors import EXIT_BAD_NODE, EXIT_FAILURE

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *work: str, hosts: int = 2, processes: int = 1) -> list[tuple[int, dict[str, Any]]]:
    """Run a worker on hosts gpu-0, gpu-1 ...; return each agent's exit code and termination message."""
    port, agents, logs = free_port(), [], []
    for node in range(hosts):
        logs.append(folder / f"{node}.log")
        words = ["--job", "job", "--nodes", f"{hosts}:{hosts}", "--node", str(node), "--restarts", "1"]
        words += ["--rendezvous", f"localhost:{port}", "--address", f"127.0.0.{node + 1}"]
        names = {"NODE_NAME": f"gpu-{node}", "TORCHELASTIC_ERROR_FILE": str(logs[-1]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "xkd.launch.agent", *words, "--processes", str(processes), *work]
        agents.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | names))
    try:
        codes = [agent.wait(timeout=120) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    ends = [json.loads(log.read_text())["message"] if log.exists() else {} for log in logs]
    return list(zip(codes, ends, strict=True))


@pytest.mark.parametrize(
    ("how", "failure"),
    [
        ("wrong", "wrong result"),
        ("raise", "RuntimeError: CUDA error: uncorrectable ECC error Compile with `TORCH_USE_CUDA_DSA`"),
        ("hang", "no result in time"),
    ],
)
def test_every_host_names_the_node_with_the_bad_device(tmp_path: Path, how: str, failure: str) -> None:
    for code, end in run(tmp_path, "tests.system.preflight_worker", "1", how):
        assert code == end["errorCode"] == EXIT_BAD_NODE
        assert end["message"] == f"preflight failed: node gpu-1, CPU: test: {failure}"
        assert end["extraInfo"]["nodes"] == ["gpu-1"]


def test_what_fails_on_all_of_several_nodes_is_an_ordinary_failure(tmp_path: Path) -> None:
    for code, end in run(tmp_path, "tests.system.preflight_worker", "all", "wrong"):
        assert code == end["errorCode"] == EXIT_FAILURE
        assert end["message"].startswith("preflight failed: node gpu-0, CPU: test: wrong result; node gpu-1")
        assert "nodes" not in end["extraInfo"]


def test_on_a_single_node_the_device_is_named(tmp_path: Path) -> None:
    ((code, end),) = run(tmp_path, "tests.system.preflight_worker", "1", "wrong", hosts=1, processes=2)
    assert (code, end["extraInfo"]["nodes"]) == (EXIT_BAD_NODE, ["gpu-0"])


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="this machine has a GPU")
def test_a_missing_gpu_names_the_node(tmp_path: Path) -> None:
    paths = ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    settings = json.dumps(to_dict(tiny_config()))
    work = ["xkd.train.pretrain", "--settings", settings, *paths, "--preflight", "cuda"]
    ((code, end),) = run(tmp_path, *work, hosts=1)
    assert (code, end["extraInfo"]["nodes"]) == (EXIT_BAD_NODE, ["gpu-0"])
    assert end["message"].startswith("preflight failed: node gpu-0, GPU 0: ")


def test_the_checks_leave_a_training_unchanged(prepared: Path, tmp_path: Path) -> None:
    rows = []
    for options in ([], ["--preflight", "cpu"]):
        out = tmp_path / f"run{len(options)}"
        paths = ["--data", str(prepared), "--out", str(out)]
        work = ["xkd.train.pretrain", "--settings", json.dumps(to_dict(tiny_config())), *paths, *options]
        ((code, end),) = run(tmp_path, *work, hosts=1, processes=2)
        assert code == 0, end
        rows.append([json.loads(row)["loss"] for row in (out / "metrics.jsonl").read_text().splitlines()])
    assert rows[0] == rows[1]
