"""Named configurations: every variant and ablation of the paper, and small ones that run anywhere.

A preset is a function. Its docstring says what it changes, its decorator where in the paper it is and what
the paper measured: top-1 of a linear SVM on HMDB51, UCF101 and ESC50, of the teacher on the first splits. For
the VideoMAE baselines, which have no teacher, it is the mean over all splits.
"""

from xkd.presets import ablations, small, variants
from xkd.presets.registry import PRESETS, get_preset

__all__ = ["PRESETS", "ablations", "get_preset", "small", "variants"]
