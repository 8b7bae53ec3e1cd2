"""Speed on a GPU: the step, its parts, and other work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_kit import Kit, Setting, Values, with_run
from benchmarks.plain import PlainStepper
from benchmarks.step import FLOPS, forward_parts, peak, products
from xkd.config import MODALITIES, Modality, PretrainConfig
from xkd.data.transforms.params import draw_params, pretrain_views
from xkd.data.transforms.views import Views
from xkd.train.step import autocast, clip_gradients

CLASSES = 400
"""Of fine-tuning: those of Kinetics400."""
COMPILE_MINUTES = 2.0
"""Time that must be left before something is compiled."""


class Speeds:
    """Speeds of the step, relative to the peak of its precision and to the plain implementation.

    Args:
        batches: batch sizes; the first is that of comparisons.
        precisions: the first is that of comparisons.
    """

    def __init__(self, kit: Kit, config: PretrainConfig, batches: list[int], precisions: list[str]) -> None:
        self.kit, self.config, self.batches, self.precisions = kit, config, batches, precisions
        self._peaks: dict[torch.dtype, float] = {}
        self._flops: dict[int, float] = {}

    def configuration(self, batch: int | None = None, **run: Any) -> PretrainConfig:
        """Return the configuration of a measurement."""
        return with_run(self.config, batch or self.batches[0], **({"precision": self.precisions[0]} | run))

    def measure(self) -> None:
        """Measure everything, the most important first."""
        kit, first = self.kit, self.precisions[0]
        for precision in self.precisions:
            for batch in self.batches:
                step = partial(self.step, batch, precision=precision)
                kit.measure("step", f"{precision}, {batch} clips", step)
                if (batch, precision) == (self.batches[0], first):
                    kit.measure("step", f"{precision}, {batch} clips, plain", self.plain)
        self.parts()
        kit.measure("step", f"{first}, {self.batches[0]} clips, CUDA graph", self.graph)
        self.other_work()
        if not kit.tiny:
            name = f"{first}, {self.batches[0]} clips, compiled"
            blocks = partial(self.step, self.batches[0], compile=True)
            kit.measure("step", f"{name} blocks", blocks, COMPILE_MINUTES)
            kit.measure("step", f"{name} objective", self.compiled, COMPILE_MINUTES)

    def step(self, batch: int, **run: Any) -> Values:
        """Return the speed of a step."""
        setting = Setting(self.configuration(batch, **run), self.kit.context)
        return self.speed(setting.step, batch, setting.stepper.dtype)

    def plain(self) -> Values:
        """Return the speed of the plain implementation."""
        config = self.configuration()
        setting = Setting(config, self.kit.context)
        plain = PlainStepper(setting.model, config, self.kit.device)
        return self.speed(lambda: plain.step(setting.part, setting.now), self.batches[0], plain.dtype)

    def compiled(self) -> Values:
        """Return the speed of a step whose objective is compiled as a whole."""
        setting = Setting(self.configuration(), self.kit.context)
        setting.stepper.objective = torch.compile(setting.model)  # type: ignore[assignment]
        return self.speed(setting.step, self.batches[0], setting.stepper.dtype)

    def speed(self, step: Callable[[], object], batch: int, dtype: torch.dtype) -> Values:
        """Return the columns of a step's row."""
        begin = time.perf_counter()
        step()
        step()
        first = time.perf_counter() - begin
        seconds = self.kit.timer.median(step, self.kit.repeats)
        share = self.flops(batch) / seconds / self.peak(dtype)
        values: Values = {"ms": 1000 * seconds, "clips/s": batch / seconds, "MFU, %": 100 * share}
        return values | {"first two steps, s": first} | self.kit.peak_memory()

    def flops(self, batch: int) -> float:
        """Return the FLOPs of a step."""
        if not self._flops:
            setting = Setting(self.configuration(), self.kit.context)
            with FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
                setting.step()
            self._flops[1] = counter.get_total_flops() / self.batches[0]
        return batch * self._flops[1]

    def peak(self, dtype: torch.dtype) -> float:
        """Return the FLOP/s of the fastest product of square matrices."""
        if dtype not in self._peaks:
            found = products(self.kit.device, dtype).values()
            self._peaks[dtype] = max(peak(self.kit.timer, dtype, product) for product in found)
            self.kit.measure("peak", str(dtype), lambda: {"TFLOP/s": self._peaks[dtype] / 1e12})
        return self._peaks[dtype]

    def parts(self) -> None:
        """Measure the parts of a step."""
        kit, config = self.kit, self.configuration()
        setting = Setting(config, kit.context)
        setting.step()
        model, stepper = setting.model, setting.stepper
        parts = forward_parts(stepper, model, setting.part) | {
            "objective, all": setting.objective,
            "objective and backward": setting.forward_backward,
            "clipping": lambda: clip_gradients(model.student.parameters(), config.optim.clip_norm),
            "AdamW": stepper.optimizer.step,
            "teachers' momentum": lambda: model.update_teachers(0.999),
        }
        for name, part in parts.items():
            kit.measure("part of the step", name, partial(self.milliseconds, part))

    def milliseconds(self, work: Callable[[], object]) -> Values:
        """Return the time of some work."""
        return {"ms": 1000 * self.kit.timer.median(work, self.kit.repeats)}

    def graph(self) -> Values:
        """Return the time of the gradients, replayed from a CUDA graph, and from Python."""
        if self.kit.device.type != "cuda":
            return {"not measured": "needs a GPU"}
        setting = Setting(self.configuration(), self.kit.context)
        eager = self.kit.timer.median(setting.forward_backward, self.kit.repeats)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), no_autocast_cache():
            for _ in range(3):
                setting.model.zero_grad(set_to_none=True)
                setting.forward_backward()
        torch.cuda.current_stream().wait_stream(stream)
        setting.model.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), no_autocast_cache():
            setting.forward_backward()
        replayed = self.kit.timer.median(graph.replay, self.kit.repeats)
        return {
            "gradients, ms": 1000 * replayed,
            "gradients without, ms": 1000 * eager,
        } | self.kit.peak_memory()

    def other_work(self) -> None:
        """Measure features, fine-tuning and views."""
        for m in MODALITIES:
            self.kit.measure("other work", f"features, {m}", partial(self.features, m))
            self.kit.measure("other work", f"fine-tuning, {m}", partial(self.finetuning, m))
        self.kit.measure("other work", "views of both modalities", self.views)

    def features(self, modality: Modality) -> Values:
        """Return the speed of an encoder's pooled features."""
        setting = Setting(self.configuration(), self.kit.context)
        encoder, view = setting.model.teacher[modality].encoder, setting.part[0][modality][0]

        @torch.inference_mode()
        def work() -> None:
            with autocast(self.kit.device, setting.stepper.dtype):
                encoder.pool(encoder(view))

        return self.per_clip(work)

    def finetuning(self, modality: Modality) -> Values:
        """Return the speed of a step of fine-tuning, without augmentation."""
        setting = Setting(self.configuration(), self.kit.context)
        view, stepper = setting.part[0][modality][0], setting.stepper
        encoder = setting.model.student[modality].encoder
        head = nn.Linear(setting.model.config.encoder.dim, CLASSES, device=self.kit.device)
        optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], fused=True)
        labels = torch.zeros(len(view), dtype=torch.int64, device=self.kit.device)

        def work() -> None:
            optimizer.zero_grad()
            with autocast(self.kit.device, stepper.dtype):
                loss = nn.functional.cross_entropy(head(encoder.pool(encoder(view))), labels)
            stepper.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            stepper.scaler.step(optimizer)
            stepper.scaler.update()

        return self.per_clip(work) | self.kit.peak_memory()

    def views(self) -> Values:
        """Return the speed of making the views of a batch of prepared windows."""
        config, rng = self.configuration(), np.random.default_rng(0)
        count, height, _ = config.video.global_view
        specs = pretrain_views(config)
        width = round(height * 4 / 3)
        params = [draw_params(rng, specs, config, height, width) for _ in range(self.batches[0])]
        frames = rng.integers(256, size=(self.batches[0], count, height, width, 3), dtype=np.uint8)
        batch: Any = {
            "frames": torch.from_numpy(frames).movedim(-1, 2),
            "waveform": torch.rand(self.batches[0], config.clip.window_samples) - 0.5,
            "params": default_collate(params),
        }
        views = Views(config, specs).to(self.kit.device)
        return self.per_clip(lambda: views(batch))

    def per_clip(self, work: Callable[[], object]) -> Values:
        """Return the columns of work on a batch."""
        seconds = self.kit.timer.median(work, self.kit.repeats)
        return {"ms": 1000 * seconds, "clips/s": self.batches[0] / seconds}


@contextmanager
def no_autocast_cache() -> Iterator[None]:
    """Turn the cache of autocast off: a captured graph must cast the weights itself."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
