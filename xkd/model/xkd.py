"""The XKD model: students, teachers and the objective (section 3, Equation 12)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn

from xkd.config import MODALITIES, Modality, PretrainConfig, other
from xkd.model.losses import distill, mmd, update_center
from xkd.model.mae import Mask, random_mask, reconstruction_loss
from xkd.model.projector import Projector
from xkd.model.refinement import cross_modal_attention, refine
from xkd.model.terms import ALIGN, CENTER_NORM, KD, KLD, RECONSTRUCT, SUMS, TEACHER_ENTROPY, direction
from xkd.model.vit import CHANNELS, Decoder, build_encoder, gather_tokens, patchify, share_blocks


class Network(nn.Module):
    """A student or teacher: an encoder and, where there is distillation, its projector."""

    def __init__(self, config: PretrainConfig, modality: Modality) -> None:
        super().__init__()
        self.encoder = build_encoder(config, modality)
        if len(config.modalities) > 1:
            self.projector = Projector(config.encoder.dim, config.projector)


class Networks(nn.ModuleDict):
    """The students or the teachers per modality."""

    def __getitem__(self, modality: str) -> Network:
        return cast(Network, super().__getitem__(modality))

    def __iter__(self) -> Iterator[Modality]:
        return cast(Iterator[Modality], super().__iter__())


class MaskedView(NamedTuple):
    """A masked global view, encoded and decoded by a student's autoencoder."""

    patches: Tensor
    """(B, N, P) patches of the view."""
    mask: Mask
    latent: Tensor
    """(B, 1+K, D) encoded visible tokens."""
    predicted: Tensor
    """(B, N-K, P) normalized hidden patches as the decoder predicts them, in the order of `mask.drop`."""
    local: list[Tensor]
    """(V B, 1+N, D) encoded tokens of the local views, if there are any."""


class TeacherOutput(NamedTuple):
    """Statistics of a teacher's output for one batch, without gradients."""

    features: Tensor
    """(B, D) refined and pooled features, the projector's input."""
    mean_output: Tensor
    """(K,) mean of the projector's outputs, for `XKD.update_centers`."""
    mean_distribution: Tensor
    """(K,) mean of the distributions that the student is trained to match."""


class Objective(NamedTuple):
    """The objective of one batch."""

    terms: dict[str, Tensor]
    """Scalars: ``loss`` (Equation 12) and every term in `xkd.model.terms` that it consists of or tracks."""
    teacher_outputs: dict[Modality, TeacherOutput]
    """Per teacher's modality."""


class XKD(nn.Module):
    """A masked autoencoder per modality and, with two modalities, the teachers that distill across them.

    `forward` is the objective of a batch; after the optimizer's step `update_centers` and `update_teachers`
    complete the training step. With one modality there are no teachers: a masked autoencoder alone, VideoMAE
    for video (Table S16).
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        self.student = Networks({m: Network(config, m) for m in config.modalities})
        if config.share != "none":
            share_blocks(self.student[m].encoder for m in self.student)
        sizes = (config.encoder.dim, config.decoder)
        self.decoder = nn.ModuleDict(
            {m: Decoder(config.modality(m), CHANNELS[m], *sizes) for m in config.modalities}
        )
        # Only distillation needs teachers, and it needs both modalities.
        with_teacher = MODALITIES if len(config.modalities) > 1 else ()
        self.teacher = Networks({m: deepcopy(self.student[m]) for m in with_teacher}).requires_grad_(False)
        if config.share == "both":
            share_blocks(self.teacher[m].encoder for m in self.teacher)
        for m in self.teacher:
            self.register_buffer(f"center_{m}", torch.zeros(config.projector.out_dim))

    def forward(
        self,
        views: Mapping[Modality, Sequence[Tensor]],
        noise: Mapping[Modality, Tensor],
        temperature: Mapping[Modality, float],
    ) -> Objective:
        """Return the objective of one batch.

        Args:
            views: the global view, then the local views per modality; video (B, 3, T, H, W) and spectrograms
                (B, 1, F, T).
            noise: (B, N) uniform random numbers per modality, which choose the hidden tokens.
            temperature: tau_t of Equation 10 per teacher's modality.
        """
        terms: dict[str, Tensor] = {}
        student: dict[Modality, Tensor] = {}
        for m in self.config.modalities:
            masked = self.reconstruct(m, views[m][0], noise[m], views[m][1:] if self.teacher else ())
            hidden = gather_tokens(masked.patches, masked.mask.drop)
            terms[RECONSTRUCT[m]] = reconstruction_loss(masked.predicted, hidden)
            if self.teacher:
                # ((1 + V) B, K) outputs: of the masked global view, then of each local view.
                pooled = [self.student[m].encoder.pool(tokens) for tokens in (masked.latent, *masked.local)]
                student[m] = self.student[m].projector(torch.cat(pooled))
        outputs: dict[Modality, TeacherOutput] = {}
        if self.teacher:
            index = self.config.views.teacher_index
            features = self.teacher_features({m: views[m][index] for m in MODALITIES})
            with torch.no_grad():
                teacher = {m: self.teacher[m].projector(features[m]) for m in MODALITIES}
            terms |= self._alignment(student, teacher)
            for m in MODALITIES:
                d, target, center = direction(m), other(m), self.get_buffer(f"center_{m}")
                student_temperature = self.config.modality(target).student_temperature
                result = distill(student[target], teacher[m], center, student_temperature, temperature[m])
                terms |= {KD[d]: result.kd, KLD[d]: result.kld, TEACHER_ENTROPY[d]: result.entropy}
                terms[CENTER_NORM[d]] = center.norm()
                outputs[m] = TeacherOutput(features[m], teacher[m].mean(dim=0), result.mean_distribution)
        return Objective(self._with_sums(terms), outputs)

    def reconstruct(
        self,
        modality: Modality,
        view: Tensor,
        noise: Tensor,
        local_views: Sequence[Tensor] = (),
        mask_ratio: float | None = None,
    ) -> MaskedView:
        """Mask a global view, encode the visible tokens and predict the hidden ones (Equations 1, 2).

        Local views are encoded in the same pass. `mask_ratio` replaces the configured one.
        """
        config = self.config.modality(modality)
        ratio = config.mask_ratio if mask_ratio is None else mask_ratio
        patches = patchify(view, config.patch)
        times = config.grid[0] if config.mask == "tube" else 1
        mask = random_mask(noise[:, : noise.shape[1] // times], ratio, repeat=times)
        encoder = self.student[modality].encoder
        tokens = [encoder.embed_visible(patches, mask.keep)]
        if local_views:
            tokens.append(encoder.embed_view(torch.cat(list(local_views))))
        latent, *local = encoder.encode(*tokens)
        return MaskedView(patches, mask, latent, self.decoder[modality](latent, mask), local)

    @torch.no_grad()
    def teacher_features(self, views: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Encode whole views, refine across modalities and pool: (B, D) per modality (Equations 3 to 6)."""
        config = self.config.refine
        tokens, attention = {}, {}
        for m in MODALITIES:
            tokens[m], attention[m] = self.teacher[m].encoder.forward_with_attention(views[m], config.query)
        pooled: dict[Modality, Tensor] = {}
        for m in MODALITIES:
            features = tokens[m][:, 1:]
            if config.relevance != "none":
                relevance = cross_modal_attention(attention[m], attention[other(m)], config.relevance)
                features = refine(features, relevance)
            pooled[m] = features.mean(dim=1)
        return pooled

    @torch.no_grad()
    def update_teachers(self, momentum: float) -> None:
        """Move the teachers towards the students (Equation 13).

        Blocks that the teachers share move once; with `optim.ema_shared_twice` once per teacher.
        """
        updated: set[int] = set()
        for m in self.teacher:
            pairs = [
                pair
                for pair in zip(self.teacher[m].parameters(), self.student[m].parameters(), strict=True)
                if id(pair[0]) not in updated or self.config.optim.ema_shared_twice
            ]
            teachers, students = map(list, zip(*pairs, strict=True))
            torch._foreach_lerp_(teachers, students, 1 - momentum)
            updated.update(map(id, teachers))

    @torch.no_grad()
    def update_centers(self, means: Mapping[Modality, Tensor]) -> None:
        """Move the teachers' centers towards the mean outputs (K,) of the whole batch of a step (B.5)."""
        if self.config.loss.centering:
            for m, mean in means.items():
                center = self.get_buffer(f"center_{m}")
                center.copy_(update_center(center, mean, self.config.loss.center_momentum))

    def _alignment(
        self, student: Mapping[Modality, Tensor], teacher: Mapping[Modality, Tensor]
    ) -> dict[str, Tensor]:
        """Return the domain alignment terms of `loss.align_pairs` (Equations 7, S1, S2)."""
        students, teachers = ({m: self._gather(rows[m]) for m in MODALITIES} for rows in (student, teacher))
        terms: dict[str, Tensor] = {}
        if self.config.loss.align_pairs != "across":
            terms[ALIGN["student"]] = mmd(students["video"], students["audio"])
            terms[ALIGN["teacher"]] = mmd(teachers["video"], teachers["audio"])
        if self.config.loss.align_pairs != "same":
            terms |= {ALIGN[direction(m)]: mmd(teachers[m], students[other(m)]) for m in MODALITIES}
        return terms

    def _gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes if the alignment is over the global batch."""
        if not self.config.loss.align_gather or not dist.is_initialized():
            return rows
        return torch.cat(dist_functional.all_gather(rows))  # type: ignore[no-untyped-call]

    def _with_sums(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the sums of Equations 2, 7 and 11 and the loss of Equation 12 to their terms."""
        weights = self.config.loss
        for name, summands in SUMS.items():
            present = [terms[field] for field in summands.values() if field in terms]
            if present:
                terms[name] = torch.stack(present).sum()
                if weights.reduction == "mean" and len(present) > 1:
                    terms[name] = terms[name] / 2
        loss = torch.stack([getattr(weights, name) * terms[name] for name in SUMS if name in terms]).sum()
        if weights.reduction == "mean":
            loss = loss / (weights.reconstruct + weights.align + weights.distill)
        terms["loss"] = loss
        return terms
