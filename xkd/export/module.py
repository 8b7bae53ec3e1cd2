"""An encoder with its front end, in operations that can be exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xkd.data.transforms.logmel import LogMel
from xkd.data.transforms.views import Views
from xkd.weights import PretrainedEncoder


class ExportedEncoder(nn.Module):
    """What is exported: a batch of clips to the encoder's tokens and features.

    The spectrogram is computed in float64. The transform of ONNX Runtime in float32 is less exact than
    torch's: of a pure tone, whose other bands are almost silent, the two differ by 9e-4 of a standard
    deviation (docs/behavior.md).
    """

    def __init__(self, encoder: PretrainedEncoder) -> None:
        super().__init__()
        self.encoder, config = encoder, encoder.config
        self.front_end = (
            Views(config)
            if encoder.modality == "video"
            else LogMel(config.clip, config.audio.global_view[0]).double()
        )

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, 1+N, D), cls first, and features (B, D).

        Args:
            clips: as `input_shape` says; frames uint8 of the view's size, or waveforms in [-1, 1].
        """
        if isinstance(self.front_end, Views):
            views = self.front_end.plain({"frames": clips.movedim(-1, 2)})["video"]
        else:
            views = self.front_end.transform(clips.double()).float()[:, None]
        tokens = self.encoder(views)
        return tokens, self.encoder.pool(tokens)


def input_name(encoder: PretrainedEncoder) -> str:
    """Return the name of the exported encoder's input."""
    return "frames" if encoder.modality == "video" else "waveform"


def input_shape(encoder: PretrainedEncoder) -> tuple[int, ...]:
    """Return the shape of one clip: frames (T, H, W, 3), or a waveform (S,)."""
    if encoder.modality == "video":
        return (*encoder.config.video.global_view, 3)
    return (encoder.config.clip.window_samples,)


def random_clips(encoder: PretrainedEncoder, count: int) -> Tensor:
    """Return random input: uint8 pixels, or noise of random loudness down to 60 dB below full scale."""
    generator = torch.Generator().manual_seed(count)
    shape = (count, *input_shape(encoder))
    if encoder.modality == "video":
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    loudness = 10 ** (-3 * torch.rand(count, 1, generator=generator))
    return loudness * (2 * torch.rand(shape, generator=generator) - 1)
