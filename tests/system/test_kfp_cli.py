"""What the `kfp` command does; tests of its errors are in test_kfp_errors.py."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp import components
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from tests.system.kfp_command import FULL, KFP, ROOT, Server, environment, kfp, serving
from xkd.parallel.limits import cores

PIPELINES = sorted(path for path in (ROOT / "pipelines").glob("*.py") if path.name != "__init__.py")

SMALL = """
from kfp import dsl

@dsl.component(base_image="xkd", install_kfp_package=False)
def speak(word: str, times: int, folder: str) -> None:
    import json, logging, os, pathlib, time
    print(" ".join([word] * times))
    if word.startswith("["):
        for line in json.loads(word):
            print(line)
            logging.info(line)
    pathlib.Path(folder, "pid").write_text(str(os.getpid()))
    if word == "fail":
        raise ValueError("as requested")
    if word == "wait":
        time.sleep(600)

@dsl.pipeline(name="small")
def small(word: str = "hello", times: int = 2, folder: str = "."):
    speak(word=word, times=times, folder=folder).set_retry(num_retries=2, backoff_duration="30s")
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.py"
    file.write_text(SMALL)
    return file


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with serving(Server) as server:
        yield server


def test_the_version_is_that_of_upstream_and_is_printed_without_loading_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    done = kfp("--version")
    assert done.stdout.startswith("kfp 2.17")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "kfp" in imported
    assert not imported & {"numpy", "pydantic", "torch", "torchx"}  # they take seconds


def test_help_needs_no_server() -> None:
    done = kfp("run", "create", "--help")
    assert done.returncode == 0
    assert "--package-file" in done.stdout
    assert "--py" in kfp("dsl", "compile", "--help").stdout


def test_help_of_submit_describes_the_addition() -> None:
    done = kfp("run", "submit", "--help")
    assert "run submit FILE.py [--local]" in done.stdout
    assert "--package-file" in done.stdout


def test_upstreams_submit_still_works() -> None:
    done = kfp("run", "submit", "-e", "x", "-f", "package.yaml")
    assert done.returncode == 1
    assert "Connection refused" in done.stderr


@pytest.mark.parametrize("file", PIPELINES, ids=lambda path: path.stem)
def test_every_pipeline_compiles_to_the_same_bytes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    for seed in ("1", "2", "3"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        output = tmp_path / f"{seed}.yaml"
        done = kfp("dsl", "compile", "--py", str(file), "--output", str(output))
        assert done.returncode == 0, done.stderr
        compiled.append(output.read_text())
    assert f"name: {file.stem.replace('_', '-')}" in compiled[0]
    assert compiled[1:] == compiled[:1] * 2


def test_submit_delivers_the_compiled_pipeline(server: ThreadingHTTPServer) -> None:
    address = f"http://127.0.0.1:{server.server_port}"
    done = kfp("--endpoint", address, "run", "submit", FULL, "-r", "mine", "embedded_clips=40", "preset=toy")
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout
    run = server.run  # type: ignore[attr-defined]
    assert server.experiment["display_name"] == "xkd-full"  # type: ignore[attr-defined]
    assert run["display_name"] == "mine"
    assert run["runtime_config"]["parameters"] == {"embedded_clips": 40, "preset": "toy"}
    delivered = run["pipeline_spec"]
    assert delivered["pipeline_spec"]["pipelineInfo"]["name"] == "xkd-full"

    # Upstream's classes accept it; ParseDict rejects unknown fields.
    json_format.ParseDict(delivered["pipeline_spec"], PipelineSpec())
    platform = json_format.ParseDict(delivered["platform_spec"], PlatformSpec()).platforms["kubernetes"]
    for executor in platform.deployment_spec.executors.values():
        json_format.ParseDict(json_format.MessageToDict(executor), KubernetesExecutorConfig())
    text = yaml.safe_dump_all([delivered["pipeline_spec"], delivered["platform_spec"]])
    assert components.load_component_from_text(text).name == "xkd-full"


def test_create_of_the_compiled_file_delivers_the_same_run(
    server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    address, package = f"http://127.0.0.1:{server.server_port}", str(tmp_path / "xkd_full.yaml")
    assert kfp("--endpoint", address, "run", "submit", FULL, "preset=toy").returncode == 0
    submitted = server.run  # type: ignore[attr-defined]
    assert kfp("dsl", "compile", "--py", FULL, "--output", package).returncode == 0
    done = kfp("--endpoint", address, "run", "create", "-f", package, "-e", "xkd-full", "preset=toy")
    assert done.returncode == 0, done.stderr
    assert server.run == submitted  # type: ignore[attr-defined]


def test_string_parameters_stay_strings(server: ThreadingHTTPServer) -> None:
    address = f"http://127.0.0.1:{server.server_port}"
    parameters = ["gpus=4", "expected_revision=1e5", "run=true", 'data="7"', "embedded_seed=7"]
    done = kfp("--endpoint", address, "run", "submit", FULL, *parameters, 'settings=["optim.lr=1e-4"]')
    assert done.returncode == 0, done.stderr
    assert server.run["runtime_config"]["parameters"] == {  # type: ignore[attr-defined]
        "gpus": "4",
        "expected_revision": "1e5",
        "run": "true",
        "data": "7",
        "embedded_seed": "7",
        "settings": ["optim.lr=1e-4"],
    }


def test_submit_takes_the_name_of_an_experiment(server: ThreadingHTTPServer, small: Path) -> None:
    address = f"http://127.0.0.1:{server.server_port}"
    for option in (
        ["-e", "trials"],
        ["-etrials"],
        ["--experiment-name", "trials"],
        ["--experiment-name=trials"],
    ):
        server.experiment = {}  # type: ignore[attr-defined]
        done = kfp("--endpoint", address, "run", "submit", *option, str(small))
        assert done.returncode == 0, done.stderr
        assert server.experiment["display_name"] == "trials"  # type: ignore[attr-defined]


@pytest.mark.parametrize("folder", [".", "a=b", "with space.py"])
@pytest.mark.parametrize("option", ["-etrials", "--experiment-name=trials"])
def test_local_runs_the_tasks_on_this_machine(small: Path, tmp_path: Path, folder: str, option: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    file = small.rename(tmp_path / folder / "small.py")
    arguments = [option, "word=7", "times=3", f"folder={tmp_path}"]
    done = kfp("run", "submit", str(file.relative_to(tmp_path)), "--local", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "7 7 7" in done.stdout
    assert "executor_input" not in done.stdout
    assert "RuntimeWarning" not in done.stderr


LOOP = """
from kfp import dsl

@dsl.component(base_image="xkd", install_kfp_package=False)
def tell(name: str) -> None:
    import os
    print(f"{name}: {os.environ.get('OMP_NUM_THREADS')}")

@dsl.pipeline(name="inner")
def inner(names: list):
    with dsl.ParallelFor(names) as name:
        tell(name=name)

@dsl.pipeline(name="outer")
def outer():
    tell(name="alone")
    inner(names=["looped"])
"""


@pytest.mark.parametrize("given", [None, "7"])
def test_tasks_that_run_at_a_time_share_the_cores(tmp_path: Path, given: str | None) -> None:
    (tmp_path / "loop.py").write_text(LOOP + "\ndel inner\n")
    env = {name: value for name, value in environment().items() if name != "OMP_NUM_THREADS"}
    env |= {"OMP_NUM_THREADS": given} if given else {}
    command = [KFP, "run", "submit", "loop.py", "--local"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert f"alone: {given}" in done.stdout
    assert f"looped: {given or max(1, cores() // 2)}" in done.stdout


def test_every_line_of_a_task_is_shown(small: Path, tmp_path: Path) -> None:
    lines = [
        '{"a": 1}',
        "}",
        '    "b": 2',
        "]",
        "[KFP Executor INFO]",
        "[KFP Executor 2026 INFO]: Wrote",
        "-" * 80,
    ]
    done = kfp(
        "run",
        "submit",
        str(small),
        "--local",
        f"word={json.dumps(json.dumps(lines))}",
        "times=1",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    shown = [line.removeprefix("    ") for line in done.stdout.splitlines()]
    first = shown.index(json.dumps(lines)) + 1
    assert shown[first : first + 2 * len(lines)] == [
        shown_line for line in lines for shown_line in (line, f"INFO: {line}")
    ]


def test_a_failed_local_run_is_not_retried(small: Path, tmp_path: Path) -> None:
    done = kfp("run", "submit", str(small), "--local", "word=fail", f"folder={tmp_path}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.count("ValueError: as requested") == 1


def test_a_failed_run_of_the_full_pipeline_still_releases_its_jobs(tmp_path: Path) -> None:
    done = kfp("run", "submit", FULL, "--local", "dataset=nope", f"run={tmp_path}/run", cwd=tmp_path)
    assert done.returncode == 1
    assert " error: no dataset nope; " in done.stdout
    assert "release" in done.stdout
    (line,) = done.stderr.splitlines()[-1:]
    assert line.startswith("error: ")
    assert "Inner task failed" in line
    assert "no dataset nope; without a data registry" in line
    assert "Executing task" in done.stdout
    assert "fetch" not in done.stdout  # the first task has checked the name
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_a_local_run_stops_its_tasks(small: Path, tmp_path: Path, number: signal.Signals) -> None:
    by = "" if number == signal.SIGINT else f" by {number.name}"
    command = [KFP, "run", "submit", str(small), "--local", "word=wait"]
    with subprocess.Popen(
        [*command, f"folder={tmp_path}"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        task = tmp_path / "pid"
        end = time.monotonic() + 60
        while not (task.exists() and task.read_text()):
            assert time.monotonic() < end
            time.sleep(0.1)
        run.send_signal(number)
        said, _ = run.communicate(timeout=20)
    assert run.returncode == 128 + number
    assert "Traceback" not in said
    assert said.splitlines()[-1] == f"error: interrupted{by}; rerun the command to resume"
    end = time.monotonic() + 20
    while Path(f"/proc/{task.read_text()}/cmdline").exists():
        assert time.monotonic() < end, "the task still runs"
        time.sleep(0.1)
