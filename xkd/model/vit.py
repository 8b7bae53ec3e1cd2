"""Vision transformers over video cuboids and spectrogram patches (section 3, Table S3).

One `Encoder` serves both modalities: a view is cut into patches along all of its axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xkd.config import AttentionQuery, Modality, ModalityConfig, PretrainConfig, TransformerConfig
from xkd.model.mae import Mask

CHANNELS: dict[Modality, int] = {"video": 3, "audio": 1}
_MLP_RATIO = 4

Shape = tuple[int, int]
"""(B, N) of a token sequence."""
Shapes = Sequence[Shape]


def patchify(view: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Cut a view (B, C, *sizes) into flattened patches (B, N, P); each size is a multiple of the patch's.

    Tokens have the first axis slowest; a patch vector has the channel fastest.
    """
    batch, channels, *sizes = view.shape
    axes = len(patch)
    grid = [size // length for size, length in zip(sizes, patch, strict=True)]
    split = view.reshape(batch, channels, *(n for pair in zip(grid, patch, strict=True) for n in pair))
    tokens_first = [0, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2), 1]
    return split.permute(tokens_first).reshape(batch, math.prod(grid), math.prod(patch) * channels)


def unpatchify(patches: Tensor, grid: tuple[int, ...], patch: tuple[int, ...]) -> Tensor:
    """Undo `patchify`: (B, N, P) to (B, C, *sizes)."""
    batch, axes = patches.shape[0], len(patch)
    split = patches.reshape(batch, *grid, *patch, -1)
    interleaved = [0, 2 * axes + 1, *(axis for i in range(axes) for axis in (1 + i, 1 + axes + i))]
    return split.permute(interleaved).reshape(batch, -1, *(g * p for g, p in zip(grid, patch, strict=True)))


class Attention(nn.Module):
    """Multi-head self-attention; the joint query-key-value projection has no bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, rows: Tensor, shapes: Shapes) -> Tensor:
        """Attend within each of the packed sequences (see `run_blocks`): (R, D) to (R, D)."""
        parts = torch.split(self.qkv(rows), [math.prod(shape) for shape in shapes])
        mixed = [self._attend(*self._split(part, shape)) for part, shape in zip(parts, shapes, strict=True)]
        return self.proj(_join(mixed))  # type: ignore[no-any-return]

    def forward_with_row(self, rows: Tensor, shape: Shape, by: AttentionQuery) -> tuple[Tensor, Tensor]:
        """Attend within one sequence (B, 1+N) and return also one attention row: (R, D) and (B, heads, N).

        cls: the softmax of the cls query over all 1+N keys, without the cls key and not renormalized.
        mean_query: the softmax of the patches' mean query over the patches' keys.
        mean_attention: the mean over all queries; the only one that forms the whole attention matrix.
        """
        query, key, value = self._split(self.qkv(rows), shape)
        mixed = self.proj(self._attend(query, key, value))
        query = query * query.shape[-1] ** -0.5
        if by == "mean_query":
            row = query[:, :, 1:].mean(dim=2, keepdim=True) @ key[:, :, 1:].transpose(-2, -1)
            return mixed, row.softmax(dim=-1)[:, :, 0]
        queries = query[:, :, :1] if by == "cls" else query
        attention = (queries @ key.transpose(-2, -1)).softmax(dim=-1)
        return mixed, attention.mean(dim=2)[:, :, 1:]

    def _split(self, qkv: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
        """Split (B N, 3 D) into query, key and value, each (B, heads, N, D / heads)."""
        query, key, value = qkv.reshape(*shape, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    @staticmethod
    def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (B N, D)."""
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2).flatten(0, 1)


class Block(nn.Module):
    """Pre-norm transformer block over packed sequences (see `run_blocks`)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        hidden = _MLP_RATIO * dim
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, rows: Tensor, shapes: Shapes) -> Tensor:
        """Map (R, D) to (R, D)."""
        rows = rows + self.attention(self.norm1(rows), shapes)
        return rows + self.mlp(self.norm2(rows))  # type: ignore[no-any-return]

    def forward_with_row(self, rows: Tensor, shape: Shape, by: AttentionQuery) -> tuple[Tensor, Tensor]:
        """Like `forward` for one sequence, with an attention row (B, heads, N)."""
        mixed, row = self.attention.forward_with_row(self.norm1(rows), shape, by)
        rows = rows + mixed
        return rows + self.mlp(self.norm2(rows)), row


def run_blocks(blocks: Iterable[nn.Module], *sequences: Tensor) -> list[Tensor]:
    """Run token sequences (B, N, D) of any lengths through the blocks together.

    They are packed as the R = sum of B N rows of one matrix: one large product replaces several small ones,
    and the gradients of the weights need not be added up.
    """
    shapes = [(tokens.shape[0], tokens.shape[1]) for tokens in sequences]
    rows = _join([tokens.flatten(0, 1) for tokens in sequences])
    for block in blocks:
        rows = block(rows, shapes)
    parts = torch.split(rows, [math.prod(shape) for shape in shapes])
    return [part.reshape(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def build_blocks(size: TransformerConfig) -> nn.ModuleList:
    """Return a stack of initialized blocks."""
    blocks = nn.ModuleList(Block(size.dim, size.heads) for _ in range(size.depth))
    blocks.apply(init_linear)
    return blocks


class Encoder(nn.Module):
    """The backbone of one modality: patch projection, cls token, positions, blocks, final norm."""

    def __init__(self, config: ModalityConfig, channels: int, size: TransformerConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.grid = config.grid
        self.embed = nn.Linear(math.prod(config.patch) * channels, size.dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, size.dim))
        self.positions = nn.Parameter(torch.empty(1, 1 + math.prod(config.grid), size.dim))
        self.blocks = build_blocks(size)
        self.norm = nn.LayerNorm(size.dim)
        init_linear(self.embed)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, view: Tensor) -> Tensor:
        """Encode a whole video (B, 3, T, H, W) or spectrogram (B, 1, F, T), its sizes multiples of the patch.

        Returns (B, 1+N, D) tokens after the final norm; index 0 is the cls token.
        """
        return self.encode(self.embed_view(view))[0]

    def encode(self, *sequences: Tensor) -> list[Tensor]:
        """Run embedded tokens, each (B, 1+N, D), through the blocks together and the final norm."""
        return [self.norm(tokens) for tokens in run_blocks(self.blocks, *sequences)]

    def forward_with_attention(self, view: Tensor, by: AttentionQuery = "cls") -> tuple[Tensor, Tensor]:
        """Like `forward`, with the last block's attention to the patches (B, heads, N) (Equation 3)."""
        (tokens,) = run_blocks(self.blocks[:-1], self.embed_view(view))
        last: Block = self.blocks[-1]  # type: ignore[assignment]
        shape = (tokens.shape[0], tokens.shape[1])
        rows, row = last.forward_with_row(tokens.flatten(0, 1), shape, by)
        return self.norm(rows).unflatten(0, shape), row

    def embed_visible(self, patches: Tensor, keep: Tensor) -> Tensor:
        """Embed the visible patches (B, K) of all patches (B, N, P) as (B, 1+K, D) tokens for `encode`.

        Hidden patches are dropped before the projection, which changes nothing but the cost.
        """
        return self._with_cls(self.embed(gather_tokens(patches, keep)) + self.positions[0, 1:][keep])

    @staticmethod
    def pool(tokens: Tensor) -> Tensor:
        """Return the clip's feature (B, D): the mean of the patch tokens of (B, 1+N, D), without cls."""
        return tokens[:, 1:].mean(dim=1)

    def embed_view(self, view: Tensor) -> Tensor:
        """Embed a whole view as (B, 1+N, D) tokens for `encode`."""
        grid = tuple(size // length for size, length in zip(view.shape[2:], self.patch, strict=True))
        positions = interpolate_positions(self.positions[:, 1:], self.grid, grid)
        return self._with_cls(self.embed(patchify(view, self.patch)) + positions)

    def _with_cls(self, tokens: Tensor) -> Tensor:
        cls = self.cls_token + self.positions[:, :1]
        return torch.cat([cls.expand(tokens.shape[0], -1, -1), tokens], dim=1)


def build_encoder(config: PretrainConfig, modality: Modality) -> Encoder:
    """Return an initialized encoder of one modality."""
    return Encoder(config.modality(modality), CHANNELS[modality], config.encoder)


def share_blocks(encoders: Iterable[Encoder]) -> None:
    """Let all encoders use the transformer blocks of the first (Table S5)."""
    first, *others = encoders
    for encoder in others:
        encoder.blocks = first.blocks


class Decoder(nn.Module):
    """Predicts the hidden patches from the visible tokens; learned positions, no final norm."""

    def __init__(
        self, config: ModalityConfig, channels: int, encoder_dim: int, size: TransformerConfig
    ) -> None:
        super().__init__()
        self.project = nn.Linear(encoder_dim, size.dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, size.dim))
        self.positions = nn.Parameter(torch.empty(1, 1 + math.prod(config.grid), size.dim))
        self.blocks = build_blocks(size)
        self.predict = nn.Linear(size.dim, math.prod(config.patch) * channels)
        init_linear(self.project)
        init_linear(self.predict)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, latent: Tensor, mask: Mask) -> Tensor:
        """Map (B, 1+K, D) visible tokens, cls first, to the (B, N-K, P) hidden patches, as `mask.drop`."""
        tokens = self.project(latent)
        cls, visible = tokens[:, :1], tokens[:, 1:]
        hidden = self.mask_token.expand(len(visible), mask.restore.shape[1] - visible.shape[1], -1)
        tokens = gather_tokens(torch.cat([visible, hidden], dim=1), mask.restore)
        tokens = torch.cat([cls, tokens], dim=1) + self.positions
        (tokens,) = run_blocks(self.blocks, tokens)
        return self.predict(gather_tokens(tokens[:, 1:], mask.drop))  # type: ignore[no-any-return]


def interpolate_positions(table: Tensor, grid: tuple[int, ...], new_grid: tuple[int, ...]) -> Tensor:
    """Resample a position table (1, N, D) to another grid: trilinear for video, bicubic for audio.

    The scale is (new + 0.1) / old along each axis that changes (video: along every axis), as in DINO's code:
    PyTorch then samples at (i + 0.5) / scale - 0.5 instead of out/in, and the released weights were trained
    with these sample points. The table receives gradients.
    """
    if grid == new_grid:
        return table
    dim = table.shape[-1]
    image = table.reshape(1, *grid, dim).movedim(-1, 1)
    audio = len(grid) == 2
    scale = [
        1.0 if audio and new == old else (new + 0.1) / old for old, new in zip(grid, new_grid, strict=True)
    ]
    resized = F.interpolate(image, scale_factor=scale, mode="bicubic" if audio else "trilinear")
    return resized.movedim(1, -1).reshape(1, -1, dim)


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Select tokens (B, N, D) by per-sample indices (B, K): (B, K, D)."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def init_linear(module: nn.Module) -> None:
    """Set Xavier-uniform weights and zero biases, for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
