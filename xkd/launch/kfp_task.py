"""A pipeline's task on this machine: KFP's executor without its own log, which prints the whole input.

The executor keeps an existing configuration of the root logger. What the task prints and logs is shown.
"""

from __future__ import annotations

import logging
import sys


def main() -> None:
    """Execute a component; arguments as of ``kfp.dsl.executor_main``."""
    from kfp.dsl import executor_main

    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(lambda record: record.module != "executor_main")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", handlers=[handler])
    executor_main.executor_main()


if __name__ == "__main__":
    main()
