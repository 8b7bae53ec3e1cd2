"""Take a few float64 steps on random views, with or without torchrun; save the losses and the model.

torchrun --nproc-per-node 2 -m tests.system.two_processes OUT PARTS gather|apart
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.tiny import tiny_config
from xkd.config import MODALITIES, Modality, PretrainConfig
from xkd.launch.distributed import DistributedContext, distributed_context
from xkd.model.vit import CHANNELS
from xkd.model.xkd import XKD
from xkd.train.schedules import schedule
from xkd.train.step import Stepper, mask_noise

STEPS = 4


def main(out: str, parts: str, alignment: str) -> None:
    torch.set_default_dtype(torch.float64)
    config = tiny_config()
    config = replace(
        config,
        loss=replace(config.loss, align_gather=alignment == "gather"),
        run=replace(config.run, accumulate=int(parts)),
    )
    with distributed_context() as context:
        result = train(config, context)
        if context.is_main:
            torch.save(result, out)


def train(config: PretrainConfig, context: DistributedContext) -> dict[str, Any]:
    torch.manual_seed(0)
    stepper = Stepper(XKD(config), config, context)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for step in range(STEPS):
        whole: dict[Modality, list[Tensor]] = {}
        for m in MODALITIES:
            sizes = [config.modality(m).global_view, config.modality(m).local_view]
            whole[m] = [
                torch.randn(config.optim.batch_size, CHANNELS[m], *size, generator=generator)
                for size in sizes
            ]
        parts, count = [], config.run.accumulate
        for part, noise in enumerate(mask_noise(config, step, context), context.rank * count):
            views = {m: [view.chunk(context.size * count)[part] for view in whole[m]] for m in MODALITIES}
            parts.append((views, noise))
        terms = stepper.step(parts, schedule(config, step, 8, 2))
        losses.append(context.all_reduce_mean(terms["loss"]))
    return {"losses": torch.stack(losses), "model": stepper.model.state_dict()}


if __name__ == "__main__":
    main(*sys.argv[1:])
