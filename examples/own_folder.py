"""Turn a folder of videos with sound into encoders and a report.

Usage: python examples/own_folder.py CLIPS OUT
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import xkd


def main(clips: Path, out: Path) -> None:
    """Prepare, pretrain, evaluate and report; rerunning resumes where it was interrupted."""
    # Any tree of files. The small presets see 32 x 32 pixels at 8 frames per second: more need not be stored.
    settings = xkd.PrepareConfig(dataset="folder", short_side=64, max_fps=8)
    dataset = xkd.prepare(clips, out / "prepared", settings).dataset

    # Settings are frozen dataclasses: start from a preset and replace what differs. These few epochs only
    # show that everything works; preset `embedded` has 200.
    toy = xkd.get_preset("toy")
    config = replace(toy, optim=replace(toy.optim, epochs=10, warmup_epochs=1, batch_size=16))
    verdict = xkd.pretrain(config, out / "prepared", out / "run")
    print(f"{verdict.verdict}: {verdict.reason}")

    # What needs no labels: how often does a video of the test split find its own sound?
    for encoder in ("teacher", "random"):
        task = xkd.make_task(dataset.name, "audiovisual", "retrieval", encoder)
        xkd.evaluate(out / "run", out / "prepared", task, out / "run" / "scores")

    xkd.tabulate(out / "run", out / "run" / "scores", out / "report")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
