"""How good a run's encoders are: frozen features, a probe, a score (supplement A.5)."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class _Evaluate(ModuleType):
    """A module that can be called: ``xkd.evaluate(...)`` is the function, though the package has its name."""

    def __call__(self, *arguments: Any, **options: Any) -> Path:
        from xkd.evaluate.evaluate import evaluate

        return evaluate(*arguments, **options)


sys.modules[__name__].__class__ = _Evaluate
