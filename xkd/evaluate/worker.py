"""One of several processes that evaluate a task together, as torchrun starts it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from xkd.data.shards.manifest import PreparedDataset
from xkd.evaluate.evaluate import evaluate_here
from xkd.evaluate.task import parse_task
from xkd.launch.worker import run_worker


def main() -> dict[str, Any]:
    """``--run DIR --data DIR --out DIR --task JSON``."""
    parser = argparse.ArgumentParser(prog="python -m xkd.evaluate.worker", description=main.__doc__)
    for name in ("run", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--task", required=True, help="fields of xkd.evaluate.task.Task")
    given = parser.parse_args()
    dataset, task = PreparedDataset.open(given.data), parse_task(json.loads(given.task))
    evaluate_here(given.run, dataset, task, given.out)
    return {}


if __name__ == "__main__":
    run_worker(main)
