"""Fine-tune the encoders of a run on a few labeled clips, and networks that were not pretrained.

Usage: python examples/few_labels.py RUN LABELED OUT
The files of LABELED are LABELED/train/CLASS/* and LABELED/test/CLASS/*.
"""

from __future__ import annotations

import sys
from pathlib import Path

import xkd
from xkd.config import MODALITIES

# With ten clips a class, an epoch has few steps: smaller batches and more epochs than by default.
SETTINGS = {"epochs": 12, "batch_size": 20}


def main(run: Path, labeled: Path, out: Path) -> None:
    """Print the accuracy on the test clips; rerunning resumes where it was interrupted."""
    settings = xkd.PrepareConfig(dataset="classes", short_side=64, max_fps=8)
    dataset = xkd.prepare(labeled, out / "prepared", settings).dataset
    for modality in MODALITIES:
        for encoder in ("teacher", "random"):
            task = xkd.make_task(dataset.name, modality, "finetune", encoder, settings=SETTINGS)
            score = xkd.evaluate(run, out / "prepared", task, out / "scores")
            print(f"{modality}, {encoder}: {score.score:.1%} (by chance {score.chance:.1%})")
    print(f"the fine-tuned networks: {out / 'scores' / 'finetuned'}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
