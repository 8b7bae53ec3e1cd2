"""What a process leaves to say how it ended, in the format of torchrun's error files.

TorchX on this machine, or the kubelet as a pod's termination message, hands it to who started the process.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_termination_message(path: str, message: str, code: int, **extra: Any) -> None:
    """Leave a line for people, an exit code, and what else there is to say."""
    facts = {"timestamp": str(int(time.time())), **extra}
    entry = {"message": message, "errorCode": code, "extraInfo": facts}
    Path(path).write_text(json.dumps({"message": entry}))


def read_termination_message(text: str | None) -> dict[str, Any]:
    """What was left: ``message``, ``errorCode`` and ``extraInfo``; empty if that cannot be read."""
    with suppress(ValueError, KeyError, TypeError):
        ending = json.loads(text or "")["message"]
        if isinstance(ending, dict):
            return ending
    return {}
