"""The cost of faults: a small run on two hosts, which are network namespaces of this machine. Needs root.

python benchmarks/reliability.py --out runs/reliability

Prints the tables of docs/reliability.md: for each fault, the time until training continues, and the number of
steps that are trained again.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.common import parser
from benchmarks.faults import CHECKPOINT_STEPS, elastic_hosts, fixed_hosts, prepare_clips
from xkd.config.overrides import resolve
from xkd.config.presets import get_preset

SETTINGS = ("optim.batch_size=4", "optim.warmup_epochs=1", "run.workers=0", "run.metrics_port=null")


def main() -> None:
    """Print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--out", type=Path, required=True, help="new output directory")
    out = arguments.parse_args().out.resolve()
    data = prepare_clips(out)
    config = resolve(get_preset("lab"), None, SETTINGS)
    for name, scenario in (("two hosts", fixed_hosts), ("one or two hosts", elastic_hosts)):
        costs, verdict = scenario(out / scenario.__name__, data, config)
        print(f"\n{name}: verdict {verdict.verdict} at step {verdict.step}\n")
        print("| fault | training resumes after | repeated steps | hosts |\n|---|---|---|---|")
        for cost in costs:
            repeated = f"{cost.repeated} of {CHECKPOINT_STEPS}"
            print(f"| {cost.fault} | {cost.seconds:.0f} s | {repeated} | {cost.hosts} |")


if __name__ == "__main__":
    main()
