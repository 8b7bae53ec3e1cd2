"""The networks of a run per modality: students, teachers and decoders (Figure 2, Table S3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from torch import nn

from xkd.config import Modality, PretrainConfig
from xkd.model.mae import Decoder
from xkd.model.projector import Projector
from xkd.model.vit import Encoder

CHANNELS: dict[Modality, int] = {"video": 3, "audio": 1}


def build_encoder(config: PretrainConfig, modality: Modality) -> Encoder:
    """Return an initialized encoder of one modality."""
    return Encoder(config.modality(modality), CHANNELS[modality], config.encoder)


class Network(nn.Module):
    """A student or teacher: an encoder and, where there is distillation, its projector."""

    def __init__(self, config: PretrainConfig, modality: Modality) -> None:
        super().__init__()
        self.encoder = build_encoder(config, modality)
        if len(config.modalities) > 1:
            self.projector = Projector(config.encoder.dim, config.projector)


class Networks(nn.ModuleDict):
    """The students or the teachers per modality.

    Args:
        config: the run's.
        modalities: those that have a network.
        share: whether all use the transformer blocks of the first.
    """

    def __init__(self, config: PretrainConfig, modalities: Sequence[Modality], *, share: bool) -> None:
        super().__init__()
        for m in modalities:
            self[m] = Network(config, m)
        if share:
            for m in modalities[1:]:
                self[m].encoder.blocks = self[modalities[0]].encoder.blocks

    def __getitem__(self, modality: str) -> Network:
        return cast(Network, super().__getitem__(modality))

    def __iter__(self) -> Iterator[Modality]:
        return cast(Iterator[Modality], super().__iter__())


class Decoders(nn.ModuleDict):
    """The decoders per modality."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        for m in config.modalities:
            self[m] = Decoder(config.modality(m), CHANNELS[m], config.encoder.dim, config.decoder)

    def __getitem__(self, modality: str) -> Decoder:
        return cast(Decoder, super().__getitem__(modality))
