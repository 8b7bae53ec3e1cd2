"""What faults cost: a tiny run on two hosts, which are network namespaces of this machine. Needs root.

python benchmarks/reliability.py --data runs/data/embedded-prepared --out runs/reliability

Prints the tables of docs/reliability.md: for each fault, how long until training goes on, and how many steps
are trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.faults import INTERVAL, elastic, fixed


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a prepared dataset")
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    given = parser.parse_args()
    for name, scenario in (("two hosts", fixed), ("one host or two", elastic)):
        costs, verdict = scenario(given.out.resolve() / scenario.__name__, given.data.resolve())
        print(f"\n{name}: verdict {verdict['verdict']} at step {verdict['step']}\n")
        print("| fault | trains on after | steps trained again | on hosts |\n|---|---|---|---|")
        for cost in costs:
            print(f"| {cost.fault} | {cost.seconds:.0f} s | {cost.lost} of {INTERVAL} | {cost.hosts} |")


if __name__ == "__main__":
    main()
