"""Define a variant of a preset in Python and write it as a file for `xkd pretrain --config`.

Usage: python examples/custom_preset.py FILE.yaml
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import xkd
from xkd.config.overrides import to_yaml


def two_local_views() -> xkd.PretrainConfig:
    """Return the paper's preset with two local views per modality and a longer warmup."""
    paper = xkd.get_preset("paper")
    return replace(
        paper,
        video=replace(paper.video, local_views=2),
        audio=replace(paper.audio, local_views=2),
        optim=replace(paper.optim, warmup_epochs=40),
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(to_yaml(two_local_views()))
