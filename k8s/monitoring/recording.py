"""Recorded runs in a real Prometheus: ``python -m k8s.monitoring.recording RUN`` records a finished run.

Its scores, in ``RUN/scores``, are recorded as a real Pushgateway serves them. `replayed` passes each row of
the recorded runs through the exporter, has promtool turn the results into Prometheus's blocks and evaluate
the recording rules over them, and starts a Prometheus on these blocks.
"""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from xkd.monitor.collapse import CollapseThresholds
from xkd.monitor.exporter import MetricsExporter
from xkd.monitor.metrics import SCORE
from xkd.monitor.run_monitor import RunMonitor
from xkd.rundir import RunDir

HERE = Path(__file__).parent
RECORDED = HERE / "recorded"
RULES: dict[str, Any] = yaml.safe_load((HERE / "rules.yaml").read_text())["spec"]
NAMESPACE = "xkd"
STEP = 2
"""Seconds between scrapes, and between the points of queries over the recorded time."""


@dataclass(frozen=True)
class Prometheus:
    """The API of a running server, which has data from `begin` to `end`."""

    address: str
    begin: float = 0.0
    end: float = 0.0

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the data of a response."""
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310
            return json.load(answer)["data"]

    def query_range(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression over the whole time."""
        interval = {"start": self.begin, "end": self.end, "step": STEP}
        found: list[dict[str, Any]] = self.get("query_range", query=expression, **interval)["result"]
        return found

    def during(self, run: str) -> Prometheus:
        """Return the same server, restricted to the time of the runs that match, with their evaluation."""
        series = self.query_range(f'{{__name__=~"xkd_run_info|{SCORE}", run=~"{run}"}}')
        times = [float(when) for each in series for when, _ in each["values"]]
        return replace(self, begin=min(times), end=max(times))


def record(run: RunDir) -> dict[str, Any]:
    """Return what the exporter needs of a finished run, with five digits of every number."""
    config, info = run.config(), run.info()
    thresholds = CollapseThresholds.from_config(config, info["steps"] // config.optim.epochs)
    times = ("time", "checkpoint_time")
    rows = [
        {name: value if name in times else _rounded(value) for name, value in row.items()}
        for row in run.metrics()
    ]
    values = {"steps": info["steps"], "log_every": config.run.log_every, "rollbacks": 0}
    recorded = {"info": info, "thresholds": asdict(thresholds), "values": values, "rows": rows}
    return recorded | {"scores": _pushed_scores(run) if run.scores.exists() else []}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _pushed_scores(run: RunDir) -> list[list[Any]]:
    """Return the labels and values that a Pushgateway serves while ``xkd tabulate`` pushes the scores."""
    with tempfile.TemporaryDirectory() as name:
        # Without a file of its own, Debian's build shares one with all others on this machine.
        gateway = ["prometheus-pushgateway", f"--persistence.file={name}/pushgateway.data"]
        with served(gateway, Path(name) / "log") as address:
            command = [str(Path(sys.executable).with_name("xkd")), "tabulate", f"--run={run.path}"]
            command += [f"--scores={run.scores}", f"--out={name}/report", f"--pushgateway={address}"]
            with subprocess.Popen(command) as tabulate:
                pushed: list[list[Any]] = []
                while not pushed and tabulate.poll() is None:
                    time.sleep(1.0)
                    with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:  # noqa: S310
                        families = text_string_to_metric_families(answer.read().decode())
                    pushed = [[s.labels, s.value] for f in families if f.name == SCORE for s in f.samples]
                tabulate.terminate()
    return pushed


def scrapes(name: str, recorded: dict[str, Any], folder: Path) -> Iterator[tuple[float, list[Metric]]]:
    """Yield the time of each scrape of a run, which starts now, and what Prometheus scrapes.

    Its scores are pushed as soon as it ends: a real evaluation takes its time.
    """
    exporter = MetricsExporter(name, recorded["info"], recorded["values"])
    monitor = RunMonitor(RunDir(folder), CollapseThresholds(**recorded["thresholds"]), exporter, write=False)
    now = time.time()
    shift = now - recorded["rows"][0]["time"]
    for row in recorded["rows"]:
        moved = {key: row[key] + shift for key in ("time", "checkpoint_time") if key in row}
        while now < moved["time"]:
            yield now, list(exporter.collect())
            now += STEP
        monitor.log(row | moved)
    yield now, list(exporter.collect())
    scores = Metric(SCORE, "", "gauge")
    for labels, value in recorded["scores"]:
        scores.add_sample(SCORE, labels, value)
    yield now + STEP, [scores]


def openmetrics(folder: Path) -> tuple[str, float, float]:
    """Return all recorded runs in Prometheus's text format, with the times of the first and last sample."""
    families: dict[str, list[str]] = {}
    times = []
    for path in sorted(RECORDED.glob("*.json.gz")):
        name = path.name.removesuffix(".json.gz")
        target = {"namespace": NAMESPACE, "pod": f"xkd-{name}-0123456789-train-0-0"}
        for when, metrics in scrapes(name, json.loads(gzip.decompress(path.read_bytes())), folder):
            times.append(when)
            for family in metrics:
                lines = families.setdefault(family.name, [f"# TYPE {family.name} {family.type}"])
                for sample in family.samples:
                    # A Pushgateway is another target; what it serves says so itself.
                    pairs = (sample.labels if family.name == SCORE else sample.labels | target).items()
                    labels = ",".join(f"{key}={json.dumps(value)}" for key, value in pairs)
                    lines.append(f"{sample.name}{{{labels}}} {sample.value!r} {when:.3f}")
    text = "".join(f"{line}\n" for lines in families.values() for line in lines)
    return text.replace(" nan ", " NaN ").replace(" inf ", " +Inf ") + "# EOF\n", min(times), max(times)


@contextmanager
def replayed() -> Iterator[Prometheus]:
    """Start a Prometheus that holds the recorded runs and the series of the recording rules."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, rules, metrics = folder / "data", folder / "rules.yaml", folder / "metrics.txt"
        text, begin, end = openmetrics(folder / "run")
        metrics.write_text(text)
        rules.write_text(yaml.safe_dump(RULES))
        blocks = ["promtool", "tsdb", "create-blocks-from"]
        _run(*blocks, "openmetrics", str(metrics), str(data))
        with _started(data, begin, end) as server:
            window = (f"--start={begin - STEP:.0f}", f"--end={end + STEP:.0f}", f"--eval-interval={STEP}s")
            _run(*blocks, "rules", *window, f"--url={server.address}", f"--output-dir={data}", str(rules))
        with _started(data, begin, end) as server:
            yield server


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")


@contextmanager
def _started(data: Path, begin: float, end: float) -> Iterator[Prometheus]:
    """Start a Prometheus on existing blocks, which scrapes nothing."""
    config = data.with_name("prometheus.yaml")
    config.write_text("{}\n")
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}"]
    # A run that has ended has no data, as if its target had disappeared.
    command.append(f"--query.lookback-delta={2 * STEP}s")
    with served(command, data.with_name("prometheus.log")) as address:
        yield Prometheus(address, begin, end)


@contextmanager
def served(command: list[str], log: Path) -> Iterator[str]:
    """Run a server of Prometheus's on a free port until the end; yield its URL once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [*command, f"--web.listen-address={address}"]
    with log.open("w") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            _wait_until_ready(process, f"http://{address}/-/ready", log)
            yield f"http://{address}"
        finally:
            process.terminate()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"a server did not start: {log.read_text()}")


if __name__ == "__main__":
    finished = RunDir(Path(sys.argv[1]))
    content = json.dumps(record(finished), separators=(",", ":")).encode()
    RECORDED.mkdir(exist_ok=True)
    (RECORDED / f"{finished.name}.json.gz").write_bytes(gzip.compress(content, mtime=0))
