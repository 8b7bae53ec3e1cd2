"""The rules behind `xkd suggest`, as pure functions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from xkd.config import MODALITIES
from xkd.config.presets import get_preset, resolve_pretrain
from xkd.data.datasets.training import TrainingClips, steps_per_epoch
from xkd.data.shards.clips import Clips
from xkd.data.shards.manifest import PreparedDataset
from xkd.suggest import rules
from xkd.suggest.rules import Material, Timing


@pytest.mark.parametrize(
    ("clips", "hours", "short_side", "preset"),
    [
        (200, 0.5, 64, "embedded"),
        (5000, 12.0, 64, "embedded"),  # frames are too small for the others
        (900, 40.0, None, "embedded"),  # too few clips for four batches of 256
        (5000, 4.0, 112, "vit_tiny"),
        (5000, 14.0, None, "vit_small"),
        (22000, 60.0, 128, "paper"),
    ],
)
def test_the_largest_preset_that_the_data_suits(
    clips: int, hours: float, short_side: int | None, preset: str
) -> None:
    material = Material(clips, hours, short_side)
    suitable = [name for name in rules.CANDIDATES if not rules.objection(name, material)]
    assert suitable[0] == preset
    assert suitable[-1] == rules.SMALLEST


def test_the_candidates_train_on_the_same_clips() -> None:
    configs = [get_preset(name) for name in rules.CANDIDATES]
    assert {config.modalities for config in configs} == {MODALITIES}
    assert len({config.clip.sample_rate for config in configs}) == 1


def test_clips_that_are_too_short_to_train_on_do_not_count(prepared: Path) -> None:
    dataset, config = PreparedDataset.open(prepared), get_preset("embedded")
    material = Material.of(TrainingClips(dataset, config))
    first = dataset.split("train")[0]
    clips = [replace(clip, duration=1.1) if clip == first else clip for clip in dataset.clips]
    shorter = Material.of(TrainingClips(replace(dataset, clips=Clips.of(clips)), config))
    assert shorter.clips == material.clips - 1
    assert shorter.hours == pytest.approx(material.hours - first.duration / 3600)


@pytest.mark.parametrize("clips", [8, 31, 64, 130, 5000])
def test_an_epoch_has_four_steps_of_two_clips_or_more(clips: int) -> None:
    batch = rules.fit_batch(get_preset("embedded"), clips).optim.batch_size
    steps = steps_per_epoch(clips, batch)
    assert batch >= 2
    assert steps >= rules.FEWEST_STEPS
    assert steps * batch >= 0.8 * clips
    assert batch == 32 or clips < 128


@pytest.mark.parametrize(
    ("preset", "gpus", "used"),
    [("paper", 1, 1), ("paper", 8, 8), ("paper", 3, 2), ("paper", 16, 8), ("embedded", 8, 1)],
)
def test_gpus_have_equal_shares_of_a_batch_of_some_size(preset: str, gpus: int, used: int) -> None:
    assert rules.fit_processes(get_preset(preset), gpus) == used


@pytest.mark.parametrize(
    ("read", "cores", "workers"), [(0.001, 16, 1), (0.1, 16, 4), (1.0, 16, 7), (1.0, 1, 1)]
)
def test_workers_keep_a_gpu_from_waiting(read: float, cores: int, workers: int) -> None:
    timing, config = Timing(3.0, 0.2, read), get_preset("paper")  # 256 clips on two GPUs
    assert rules.fit_workers(timing, config, 2, cores).run.workers == workers


@pytest.mark.parametrize(("clips", "epochs"), [(20000, 200), (600, 200), (300, 400), (150, 800), (10, 800)])
def test_few_clips_get_more_epochs(clips: int, epochs: int) -> None:
    assert rules.wanted_epochs(get_preset("embedded"), clips) == epochs


@pytest.mark.parametrize(
    ("epochs", "warmup"), [(1, 0), (2, 1), (3, 1), (10, 1), (50, 5), (200, 20), (800, 80)]
)
def test_the_warm_up_keeps_its_share(epochs: int, warmup: int) -> None:
    optim = rules.with_epochs(get_preset("embedded"), epochs).optim
    assert (optim.epochs, optim.warmup_epochs) == (epochs, warmup)


def test_workers_read_the_next_batch_during_a_step() -> None:
    config = resolve_pretrain("toy", None, ["run.accumulate=2", "run.workers=4"])  # 32 clips
    assert Timing(1.0, 0.5, 0.1).step(config, 1) == 2.5
    assert Timing(1.0, 0.5, 1.0).step(config, 1) == pytest.approx(8.0)
    assert Timing(1.0, 0.5, 1.0).step(config, 2) == pytest.approx(4.0)
    alone = replace(config, run=replace(config.run, workers=0))
    assert Timing(1.0, 0.5, 0.1).step(alone, 1) == pytest.approx(2.5 + 3.2)


def test_the_time_limits_the_epochs() -> None:
    assert rules.possible_epochs(0.5, 20, 1.0) == 360


def test_the_settings_are_those_that_make_the_preset_the_configuration() -> None:
    config = rules.with_epochs(rules.fit_batch(get_preset("embedded"), 50), 77)
    words = [f"{name}={value}" for name, value in rules.settings(config).items()]
    assert words == ["optim.batch_size=8", "optim.epochs=77", "optim.warmup_epochs=8"]
    assert resolve_pretrain("embedded", None, words) == config
