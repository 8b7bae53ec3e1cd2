"""The protocols by name."""

from __future__ import annotations

from xkd.evaluation.protocols.finetune.protocol import Finetuning
from xkd.evaluation.protocols.fusion import LateFusion
from xkd.evaluation.protocols.linear_head import LinearHead
from xkd.evaluation.protocols.protocol import Protocol
from xkd.evaluation.protocols.svm import LinearSVM
from xkd.evaluation.score import ProtocolName

PROTOCOLS: dict[ProtocolName, Protocol] = {
    "svm": LinearSVM(),
    "fusion": LateFusion(),
    "fc": LinearHead(),
    "finetune": Finetuning(),
}
