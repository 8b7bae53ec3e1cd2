"""What `xkd suggest` prints, and the mistakes that it finds before it measures."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from xkd.config.presets import get_preset, resolve_pretrain
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.table import ROWS
from xkd.errors import UserError
from xkd.launch.distributed import DistributedContext
from xkd.suggest import rules
from xkd.suggest.rules import Material, Timing
from xkd.suggest.suggest import Suggestion, choose, suggest
from xkd.train.memory import Machine


def suggestion(preset: str, epochs: int, clips: int, wanted: int) -> Suggestion:
    config = rules.with_epochs(get_preset(preset), epochs)
    machine = Machine(torch.device("cpu"), 8 * 10**9, 1, 1)
    rejected = {"paper": "is for 50 hours of training clips or more"}
    return Suggestion(config, Material(clips, 1.5, 64), machine, Timing(0.3, 0.1, 0.01), wanted, rejected)


def test_the_facts_are_readable() -> None:
    data, device, preset, batch, epochs, time, memory, reason = suggestion("embedded", 100, 640, 200).lines()
    assert data == "data    640 training clips, 1.5 hours"
    assert re.fullmatch(r"device  CPU, \d+ cores?, float32", device)
    assert re.fullmatch(r"preset  embedded, \d\.\d M trained parameters, frames of 32x32", preset)
    assert batch == "batch   32 clips; 20 steps an epoch"
    assert epochs == "epochs  100, 10 of them warm-up; 200 would take 26.7 minutes"
    assert time.startswith(
        "time    about 13.3 minutes, 400 ms a step and 10 ms to read a clip (run.workers=1)"
    )
    assert re.fullmatch(r"memory  about \d\.\d GB of 8\.0 GB free", memory)
    assert reason == "        not paper: it is for 50 hours of training clips or more"
    *_, batch, epochs, time, memory, reason = suggestion("embedded", 200, 650, 200).lines()
    assert batch == "batch   32 clips; 20 steps an epoch, which leave out 10 clips, others each time"
    assert epochs == "epochs  200, 20 of them warm-up"
    batch = list(suggestion("embedded", 200, 641, 200).lines())[3]
    assert batch.endswith("which leave out 1 clip, others each time")


def test_the_command_gives_the_settings() -> None:
    chosen = suggestion("embedded", 100, 640, 200)
    words = shlex.split(chosen.command(Path("my data")))
    assert words[:8] == [
        "xkd",
        "pretrain",
        "--preset",
        "embedded",
        "--data",
        "my data",
        "--out",
        "runs/my data",
    ]
    assert resolve_pretrain("embedded", None, words[9::2]) == chosen.config


@pytest.mark.parametrize("hours", [0, -1, float("nan"), float("inf")])
def test_the_time_is_more_than_nothing(prepared: Path, hours: float) -> None:
    with pytest.raises(UserError, match=rf"^--hours must be more than 0, not {hours:g}$"):
        suggest(prepared, hours)


def changed(prepared: Path, folder: Path, clips: int, column: str = "") -> Path:
    """Return a copy with the first training clips, and one column empty."""
    shutil.copytree(prepared, folder)
    with (prepared / ROWS).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["splits"] == "train"][:clips]
    with (folder / ROWS).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | ({column: ""} if column else {}) for row in rows)
    return folder


def test_too_few_clips(prepared: Path, tmp_path: Path) -> None:
    data = changed(prepared, tmp_path / "few", 7)
    with pytest.raises(UserError, match=r"few has 7 training clips with .*, but .* needs 8 or more"):
        suggest(data, 1)


def test_silent_clips(prepared: Path, tmp_path: Path) -> None:
    data = changed(prepared, tmp_path / "silent", 20, "audio_offset")
    with pytest.raises(UserError, match="no clip of split train has video and audio"):
        suggest(data, 1)


def test_too_little_memory_is_one_line(prepared: Path) -> None:
    dataset = PreparedDataset.open(prepared)
    machine = Machine(torch.device("cpu"), 10**8, 1, 1)
    with pytest.raises(UserError) as caught:
        choose(dataset, Material(30, 0.05, 48), machine, DistributedContext(0, 1, machine.device), 1)
    line = r"0\.1 GB of memory are free for training, but the smallest preset, embedded, needs 0\.\d GB .*"
    assert re.fullmatch(line, str(caught.value))


def test_a_source_is_to_be_prepared_first(prepared: Path) -> None:
    source = prepared.parent / "source"
    with pytest.raises(UserError, match=r"source is not prepared: run `xkd prepare .*source --out PREPARED`"):
        suggest(source, 1)
