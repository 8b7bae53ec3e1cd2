"""Pretrain a very small model on a few generated clips, in about a minute on a CPU.

Usage: python examples/pretrain_tiny.py OUT
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import xkd


def main(out: Path) -> None:
    """Generate, prepare and pretrain; rerunning resumes where it was interrupted."""
    # Generated clips with sound in the layout of Kinetics400; `prepare` reads any supported dataset.
    xkd.fetch("embedded", out / "source", clips=40)
    xkd.prepare(out / "source", out / "prepared", xkd.PrepareConfig(short_side=64, max_fps=8))

    # Settings are frozen dataclasses: start from a preset and replace what differs.
    toy = xkd.get_preset("toy")
    config = replace(
        toy,
        encoder=replace(toy.encoder, dim=48, depth=2, heads=2),
        optim=replace(toy.optim, epochs=2, batch_size=10, warmup_epochs=1),
        run=replace(toy.run, workers=0, log_every=1, metrics_port=None),
    )
    verdict = xkd.pretrain(config, out / "prepared", out / "run")
    print(f"{verdict.verdict}: {verdict.reason}")
    print(*sorted((out / "run" / "encoders").iterdir()), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
