"""XKD: students, teachers, and the objective that ties them (section 3, Equation 12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn

from xkd.config import MODALITIES, Modality, PretrainConfig, other
from xkd.model.losses import distill, mmd, moved_center
from xkd.model.mae import Mask, random_mask, reconstruction_loss
from xkd.model.networks import Decoders, Networks
from xkd.model.refinement import cross_modal_attention, refine
from xkd.model.vit import patchify


class Masked(NamedTuple):
    """A masked global view as the student's autoencoder sees it."""

    patches: Tensor
    """(B, N, P) the view's patches."""
    mask: Mask
    latent: Tensor
    """(B, 1+K, D) encoded visible tokens."""
    predicted: Tensor
    """(B, N, P) normalised patches predicted by the decoder."""
    local: list[Tensor]
    """(V B, 1+N, D) tokens of the local views, if there are any."""


class TeacherOutput(NamedTuple):
    """What a teacher made of one batch, for its center and for the collapse watch."""

    features: Tensor
    """(B, D) refined and pooled, as the projector gets them."""
    mean_output: Tensor
    """(K,) mean of the outputs, for `XKD.move_centers`."""
    mean_target: Tensor
    """(K,) mean of the distributions that were taught."""


class Objective(NamedTuple):
    """What one batch gives."""

    terms: dict[str, Tensor]
    """Scalars: ``loss`` (Equation 12), and every term that goes into it or is tracked."""
    taught: dict[Modality, TeacherOutput]
    """By the teacher's modality; without gradients."""


class Autoencoders(nn.Module):
    """The masked autoencoders: all of the VideoMAE baseline (Table S16), and the students of XKD."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        self.student = Networks(config, share=config.share != "none")
        self.decoder = Decoders(config)

    def forward(
        self,
        views: dict[Modality, list[Tensor]],
        noise: dict[Modality, Tensor],
        temperature: dict[Modality, float],
    ) -> Objective:
        """The objective of one batch.

        Args:
            views: per modality the global view, then the local views; video (B, 3, T, H, W) and
                spectrograms (B, 1, F, T).
            noise: per modality (B, N) uniform numbers that choose the hidden tokens.
            temperature: the teachers', per modality.
        """
        del temperature  # autoencoders alone have no teachers
        terms = {
            f"reconstruct_{m}": self._reconstruction(self.reconstruct(m, views[m][0], noise[m]))
            for m in self.config.modalities
        }
        return Objective(self._total(terms), {})

    def reconstruct(
        self,
        modality: Modality,
        view: Tensor,
        noise: Tensor,
        local_views: Sequence[Tensor] = (),
        mask_ratio: float | None = None,
    ) -> Masked:
        """Mask a global view, encode what is left and predict the rest (Equations 1, 2).

        Local views are encoded in the same go. The mask ratio is the configuration's unless another is given.
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
        return Masked(patches, mask, latent, self.decoder[modality](latent, mask.restore), local)

    def move_teachers(self, momentum: float) -> None:
        """Autoencoders alone have no teachers."""

    def move_centers(self, means: dict[Modality, Tensor]) -> None:
        """Autoencoders alone have no centers."""

    @staticmethod
    def _reconstruction(masked: Masked) -> Tensor:
        return reconstruction_loss(masked.predicted, masked.patches, masked.mask.hidden)

    def _total(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the sums of Equations 2, 7 and 11, and the total of Equation 12, to their parts."""
        weights = self.config.loss
        parts = {
            "reconstruct": [f"reconstruct_{m}" for m in MODALITIES],
            "align": [name for name in terms if name.startswith("align_")],
            "distill": [f"kd_{m}_to_{other(m)}" for m in MODALITIES],
        }
        for name, among in parts.items():
            found = [terms[part] for part in among if part in terms]
            if found:
                terms[name] = torch.stack(found).sum()
                if weights.reduction == "mean" and len(found) > 1:
                    terms[name] = terms[name] / 2
        loss = torch.stack([getattr(weights, name) * terms[name] for name in parts if name in terms]).sum()
        if weights.reduction == "mean":
            loss = loss / (weights.reconstruct + weights.align + weights.distill)
        terms["loss"] = loss
        return terms


class XKD(Autoencoders):
    """The whole method: the students' autoencoders, taught by the other modality's teacher.

    `forward` is the objective of a batch; after a step of the optimizer, `move_centers` and
    `move_teachers` complete it.
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__(config)
        self.teacher = Networks(config, share=config.share == "both")
        for m in MODALITIES:
            self.register_buffer(f"center_{m}", torch.zeros(config.projector.out_dim))
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)

    def forward(
        self,
        views: dict[Modality, list[Tensor]],
        noise: dict[Modality, Tensor],
        temperature: dict[Modality, float],
    ) -> Objective:
        """The objective of one batch; see `Autoencoders.forward`."""
        terms: dict[str, Tensor] = {}
        student: dict[Modality, Tensor] = {}
        for m in MODALITIES:
            masked = self.reconstruct(m, views[m][0], noise[m], views[m][1:])
            terms[f"reconstruct_{m}"] = self._reconstruction(masked)
            student[m] = self._project_student(m, masked)
        seen = self.config.views.teacher_index
        features = self.teacher_features({m: views[m][seen] for m in MODALITIES})
        teacher = self.project_teachers(features)

        terms |= self._alignment(student, teacher)
        taught: dict[Modality, TeacherOutput] = {}
        for m in MODALITIES:
            result = distill(
                student[other(m)],
                teacher[m],
                self.center(m),
                self.config.modality(other(m)).student_temperature,
                temperature[m],
            )
            direction = f"{m}_to_{other(m)}"
            terms[f"kd_{direction}"], terms[f"kld_{direction}"] = result.kd, result.kld
            terms[f"teacher_entropy_{direction}"] = result.entropy
            terms[f"center_norm_{direction}"] = self.center(m).norm()
            taught[m] = TeacherOutput(features[m], teacher[m].mean(dim=0), result.mean_target)
        return Objective(self._total(terms), taught)

    @torch.no_grad()
    def move_teachers(self, momentum: float) -> None:
        """Move the teachers towards the students (Equation 13).

        Blocks that both teachers share move once; `optim.ema_shared_twice` moves them for each of the two.
        """
        moved: set[int] = set()
        for m in MODALITIES:
            pairs = [
                pair
                for pair in zip(self.teacher[m].parameters(), self.student[m].parameters(), strict=True)
                if id(pair[0]) not in moved or self.config.optim.ema_shared_twice
            ]
            teachers, students = map(list, zip(*pairs, strict=True))
            torch._foreach_lerp_(teachers, students, 1 - momentum)
            moved.update(map(id, teachers))

    @torch.no_grad()
    def move_centers(self, means: dict[Modality, Tensor]) -> None:
        """Move the teachers' centers towards the mean outputs (K,) of the step's whole batch (B.5)."""
        if self.config.loss.centering:
            for m, mean in means.items():
                center = self.center(m)
                center.copy_(moved_center(center, mean, self.config.loss.center_momentum))

    def _project_student(self, modality: Modality, masked: Masked) -> Tensor:
        """((1 + local views) B, K): the masked global view's rows, then each local view's."""
        network = self.student[modality]
        pooled = [network.encoder.pool(tokens) for tokens in (masked.latent, *masked.local)]
        return network.projector(torch.cat(pooled))  # type: ignore[no-any-return]

    @torch.no_grad()
    def teacher_features(self, views: dict[Modality, Tensor]) -> dict[Modality, Tensor]:
        """(B, D) per modality: encode the whole view, refine across modalities, pool."""
        how = self.config.refine
        tokens, attention = {}, {}
        for m in MODALITIES:
            tokens[m], attention[m] = self.teacher[m].encoder.forward_with_attention(views[m], how.query)
        pooled: dict[Modality, Tensor] = {}
        for m in MODALITIES:
            features = tokens[m][:, 1:]
            if how.relevance != "none":
                across = cross_modal_attention(attention[m], attention[other(m)], how.relevance)
                features = refine(features, across)
            pooled[m] = features.mean(dim=1)
        return pooled

    @torch.no_grad()
    def project_teachers(self, features: dict[Modality, Tensor]) -> dict[Modality, Tensor]:
        """(B, K) per modality: the teachers' outputs for their features."""
        return {m: self.teacher[m].projector(features[m]) for m in MODALITIES}

    def _alignment(
        self, student: dict[Modality, Tensor], teacher: dict[Modality, Tensor]
    ) -> dict[str, Tensor]:
        """The domain alignments between the outputs of `loss.align_pairs` (Equations 7, S1, S2)."""
        students, teachers = ({m: self._all_rows(rows[m]) for m in MODALITIES} for rows in (student, teacher))
        terms: dict[str, Tensor] = {}
        if self.config.loss.align_pairs != "across":
            terms["align_student"] = mmd(students["video"], students["audio"])
            terms["align_teacher"] = mmd(teachers["video"], teachers["audio"])
        if self.config.loss.align_pairs != "same":
            terms |= {f"align_{m}_to_{other(m)}": mmd(teachers[m], students[other(m)]) for m in MODALITIES}
        return terms

    def center(self, modality: Modality) -> Tensor:
        """(K,) running mean of a teacher's outputs."""
        center: Tensor = getattr(self, f"center_{modality}")
        return center

    def _all_rows(self, rows: Tensor) -> Tensor:
        """The rows of every process when the alignment is taken over the global batch."""
        if not self.config.loss.align_gather or not dist.is_initialized():
            return rows
        return torch.cat(dist_functional.all_gather(rows))  # type: ignore[no-untyped-call]


def build_model(config: PretrainConfig) -> Autoencoders:
    """XKD, or for one modality alone its masked autoencoder."""
    return XKD(config) if len(config.modalities) > 1 else Autoencoders(config)
