"""The protocols by name."""

from __future__ import annotations

from xkd.evaluate.protocols.finetune.protocol import Finetuning
from xkd.evaluate.protocols.fusion import LateFusion
from xkd.evaluate.protocols.linear_head import LinearHead
from xkd.evaluate.protocols.protocol import Protocol
from xkd.evaluate.protocols.svm import LinearSVM
from xkd.evaluate.score import ProtocolName

PROTOCOLS: dict[ProtocolName, Protocol] = {
    "svm": LinearSVM(),
    "fusion": LateFusion(),
    "fc": LinearHead(),
    "finetune": Finetuning(),
}
