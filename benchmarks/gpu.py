"""Correctness and speed of xkd on one GPU, in minutes, as a table and as JSON.

    python benchmarks/gpu.py --out gpu --minutes 8

Needs torch 2.7 or later and the packages that `benchmarks/gpu_packages.sh` collects for a machine that has
only torch: no PyAV, torchx or kfp. What is still to do when the minutes are over stays blank, and so does
what fails, with its reason; results are written after each measurement. Exits with 1 if a check of
correctness fails. `--tiny` runs everything small, on any device, in about a minute.

Every speed is the median over steps on the same views of noise. MFU is the FLOPs of all matrix products of a
step per second, relative to torch's fastest product of square matrices of the same type. The plain
implementation is `benchmarks/plain.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.common import parser
from benchmarks.gpu_checks import check_numbers, check_training
from benchmarks.gpu_kit import Kit
from benchmarks.gpu_speeds import Speeds
from xkd.config.presets import get_preset


def main() -> int:
    """Run the kit and print its tables."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--out", type=Path, default=Path("gpu"), help="path of the results, without suffix"
    )
    arguments.add_argument("--minutes", type=float, default=8.0)
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument(
        "--tiny", action="store_true", help="a small model and few repeats, to try the kit"
    )
    given = arguments.parse_args()
    kit = Kit(given.out, given.minutes, torch.device(given.device), given.tiny)
    config = get_preset("toy" if given.tiny else "paper")
    check_numbers(kit, config)
    check_training(kit, config)
    batches, precisions = ([4], ["fp32", "bf16"]) if given.tiny else ([32, 64], ["bf16", "fp16"])
    Speeds(kit, config, batches, precisions).measure()
    print(f"\n{kit.markdown()}")
    if kit.failed:
        print(f"failed: {', '.join(kit.failed)}", file=sys.stderr)
    return int(bool(kit.failed))


if __name__ == "__main__":
    sys.exit(main())
