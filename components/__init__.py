"""The five commands, with planning and cleanup, as KFP components: each imports functions and calls them.

Datasets and runs travel as paths on a volume that all tasks share; manifests, scores and reports also as KFP
artifacts. KFP reads a component's annotations when it is defined and ships its source alone, so these files
import inside the functions and do not postpone annotations.
"""

import functools
from collections.abc import Callable
from typing import Any

from kfp import dsl

from xkd.launch.kfp_task import run_own_executor

IMAGE = "xkd:0.1.0"
"""The default image of every task; see the Dockerfile."""


def component(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a ``kfp.dsl.component`` that runs in this project's image, where everything is installed.

    Its command is `xkd.launch.kfp_task` in place of KFP's executor.
    """
    if function is None:
        return functools.partial(component, **options)
    made = dsl.component(function, base_image=IMAGE, install_kfp_package=False, **options)
    command = made.component_spec.implementation.container.command
    command[:] = [run_own_executor(word) for word in command]
    return made
