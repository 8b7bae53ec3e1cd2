"""XKD: audio-visual pretraining by masked modeling and cross-modal knowledge distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from xkd.train.checkpoint import load_encoder as load_encoder


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the command line must not wait for torch to print its help.
    if name == "load_encoder":
        from xkd.train.checkpoint import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
