r"""xkd and other libraries that do the same work, in turns within one run.

python benchmarks/peers.py step --batch 4 16
python benchmarks/peers.py reading

step: pretraining with preset `videomae_112`, and transformers' `VideoMAEForPreTraining` (`peers_step.py`).
reading: a window of 4 s with sound, by xkd, torchcodec, decord and PyAV (`peers_reading.py`); needs the
ffmpeg program with libx264 and libxvid.

transformers and torchcodec are not dependencies of xkd: pip install transformers torchcodec==0.10 (the
version for torch 2.10; it needs FFmpeg's shared libraries, on Debian the package ffmpeg).
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks import peers_reading, peers_step
from benchmarks.common import parser
from xkd.config.overrides import resolve
from xkd.config.presets import get_preset


def versions(*packages: str) -> str:
    """Return the versions of packages."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def main() -> None:
    """Print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=("step", "reading"))
    arguments.add_argument("--preset", default="videomae_112", help="of the step; with tube masks of video")
    arguments.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of the step")
    arguments.add_argument("--batch", type=int, nargs="+", default=[4, 16])
    arguments.add_argument("--repeats", type=int, default=5, help="rounds of steps")
    arguments.add_argument("--threads", type=int, default=1, help="of a step on the CPU")
    arguments.add_argument("--windows", type=int, default=15)
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = arguments.parse_args()
    if given.what == "reading":
        print(versions("av", "decord", "torchcodec", "torch"))
        peers_reading.compare(given.windows)
        return
    if importlib.util.find_spec("transformers") is None:
        arguments.error("the step is compared with transformers' model: pip install transformers")
    config = resolve(get_preset(given.preset), None, given.set)
    if config.modalities != ("video",) or config.video.mask != "tube":
        arguments.error(
            f"preset {given.preset}: only a masked autoencoder of video with tube masks has a peer"
        )
    print(versions("transformers", "torch"))
    print(peers_step.check_equal(config), flush=True)
    for batch in given.batch:
        peers_step.compare(config, batch, given.repeats, given.device, given.threads)


if __name__ == "__main__":
    main()
