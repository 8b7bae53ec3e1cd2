r"""The video views of a preset, made by xkd and by other libraries from the same frames.

python benchmarks/views.py           # with any of: pip install opencv-python-headless kornia numba

Each makes the same crop, size, flip, color jitter (factors and order), gray and blur, as its documentation
shows, and standardizes the result to (3, T, H, W). One clip at a time; processor time of one thread, by turns
in one process; medians. Differences from xkd's views are in levels of 255. numba stands for xkd's views with
their color jitter compiled (`views_fused.py`). OpenCV works on bytes, Kornia on floats, torchvision on both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks.common import parser
from benchmarks.peers import versions
from benchmarks.views_fused import fused_jitter, optional
from benchmarks.views_libraries import Library, libraries
from xkd.config import PretrainConfig
from xkd.config.presets import get_preset
from xkd.data.transforms import views as ours
from xkd.data.transforms.params import ClipParams, draw_params, pretrain_views
from xkd.data.transforms.views import to_pixels
from xkd.launch.distributed import keep_freed_memory

Make = Callable[[Tensor, ClipParams], list[Tensor]]


def makers(config: PretrainConfig) -> dict[str, Make]:
    """Return functions from frames (T, 3, H, W) and a clip's parameters to views; xkd's is the first."""
    specs = pretrain_views(config)
    views = ours.Views(config, specs)

    def xkd(frames: Tensor, params: ClipParams) -> list[Tensor]:
        made: dict[str, list[Tensor]] = views({"frames": frames[None], "params": params})
        return made["video"]

    def fused(frames: Tensor, params: ClipParams) -> list[Tensor]:
        with patch.object(ours, "jitter", fused_jitter):
            return xkd(frames, params)

    def by(library: Library) -> Make:
        def make(frames: Tensor, params: ClipParams) -> list[Tensor]:
            made = library.views(frames, params.video, [size for _, size in specs.video])
            return [view.sub_(views.mean).div_(views.std)[None] for view in made]

        return make

    made: dict[str, Make] = {"xkd": xkd}
    if optional("numba"):
        made["xkd, jitter by numba"] = fused
    return made | {name: by(library) for name, library in libraries().items()}


def random_clip(config: PretrainConfig, number: int, height: int, width: int) -> tuple[Tensor, ClipParams]:
    """Return frames of soft shapes, uint8 (T, 3, H, W) as decoded, and random parameters of their views."""
    generator = torch.Generator().manual_seed(number)
    shapes = torch.rand(config.video.global_view[0], 3, height // 8, width // 8, generator=generator)
    frames = F.interpolate(shapes, (height, width), mode="bicubic").clamp_(0, 1).mul_(255).byte()
    params = draw_params(np.random.default_rng(number), pretrain_views(config), config, height, width)
    return frames.contiguous(memory_format=torch.channels_last), default_collate([params])


def compare(
    config: PretrainConfig, clips: int, repeats: int, height: int, width: int
) -> dict[str, tuple[float, float, float]]:
    """Return the ms per clip of each, and the largest and the mean difference from xkd in levels of 255."""
    work = makers(config)
    spent: dict[str, list[float]] = {name: [] for name in work}
    off: dict[str, list[Tensor]] = {name: [] for name in work}
    for number in range(clips):
        clip = random_clip(config, number, height, width)
        made = {name: make(*clip) for name, make in work.items()}  # a warm-up, too
        for name, views in made.items():
            pairs = zip(views, made["xkd"], strict=True)
            off[name] += [
                (to_pixels(one) - to_pixels(other)).abs().mul_(255).flatten() for one, other in pairs
            ]
        for _ in range(repeats):
            for name, make in work.items():
                begin = time.process_time()
                make(*clip)
                spent[name].append(1000 * (time.process_time() - begin))
    joined = {name: torch.cat(each) for name, each in off.items()}
    return {name: (median(spent[name]), float(x.max()), float(x.mean())) for name, x in joined.items()}


def main() -> None:
    """Measure and print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--preset", default="paper")
    arguments.add_argument("--clips", type=int, default=8)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--size", type=int, nargs=2, default=(256, 340), help="height and width of frames")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(versions("torch", "torchvision", "opencv-python-headless", "kornia", "numba"))
    rows = compare(get_preset(given.preset), given.clips, given.repeats, *given.size)
    print("\n| views by | ms per clip | xkd's time / its time | largest difference | mean |")
    print("|---|---:|---:|---:|---:|")
    for name, (spent, largest, mean) in rows.items():
        print(f"| {name} | {spent:.1f} | {rows['xkd'][0] / spent:.2f} | {largest:.1f} | {mean:.2f} |")


if __name__ == "__main__":
    main()
