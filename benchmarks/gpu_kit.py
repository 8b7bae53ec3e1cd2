"""What the parts of `benchmarks/gpu.py` share: its results, and a model with a batch."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Timer, random_part
from xkd.config import MODALITIES, Modality, PretrainConfig
from xkd.launch.distributed import DistributedContext
from xkd.model.terms import TEACHER_TEMPERATURE
from xkd.model.xkd import XKD
from xkd.train.schedules import schedule
from xkd.train.step import Stepper, autocast

Values = dict[str, float | str]


class Kit:
    """Measurements, written after each.

    Args:
        out: path without suffix; ``.json`` and ``.md`` are written.
        minutes: time for all of them.
    """

    def __init__(self, out: Path, minutes: float, device: torch.device, tiny: bool) -> None:
        self._out, self._end = out, time.monotonic() + 60 * minutes
        self.device, self.timer, self.tiny = device, Timer(device), tiny
        self.repeats = 2 if tiny else 10
        self.context = DistributedContext(0, 1, device)
        cuda = device.type == "cuda"
        self.facts: dict[str, Any] = {
            "device": torch.cuda.get_device_name(device) if cuda else "CPU",
            "torch": torch.__version__,
            "cuda": torch.version.cuda if cuda else None,
            "time": datetime.now(UTC).isoformat(timespec="minutes"),
            "tiny": tiny,
        }
        self.rows: dict[str, dict[str, Values]] = {}
        self.failed: list[str] = []

    def measure(self, section: str, name: str, work: Callable[[], Values], minutes: float = 0.0) -> None:
        """Record the values of some work, or why there are none; it needs some minutes to be left."""
        if self._end - time.monotonic() < 60 * minutes + 1:
            values: Values = {"not measured": "no time left"}
        else:
            try:
                values = work()
            except Exception as error:  # a blank with its reason, whatever it is
                values = {"not measured": (str(error).strip() or type(error).__name__).partition("\n")[0]}
        self.rows.setdefault(section, {})[name] = values
        print(
            f"{section}, {name}: {', '.join(f'{key} {_text(value)}' for key, value in values.items())}",
            flush=True,
        )
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        content = json.dumps({**self.facts, "rows": self.rows}, indent=1)
        self._out.with_suffix(".json").write_text(content + "\n")
        self._out.with_suffix(".md").write_text(self.markdown())

    def check(self, name: str, allowed: float, work: Callable[[], Values]) -> None:
        """Record relative errors, each of which must be at most `allowed`."""
        self.measure("correctness", name, lambda: {"allowed": allowed, **work()})
        if not self.rows["correctness"][name].get("error", 0.0) <= allowed:  # type: ignore[operator]
            self.failed.append(name)

    def markdown(self) -> str:
        """Return a table per section."""
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items() if value)
        text = f"{facts}\n"
        for section, rows in self.rows.items():
            columns = list(dict.fromkeys(name for values in rows.values() for name in values))
            text += f"\n| {section} | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}\n"
            for name, values in rows.items():
                text += f"| {name} | {' | '.join(_text(values.get(column, '')) for column in columns)} |\n"
        return text

    def peak_memory(self) -> Values:
        """Return the GPU memory that was used at most since the last measurement."""
        if self.device.type != "cuda":
            return {}
        return {"peak GiB": torch.cuda.max_memory_allocated(self.device) / 2**30}


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def temperatures(config: PretrainConfig) -> dict[Modality, float]:
    """Return the teachers' temperatures in the middle of a run."""
    now = schedule(config, 1000, 2000, 10)
    return {m: now[TEACHER_TEMPERATURE[m]] for m in MODALITIES}


class Setting:
    """A model, its stepper and a batch of noise; the same ones whenever the configuration is the same."""

    def __init__(self, config: PretrainConfig, context: DistributedContext) -> None:
        torch.manual_seed(0)
        with context.device:  # a ViT-B's initial weights take a processor seconds
            self.model = XKD(config)
        self.stepper = Stepper(self.model, config, context)
        self.part = random_part(config, context)
        self.now, self.temperature = schedule(config, 1000, 2000, 10), temperatures(config)

    def step(self) -> None:
        """Make a step."""
        self.stepper.step([self.part], self.now)

    def objective(self) -> Tensor:
        """Return the loss."""
        with autocast(self.stepper.context.device, self.stepper.dtype):
            loss: Tensor = self.stepper.objective(*self.part, self.temperature).terms["loss"]
        return loss

    def forward_backward(self) -> None:
        """Compute the gradients of a step."""
        self.stepper.scaler.scale(self.objective()).backward()  # type: ignore[no-untyped-call]


def with_run(config: PretrainConfig, batch: int | None = None, **run: Any) -> PretrainConfig:
    """Return a configuration with another batch size and other settings of `run`."""
    optim = config.optim if batch is None else replace(config.optim, batch_size=batch)
    return replace(config, optim=optim, run=replace(config.run, **run))
