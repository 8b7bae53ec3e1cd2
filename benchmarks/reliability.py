"""What faults cost: a tiny run on two hosts, which are network namespaces of this machine. Needs root.

python benchmarks/reliability.py --out runs/reliability

Prints the tables of docs/reliability.md: for each fault, how long until training goes on, and how many steps
are trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.faults import INTERVAL, elastic, fixed
from xkd.data.fetch.fetch import fetch
from xkd.data.shards.prepare import PrepareConfig, prepare


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    out = parser.parse_args().out.resolve()
    fetch("embedded", out / "source", clips=40)
    prepare(out / "source", out / "prepared", PrepareConfig(short_side=48, max_fps=8))
    for name, scenario in (("two hosts", fixed), ("one host or two", elastic)):
        costs, verdict = scenario(out / scenario.__name__, out / "prepared")
        print(f"\n{name}: verdict {verdict['verdict']} at step {verdict['step']}\n")
        print("| fault | trains on after | steps trained again | on hosts |\n|---|---|---|---|")
        for cost in costs:
            print(f"| {cost.fault} | {cost.seconds:.0f} s | {cost.lost} of {INTERVAL} | {cost.hosts} |")


if __name__ == "__main__":
    main()
