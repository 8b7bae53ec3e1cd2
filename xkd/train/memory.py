"""The memory that pretraining needs, estimated from the settings, and the check before it starts.

The formulas follow what autograd keeps of each layer (`xkd.model`); docs/benchmarks.md compares them with
measurements.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from xkd.config import Modality, PretrainConfig, TransformerConfig
from xkd.errors import UserError
from xkd.launch.distributed import DistributedContext
from xkd.launch.termination import worker_environment
from xkd.log import get_logger
from xkd.model.vit import CHANNELS
from xkd.parallel.limits import free_memory
from xkd.train.step import precision

MOST = 0.8
"""Share of the available memory from which a run says what it needs; what is proposed stays below it."""
TOO_MUCH = 1.25
"""Share of the available memory from which a run is refused: the estimate may be 20 percent too high."""
LAUNCH_BYTES = 320 * 10**6
"""Memory of the processes that start and watch those of a run: the command and torchrun's agent."""
_LIBRARY_BYTES = 200 * 10**6
"""Memory that libraries take when a process first computes on the CPU: 160 to 190 MB, measured."""
_KEPT = 1.3
"""Memory of the activations on the CPU relative to the most that live at a time: the process keeps what is
freed (`xkd.launch.distributed.keep_freed_memory`), and other tensors do not fill it."""
_WORKER_BYTES = 100 * 2**20
"""Memory that a loader's worker does not share with the process that forked it."""
_BATCHES_AHEAD = 2
"""Batches that each of torch's loader workers prepares in advance."""
_WIDEST = 16 / 9
"""Width of a frame relative to its height."""


@dataclass(frozen=True)
class Need:
    """Bytes that one training process needs beyond those that it has when its modules are imported."""

    model: float
    """Weights of students, decoders and teachers, gradients, AdamW's moments, copies in half precision."""
    activations: float
    """Of one part of a step: views, what the backward pass needs, and the largest intermediate results."""
    batches: float
    """Clips in host memory: those of a step and those read ahead; and the loader's workers."""

    @property
    def gpu(self) -> float:
        """Bytes on a GPU."""
        return self.model + self.activations

    @property
    def cpu(self) -> float:
        """Bytes of host memory if the CPU computes."""
        return self.model + _KEPT * self.activations + _LIBRARY_BYTES + self.batches


def estimate(config: PretrainConfig, processes: int, half: bool) -> Need:
    """Return what each of the processes of a run needs.

    Args:
        processes: of the whole run; each has an equal share of the batch.
        half: whether matrix products are computed in half precision.
    """
    share = config.optim.batch_size / processes
    part = share / config.run.accumulate
    trained, teachers = count_parameters(config)
    kept = sum(kept_bytes(config, m, half) for m in config.modalities)
    largest = max(_intermediate_bytes(config, m, half) for m in config.modalities)
    ahead = config.run.workers * _BATCHES_AHEAD * part
    return Need(
        model=4 * (trained + teachers) + 12 * trained + (2 * trained if half else 0),
        activations=part * (kept + largest),
        batches=share * _clip_bytes(config)
        + ahead * max(_clip_bytes(config), _views_bytes(config))
        + config.run.workers * _WORKER_BYTES,
    )


def count_parameters(config: PretrainConfig) -> tuple[int, int]:
    """Return the number of trained parameters, and of the teachers'; building the model takes seconds."""

    def blocks(size: TransformerConfig) -> int:
        return size.depth * (12 * size.dim**2 + 10 * size.dim)

    encoder, decoder, head = config.encoder, config.decoder, config.projector
    hidden = (encoder.dim + 1) * head.hidden_dim + (head.layers - 2) * (head.hidden_dim + 1) * head.hidden_dim
    norm = 2 * head.hidden_dim if head.norm == "all" else 0
    projector = hidden + norm + (head.hidden_dim + 1 + head.out_dim) * head.bottleneck_dim
    distilled = len(config.modalities) > 1
    networks = decoders = 0
    for m in config.modalities:
        tokens = math.prod(config.modality(m).grid)
        patch = CHANNELS[m] * math.prod(config.modality(m).patch)
        networks += encoder.dim * (patch + tokens + 5) + blocks(encoder) + (projector if distilled else 0)
        decoders += decoder.dim * (encoder.dim + tokens + 3) + blocks(decoder) + (decoder.dim + 1) * patch
    shared = {"none": (0, 0), "student": (1, 0), "both": (1, 1)}[config.share]
    students, teachers = (networks - count * blocks(encoder) for count in shared)
    return students + decoders, teachers if distilled else 0


def kept_bytes(config: PretrainConfig, modality: Modality, half: bool) -> float:
    """Return what is kept of one clip between the forward and the backward pass."""
    settings, encoder, decoder = config.modality(modality), config.encoder, config.decoder
    distilled = len(config.modalities) > 1
    product = 2 if half else 4  # bytes of what matrix products read and write; the rest is in float32
    times = settings.grid[0] if settings.mask == "tube" else 1
    tokens = math.prod(settings.grid)
    visible = times * round(tokens // times * (1 - settings.mask_ratio))
    views = settings.local_views if distilled else 0
    pairs = zip(settings.local_view, settings.patch, strict=True)
    local = views * math.prod(size // length for size, length in pairs)
    patch = CHANNELS[modality] * math.prod(settings.patch)

    def block(sequences: int) -> int:
        # The inputs of both norms; of the products: both norms' outputs, query, key and value, the output of
        # the attention (once more if that of several sequences is joined), four widths each around the GELU.
        return 2 * 4 + product * (14 + (sequences > 1))

    rows = 1 + visible + views + local
    encoded = rows * encoder.dim * (encoder.depth * block(1 + views) + 2 * 4)
    embedded = (visible + local) * patch * product
    decoded = (1 + tokens) * decoder.dim * (decoder.depth * block(1) + 4 + product)
    # The views, and the hidden patches as targets and as predicted.
    pixels = 4 * patch * (tokens + local + 2 * (tokens - visible))
    size = config.projector
    projected = 4 * (1 + views) * (3 * (size.layers - 1) * size.hidden_dim + 6 * size.out_dim)
    return embedded + encoded + decoded + pixels + (projected if distilled else 0)


def _intermediate_bytes(config: PretrainConfig, modality: Modality, half: bool) -> float:
    """Return the largest results, for one clip, that are not kept: a teacher's block, or reconstruction."""
    tokens = math.prod(config.modality(modality).grid)
    # The block's input, its sum with the attention's output, the norm's; four widths twice around the GELU.
    block = (1 + tokens) * config.encoder.dim * (3 * 4 + 8 * (2 if half else 4))
    # The patches, the prediction, and the targets before they are divided by their deviation.
    reconstruction = 3 * 4 * tokens * CHANNELS[modality] * math.prod(config.modality(modality).patch)
    return max(block, reconstruction)


def _clip_bytes(config: PretrainConfig) -> float:
    """Return the bytes of one clip as it is read: frames and waveform."""
    frames, height, _ = config.video.global_view
    sizes = {"video": 3 * frames * height * height * _WIDEST, "audio": 4 * config.clip.window_samples}
    return sum(sizes[m] for m in config.modalities)


def _views_bytes(config: PretrainConfig) -> float:
    """Return the bytes of one clip's views, which the loader's workers make where the CPU computes."""
    sizes = {m: config.modality(m) for m in config.modalities}
    return sum(
        4 * CHANNELS[m] * (math.prod(s.global_view) + s.local_views * math.prod(s.local_view))
        for m, s in sizes.items()
    )


@dataclass(frozen=True)
class Machine:
    """What a run may use: a device's memory, or on the CPU the memory that its processes share."""

    device: torch.device
    available: int
    """Bytes that are free now."""
    processes: int
    """Processes of the run."""
    sharing: int
    """Processes that share these bytes."""

    def need(self, config: PretrainConfig) -> float:
        """Return the bytes that a run needs of what is available."""
        half = precision(config.run.precision, self.device) != torch.float32
        need = estimate(config, self.processes, half)
        return need.gpu if self.device.type == "cuda" else self.sharing * need.cpu

    def fits(self, config: PretrainConfig) -> bool:
        """Return whether a run leaves some of the memory free."""
        return self.need(config) <= MOST * self.available


def find_machine(context: DistributedContext) -> Machine:
    """Return what this process may use."""
    if context.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(context.device)
        unused = torch.cuda.memory_reserved(context.device) - torch.cuda.memory_allocated(context.device)
        return Machine(context.device, free + unused, context.size, 1)
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if worker_environment() else 1
    return Machine(context.device, free_memory(), context.size, sharing)


def check_memory(config: PretrainConfig, context: DistributedContext, machine: Machine) -> None:
    """Check on every process that a run fits its `machine` before any of them takes memory.

    Raises:
        UserError: it is far too large for one of them; the line has settings that fit.
    """
    need = machine.need(config)
    refused = _refusal(config, machine, need) if need > TOO_MUCH * machine.available else ""
    if found := next(filter(None, context.all_gather(refused)), ""):
        raise UserError(found)
    if context.is_main and need > MOST * machine.available:
        get_logger(__name__).info(
            f"pretrain: needs about {gigabytes(need)} of the {gigabytes(machine.available)} of memory "
            "available"
        )


def _refusal(config: PretrainConfig, machine: Machine, need: float) -> str:
    """Return what is needed and available, and which settings fit."""
    split = next(filter(machine.fits, in_more_parts(config, machine.processes)), None)
    fewer = next(filter(machine.fits, _with_fewer_clips(config, machine.processes)), None)
    advice = [
        f"run.accumulate={split.run.accumulate} (the same batch, in parts)" if split else "",
        f"optim.batch_size={fewer.optim.batch_size}" if fewer else "",
    ]
    return (
        f"run.accumulate {config.run.accumulate} with optim.batch_size {config.optim.batch_size} of preset "
        f"{config.preset} needs about {gigabytes(need)} of memory, but {gigabytes(machine.available)} are "
        f"available; set {' or '.join(filter(None, advice)) or 'a smaller preset (see xkd suggest)'}"
    )


def in_more_parts(config: PretrainConfig, processes: int) -> Iterator[PretrainConfig]:
    """Yield the settings with the batch in as many parts, or more: each computes the same step."""
    share = config.optim.batch_size // processes
    for parts in range(config.run.accumulate, share + 1):
        if share % parts == 0:
            yield replace(config, run=replace(config.run, accumulate=parts))


def _with_fewer_clips(config: PretrainConfig, processes: int) -> Iterator[PretrainConfig]:
    """Yield the settings with smaller batches that divide into the same parts, largest first."""
    for share in range(config.optim.batch_size // (processes * config.run.accumulate) - 1, 0, -1):
        size = share * processes * config.run.accumulate
        yield replace(config, optim=replace(config.optim, batch_size=size))


def gigabytes(size: float) -> str:
    """Return bytes for people."""
    return f"{size / 1e9:.1f} GB"
