"""What becomes of files that are not as they should be; docs/data.md has the same table in words."""

from __future__ import annotations

import csv
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.samples import FPS, KINETICS, RATE, frame_numbers, ramp, write_table, write_video
from tests.tiny import tiny_config
from xkd.data.datasets.training import TrainingClips
from xkd.data.media.prepared import encode_wav, read_video
from xkd.data.shards.clips import Clip
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.data.shards.reader import WindowReader

CONFIG = PrepareConfig(short_side=32, max_fps=8, workers=2, max_skipped=1.0)


def kinetics(root: Path, files: dict[str, bytes]) -> Path:
    """A Kinetics400 root whose training clips are these files, by name; some may be links."""
    folder = root / "train" / "singing"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    names = sorted(path.name for path in folder.iterdir())
    rows = [("singing", name.partition("_000000_")[0], 0, 10, "train", 0) for name in names]
    write_table(root / "train.csv", [KINETICS, *rows])
    write_table(root / "val.csv", [KINETICS])
    return root


def reasons(out: Path) -> dict[str, str]:
    with (out / "skipped.csv").open() as file:
        return {row["clip"].partition("_000000_")[0]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    folder = tmp_path_factory.mktemp("good")

    def write(suffix: str, **options: object) -> bytes:
        return write_video(folder / f"clip{suffix}", **options).read_bytes()  # type: ignore[arg-type]

    return write


def test_each_kind_of_odd_file_is_prepared_or_skipped(good: Callable[..., bytes], tmp_path: Path) -> None:
    whole = good(".mkv")
    varying = [0, 0.1, 0.15, 0.6, 0.7, 1.5, 1.6, 2.9]
    stamp = "_000000_000010"
    root = kinetics(
        tmp_path / "k400",
        {
            f"garbage{stamp}.mp4": np.random.default_rng(0).bytes(20000),
            f"no-index{stamp}.mp4": good(".mp4")[:-2000],  # an mp4's index is at its end
            f"cut-short{stamp}.mkv": whole[: len(whole) // 2],
            f"empty{stamp}.mp4": b"",
            f"silent{stamp}.mkv": good(".mkv", audio=False),
            f"blind{stamp}.avi": encode_wav(ramp(5.0), RATE),  # a sound file by its content
            f"short{stamp}.mkv": good(".mkv", seconds=0.2),
            f"varying{stamp}.mkv": good(".mkv", seconds=3.0, times=varying),
            f"odd{stamp}.mkv": good(".mkv", size=(67, 45)),
            f"Ünï-日本{stamp}.mkv": whole,
        },
    )
    (root / "train" / "singing" / f"linked{stamp}.mkv").symlink_to(
        root / "train" / "singing" / f"Ünï-日本{stamp}.mkv"
    )
    (root / "train" / "singing" / f"dangling{stamp}.mkv").symlink_to(tmp_path / "nowhere")
    kinetics(root, {})
    summary = prepare(
        root, tmp_path / "out", PrepareConfig(short_side=32, max_fps=16, max_skipped=0.5, allow_missing=True)
    )
    found = summary.dataset
    assert (len(found.clips), found.skipped, found.missing, found.without_audio) == (7, 4, 1, 1)
    with (tmp_path / "out" / "damaged.csv").open() as file:
        assert [(row["clip"], row["damage"]) for row in csv.DictReader(file)] == [
            (f"cut-short{stamp}", "ends 2.6 s early")
        ]
    assert found.damaged == 1

    said = reasons(tmp_path / "out")
    assert set(said) == {"garbage", "no-index", "empty", "blind", "dangling"}
    assert said["empty"] == "empty file"
    assert said["blind"] == "no video stream"
    assert said["garbage"] == "not a known container of video or sound, or its header is damaged"
    assert said["dangling"] == "absent"

    manifest = PreparedDataset.open(tmp_path / "out")
    clips = {clip.id.partition("_000000_")[0]: clip for clip in manifest.clips}
    windows = WindowReader(manifest, tiny_config())

    def video(clip: Clip, times: list[float]) -> list[int]:
        with (tmp_path / "out" / clip.shard).open("rb") as shard:
            shard.seek(clip.video_offset or 0)
            return frame_numbers(read_video(shard.read(clip.video_size or 0), np.array(times)))

    assert not clips["silent"].has("audio")
    assert 1.0 < clips["cut-short"].duration < 4.0
    assert clips["short"].duration == pytest.approx(0.2, abs=0.02)
    assert windows.frames(clips["short"], [0.0]).shape[1] == 32  # the last frame repeats
    assert windows.waveform(clips["short"], [0.0])[0, round(0.21 * RATE) :].abs().max() == 0
    requested = [0.05, 0.12, 0.5, 0.65, 1.4, 2.8, 2.95]
    assert video(clips["varying"], requested) == [0, 1, 2, 3, 4, 6, 7]
    assert windows.frames(clips["odd"], [0.0]).shape[-2:] == (32, 48)
    assert video(clips["linked"], [1.0]) == video(clips["Ünï-日本"], [1.0]) == [FPS]
    trained = TrainingClips(manifest, tiny_config())
    assert (trained.without_modality, trained.too_short) == (1, 1)
    assert all(trained[0, place]["skipped"] == 0 for place in range(len(trained)))


FUZZED = 504


def mangle(rng: np.random.Generator, whole: bytes) -> bytes:
    """One of six injuries at random places."""
    data = bytearray(whole)
    place = int(rng.integers(len(data)))
    length = int(rng.integers(1, len(data) // 4))
    injury = rng.integers(6)
    if injury == 0:  # bits flip
        for at in rng.integers(len(data), size=int(rng.integers(1, 200))):
            data[at] ^= 1 << int(rng.integers(8))
    elif injury == 1:  # the rest is missing
        del data[place:]
    elif injury == 2:  # a hole of zeros, as of a sparse download
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif injury == 3:  # a piece is missing
        del data[place : place + length]
    elif injury == 4:  # a piece is there twice
        data[place:place] = data[place : place + length]
    else:  # the header is noise
        data[:64] = rng.bytes(64)
    return bytes(data)


@pytest.mark.system
def test_corrupted_files_cause_no_hang_crash_or_leak(good: Callable[..., bytes], tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    size = (48, 36)
    sources = [(suffix, good(suffix, seconds=1.5, size=size)) for suffix in (".mp4", ".mkv", ".avi")]
    files = {}
    for number in range(FUZZED):
        suffix, whole = sources[number % len(sources)]
        files[f"f{number:04d}_000000_000010{suffix}"] = mangle(rng, whole)
    root = kinetics(tmp_path / "k400", files)
    began = time.monotonic()
    found = prepare(root, tmp_path / "out", CONFIG).dataset
    assert time.monotonic() - began < 300
    said = reasons(tmp_path / "out")
    assert len(found.clips) + found.skipped == FUZZED
    assert len(said) == found.skipped
    assert all(reason and "\n" not in reason for reason in said.values())
    # Some are beyond help and some can be read, or the injuries prove nothing.
    assert FUZZED / 10 < found.skipped < FUZZED * 9 / 10
    assert "took longer" not in " ".join(said.values())
    assert not multiprocessing.active_children()
    # Whatever was kept can be trained on.
    dataset = PreparedDataset.open(tmp_path / "out")
    windows = WindowReader(dataset, tiny_config())
    kinds: Counter[bool] = Counter()
    for clip in dataset.clips:
        assert windows.frames(clip, [0.0]).shape[1] == 32
        kinds[clip.has("audio")] += 1
        if clip.has("audio"):
            assert windows.waveform(clip, [0.0]).isfinite().all()
    assert kinds[True]
