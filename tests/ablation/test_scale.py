"""Presets at another scale: one rule for all settings."""

from __future__ import annotations

from typing import Any

import pytest

from xkd.config.overrides import difference, to_dict
from xkd.config.presets import get_prepare_settings, get_preset
from xkd.errors import UserError


def setting(preset: str, name: str) -> Any:
    value: Any = to_dict(get_preset(preset))
    for key in name.split("."):
        value = value[key]
    return value


def test_preset_paper_becomes_preset_small() -> None:
    assert difference(get_preset("paper@small"), get_preset("small")) == ["preset"]
    assert get_preset("ablation@paper") == get_preset("ablation")


@pytest.mark.parametrize(
    ("preset", "name", "value"),
    [
        ("projector_32768", "projector.out_dim", 2048),
        ("projector_4096", "projector.out_dim", 256),
        ("projector_4_layers", "projector.layers", 4),
        ("local_seconds_2_1", "video.local_view", [32, 24, 24]),
        ("local_seconds_1_2", "audio.local_view", [80, 448]),
        ("mask_090_075", "video.mask_ratio", 0.8),
        ("mask_090_075", "audio.mask_ratio", 0.75),
        ("temperature_006_006", "video.teacher_temperature", 0.024),
        ("ablation", "video.teacher_temperature_start", 0.016),
        ("temperature_006_006", "video.teacher_temperature_start", None),
        ("without_alignment", "loss.align", 0.0),
        ("ablation", "loss.align", 0.1),
        ("without_centering", "loss.centering", False),
        ("xkd_mats", "share", "both"),
        ("videomae_224", "video.global_view", [16, 64, 64]),
        ("videomae_224", "video.patch", [2, 8, 8]),
    ],
)
def test_settings_change_in_proportion(preset: str, name: str, value: object) -> None:
    assert setting(f"{preset}@small", name) == value


def test_the_schedule_is_in_proportion() -> None:
    full = setting("paper@small", "optim.epochs")
    assert setting("ablation@small", "optim.epochs") == full / 2
    assert setting("epochs_600@small", "optim.epochs") == 3 * full / 4


def test_a_slower_teacher_stays_slower() -> None:
    bases = [
        setting(f"{preset}@small", "optim.ema_base")
        for preset in ("ema_0980", "ema_0990", "ablation", "ema_0999")
    ]
    assert bases == sorted(bases)
    assert bases[-1] < setting("ema_0999@small", "optim.ema_final")


def test_every_preset_at_a_scale_has_its_preparation() -> None:
    assert get_prepare_settings("videomae_224@small") == get_prepare_settings("small")
    assert get_prepare_settings("videomae_224@paper") == get_prepare_settings("videomae_224")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "ablation@smal",
            r"preset ablation@smal: unknown scale 'smal' \(did you mean small\?\); known: paper, small",
        ),
        ("ablaton@small", r"unknown preset 'ablaton' \(did you mean ablation\?\); see xkd presets"),
        ("toy@small", "preset toy@small: toy is a small one; only presets of the paper's size have scales"),
        (
            "local_seconds_4_1@small",
            "preset local_seconds_4_1@small: video.local_view has 64 frames but video.global_view only 32",
        ),
    ],
)
def test_an_impossible_name_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_preset(name)
