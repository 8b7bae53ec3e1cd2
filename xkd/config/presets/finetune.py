"""Fine-tuning by dataset and modality (Tables S6, S7)."""

from xkd.config.finetune import FinetuneConfig
from xkd.config.presets.registry import build_preset, read_table
from xkd.config.types import MODALITIES, Modality

_TABLE = read_table("finetuning.yaml")

FINETUNING: dict[tuple[str, Modality], FinetuneConfig] = {
    (name.removesuffix(f"-{modality}"), modality): build_preset(_TABLE, name, FinetuneConfig())
    for name in _TABLE
    for modality in MODALITIES
    if name.endswith(f"-{modality}")
}
"""The settings of every dataset and modality that the paper, or the embedded dataset, fine-tunes; ``own``: of
datasets of one's own."""


def finetuning(dataset: str, modality: Modality) -> FinetuneConfig:
    """Return the settings of a dataset; of one that is in no table, those of datasets of one's own."""
    return FINETUNING.get((dataset, modality)) or FINETUNING["own", modality]
