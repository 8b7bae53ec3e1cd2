"""The embedded dataset: its files, determinism and synchrony, and that its check can fail."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
import time
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.embedded_check import (
    MAX_SHORTCUT,
    MIN_LEARNED,
    CheckReport,
    Split,
    check,
    networks,
    read,
    shortcuts,
)
from xkd.data.sources.source import open_source
from xkd.data.synthetic.audio import RATE
from xkd.data.synthetic.dataset import generate
from xkd.data.synthetic.files import Plan
from xkd.data.synthetic.scenes import ACTIONS, MATERIALS, SECONDS, Scene
from xkd.errors import UserError

pytestmark = pytest.mark.system

CLIPS = 60


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embedded") / "data"
    generate(out, clips=CLIPS, seed=3)
    return out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny") / "data"
    generate(out, clips=20)
    return out


@pytest.fixture(scope="module")
def splits(root: Path) -> tuple[Split, Split]:
    return read(root, "train"), read(root, "val")


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_layout_has_its_reader(root: Path) -> None:
    for folder, clips in (("", CLIPS), ("kinetics400", CLIPS), ("esc50", 18), ("fsd50k", 14)):
        assert len(open_source(root / folder).clips) == clips
    train, val = (_table(root / "kinetics400" / f"{split}.csv") for split in ("train", "val"))
    assert (len(train), len(val)) == (45, 15)
    for rows in (train, val):
        assert {row["label"] for row in rows} == set(ACTIONS)
    esc50 = _table(root / "esc50/meta/esc50.csv")
    assert {row["category"] for row in esc50} == set(ACTIONS)
    assert {row["fold"] for row in esc50} <= set("12345")
    tags = {
        tag.lower()
        for row in _table(root / "fsd50k/FSD50K.ground_truth/dev.csv")
        for tag in row["labels"].split(",")
    }
    assert tags <= {*ACTIONS, *MATERIALS}
    assert tags >= set(ACTIONS)


def test_media_files_have_the_formats_of_the_layouts(root: Path) -> None:
    with av.open(str(next(root.glob("kinetics400/train/*/*.mp4")))) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.codec_context.name, video.width, video.height) == ("h264", 128, 128)
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 32000, 1)
        assert video.average_rate == 16
        assert sum(1 for _ in file.decode(video)) == 96
    with wave.open(str(next(root.glob("esc50/audio/*.wav")))) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getnframes()) == (44100, 1, 5 * 44100)


@pytest.mark.system
def test_the_same_seed_gives_the_same_dataset(tiny: Path, tmp_path: Path) -> None:
    generate(tmp_path / "same", clips=20, seed=0)
    generate(tmp_path / "other", clips=20, seed=1)
    folders = (tiny, tmp_path / "same", tmp_path / "other")
    revisions = [json.loads((folder / "dataset.json").read_text())["revision"] for folder in folders]
    assert revisions[0] == revisions[1] != revisions[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "same"]


def test_a_complete_dataset_is_kept(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    generate(root, clips=CLIPS, seed=3)
    assert "already exists, nothing to do" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_second_fetch_into_the_same_directory_waits_and_destroys_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = [str(Path(sys.executable).with_name("xkd")), "fetch", "embedded"]
    command += ["--clips", "20", "--out", str(out)]
    with subprocess.Popen(command) as first:
        while not (out / ".unfinished/identity.json").exists():
            assert first.poll() is None
            time.sleep(0.01)
        with pytest.raises(UserError, match="is unfinished: rerun the command that writes it"):
            open_source(out)
        generate(out, clips=20)
        assert first.wait() == 0
    error = capsys.readouterr().err
    assert f"waiting for another process to write {out}" in error
    assert "already exists, nothing to do" in error
    assert len(open_source(out).clips) == 20
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "esc50", "fsd50k", "kinetics400"]


@pytest.mark.system
def test_a_killed_fetch_is_restarted_by_the_same_command(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(tiny, out)
    revision = json.loads((out / "dataset.json").read_text())["revision"]
    (out / "dataset.json").unlink()
    (out / ".unfinished").mkdir()
    next(out.glob("kinetics400/train/*/*.mp4")).write_bytes(b"half")
    assert generate(out, clips=20) == revision


def test_a_directory_with_other_content_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has another seed 3 \(not 4\); use another directory or delete it"):
        generate(root, clips=CLIPS, seed=4)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty, it has notes\.txt"):
        generate(tmp_path, clips=20)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(UserError, match="is not a directory"):
        generate(tmp_path / "notes.txt", clips=20)
    with pytest.raises(UserError, match="at least 20"):
        generate(tmp_path / "few", clips=19)


def test_labels_are_independent_and_specimens_are_not_shared() -> None:
    train = [Plan(0, "train", index) for index in range(500)]
    pairs = [(plan.action, plan.material) for plan in train]
    assert {pairs.count(pair) for pair in set(pairs)} == {10}
    assert len(set(pairs)) == 50
    by_specimen = {(plan.material, plan.specimen): plan.timbre().frequency for plan in train}
    assert len({tuple(modes) for modes in by_specimen.values()}) == 50
    assert np.array_equal(train[0].timbre().frequency, by_specimen[train[0].material, train[0].specimen])
    heldout = {tuple(Plan(0, "val", index).timbre().frequency) for index in range(200)}
    assert not heldout & {tuple(modes) for modes in by_specimen.values()}


@pytest.mark.parametrize(
    ("action", "extreme"), [("bounce", "y"), ("hammer", "y"), ("collide", "x"), ("shake", "x")]
)
def test_contacts_are_at_the_turning_points_of_the_motion(action: str, extreme: str) -> None:
    scene = dataclasses.replace(Scene.draw(np.random.default_rng(0), action, "wood"), turn=0.0)
    times, strengths = scene.contacts()
    assert len(times) == len(strengths) >= 3
    before, after = (getattr(scene.pose(times + step), extreme) for step in (-1e-4, 1e-4))
    now = getattr(scene.pose(times), extreme)
    turned = (before - now) * (after - now) > -1e-12  # no contact is passed through
    assert turned.all()


def test_the_sound_starts_at_the_contact() -> None:
    louder = []
    for index in (2, 12, 22, 32, 42):  # hammers, one of each material
        plan = Plan(0, "train", index)
        assert plan.action == "hammer"
        waveform = plan.waveform()
        assert waveform.shape == (round(SECONDS * RATE),)
        assert np.abs(waveform).max() <= 1
        times, _ = Scene.draw(plan.rng("scene"), plan.action, plan.material).contacts()
        span = RATE // 50
        for at in (round(contact * RATE) for contact in times if 0.1 < contact < SECONDS - 0.1):
            louder.append(np.std(waveform[at : at + span]) > np.std(waveform[at - span : at]))
    assert np.mean(louder) > 0.85


@pytest.mark.system
def test_the_check_reports_a_leak(splits: tuple[Split, Split]) -> None:
    def leak(split: Split) -> Split:
        """Give each action a color of light and a hum."""
        light = 0.2 + 0.8 * torch.rand(len(ACTIONS), 3, generator=torch.Generator().manual_seed(0))
        frames = split.frames * light[split.labels][:, None, None, None]
        hum = 3.0 * F.one_hot(split.labels * 4, split.mel.shape[2])[:, None, :, None]
        return dataclasses.replace(split, frames=frames.to(torch.uint8), mel=split.mel + hum)

    train, val = splits
    report = CheckReport(shortcuts=shortcuts(leak(train), leak(val)), networks={})
    for name in ("mean color", "log-mel"):
        assert report.shortcuts[name] > MAX_SHORTCUT
        assert any(problem.startswith(f"{name} leaks the action") for problem in report.problems)


@pytest.mark.system
def test_the_networks_learn_true_labels_but_not_shuffled_ones(splits: tuple[Split, Split]) -> None:
    train, _ = splits
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0))
    shuffled = dataclasses.replace(train, labels=train.labels[order])
    assert min(networks(train, train, 30).values()) > MIN_LEARNED
    report = CheckReport(shortcuts={}, networks=networks(train, shuffled, 3))
    assert max(report.networks.values()) < MAX_SHORTCUT
    assert sum("cannot learn" in problem for problem in report.problems) == 2


@pytest.mark.system
def test_the_check_fails_in_one_line(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no known layout"):
        check(tmp_path)
    with pytest.raises(UserError, match="cannot learn it") as caught:
        check(tiny)  # far too few clips to learn from
    assert "\n" not in str(caught.value)


def test_the_check_names_a_damaged_clip(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "data")
    broken = next((tmp_path / "data").glob("kinetics400/train/*/*.mp4"))
    broken.write_bytes(b"no film")
    with pytest.raises(UserError, match=f"cannot decode .*{broken.name}"):
        check(tmp_path / "data")


@pytest.mark.slow
def test_the_dataset_passes_its_check(tmp_path: Path) -> None:
    generate(tmp_path / "data")
    report = check(tmp_path / "data")
    assert max(report.shortcuts.values()) < MAX_SHORTCUT
    assert min(report.networks.values()) > MIN_LEARNED
