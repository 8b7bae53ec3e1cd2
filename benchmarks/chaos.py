"""A pretraining of a pipeline whose surroundings fail one after the other. Needs root.

python benchmarks/chaos.py --out runs/chaos

The launcher is the compiled task `pretrain` with KFP's executor and a service account's token, its API
server is that of the tests, and its job trains on two hosts, which are network namespaces of this machine.
Prints the table of docs/reliability.md, and whether the losses are those of a training without faults.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import parser
from benchmarks.faults import CHECKPOINT_STEPS, DisturbedRun, Recovery, prepare_clips
from benchmarks.hosts import Hosts
from benchmarks.volcano import Volcano
from tests.components.containers import RELEASE, TASK, compile_containers, fill
from tests.kubernetes.launching import IN_A_POD
from tests.kubernetes.server import FakeCluster
from xkd.rundir import RunDir

SETTINGS = (
    *("optim.batch_size=4", "optim.warmup_epochs=1", "run.workers=0", "run.metrics_port=null"),
    *("optim.epochs=360", "run.log_every=1", "run.peer_seconds=15"),
    f"run.checkpoint_every={CHECKPOINT_STEPS}",
)
ROOT = Path(__file__).resolve().parents[1]
GRACE_SECONDS = 1.0
"""Time that KFP gives a task whose pod is deleted."""


class Task:
    """A task of a pipeline run, in its pod."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as file:
            self._begin = file.tell()
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def output(self) -> str:
        """What it has written."""
        return self._log.read_bytes()[self._begin :].decode(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill it, if it still runs."""
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()

    def wait(self, output: str) -> None:
        """Wait for its end; it must succeed and have written this."""
        assert self.process.wait() == 0, self.output
        assert output in self.output, self.output


class Pipeline:
    """A run of the pipeline that pretrains, and the cluster's API server and service account that it uses.

    Args:
        folder: for logs, outputs and the account's files.
        inputs: of the task `pretrain`.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Any]) -> None:
        self._folder, self._inputs, self._account = folder, inputs, create_account(folder / "account")
        self._containers = compile_containers(folder)
        self._run_id = "run-1"
        self.cluster = FakeCluster(self._account / "server.pem")

    def __enter__(self) -> Pipeline:
        self.replace_token("token-1")
        self.launch()
        return self

    def __exit__(self, *_: object) -> None:
        self.launcher.kill()

    def launch(self) -> None:
        """Start the task that submits the job or attaches to it; wait until it follows the job."""
        self.launcher = self._start("pretrain", self._inputs)
        self.wait(lambda: "Running" in self.launcher.output)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition while the launcher runs."""
        while not condition():
            assert self.launcher.process.poll() is None, self.launcher.output
            time.sleep(0.1)

    def replace_token(self, token: str) -> None:
        """Replace the account's token, as the kubelet does in time; the server now rejects the old one."""
        new = self._account / "new"
        new.write_text(token)
        new.rename(self._account / "token")
        self.cluster.token = token

    def evict(self) -> None:
        """End the launcher as Argo's executor does when the pod is deleted; Argo starts another one."""
        self.launcher.signal(signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill the launcher; Argo starts another one."""
        self.launcher.kill()
        self.launch()

    def fail(self) -> None:
        """End this pipeline run after its launcher failed, and start another one."""
        self.launcher.kill()
        self._start("release", RELEASE).wait("jobs cancelled: none")
        self._run_id = "run-2"
        self.launch()

    def wait_for_requests(self) -> None:
        """Wait until the launcher again reads its job."""
        answered = len(self.cluster.requests)
        self.wait(lambda: len(self.cluster.requests) > answered + 3)

    def _start(self, name: str, inputs: Mapping[str, Any]) -> Task:
        words = fill(self._containers[name], name, inputs, self._folder)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        server = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.cluster.port)}
        return Task(
            ["unshare", "--mount", "sh", "-e", "-c", IN_A_POD, str(self._account), *words],
            os.environ | server | {"KFP_RUN_ID": self._run_id, "PATH": path},
            self._folder / "launcher.log",
        )


def create_account(folder: Path) -> Path:
    """Write what a pod finds of its service account, without a token, and the server's key."""
    folder.mkdir()
    (folder / "namespace").write_text("research")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "server.pem"]
    subject = ["-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1", "-out", "ca.crt"]
    subprocess.run(["openssl", "req", "-x509", *key, *subject], cwd=folder, check=True, capture_output=True)
    with (folder / "server.pem").open("a") as file:
        file.write((folder / "ca.crt").read_text())
    return folder


Scenario = Callable[[DisturbedRun, Pipeline, Volcano], list[Recovery]]


def train(
    folder: Path, data: Path, settings: Sequence[str], scenario: Scenario
) -> tuple[list[Recovery], RunDir]:
    """Pretrain preset lab on two hosts to the end, and meanwhile run a scenario.

    Returns:
        What the scenario returns, and the run, which is healthy; no job and no process is left.
    """
    folder.mkdir(parents=True)
    out = folder / "run"
    empty = ("revision", "gpu_image", "node_type", "cpu", "memory", "gpus")
    inputs = dict.fromkeys(empty, "") | {
        "preset": "lab",
        "settings": [*settings],
        "data": str(data),
        "out": str(out),
        "processes": 1,
        "nodes": 2,
        "image": "xkd",
        "cluster_settings": [],
        "task": TASK,
    }
    with Hosts(2, folder) as hosts:
        pipeline = Pipeline(folder, inputs)
        with pipeline.cluster, Volcano(pipeline.cluster, hosts) as volcano, pipeline:
            run = DisturbedRun(hosts, out)
            costs = scenario(run, pipeline, volcano)
            pipeline.launcher.wait("verdict: healthy")
            run.wait_until(lambda: not any(map(hosts.processes, range(hosts.count))))
            assert pipeline.cluster.left() == []
    return costs, run.dir


def every_fault(outage: float) -> Scenario:
    """Return a scenario of all faults, one after the other.

    Args:
        outage: seconds without the API server.
    """

    def scenario(run: DisturbedRun, pipeline: Pipeline, volcano: Volcano) -> list[Recovery]:
        hosts = run.hosts

        def lose_api() -> None:
            pipeline.cluster.stop()
            time.sleep(outage)
            pipeline.cluster.resume()
            pipeline.wait_for_requests()

        def replace_token() -> None:
            pipeline.replace_token("token-2")
            pipeline.wait_for_requests()

        return [
            run.endure("the launcher's pod is evicted", pipeline.evict),
            run.endure("`kill -9` of the launcher", pipeline.kill),
            run.endure("the launcher fails, `release` runs, a new pipeline run starts", pipeline.fail),
            run.endure(f"no API server for {outage:.0f} s", lose_api),
            run.endure("the account's token is replaced", replace_token),
            run.measure("`kill -9` of a worker", lambda: os.kill(hosts.worker(1), signal.SIGKILL)),
            run.measure("host 1 is lost", lambda: hosts.kill(1)),
            run.measure("host 0 is lost", lambda: hosts.kill(0)),
            run.measure("both pods fail at once, and Volcano gives up", volcano.lose_all_pods),
        ]

    return scenario


def losses(run: RunDir) -> list[dict[str, Any]]:
    """Return what was logged of each step, except for times."""
    return [
        {name: value for name, value in row.items() if "second" not in name and "time" not in name}
        for row in run.metrics()
    ]


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--out", type=Path, required=True, help="new output directory")
    out = arguments.parse_args().out.resolve()
    data = prepare_clips(out)
    costs, disturbed = train(out / "disturbed", data, SETTINGS, every_fault(outage=60))
    print("| fault | training continues after | repeated steps |\n|---|---|---|")
    for cost in costs:
        resumed = f"{cost.seconds:.0f} s" if cost.seconds else "not interrupted"
        print(f"| {cost.fault} | {resumed} | {cost.repeated} of {CHECKPOINT_STEPS} |", flush=True)
    _, undisturbed = train(out / "undisturbed", data, SETTINGS, lambda *_: [])
    equal = losses(disturbed) == losses(undisturbed)
    which = "equal to" if equal else "DIFFERENT from"
    print(f"\nThe losses of {len(losses(disturbed))} steps are {which} those of a training without faults.")
    sys.exit(not equal)


if __name__ == "__main__":
    main()
