"""Tokens, positions and the attention row of the encoder."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from xkd.config import AttentionQuery, ModalityConfig, TransformerConfig
from xkd.model.vit import Attention, Encoder, interpolate_positions, patchify, unpatchify

VIDEO = ModalityConfig(
    global_view=(4, 16, 16), local_view=(2, 8, 8), patch=(2, 8, 8), mask_ratio=0.5, teacher_temperature=0.1
)


def test_patch_vectors_have_time_slowest_and_channel_fastest() -> None:
    view = torch.arange(3 * 4 * 16 * 16.0).reshape(1, 3, 4, 16, 16)
    patches = patchify(view, (2, 8, 8))
    assert patches.shape == (1, 8, 384)
    # Token 5 of the 2 x 2 x 2 grid lies at (1, 0, 1); inside it, position (1, 2, 3), channel 2.
    assert patches[0, 5, (1 * 64 + 2 * 8 + 3) * 3 + 2] == view[0, 2, 2 + 1, 0 + 2, 8 + 3]


@pytest.mark.parametrize(("shape", "patch"), [((3, 4, 16, 16), (2, 8, 8)), ((1, 16, 64), (4, 8))])
def test_unpatchify_undoes_patchify(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    view = torch.randn(2, *shape)
    grid = tuple(s // p for s, p in zip(shape[1:], patch, strict=True))
    assert torch.equal(unpatchify(patchify(view, patch), grid, patch), view)


def test_video_positions_are_sampled_at_the_given_scale() -> None:
    """8 x 7 x 7 to 2 x 6 x 6 reads time at 1.405 and 5.214, as the recorded code does."""
    time = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 7, 7, 1).reshape(1, 392, 1)
    resized = interpolate_positions(time, (8, 7, 7), (2, 6, 6)).reshape(2, 36)
    torch.testing.assert_close(resized[:, 0], torch.tensor([0.5 / (2.1 / 8) - 0.5, 1.5 / (2.1 / 8) - 0.5]))


def test_audio_positions_keep_the_frequency_axis() -> None:
    frequency = torch.arange(20.0).reshape(20, 1, 1).expand(20, 28, 1).reshape(1, 560, 1)
    resized = interpolate_positions(frequency, (20, 28), (20, 7)).reshape(20, 7)
    torch.testing.assert_close(resized, torch.arange(20.0)[:, None].expand(20, 7), atol=1e-5, rtol=0)


@pytest.mark.parametrize("by", get_args(AttentionQuery))
def test_attention_rows_equal_the_explicit_attention(by: AttentionQuery) -> None:
    encoder = Encoder(VIDEO, 3, TransformerConfig(dim=16, depth=2, heads=2)).double()
    view = torch.randn(2, 3, 4, 16, 16, dtype=torch.float64)
    tokens, row = encoder.forward_with_attention(view, by)
    torch.testing.assert_close(tokens, encoder(view))
    inputs: list[torch.Tensor] = []
    encoder.blocks[-1].attention.register_forward_hook(lambda module, args, output: inputs.append(args[0]))  # type: ignore[union-attr]
    encoder(view)
    attention: Attention = encoder.blocks[-1].attention  # type: ignore[assignment]
    query, key, _ = attention._split(attention.qkv(inputs[0]), (2, 9))
    scores = query @ key.transpose(-2, -1) * 8**-0.5
    explicit = {
        "cls": scores.softmax(dim=-1)[:, :, 0, 1:],
        "mean_attention": scores.softmax(dim=-1).mean(dim=2)[:, :, 1:],
        "mean_query": scores[:, :, 1:, 1:].mean(dim=2).softmax(dim=-1),
    }
    torch.testing.assert_close(row, explicit[by])
    assert row.shape == (2, 2, 8)


def test_embedding_all_patches_as_visible_equals_embedding_the_view() -> None:
    encoder = Encoder(VIDEO, 3, TransformerConfig(dim=16, depth=2, heads=2))
    view = torch.randn(2, 3, 4, 16, 16)
    keep = torch.arange(8).expand(2, 8)
    (encoded,) = encoder.encode(encoder.embed_visible(patchify(view, VIDEO.patch), keep))
    torch.testing.assert_close(encoded, encoder(view))


def test_packed_sequences_do_not_attend_to_each_other() -> None:
    encoder = Encoder(VIDEO, 3, TransformerConfig(dim=16, depth=2, heads=2)).double()
    whole, part = (torch.randn(b, 3, 4, s, s, dtype=torch.float64) for b, s in ((2, 16), (3, 8)))
    together = encoder.encode(encoder.embed_view(whole), encoder.embed_view(part))
    torch.testing.assert_close(together, [encoder(whole), encoder(part)])
