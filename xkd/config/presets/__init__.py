"""Named configurations: every variant and ablation of the paper, and small ones that run anywhere.

A preset is an entry of a YAML table: a summary, its source in the paper, the settings laid over those of its
base, and those of ``xkd prepare`` for its clips. The paper's results with it are in ``paper_results.csv``:
the ablations are top-1 of a linear SVM on the teacher's features, on split 1; the VideoMAE baselines, which
have no teacher, are means over all splits.
"""

from xkd.config.presets.registry import PRESETS, get_prepare_settings, get_preset, resolve_pretrain

__all__ = ["PRESETS", "get_prepare_settings", "get_preset", "resolve_pretrain"]
