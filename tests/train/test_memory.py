"""The estimate of a run's memory against real models, and the check before a run starts."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.memory import live_bytes
from tests.tiny import tiny_config
from xkd.config import MODALITIES, Modality, PretrainConfig
from xkd.config.overrides import resolve
from xkd.config.presets import get_preset
from xkd.errors import UserError
from xkd.launch.distributed import DistributedContext
from xkd.log import get_logger
from xkd.model.vit import CHANNELS
from xkd.model.xkd import XKD
from xkd.train.memory import MOST, Machine, check_memory, count_parameters, estimate, kept_bytes
from xkd.train.step import Stepper, mask_noise

CPU = torch.device("cpu")
ALONE = DistributedContext(0, 1, CPU)
SINGLE = ["modalities=[video]", "loss.align=0", "loss.distill=0"]
VARIANTS: list[list[str]] = [
    [],
    ["share=student", "projector.layers=2"],
    ["share=both", "projector.norm=none"],
    [*SINGLE, "video.mask=tube"],
    ["video.local_views=3", "decoder.depth=3"],
]
each_variant = pytest.mark.parametrize("settings", VARIANTS, ids=" ".join)


@each_variant
def test_parameters_are_counted_without_the_model(settings: list[str]) -> None:
    config = resolve(tiny_config(), None, settings)
    model = XKD(config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count_parameters(config) == (trained, sum(p.numel() for p in model.parameters()) - trained)


def measured_bytes(config: PretrainConfig, batch: int, dtype: torch.dtype) -> int:
    """Return the bytes of the views and of all that autograd keeps of them, without parameters."""
    config = replace(config, optim=replace(config.optim, batch_size=batch))
    views: dict[Modality, list[Tensor]] = {}
    for m in config.modalities:
        settings = config.modality(m)
        sizes = [settings.global_view, *(settings.local_views * [settings.local_view])]
        views[m] = [torch.randn(batch, CHANNELS[m], *size) for size in sizes]
    model = XKD(config)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage() for ts in views.values() for t in ts}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    (noise,) = mask_noise(config, 0, ALONE)
    autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        # Held until the end, or storages freed and used again would count once.
        result = model(views, noise, dict.fromkeys(MODALITIES, 0.1))
    assert result.terms["loss"].isfinite()
    return sum(storage.nbytes() for storage in kept.values())


@each_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_what_autograd_keeps_is_as_estimated(settings: list[str], dtype: torch.dtype) -> None:
    config = resolve(tiny_config(), None, settings)
    # Of 8 clips more, so that what does not depend on their number drops out.
    measured = (measured_bytes(config, 16, dtype) - measured_bytes(config, 8, dtype)) / 8
    estimated = sum(kept_bytes(config, m, dtype != torch.float32) for m in config.modalities)
    assert estimated == pytest.approx(measured, rel=0.15)


@pytest.mark.system
@each_variant
def test_the_activations_are_what_lives_at_a_time(settings: list[str]) -> None:
    few, many = (resolve(tiny_config(), None, [*settings, f"optim.batch_size={n}"]) for n in (8, 16))
    measured = live_bytes(Stepper(XKD(many), many, ALONE)) - live_bytes(Stepper(XKD(few), few, ALONE))
    estimated = [estimate(config, 1, half=False).activations for config in (few, many)]
    assert estimated[1] - estimated[0] == pytest.approx(measured, rel=0.2)


def test_parts_processes_and_workers_count() -> None:
    paper = get_preset("paper")
    whole, half = estimate(paper, 1, half=False), estimate(paper, 2, half=False)
    split = estimate(replace(paper, run=replace(paper.run, accumulate=2)), 1, half=False)
    assert half.activations == split.activations == whole.activations / 2
    assert half.model == whole.model
    assert half.batches < split.batches < whole.batches  # a process holds its whole share of a batch
    alone = estimate(replace(paper, run=replace(paper.run, workers=0)), 1, half=False)
    assert alone.batches < whole.batches


def test_what_is_far_too_large_is_refused_with_settings_that_fit() -> None:
    machine = Machine(CPU, 21 * 10**9, 1, 1)
    with pytest.raises(UserError) as caught:
        check_memory(get_preset("paper"), ALONE, machine)
    line = str(caught.value)
    assert line.startswith("run.accumulate 1 with optim.batch_size 256 of preset paper needs about 14")
    assert "but 21.0 GB are available; set run.accumulate=" in line
    for setting in (word for word in line.split() if "=" in word):
        assert machine.fits(resolve(get_preset("paper"), None, [setting]))


def test_processes_share_the_memory_of_a_host() -> None:
    toy = get_preset("toy")
    alone = Machine(CPU, 10**12, 1, 1).need(toy)
    together = Machine(CPU, 10**12, 2, 2).need(toy)
    assert alone < together < 2 * alone


def test_where_no_batch_fits_a_smaller_preset_is_named() -> None:
    with pytest.raises(UserError, match=r"set a smaller preset \(see xkd suggest\)$"):
        check_memory(get_preset("paper"), ALONE, Machine(CPU, 10**9, 1, 1))


def test_a_run_that_needs_most_of_the_memory_starts_with_a_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = get_preset("toy")
    need = Machine(CPU, 0, 1, 1).need(toy)
    monkeypatch.setattr(get_logger("xkd"), "propagate", True)
    with caplog.at_level("INFO"):
        check_memory(toy, ALONE, Machine(CPU, int(1.01 * need / MOST), 1, 1))
        assert caplog.text == ""
        check_memory(toy, ALONE, Machine(CPU, int(0.9 * need), 1, 1))
    assert "of memory available" in caplog.text


@pytest.mark.system
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_does_not_fit_ends_as_a_mistake_before_anything_is_written(
    prepared: Path, tmp_path: Path, processes: int
) -> None:
    small = ["--set", "video.global_view=[32,48,48]", "--set", "video.local_view=[8,32,32]"]
    settings = [*small, "--set", "optim.batch_size=16", "--set", "video.local_views=9000"]
    command = [sys.executable, "-c", "from xkd.cli import main; main()", "pretrain", "--preset", "paper"]
    paths = ["--data", str(prepared), "--out", str(tmp_path / "run"), "--processes", str(processes)]
    done = subprocess.run([*command, *settings, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("xkd: run.accumulate 1 with optim.batch_size 16")
    assert not (tmp_path / "run" / "config.yaml").exists()
