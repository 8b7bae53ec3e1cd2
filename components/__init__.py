"""The five verbs, and what goes with them, as KFP components: each imports a function and calls it.

Datasets and runs travel as paths on a volume that all tasks share; manifests, scores and reports also
as KFP artifacts. KFP reads the annotations of a component when it is defined and runs its source alone,
so these files import inside the functions and do not postpone annotations.
"""

from collections.abc import Callable
from typing import Any

from kfp import dsl

IMAGE = "xkd:0.1.0"
"""The image of every task unless a pipeline sets another; see the Dockerfile."""


def component(function: Callable[..., Any] | None = None, **settings: Any) -> Any:
    """A component that runs in this package's image, where everything is installed already.

    Args:
        function: what it runs.
        settings: more of ``kfp.dsl.component``.
    """
    return dsl.component(function, base_image=IMAGE, install_kfp_package=False, **settings)
