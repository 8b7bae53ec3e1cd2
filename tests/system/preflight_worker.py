"""A worker whose preflight fails as its arguments say: on a rank, or on "all"; and how."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from xkd.launch import preflight
from xkd.launch.distributed import DistributedContext, distributed_context
from xkd.launch.termination import run_worker


def main() -> dict[str, Any]:
    rank, how = sys.argv[1:]

    def check(context: DistributedContext) -> str:
        if rank not in ("all", str(context.rank)):
            return ""
        if how == "raise":
            raise RuntimeError("CUDA error: uncorrectable ECC error\nCompile with `TORCH_USE_CUDA_DSA`")
        if how == "hang":
            time.sleep(600)
        return "wrong result"

    torch.set_num_threads(1)
    with distributed_context() as context:
        if how == "hang":
            preflight._CHECK_SECONDS = 2.0
            preflight.check_devices(context, {"test": check})
        preflight.check_devices(context, preflight._checks(context) | {"test": check})
    return {}


if __name__ == "__main__":
    run_worker(main)
