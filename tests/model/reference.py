"""The recorded runs of the authors' code, their names mapped to ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from torch import Tensor

from xkd.config import (
    ClipConfig,
    LossConfig,
    Modality,
    ModalityConfig,
    OptimConfig,
    PretrainConfig,
    ProjectorConfig,
    RefineConfig,
    TransformerConfig,
    ViewsConfig,
)
from xkd.train.import_released import our_name as our_encoder_name

SHARE: dict[str, Literal["none", "student", "both"]] = {"xkd": "none", "mas": "student", "mats": "both"}
SHORT: dict[Modality, str] = {"video": "vid", "audio": "aud"}
TERMS = {
    "vid_recon_loss": "reconstruct_video",
    "aud_recon_loss": "reconstruct_audio",
    "recon_loss": "reconstruct",
    "as2vs_align_loss": "align_student",
    "vt2at_align_loss": "align_teacher",
    "alignment_loss": "align",
    "vt2as_kd_loss": "kd_video_to_audio",
    "at2vs_kd_loss": "kd_audio_to_video",
    "cmkd_loss": "distill",
    "loss": "loss",
}
_RENAMES = [
    (r"dec_pos_embed", "positions"),
    (r"decoder\.blocks", "blocks"),
    (r"mid_proj", "project"),
    (r"out_proj", "predict"),
    (r"head\.mlp\.0", "projector.hidden.0"),
    (r"head\.mlp\.3", "projector.hidden.1"),
    (r"head\.mlp\.1", "projector.norm"),
    (r"head\.mlp\.6", "projector.bottleneck"),
    (r"head\.last_layer\.weight_v", "projector.directions.weight"),
]


def our_name(official: str) -> str | None:
    """Our parameter's name; None for aliases and for the constant output gains."""
    if re.search(r"_ae\.encoder\.|head\.mlp\.4\.|last_layer\.weight_g", official):
        return None
    if official == "vt2as_ce_loss.center":
        return "center_video"
    if official == "at2vs_ce_loss.center":
        return "center_audio"
    owner, _, rest = official.partition(".")
    short, _, role = owner.partition("_")
    modality = "video" if short == "vid" else "audio"
    if rest.startswith("backbone."):
        return f"{role}.{modality}.encoder.{our_encoder_name(rest.removeprefix('backbone.'))}"
    for pattern, ours in _RENAMES:
        rest = re.sub(pattern, ours, rest)
    rest = our_encoder_name(rest)  # decoders have the same blocks
    return f"{'decoder' if role == 'ae' else role}.{modality}.{rest}"


class Reference:
    """One recorded run: configuration, inputs and values; tests/reference/README.md lists its keys."""

    def __init__(self, folder: Path, run: str) -> None:
        self.meta: dict[str, Any] = {}
        self.values: dict[str, Tensor] = {}
        for name in (run.partition("_")[0], run):
            with safe_open(folder / f"{name}.safetensors", "pt") as file:
                self.meta |= json.loads(file.metadata()["meta"])
                self.values |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def config(self) -> PretrainConfig:
        """The recorded run in our settings."""
        m = self.meta
        c, kwargs = m["config"], m["fwd_kwargs"]

        def size(section: str) -> TransformerConfig:
            return TransformerConfig(
                dim=m[section]["embed_dim"], depth=m[section]["depth"], heads=m[section]["num_heads"]
            )

        released = m["teacher_view"] == "released"
        views = self.views()
        return PretrainConfig(
            share=SHARE[m["variant"]],
            video=ModalityConfig(
                local_views=len(views["video"]) - 1,
                global_view=(c["num_frames"], *c["frame_size"][1:]),
                local_view=tuple(c["local_frames"]),
                patch=(c["vid_patch_temporal"], *c["vid_patch_spatial"]),
                mask_ratio=kwargs["vid_mask_ratio"],
                # The authors' code takes the audio student's temperature for both.
                student_temperature=kwargs["student_temp"]["audio"],
                teacher_temperature=kwargs["teacher_temp"]["video"],
            ),
            audio=ModalityConfig(
                local_views=len(views["audio"]) - 1,
                global_view=tuple(c["spec_size"]),
                local_view=tuple(c["local_spec"]),
                patch=tuple(c["spec_patch_spatial"]),
                mask_ratio=kwargs["aud_mask_ratio"],
                student_temperature=kwargs["student_temp"]["audio"],
                teacher_temperature=kwargs["teacher_temp"]["audio"],
            ),
            # The views come from the file; the clip's settings only have to agree with their sizes.
            clip=ClipConfig(
                seconds=1.0, fps=c["num_frames"], sample_rate=16000, hop=16000 // c["spec_size"][1] + 1
            ),
            views=ViewsConfig(teacher="local" if released else "global"),
            refine=RefineConfig(relevance=kwargs["cm_attn_mode"]),
            encoder=size("encoder"),
            decoder=size("decoder"),
            projector=ProjectorConfig(
                hidden_dim=m["projector"]["hidden_dim"],
                bottleneck_dim=m["projector"]["bottleneck_dim"],
                out_dim=m["projector"]["out_dim"],
            ),
            loss=LossConfig(reduction="mean", center_momentum=m["center_momentum"]),
            optim=OptimConfig(
                lr=m["lr"],
                weight_decay=m["weight_decay"],
                betas=tuple(m["betas"]),
                clip_norm=m["clip"],
                ema_shared_twice=True,
            ),
        )

    def state(self, prefix: str = "state/") -> dict[str, Tensor]:
        """A recorded state dict under our names."""
        theirs = {k.removeprefix(prefix): v.double() for k, v in self.values.items() if k.startswith(prefix)}
        theirs |= {name: theirs[first] for name, first in self.meta["aliases"].items() if first in theirs}
        named = {our_name(name): value for name, value in theirs.items()}
        return {
            name: value.squeeze(0) if name.startswith("center_") else value
            for name, value in named.items()
            if name is not None
        }

    def views(self) -> dict[Modality, list[Tensor]]:
        """The recorded views, global first."""
        return {
            "video": [v.double() for k, v in sorted(self.values.items()) if k.startswith("in/frames/")],
            "audio": [v.double() for k, v in sorted(self.values.items()) if k.startswith("in/specs/")],
        }

    def noise(self, step: int) -> dict[Modality, Tensor]:
        """The recorded masking noise of one step."""
        return {
            "video": self.values[f"in/noise/{step}/video"],
            "audio": self.values[f"in/noise/{step}/audio"],
        }
