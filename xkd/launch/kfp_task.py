"""A pipeline's task: KFP's executor, with a user's mistake as one line and without a log of the input.

The executor keeps an existing configuration of the root logger. What the task prints and logs is shown.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from xkd.errors import XkdError, interruptions_as_errors
from xkd.launch.interrupts import handle_stop_signals, raise_stop

ERRORS = "XKD_TASK_ERRORS"
"""Environment variable with the path of a file for the errors of a pipeline's tasks, a line each."""
_EXECUTOR = "kfp.dsl.executor_main"


def main() -> None:
    """Execute a component; arguments as of ``kfp.dsl.executor_main``."""
    handle_stop_signals(raise_stop)
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(lambda record: record.module != "executor_main")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", handlers=[handler])
    try:
        with interruptions_as_errors():
            from kfp.dsl import executor_main

            executor_main.executor_main()
    except XkdError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if path := os.environ.get(ERRORS):
            with Path(path).open("a") as file:
                file.write(f"{error}\n")
        sys.exit(error.exit_code)


def run_own_executor(word: str) -> str:
    """Return a word of a component's command with this module in place of KFP's executor.

    KFP's local runner requires the executor's name, which this module ignores.
    """
    return word.replace(f"-m {_EXECUTOR} ", f"-m {__name__} {_EXECUTOR} ")


if __name__ == "__main__":
    main()
