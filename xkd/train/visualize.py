"""What the networks make of a few clips, kept as tensors for the report's pictures (Figures S7 to S12)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from xkd.config import MODALITIES, Modality, other
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.transforms.views import Views, to_pixels
from xkd.io import write_atomically
from xkd.model.refinement import cross_modal_attention
from xkd.model.vit import unpatchify
from xkd.model.xkd import XKD, Autoencoders

CLIPS = 3
FRAMES = 8
"""Evenly spaced frames kept of a clip."""
RATIOS: dict[Modality, tuple[float, ...]] = {"video": (0.6, 0.7, 0.8, 0.9), "audio": (0.5, 0.6, 0.7, 0.8)}
"""The mask ratios of Figures S8 to S10."""


@torch.no_grad()
def save_pictures(model: Autoencoders, dataset: PreparedDataset, path: Path) -> None:
    """Write what the students reconstruct of a few clips, and where their teachers look.

    The clips are held out, if any are, and seen as plain global views. The file holds per modality, of n
    clips and R mask ratios:

    - ``original``: frames (n, 3, FRAMES, H, W) as bytes; spectrograms (n, 1, F, T) as the model sees them.
    - ``ratios`` (R,): the run's own mask ratio, then those of Figures S8 to S10.
    - ``hidden`` (R, n, *grid): true for hidden patches. What one ratio hides, every higher one hides too.
    - ``reconstructed`` (R, *original's): the prediction, with the mean and deviation of the patch it stands
      for, where the patch was hidden; elsewhere the original.
    - ``attention`` and ``relevance`` (n, *grid), if teachers refine each other: what they attend to
      (Equation 3), and what refinement weights their tokens with (Equation 4); means over the heads.
    """
    device = next(model.parameters()).device
    modalities = model.config.modalities
    whole = [clip for clip in dataset.clips if clip.has(modalities)]
    clips = sorted(whole, key=lambda clip: clip.splits[0] == "train")[:CLIPS]
    (batch,) = evaluation_batches(dataset, clips, model.config, 1, modalities=modalities)
    views = Views(model.config).to(device).plain(batch)
    generator = torch.Generator().manual_seed(0)
    pictures: dict[str, dict[str, Tensor]] = {}
    for m in modalities:
        noise = torch.rand(len(clips), math.prod(model.config.modality(m).grid), generator=generator)
        pictures[m] = _reconstructions(model, m, views[m], noise.to(device))
    if isinstance(model, XKD):
        for m, maps in _attention(model, views).items():
            pictures[m] |= maps
    kept = {m: {name: tensor.cpu() for name, tensor in of.items()} for m, of in pictures.items()}
    write_atomically(path, lambda file: torch.save(kept, file))


def _reconstructions(
    model: Autoencoders, modality: Modality, view: Tensor, noise: Tensor
) -> dict[str, Tensor]:
    """``original``, ``ratios``, ``hidden`` and ``reconstructed`` of `save_pictures`."""
    config = model.config.modality(modality)
    ratios = (config.mask_ratio, *RATIOS[modality])
    masks, pictures = [], []
    for ratio in ratios:
        masked = model.reconstruct(modality, view, noise, mask_ratio=ratio)
        hidden = masked.mask.hidden.bool()
        mean = masked.patches.mean(dim=-1, keepdim=True)
        std = (masked.patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        filled = torch.where(hidden.unsqueeze(-1), masked.predicted * std + mean, masked.patches)
        masks.append(hidden.view(-1, *config.grid))
        pictures.append(_to_keep(modality, unpatchify(filled, config.grid, config.patch)))
    return {
        "original": _to_keep(modality, view),
        "ratios": torch.tensor(ratios, dtype=torch.float64),
        "hidden": torch.stack(masks),
        "reconstructed": torch.stack(pictures),
    }


def _to_keep(modality: Modality, view: Tensor) -> Tensor:
    """A view as it is stored: some frames of a video, in bytes; a spectrogram in half floats."""
    if modality == "audio":
        return view.half()
    length = view.shape[2]
    count = min(FRAMES, length)
    shown = [int((place + 0.5) * length / count) for place in range(count)]
    return (255 * to_pixels(view[:, :, shown]).nan_to_num()).round().byte()


def _attention(model: XKD, views: dict[Modality, Tensor]) -> dict[Modality, dict[str, Tensor]]:
    """``attention`` and ``relevance`` of `save_pictures`, per modality; none if nothing is refined."""
    how = model.config.refine
    if how.relevance == "none":
        return {}
    own = {m: model.teacher[m].encoder.forward_with_attention(views[m], how.query)[1] for m in MODALITIES}
    maps: dict[Modality, dict[str, Tensor]] = {}
    for m in MODALITIES:
        shape = (-1, *model.config.modality(m).grid)
        relevance = cross_modal_attention(own[m], own[other(m)], how.relevance)
        maps[m] = {
            "attention": own[m].mean(dim=1).view(shape),
            "relevance": relevance.mean(dim=1).view(shape),
        }
    return maps
