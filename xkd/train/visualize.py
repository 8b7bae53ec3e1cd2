"""Reconstructions and attention maps of a few clips, for the report's figures (Figures S7 to S12)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xkd.config import Modality, other
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.transforms.views import Views, to_pixels
from xkd.io import write_atomically
from xkd.model.refinement import cross_modal_attention
from xkd.model.vit import gather_tokens, unpatchify
from xkd.model.xkd import XKD

CLIPS = 3
FRAMES = 8
"""Number of evenly spaced frames saved per clip."""
RATIOS: dict[Modality, tuple[float, ...]] = {"video": (0.6, 0.7, 0.8, 0.9), "audio": (0.5, 0.6, 0.7, 0.8)}
"""Mask ratios of Figures S8 to S10."""


@torch.no_grad()
def save_samples(model: XKD, dataset: PreparedDataset, path: Path) -> None:
    """Write the students' reconstructions and the teachers' attention maps of a few clips.

    Held-out clips are preferred; all are seen as global views without augmentation. The file holds per
    modality, for n clips and R mask ratios:

    - ``original``: frames (n, 3, FRAMES, H, W), uint8; spectrograms (n, 1, F, T), half.
    - ``ratios`` (R,): the configured mask ratio, then those of Figures S8 to S10.
    - ``hidden`` (R, n, *grid): true for hidden patches; masks of higher ratios contain those of lower ones.
    - ``reconstructed`` (R, *original.shape): hidden patches are replaced by the prediction, with the mean and
      standard deviation of the original patch.
    - ``attention`` and ``relevance`` (n, *grid), with refinement: the teachers' attention (Equation 3) and
      the weights of their tokens (Equation 4), averaged over the heads.
    """
    device = next(model.parameters()).device
    modalities = model.config.modalities
    complete = dataset.clips.select(dataset.clips.has(*modalities))
    trained = complete.match("splits", lambda splits: splits[0] == "train")
    clips = complete.select(np.argsort(trained, kind="stable")[:CLIPS])
    (batch,) = evaluation_batches(dataset, clips, model.config, 1, modalities=modalities)
    views = Views(model.config).to(device).plain(batch)
    generator = torch.Generator().manual_seed(0)
    samples: dict[str, dict[str, Tensor]] = {}
    for m in modalities:
        noise = torch.rand(len(clips), math.prod(model.config.modality(m).grid), generator=generator)
        samples[m] = _reconstructions(model, m, views[m], noise.to(device))
    for m, maps in _attention_maps(model, views).items():
        samples[m] |= maps
    on_cpu = {m: {name: tensor.cpu() for name, tensor in of.items()} for m, of in samples.items()}
    write_atomically(path, lambda file: torch.save(on_cpu, file))


def _reconstructions(model: XKD, modality: Modality, view: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Return ``original``, ``ratios``, ``hidden`` and ``reconstructed`` of `save_samples`."""
    config = model.config.modality(modality)
    ratios = (config.mask_ratio, *RATIOS[modality])
    masks, reconstructions = [], []
    for ratio in ratios:
        masked = model.reconstruct(modality, view, noise, mask_ratio=ratio)
        hidden = gather_tokens(masked.patches, masked.mask.drop)
        mean = hidden.mean(dim=-1, keepdim=True)
        std = (hidden.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        index = masked.mask.drop.unsqueeze(-1).expand_as(hidden)
        filled = masked.patches.scatter(1, index, masked.predicted * std + mean)
        masks.append(masked.mask.hidden.view(-1, *config.grid))
        reconstructions.append(_compress(modality, unpatchify(filled, config.grid, config.patch)))
    return {
        "original": _compress(modality, view),
        "ratios": torch.tensor(ratios, dtype=torch.float64),
        "hidden": torch.stack(masks),
        "reconstructed": torch.stack(reconstructions),
    }


def _compress(modality: Modality, view: Tensor) -> Tensor:
    """Return a view as it is saved: FRAMES frames of a video as uint8, a spectrogram as half floats."""
    if modality == "audio":
        return view.half()
    length = view.shape[2]
    count = min(FRAMES, length)
    frames = [int((number + 0.5) * length / count) for number in range(count)]
    return (255 * to_pixels(view[:, :, frames]).nan_to_num()).round().byte()


def _attention_maps(model: XKD, views: dict[Modality, Tensor]) -> dict[Modality, dict[str, Tensor]]:
    """Return ``attention`` and ``relevance`` of `save_samples` per modality; empty without refinement."""
    config = model.config.refine
    if config.relevance == "none":
        return {}
    own = {
        m: model.teacher[m].encoder.forward_with_attention(views[m], config.query)[1] for m in model.teacher
    }
    maps: dict[Modality, dict[str, Tensor]] = {}
    for m in model.teacher:
        shape = (-1, *model.config.modality(m).grid)
        relevance = cross_modal_attention(own[m], own[other(m)], config.relevance)
        maps[m] = {
            "attention": own[m].mean(dim=1).view(shape),
            "relevance": relevance.mean(dim=1).view(shape),
        }
    return maps
