"""A few float64 steps on random views, under torchrun or alone: writes what rank 0 saw.

torchrun --nproc-per-node 2 -m tests.train.two_processes OUT
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tests.tiny import tiny_config
from xkd.config import MODALITIES, Modality, PretrainConfig
from xkd.method.model import CHANNELS, XKD
from xkd.train.distributed import World, join_world
from xkd.train.optimizer import build_optimizer
from xkd.train.pretrain import mask_noise, schedule, train_step

STEPS = 4


def main(out: str) -> None:
    torch.set_default_dtype(torch.float64)
    config = tiny_config()
    config = replace(config, loss=replace(config.loss, align_gather=True))
    with join_world() as world:
        result = train(config, world)
        if world.main:
            torch.save(result, out)


def train(config: PretrainConfig, world: World) -> dict[str, Any]:
    torch.manual_seed(0)
    model = XKD(config)
    optimizer = build_optimizer(model, config.optim)
    objective = DistributedDataParallel(model, broadcast_buffers=False) if world.size > 1 else model
    generator = torch.Generator().manual_seed(1)
    losses = []
    for step in range(STEPS):
        views: dict[Modality, list[Tensor]] = {}
        for m in MODALITIES:
            sizes = [config.modality(m).global_view, config.modality(m).local_view]
            whole = [
                torch.randn(config.optim.batch_size, CHANNELS[m], *size, generator=generator)
                for size in sizes
            ]
            views[m] = [view.chunk(world.size)[world.rank] for view in whole]
        now = schedule(config, step, 8, 2)
        terms = train_step(objective, model, optimizer, views, mask_noise(config, step, world), now)
        losses.append(world.mean(terms["loss"].clone()))
    return {"losses": torch.stack(losses), "model": model.state_dict()}


if __name__ == "__main__":
    main(sys.argv[1])
