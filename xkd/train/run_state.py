"""The run directory: who it belongs to, where it stands and how it ended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from xkd.config import PretrainConfig, load_config
from xkd.config.overrides import difference, to_yaml
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import UserError
from xkd.io import read_json, write_text
from xkd.launch.distributed import DistributedContext
from xkd.rundir import Verdict


class Run:
    """One run's directory, claimed by its configuration and its data."""

    def __init__(
        self, out: Path, config: PretrainConfig, data: PreparedDataset, context: DistributedContext
    ) -> None:
        """Claim the directory.

        Raises:
            UserError: `out` already holds a run of another configuration or other data.
        """
        self.out, self.config, self.context = out, config, context
        if context.is_main:
            claim(out, config)
        context.barrier()
        self.facts: dict[str, Any] = read_json(out / "run.json") if (out / "run.json").exists() else {}
        """What run.json holds."""
        revision = self.facts.get("data_revision", data.revision)
        if revision != data.revision:
            raise UserError(
                f"{out} was started on data revision {revision[:12]}, not {data.revision[:12]}; "
                "use another --out"
            )
        self.facts |= {
            "preset": config.preset,
            "seed": config.run.seed,
            "dataset": data.name,
            "data_revision": data.revision,
            "data_origin": data.origin,
            "commit": git_commit(),
            "processes": context.size,
            "device": torch.cuda.get_device_name() if context.device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "kfp_run": os.environ.get("KFP_RUN_ID", ""),
        }

    @property
    def finished(self) -> bool:
        """Whether an earlier process ended this run; then there is nothing left to do."""
        return (self.out / "verdict.json").exists()

    @property
    def rollbacks(self) -> int:
        """How often the run went back to an earlier checkpoint."""
        return len(self.facts.get("rollbacks", []))

    def rolled_back(self, verdict: Verdict, step: int) -> None:
        """Record that the run goes back to `step`, and keep the rows that it leaves behind."""
        self.facts["rollbacks"] = [*self.facts.get("rollbacks", []), {**verdict.to_dict(), "to": step}]
        if self.context.is_main:
            shutil.copy(
                self.out / "metrics.jsonl", self.out / f"metrics_before_rollback_{self.rollbacks}.jsonl"
            )
        self.paused()

    def started(self, first: int, steps: int, address: str | None) -> None:
        """Say and record that training goes on after `first` of `steps` steps."""
        self._begin = time.time() - self.facts.get("seconds", 0.0)
        self.facts |= {"steps": steps}
        self._write("run.json", self.facts)
        if not self.context.is_main:
            return
        resumed = f", resumed after step {first}" if first else ""
        metrics = f", metrics at {address}" if address else ""
        print(f"pretrain: {steps} steps into {self.out}{resumed}{metrics}", file=sys.stderr, flush=True)

    def paused(self) -> None:
        """Record how long it has trained so far."""
        self.facts |= {"seconds": time.time() - self._begin}
        self._write("run.json", self.facts)

    def finish(self, verdict: Verdict) -> None:
        """Record the end; verdict.json is written last and marks the run finished."""
        self.paused()
        self._write("verdict.json", verdict.to_dict())

    def _write(self, name: str, values: dict[str, Any]) -> None:
        if self.context.is_main:
            write_text(self.out / name, json.dumps(values, indent=2) + "\n")


def claim(out: Path, config: PretrainConfig) -> None:
    """Make `out` the run directory of `config`, or confirm that it already is.

    Raises:
        UserError: it holds a run whose settings differ (``run.*`` may, but for the seed), or
            something that is no run at all.
    """
    saved = out / "config.yaml"
    if saved.exists():
        changed = [
            name
            for name in difference(load_config(saved), config)
            if not name.startswith("run.") or name == "run.seed"
        ]
        if changed:
            raise UserError(f"{out} holds a run with another {', '.join(changed)}; use another --out")
    elif out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and holds no run; use another --out")
    write_text(saved, to_yaml(config))


def git_commit() -> str:
    """The commit of the code that runs: of its checkout, or what its image was built from; else "unknown"."""
    here = Path(__file__).resolve().parent
    with suppress(FileNotFoundError):  # an image has no git
        command = ["git", "-C", str(here), "rev-parse", "--verify", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.strip()
    return os.environ.get("XKD_COMMIT", "unknown")
