"""The preparation that a preset implies, and the folder of each preparation."""

from __future__ import annotations

from pathlib import Path

import pytest

from xkd.config.presets import PRESETS, get_prepare_settings
from xkd.data.shards.preparation import prepared_folder, resolve_prepare
from xkd.data.shards.prepare import PrepareConfig
from xkd.errors import UserError


def test_a_preset_inherits_the_preparation_of_its_base() -> None:
    small = {"short_side": 64, "max_fps": 8}
    assert get_prepare_settings("toy") == get_prepare_settings("lab_without_norms") == small
    assert get_prepare_settings("videomae_32") == {"short_side": 128}
    others = PRESETS.keys() - {name for name in PRESETS if name.startswith(("videomae", "lab"))}
    assert {name for name in others if get_prepare_settings(name)} == {"toy", "embedded", "small"}


def test_overrides_come_after_options_file_and_preset(tmp_path: Path) -> None:
    file = tmp_path / "prepare.yaml"
    file.write_text("short_side: 48\nfolds: 3\n")
    config = resolve_prepare("toy", str(file), ["folds=5"], folds=4, dataset="folder", workers=1)
    assert config == PrepareConfig(short_side=48, max_fps=8, folds=5, dataset="folder", workers=1)
    assert resolve_prepare() == resolve_prepare("paper") == PrepareConfig()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown preset 'tooy' \(did you mean toy\?\)"):
        resolve_prepare("tooy")
    with pytest.raises(UserError, match=r"unknown setting short_sid \(did you mean short_side\?\)"):
        resolve_prepare("toy", None, ["short_sid=64"])


@pytest.mark.parametrize(
    ("preset", "overrides", "name"),
    [
        ("paper", [], "a-prepared"),
        ("videomae_224", [], "a-prepared-short_side-256"),
        ("videomae_112", [], "a-prepared"),
        ("toy", [], "a-prepared-short_side-64-max_fps-8"),
        ("toy", ["short_side=128", "max_fps=null"], "a-prepared"),
        ("paper", ["max_fps=12.5", "test_share=0.5"], "a-prepared-max_fps-12.5-test_share-0.5"),
        ("paper", ["workers=1", "max_skipped=1", "allow_missing=true", "dataset=folder"], "a-prepared"),
    ],
)
def test_a_preparation_has_a_folder_named_by_what_differs(
    preset: str, overrides: list[str], name: str
) -> None:
    assert prepared_folder(Path("data/a"), resolve_prepare(preset, None, overrides)) == Path("data", name)
