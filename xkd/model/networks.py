"""The networks of a run: students, teachers and decoders, by modality (Figure 2, Table S3)."""

from __future__ import annotations

from typing import cast

from torch import nn

from xkd.config import Modality, PretrainConfig
from xkd.model.mae import Decoder
from xkd.model.projector import Projector
from xkd.model.vit import Encoder

CHANNELS: dict[Modality, int] = {"video": 3, "audio": 1}


def build_encoder(config: PretrainConfig, modality: Modality) -> Encoder:
    """A freshly initialised encoder of one modality."""
    return Encoder(config.modality(modality), CHANNELS[modality], config.encoder)


class Network(nn.Module):
    """An encoder with its projector: one student or one teacher."""

    def __init__(self, config: PretrainConfig, modality: Modality) -> None:
        super().__init__()
        self.encoder = build_encoder(config, modality)
        if len(config.modalities) > 1:
            self.projector = Projector(config.encoder.dim, config.projector)


class Networks(nn.ModuleDict):
    """The students or the teachers, by modality; sharing, all have the transformer blocks of the first."""

    def __init__(self, config: PretrainConfig, *, share: bool) -> None:
        super().__init__({m: Network(config, m) for m in config.modalities})
        if share:
            for m in config.modalities[1:]:
                self[m].encoder.blocks = self[config.modalities[0]].encoder.blocks

    def __getitem__(self, modality: str) -> Network:
        return cast(Network, super().__getitem__(modality))


class Decoders(nn.ModuleDict):
    """The decoders, by modality."""

    def __init__(self, config: PretrainConfig) -> None:
        dim = config.encoder.dim
        super().__init__(
            {m: Decoder(config.modality(m), CHANNELS[m], dim, config.decoder) for m in config.modalities}
        )

    def __getitem__(self, modality: str) -> Decoder:
        return cast(Decoder, super().__getitem__(modality))
