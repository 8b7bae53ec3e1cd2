"""XKD: audio-visual pretraining by masked autoencoding and cross-modal knowledge distillation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xkd.config import PretrainConfig as PretrainConfig
    from xkd.config.presets import get_preset as get_preset
    from xkd.data.fetch.fetch import fetch as fetch
    from xkd.data.shards.prepare import PrepareConfig as PrepareConfig
    from xkd.data.shards.prepare import prepare as prepare
    from xkd.embedding.embed import embed as embed
    from xkd.evaluation.evaluate import evaluate as evaluate
    from xkd.evaluation.plan import make_task as make_task
    from xkd.report.tabulate import tabulate as tabulate
    from xkd.train.pretrain import pretrain as pretrain
    from xkd.weights import load as load

__version__ = "0.1.0"

_MODULES = {
    "PrepareConfig": "xkd.data.shards.prepare",
    "PretrainConfig": "xkd.config",
    "embed": "xkd.embedding.embed",
    "evaluate": "xkd.evaluation.evaluate",
    "fetch": "xkd.data.fetch.fetch",
    "get_preset": "xkd.config.presets",
    "load": "xkd.weights",
    "make_task": "xkd.evaluation.plan",
    "prepare": "xkd.data.shards.prepare",
    "pretrain": "xkd.train.pretrain",
    "tabulate": "xkd.report.tabulate",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    # Imported on first use: `xkd --help` must not wait for torch.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
