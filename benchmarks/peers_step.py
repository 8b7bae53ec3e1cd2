"""The step of VideoMAE pretraining, and that of transformers' `VideoMAEForPreTraining` of the same size.

Each runs in a process of its own with its own memory settings, and the processes take turns. Ours is the
whole step of `xkd pretrain`, with clipping; theirs is the forward and backward pass and the same fused AdamW.
Before that, `check_equal` shows in float64 that with equal weights and masks the networks give equal
predictions, losses and gradients. What is not common: we have a class token, learned positions and a bias
at the decoder's entry; they have a norm at the decoder's end.
"""

from __future__ import annotations

import importlib
import multiprocessing
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Timer, random_part
from benchmarks.gpu_kit import Setting, with_run
from benchmarks.step import FLOPS, WARM_UP, peak, products
from xkd.config import PretrainConfig
from xkd.launch.distributed import DistributedContext, keep_freed_memory
from xkd.model.mae import Mask, random_mask
from xkd.model.vit import Decoder, gather_tokens, patchify, run_blocks
from xkd.model.xkd import XKD
from xkd.train.step import autocast, build_optimizer, precision

OURS = "xkd"
SIDES: dict[str, dict[str, Any]] = {
    OURS: {"keep": True},
    "transformers, sdpa (default)": {"attention": "sdpa"},
    "transformers, eager": {"attention": "eager"},
    "transformers, sdpa, freed memory kept": {"attention": "sdpa", "keep": True},
}
RENAMED = (
    ("videomae.embeddings.patch_embeddings.projection", "student.video.encoder.embed"),
    ("videomae.encoder.layer", "student.video.encoder.blocks"),
    ("videomae.layernorm", "student.video.encoder.norm"),
    ("encoder_to_decoder", "decoder.video.project"),
    ("mask_token", "decoder.video.mask_token"),
    ("decoder.decoder_layers", "decoder.video.blocks"),
    ("decoder.head", "decoder.video.predict"),
    ("attention.attention", "attention"),
    ("attention.output.dense", "attention.proj"),
    ("intermediate.dense", "mlp.0"),
    ("output.dense", "mlp.2"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
)
"""Parts of their names and of ours, replaced in this order."""
ONLY_OURS = {
    "student.video.encoder.cls_token",
    "student.video.encoder.positions",
    "decoder.video.positions",
    "decoder.video.project.bias",
}
ONLY_THEIRS = {"decoder.norm.weight", "decoder.norm.bias"}
TOLERANCE = 1e-9
"""Of relative differences in float64."""


def theirs(config: PretrainConfig, attention: str) -> Any:
    """Return a `VideoMAEForPreTraining` of the sizes of a configuration."""
    transformers = importlib.import_module("transformers")
    (frames, side, _), (tube, patch, _) = config.video.global_view, config.video.patch
    sizes = transformers.VideoMAEConfig(
        image_size=side,
        patch_size=patch,
        num_frames=frames,
        tubelet_size=tube,
        hidden_size=config.encoder.dim,
        num_hidden_layers=config.encoder.depth,
        num_attention_heads=config.encoder.heads,
        intermediate_size=4 * config.encoder.dim,
        decoder_hidden_size=config.decoder.dim,
        decoder_num_hidden_layers=config.decoder.depth,
        decoder_num_attention_heads=config.decoder.heads,
        decoder_intermediate_size=4 * config.decoder.dim,
        qv_bias=False,
        use_mean_pooling=False,  # a norm after the encoder, as in the released weights of VideoMAE
        layer_norm_eps=1e-5,
        attn_implementation=attention,
    )
    return transformers.VideoMAEForPreTraining(sizes).train()


def mask_of(config: PretrainConfig, noise: Tensor) -> Mask:
    """Return the tube mask that `XKD.reconstruct` draws from the noise (B, N)."""
    times = config.video.grid[0]
    return random_mask(noise[:, : noise.shape[1] // times], config.video.mask_ratio, repeat=times)


def translate(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return their weights or gradients under our names and in our shapes."""
    found: dict[str, Tensor] = {}
    for name, value in values.items():
        for old, new in RENAMED:
            name = name.replace(old, new)
        found[name] = value
    embed = "student.video.encoder.embed.weight"
    found[embed] = found[embed].permute(0, 2, 3, 4, 1).flatten(1)
    for query in [name for name in found if name.endswith("attention.query.weight")]:
        parts = [found.pop(query.replace("query", part)) for part in ("query", "key", "value")]
        found[query.replace("query", "qkv")] = torch.cat(parts)
    return found


def predict(model: XKD, norm: nn.Module, view: Tensor, mask: Mask) -> Tensor:
    """Return the patches (B, N, P) of our layers without a class token, with their decoder's norm."""
    encoder, decoder = model.student["video"].encoder, cast(Any, model.decoder["video"])
    assert isinstance(decoder, Decoder)
    patches = gather_tokens(patchify(view, encoder.patch), mask.keep)
    (tokens,) = run_blocks(encoder.blocks, encoder.embed(patches) + encoder.positions[0, 1:][mask.keep])
    visible = decoder.project(encoder.norm(tokens))
    hidden = decoder.mask_token.expand(len(visible), mask.restore.shape[1] - visible.shape[1], -1)
    tokens = gather_tokens(torch.cat([visible, hidden], dim=1), mask.restore) + decoder.positions[:, 1:]
    (tokens,) = run_blocks(decoder.blocks, tokens)
    predicted: Tensor = decoder.predict(norm(tokens))
    return predicted


def targets(view: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Return their targets (B, N, P): patches whose three channels are normalized one by one."""
    constants = importlib.import_module("transformers.utils.constants")
    mean, std = (view.new_tensor(getattr(constants, f"IMAGENET_DEFAULT_{name}")) for name in ("MEAN", "STD"))
    pixels = patchify(view, patch).unflatten(-1, (-1, 3)) * std + mean  # type: ignore[no-untyped-call]
    error = pixels - pixels.mean(dim=-2, keepdim=True)
    normalized: Tensor = error / (pixels.std(dim=-2, keepdim=True) + 1e-6)
    return normalized.flatten(-2)


def check_equal(config: PretrainConfig) -> str:
    """Return what is equal with equal weights and masks, in float64.

    Raises:
        AssertionError: something is not.
    """
    config = with_run(config, 2, precision="fp32")
    setting, peer = Setting(config, DistributedContext(0, 1, torch.device("cpu"))), theirs(config, "sdpa")
    model, peer = setting.model.double(), peer.double()
    missing, unexpected = model.load_state_dict(translate(peer.state_dict()), strict=False)
    assert set(missing) == ONLY_OURS, missing
    assert set(unexpected) == ONLY_THEIRS, unexpected
    encoder, decoder = model.student["video"].encoder, cast(Any, model.decoder["video"])
    with torch.no_grad():
        encoder.positions[:, 1:] = peer.videomae.embeddings.position_embeddings
        decoder.positions[:, 1:] = peer.position_embeddings
    view, mask = setting.part[0]["video"][0].double(), mask_of(config, setting.part[1]["video"])
    chosen = mask.hidden
    result = peer(pixel_values=view.transpose(1, 2), bool_masked_pos=chosen)
    result.loss.backward()
    predicted = predict(model, peer.decoder.norm, view, mask)[chosen]
    loss = (predicted - targets(view, config.video.patch)[chosen]).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    mine = {name: parameter.grad for name, parameter in model.named_parameters() if name not in ONLY_OURS}
    differences = {"predictions": difference(predicted, result.logits.flatten(0, 1))}
    differences["losses"] = difference(loss, result.loss)
    gradients = translate({name: p.grad for name, p in peer.named_parameters() if name not in ONLY_THEIRS})
    differences["gradients"] = max(difference(mine[name], gradients[name]) for name in gradients)
    assert gradients.keys() == mine.keys()
    assert max(differences.values()) < TOLERANCE, differences
    counts = [sum(p.numel() for p in network.parameters()) for network in (model, peer)]
    common = sum(gradient.numel() for gradient in gradients.values())
    facts = ", ".join(f"{name} {value:.0e}" for name, value in differences.items())
    return (
        f"parameters {counts[0]:,} (theirs {counts[1]:,}), {common:,} of them in common; with these and the "
        f"masks equal, largest relative differences in float64: {facts}"
    )


def difference(ours: Tensor | None, others: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    assert ours is not None
    return float(((ours - others).abs().max() / others.abs().max()).detach())


def step_of(name: str, config: PretrainConfig, context: DistributedContext) -> Callable[[], object]:
    """Return the function that makes a step of one side."""
    options: dict[str, Any] = SIDES[name]
    if options.get("keep"):
        keep_freed_memory()
    torch.manual_seed(0)
    if name == OURS:
        return Setting(config, context).step
    views, noise = random_part(config, context)
    pixels = views["video"][0].transpose(1, 2).contiguous()
    hidden = mask_of(config, noise["video"]).hidden
    model = theirs(config, options["attention"]).to(context.device)
    optimizer = build_optimizer(model, config.optim)
    dtype = precision(config.run.precision, context.device)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(context.device, dtype):
            loss = model(pixel_values=pixels, bool_masked_pos=hidden).loss
        loss.backward()
        optimizer.step()

    return step


def timer_of(device: str, threads: int) -> Timer:
    """Return a timer: of processor time for one thread on a CPU, which other processes disturb less."""
    torch.set_num_threads(threads)
    alone = device == "cpu" and threads == 1
    return Timer(torch.device(device), time.process_time if alone else time.perf_counter)


def serve(connection: Connection, name: str, config: PretrainConfig, device: str, threads: int) -> None:
    """Reply first with the FLOPs of a step, then at each request with the seconds of one."""
    timer = timer_of(device, threads)
    step = step_of(name, config, DistributedContext(0, 1, timer.device))
    with FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        step()
    for _ in range(WARM_UP - 1):
        step()
    connection.send(counter.get_total_flops())
    while connection.recv():
        connection.send(timer.seconds(step))


def compare(config: PretrainConfig, batch: int, repeats: int, device: str, threads: int) -> None:
    """Print the table of a batch size."""
    config, timer = with_run(config, batch), timer_of(device, threads)
    dtype = precision(config.run.precision, timer.device)
    start = multiprocessing.get_context("spawn")
    sides: dict[str, Connection] = {}
    for name in SIDES:
        sides[name], other = start.Pipe()
        start.Process(target=serve, args=(other, name, config, device, threads), daemon=True).start()
        other.close()  # so that a process that fails is seen
    flops = {name: connection.recv() for name, connection in sides.items()}  # all are ready
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    fastest = max(peak(timer, dtype, product) for product in products(timer.device, dtype).values())
    for _ in range(repeats):
        for name, connection in sides.items():
            connection.send(True)
            times[name].append(connection.recv())
    for connection in sides.values():
        connection.send(False)
    print(f"\nbatch {batch}, {dtype}, {threads} threads on {device}, medians of {repeats} rounds; ", end="")
    print(f"peak of matrix products {fastest / 1e9:.0f} GFLOP/s\n")
    print("| step | ms | clips/s | GFLOP | share of the peak | time relative to ours |")
    print(f"|---|{'---:|' * 5}")
    for name in SIDES:
        seconds = median(times[name])
        ratios = [other / mine for other, mine in zip(times[name], times[OURS], strict=True)]
        print(
            f"| {name} | {1000 * seconds:.0f} | {batch / seconds:.2f} | {flops[name] / 1e9:.0f} | "
            f"{flops[name] / seconds / fastest:.0%} | "
            f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
            flush=True,
        )
