"""What the students reconstruct, kept as tensors for the report's pictures (Figures S8-S12)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from xkd.data.clips import evaluation_batches
from xkd.data.manifest import Manifest
from xkd.data.views import Views, to_pixels
from xkd.files import write_atomically
from xkd.method.model import Autoencoders
from xkd.method.vit import unpatchify

CLIPS = 4


@torch.no_grad()
def save_pictures(model: Autoencoders, data: Path, path: Path) -> None:
    """Write the original, masked and reconstructed global views of a few clips, held-out if there are any.

    The file holds, per modality, ``original``, ``masked`` and ``reconstructed``: video (n, 3, T, H, W) in
    [0, 1], spectrograms (n, 1, F, T) as the model sees them.
    """
    device = next(model.parameters()).device
    manifest = Manifest.read(data)
    modalities = model.config.modalities
    whole = [clip for clip in manifest.clips if clip.has(modalities)]
    clips = sorted(whole, key=lambda clip: clip.splits[0] == "train")[:CLIPS]
    (batch,) = evaluation_batches(data, clips, model.config, 1, modalities=modalities)
    views = Views(model.config).to(device).plain(batch)
    pictures: dict[str, dict[str, Tensor]] = {}
    generator = torch.Generator().manual_seed(0)
    for m in modalities:
        config = model.config.modality(m)
        noise = torch.rand(len(clips), model.decoder[m].positions.shape[1] - 1, generator=generator)
        masked = model.reconstruct(m, views[m], noise.to(device))
        hidden = masked.mask.hidden.unsqueeze(-1)
        mean = masked.patches.mean(dim=-1, keepdim=True)
        std = (masked.patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        filled = masked.patches * (1 - hidden) + (masked.predicted * std + mean) * hidden
        gray = masked.patches.mean(dim=(1, 2), keepdim=True)
        versions = {
            "original": masked.patches,
            "masked": masked.patches * (1 - hidden) + gray * hidden,
            "reconstructed": filled,
        }
        pictures[m] = {
            name: unpatchify(patches, config.grid, config.patch).cpu() for name, patches in versions.items()
        }
    if "video" in pictures:
        pictures["video"] = {name: to_pixels(picture) for name, picture in pictures["video"].items()}
    write_atomically(path, lambda file: torch.save(pictures, file))
