"""Evaluation of a run's encoders: features, protocols, scores (supplement A.5, A.6)."""

import sys
from types import ModuleType
from typing import Any


class _Evaluate(ModuleType):
    """A module that can be called: ``xkd.evaluate(...)`` is the function, though the package has its name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from xkd.evaluate.evaluate import evaluate

        return evaluate(*arguments, **options)


sys.modules[__name__].__class__ = _Evaluate
