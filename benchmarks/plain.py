"""A training step as most people would write it from the equations, on the modules of a model.

What `benchmarks/gpu.py` compares with. Every attention forms its whole map, each view is encoded alone,
hidden patches are projected before they are dropped, the cross-modal attention is an outer product, and
clipping and the teachers' momentum go tensor by tensor. The result is that of `xkd.train.step.Stepper`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from xkd.config import MODALITIES, Modality, PretrainConfig, other
from xkd.model.losses import KERNEL_GAMMAS
from xkd.model.terms import ALIGN, KD, RECONSTRUCT, TEACHER_TEMPERATURE, direction
from xkd.model.vit import Attention, Block, Decoder, Encoder, gather_tokens, patchify
from xkd.model.xkd import XKD
from xkd.train.step import Part, autocast, build_optimizer, precision


def attend(attention: Attention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mixed tokens (B, N, D), and the attention map (B, heads, N, N)."""
    qkv = F.linear(tokens, attention.qkv.weight).unflatten(-1, (3, attention.heads, -1))  # type: ignore[no-untyped-call]
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)
    mixed = (weights @ value).transpose(1, 2).flatten(2)
    return F.linear(mixed, attention.proj.weight, attention.proj.bias), weights


def run_blocks(blocks: nn.ModuleList, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens (B, N, D) after all blocks, and the last attention map."""
    weights = torch.empty(0)
    for block in blocks:
        assert isinstance(block, Block)
        mixed, weights = attend(block.attention, block.norm1(tokens))
        tokens = tokens + mixed
        first, _, second = block.mlp
        hidden = F.gelu(F.linear(block.norm2(tokens), first.weight, first.bias))  # type: ignore[arg-type]
        tokens = tokens + F.linear(hidden, second.weight, second.bias)  # type: ignore[arg-type]
    return tokens, weights


def encode(encoder: Encoder, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return embedded tokens (B, 1+N, D) after blocks and final norm, and the last attention map."""
    tokens, weights = run_blocks(encoder.blocks, tokens)
    return encoder.norm(tokens), weights


def decode(decoder: Decoder, latent: Tensor, restore: Tensor) -> Tensor:
    """Return the predicted patches (B, N, P) (Equation 1)."""
    tokens = decoder.project(latent)
    hidden = decoder.mask_token.expand(len(tokens), restore.shape[1] + 1 - tokens.shape[1], -1)
    tokens = torch.cat([tokens[:, :1], gather_tokens(torch.cat([tokens[:, 1:], hidden], 1), restore)], 1)
    tokens, _ = run_blocks(decoder.blocks, tokens + decoder.positions)
    predicted: Tensor = decoder.predict(tokens[:, 1:])
    return predicted


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the discrepancy of two sets of rows, kernel by kernel (Equation 8)."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = (a[:, None] - b[None]).square().sum(dim=-1)
        return torch.stack([torch.exp(-gamma * squared).mean() for gamma in KERNEL_GAMMAS]).sum()

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


def objective(
    model: XKD, part: Part, temperature: Mapping[Modality, float]
) -> tuple[dict[str, Tensor], dict[Modality, Tensor]]:
    """Return the objective's terms with ``loss`` (Equation 12), and the teachers' outputs (B, K)."""
    config, (given, noise) = model.config, part
    terms: dict[str, Tensor] = {}
    students: dict[Modality, Tensor] = {}
    for m in MODALITIES:
        settings, network = config.modality(m), model.student[m]
        encoder, (view, *local) = network.encoder, given[m]
        patches = patchify(view, settings.patch)
        order = noise[m].argsort(dim=1)
        visible = round(order.shape[1] * (1 - settings.mask_ratio))
        tokens = encoder.embed_view(view)
        kept = torch.cat([tokens[:, :1], gather_tokens(tokens[:, 1:], order[:, :visible])], dim=1)
        latent, _ = encode(encoder, kept)
        restore = order.argsort(dim=1)
        decoder = model.decoder[m]
        assert isinstance(decoder, Decoder)
        deviation = (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        target = (patches - patches.mean(dim=-1, keepdim=True)) / deviation
        error = (decode(decoder, latent, restore) - target).square().mean(dim=-1)
        hidden = (restore >= visible).to(error.dtype)
        terms[RECONSTRUCT[m]] = (error * hidden).sum() / hidden.sum()
        encoded = [latent, *(encode(encoder, encoder.embed_view(view))[0] for view in local)]
        students[m] = torch.cat([network.projector(tokens[:, 1:].mean(dim=1)) for tokens in encoded])
    teachers = teacher_outputs(model, {m: given[m][config.views.teacher_index] for m in MODALITIES})
    with torch.autocast(students["video"].device.type, enabled=False):
        terms[ALIGN["student"]] = mmd(students["video"], students["audio"])
        terms[ALIGN["teacher"]] = mmd(teachers["video"], teachers["audio"])
        for m in MODALITIES:
            centered = teachers[m] - model.get_buffer(f"center_{m}")
            target = (centered / temperature[m]).softmax(dim=-1)
            outputs = students[other(m)] / config.modality(other(m)).student_temperature
            views = outputs.log_softmax(dim=-1).reshape(-1, *target.shape)
            terms[KD[direction(m)]] = -(target * views).sum(dim=-1).mean()
    weights = config.loss
    terms["loss"] = (
        weights.reconstruct * torch.stack([terms[RECONSTRUCT[m]] for m in MODALITIES]).sum()
        + weights.align * (terms[ALIGN["student"]] + terms[ALIGN["teacher"]])
        + weights.distill * torch.stack([terms[KD[direction(m)]] for m in MODALITIES]).sum()
    )
    return terms, teachers


@torch.no_grad()
def teacher_outputs(model: XKD, views: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
    """Return the projected refined features of the teachers (B, K) (Equations 3 to 6)."""
    tokens, rows = {}, {}
    for m in MODALITIES:
        encoder = model.teacher[m].encoder
        tokens[m], weights = encode(encoder, encoder.embed_view(views[m]))
        rows[m] = weights[:, :, 0, 1:]
    outputs: dict[Modality, Tensor] = {}
    for m in MODALITIES:
        across = rows[m][..., :, None] * rows[other(m)][..., None, :]
        relevance = (across.mean(dim=-1) / rows[m].mean(dim=-1, keepdim=True)).mean(dim=1)
        features = tokens[m][:, 1:]
        refined = features * relevance[..., None]
        scale = features.mean(dim=1).norm(dim=-1) / refined.mean(dim=1).norm(dim=-1)
        outputs[m] = model.teacher[m].projector((refined * scale[:, None, None]).mean(dim=1))
    return outputs


class PlainStepper:
    """Trains a model of the default method (`refine.relevance` mean, `loss.reduction` sum) step by step."""

    def __init__(self, model: XKD, config: PretrainConfig, device: torch.device) -> None:
        self.model, self.device, self.clip_norm = model, device, config.optim.clip_norm
        self.dtype = precision(config.run.precision, device)
        self.scaler = GradScaler(device.type, enabled=self.dtype is torch.float16)
        self.optimizer = build_optimizer(model, config.optim)

    def step(self, part: Part, values: Mapping[str, float]) -> dict[str, Tensor]:
        """Make one step; arguments and terms as of `xkd.train.step.Stepper.step`."""
        for group in self.optimizer.param_groups:
            group["lr"] = values["lr"]
        self.optimizer.zero_grad()
        temperature: dict[Modality, float] = {m: values[TEACHER_TEMPERATURE[m]] for m in MODALITIES}
        with autocast(self.device, self.dtype):
            terms, outputs = objective(self.model, part, temperature)
        self.scaler.scale(terms["loss"]).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        for parameter in self.model.student.parameters():
            if parameter.grad is not None:
                norm = parameter.grad.norm().item()
                parameter.grad.mul_(min(1.0, self.clip_norm / (norm + 1e-6)))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        momentum = values["momentum"]
        with torch.no_grad():
            for m in MODALITIES:
                center = self.model.get_buffer(f"center_{m}")
                rate = self.model.config.loss.center_momentum
                center.mul_(rate).add_(outputs[m].mean(dim=0), alpha=1 - rate)
                teacher, student = self.model.teacher[m], self.model.student[m]
                for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                    old.mul_(momentum).add_(new, alpha=1 - momentum)
        return {name: term.detach() for name, term in terms.items()}
