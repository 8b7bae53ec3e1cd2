"""Every script under examples/ runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from xkd.config import load_config
from xkd.config.presets import get_preset

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("example")
    assert "teacher_video.safetensors" in run("pretrain_tiny.py", out)
    return out


def test_pretraining_and_embedding_a_clip(pretrained: Path) -> None:
    video = next((pretrained / "source").rglob("*.mp4"))
    said = run("features.py", pretrained / "run" / "encoders" / "teacher_video.safetensors", video)
    assert said == "video encoder of preset toy: features (1, 48)\n"


def test_a_custom_preset_is_a_valid_configuration(tmp_path: Path) -> None:
    run("custom_preset.py", tmp_path / "variant.yaml")
    config = load_config(tmp_path / "variant.yaml")
    assert config.audio.local_views == 2
    assert config.encoder == get_preset("paper").encoder


def test_every_example_is_tested() -> None:
    tested = Path(__file__).read_text()
    assert all(f'"{script.name}"' in tested for script in EXAMPLES.glob("*.py"))
