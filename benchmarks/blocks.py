"""The time that passing all views through the transformer blocks together saves on this machine's CPU.

python benchmarks/blocks.py --preset paper --batch 4

The masked global view and the local views pass through the student's blocks as rows of one matrix, compared
with one after the other. Both variants alternate within one process, forward and backward; the ratio is the
median over the pairs.
"""

from __future__ import annotations

import math
from statistics import median

import torch
from torch import Tensor

from benchmarks.common import Timer, preset_parser
from xkd.config import Modality, PretrainConfig
from xkd.config.overrides import resolve
from xkd.config.presets import get_preset
from xkd.launch.distributed import keep_freed_memory
from xkd.model.vit import CHANNELS, Encoder, build_encoder


def student_tokens(config: PretrainConfig, encoder: Encoder, modality: Modality) -> list[Tensor]:
    """Return the student's tokens of a batch: the visible ones of the global view, and the local views."""
    c, batch = config.modality(modality), config.optim.batch_size
    visible = round((1 - c.mask_ratio) * math.prod(c.grid))
    local = torch.randn(batch * c.local_views, CHANNELS[modality], *c.local_view)
    masked = torch.randn(batch, 1 + visible, config.encoder.dim)
    return [masked, encoder.embed_view(local).detach()]


def main() -> None:
    """Time both variants for each modality and print the table."""
    args = preset_parser(__doc__, preset="paper", batch=4, repeats=9).parse_args()
    config = resolve(get_preset(args.preset), optim={"batch_size": args.batch})
    keep_freed_memory()
    timer = Timer(torch.device("cpu"))
    threads = torch.get_num_threads()
    print(f"preset {args.preset}, batch {args.batch}, {threads} threads, forward and backward")
    print("\n| blocks | ms apart | ms together | time |\n|---|---:|---:|---:|")
    for modality in config.modalities:
        torch.manual_seed(0)
        encoder = build_encoder(config, modality)
        tokens = student_tokens(config, encoder, modality)

        def backward(outputs: list[Tensor]) -> None:
            torch.cat([out.flatten() for out in outputs]).square().mean().backward()  # type: ignore[no-untyped-call]

        def together() -> None:
            backward(encoder.encode(*tokens))  # noqa: B023

        def apart() -> None:
            backward([encoder.encode(one)[0] for one in tokens])  # noqa: B023

        pairs = [(timer.seconds(apart), timer.seconds(together)) for _ in range(2 + args.repeats)]
        before, after = (1000 * median(column) for column in zip(*pairs[2:], strict=True))
        ratio = median(new / old for old, new in pairs[2:])
        print(f"| {modality} | {before:.0f} | {after:.0f} | {ratio - 1:+.1%} |")


if __name__ == "__main__":
    main()
