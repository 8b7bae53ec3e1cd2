"""Evaluation protocols: features or clips in, predictions out."""

from __future__ import annotations

from xkd.evaluation.protocols.finetune.protocol import Finetuning
from xkd.evaluation.protocols.linear_head import LinearHead
from xkd.evaluation.protocols.protocol import Protocol
from xkd.evaluation.protocols.retrieval import Retrieval
from xkd.evaluation.protocols.svm import LinearSVM
from xkd.evaluation.score import ProtocolName

PROTOCOLS: dict[ProtocolName, Protocol] = {
    "svm": LinearSVM(),
    "fusion": LinearSVM(),  # late fusion: on the features of both modalities
    "fc": LinearHead(),
    "finetune": Finetuning(),
    "retrieval": Retrieval(),
}
"""The protocols by name."""
