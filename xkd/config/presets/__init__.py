"""Named configurations: every variant and ablation of the paper, and small ones that run anywhere.

A preset is a function. Its docstring says what it changes, its decorator where in the paper it is. What the
paper measured of it is in ``paper_results.csv``: the ablations are top-1 of a linear SVM on the
teacher's features, on split 1; the VideoMAE baselines, which have no teacher, are means over all splits.
"""

from xkd.config.presets import ablations, published, small
from xkd.config.presets.registry import PRESETS, get_preset

__all__ = ["PRESETS", "ablations", "get_preset", "published", "small"]
