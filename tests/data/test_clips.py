from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data.samples import FPS, frame_numbers, write_kinetics, write_video
from tests.tiny import tiny_config
from xkd.config import MODALITIES, PretrainConfig
from xkd.config.overrides import resolve
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.datasets.training import TrainingClips, batch_keys
from xkd.data.media.damage import MediaError
from xkd.data.shards import decoded
from xkd.data.shards.clips import Clip
from xkd.data.shards.decoded import DecodedClips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.data.shards.reader import WindowReader, read_member
from xkd.data.transforms.params import Item
from xkd.data.transforms.views import Views
from xkd.errors import UserError

CONFIG = tiny_config()
PREPARE = PrepareConfig(short_side=40, workers=2, max_skipped=0.2)


def with_settings(*settings: str) -> PretrainConfig:
    return resolve(CONFIG, None, settings)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("clips")
    prepare(write_kinetics(folder / "k400", train=9, val=2), folder / "out", PREPARE)
    return PreparedDataset.open(folder / "out")


@pytest.fixture
def mixed(tmp_path: Path) -> PreparedDataset:
    """Wide and tall clips in one dataset."""
    root = write_kinetics(tmp_path / "k400", train=6, val=2)
    tall = write_video(tmp_path / "tall.mkv", size=(48, 60)).read_bytes()
    for path in (root / "train" / "clapping").iterdir():
        path.write_bytes(tall)
    prepare(root, tmp_path / "out", PREPARE)
    return PreparedDataset.open(tmp_path / "out")


def tensors(item: Item) -> dict[str, Tensor]:
    """Everything in an item or a batch, by name."""
    parts = {m: getattr(item["params"], m)._asdict() for m in MODALITIES} if "params" in item else {}
    params = {f"{m}.{name}": value for m in parts for name, value in parts[m].items()}
    return {name: value for name, value in item.items() if isinstance(value, Tensor)} | params


def same(ours: Item, theirs: Item) -> bool:
    return same_tensors(tensors(ours), tensors(theirs))


def same_tensors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def row(batch: Item, number: int) -> dict[str, Tensor]:
    return {name: value[number] for name, value in tensors(batch).items()}


def start_of(frames: Tensor, waveform: Tensor) -> tuple[float, float]:
    """Return the seconds at which a window's frames and its audio begin, derived from their contents."""
    first = frame_numbers(frames[:1].permute(0, 2, 3, 1).numpy())[0] / FPS
    return first, float(waveform[0]) * 32767 / 5000


def test_an_item_is_a_window_with_parameters(data: PreparedDataset) -> None:
    item = TrainingClips(data, CONFIG)[0, 3]
    assert item["frames"].shape == (32, 3, 32, int(54 * 32 / 40))
    assert item["frames"].dtype == torch.uint8
    assert item["waveform"].shape == (64000,)
    assert item["waveform"].dtype == torch.float32
    assert (int(item["clip"]), int(item["skipped"])) == (3, 0)
    assert all(len(values) == 2 for params in item["params"] for values in params)


def test_both_modalities_start_together_anywhere(data: PreparedDataset) -> None:
    clips = TrainingClips(data, CONFIG)
    starts = [start_of(item["frames"], item["waveform"]) for item in (clips[epoch, 0] for epoch in range(20))]
    for seen, heard in starts:
        assert seen <= heard + 1e-3 < seen + 1 / FPS + 2e-3
    times = [heard for _, heard in starts]
    assert min(times) < 0.25
    assert max(times) > 0.75
    assert len(set(times)) == len(times)


def test_frames_have_the_configured_rate(data: PreparedDataset) -> None:
    frames = TrainingClips(data, CONFIG)[0, 0]["frames"]
    numbers = frame_numbers(frames.permute(0, 2, 3, 1).numpy())
    assert np.diff(numbers).tolist() == [2] * 31


def test_items_depend_on_seed_epoch_and_index_alone(data: PreparedDataset) -> None:
    ours, theirs = (
        TrainingClips(data, CONFIG),
        TrainingClips(data, CONFIG),
    )
    theirs[5, 5]
    assert same(ours[2, 4], theirs[2, 4])
    assert not same(ours[2, 4], ours[3, 4])
    assert not same(ours[2, 4], ours[2, 5])
    assert not same(ours[2, 4], TrainingClips(data, with_settings("run.seed=1"))[2, 4])


def test_batches_do_not_depend_on_workers(data: PreparedDataset) -> None:
    runs = []
    for workers in (0, 1, 2):
        config = with_settings(f"run.workers={workers}")
        runs.append(list(TrainingClips(data, config).batches(0, 5)))
    for batches in runs[1:]:
        assert all(same(ours, theirs) for ours, theirs in zip(runs[0], batches, strict=True))


def test_workers_make_the_views_that_the_training_process_would(data: PreparedDataset) -> None:
    alone, helped = (TrainingClips(data, with_settings(f"run.workers={workers}")) for workers in (0, 2))
    views = Views(CONFIG, alone.specs)
    ours, theirs = list(alone.batches(0, 3, views=views)), list(helped.batches(0, 3, views=views))
    for batch, made in zip(ours, theirs, strict=True):
        assert sorted(made) == ["clip", "skipped", "views"]
        assert torch.equal(batch["clip"], made["clip"])
        for m, expected in views(batch).items():
            assert all(map(torch.equal, expected, views(made)[m]))


def test_frames_of_a_small_dataset_are_decoded_once(data: PreparedDataset, tmp_path: Path) -> None:
    """What one process decoded, all have: nobody needs the video any more."""
    shutil.copytree(data.root, tmp_path / "data")
    copy = PreparedDataset.open(tmp_path / "data")
    clips, reader = copy.split("train"), WindowReader(copy, CONFIG, copy.split("train"))
    rng = np.random.default_rng(0)
    drawn = [[0.0, 1 / FPS, clip.duration, *rng.uniform(0, clip.duration, 5)] for clip in clips]

    def read(frames: Callable[[Clip, list[float]], Tensor]) -> list[Tensor]:
        return [frames(clip, times) for clip, times in zip(clips, drawn, strict=True)]

    expected = read(WindowReader(copy, CONFIG).frames)
    worker = multiprocessing.get_context("fork").Process(target=read, args=(reader.frames,))
    worker.start()
    worker.join()
    for shard in {clip.shard for clip in clips}:
        (copy.root / shard).write_bytes(b"")
    assert all(map(torch.equal, read(reader.frames), expected))
    with pytest.raises(MediaError, match="truncated"):
        read(WindowReader(copy, CONFIG).frames)


def test_frames_of_a_large_dataset_are_decoded_for_each_window(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded, "LARGEST", 1000)
    kept = DecodedClips(data, data.clips, short=40)
    assert (
        kept.read(data.clips[0], np.zeros(1), lambda: read_member(data.root, data.clips[0], "video")) is None
    )


def test_batches_do_not_depend_on_processes_or_on_the_first_step(data: PreparedDataset) -> None:
    clips = TrainingClips(data, CONFIG)
    whole = list(clips.batches(0, 5))
    halves = [list(clips.batches(3, 5, rank, 2)) for rank in (0, 1)]
    for step in (3, 4):
        for number in range(4):
            assert same_tensors(row(whole[step], number), row(halves[number // 2][step - 3], number % 2))


def test_epoch_is_a_permutation_without_an_incomplete_batch() -> None:
    steps = list(batch_keys(9, 4, seed=0, first=0, steps=6))
    epochs = [sorted(key for step in steps[first : first + 2] for key in step) for first in (0, 2, 4)]
    for epoch, keys in enumerate(epochs):
        assert {key[0] for key in keys} == {epoch}
        assert len({key[1] for key in keys}) == 8
    assert len({tuple(index for _, index in keys) for keys in epochs}) > 1
    assert len(list(batch_keys(9, 4, seed=0, first=2, steps=6))) == 4


def test_impossible_batch_sizes_are_refused() -> None:
    with pytest.raises(UserError, match=r"batch_size 8 exceeds the number of training clips, 4"):
        next(batch_keys(4, 8, seed=0, first=0, steps=1))
    with pytest.raises(UserError, match="must be a multiple of the 3 processes"):
        next(batch_keys(40, 8, seed=0, first=0, steps=1, world_size=3))


def test_errors_about_the_batch_of_pretraining_name_its_setting(data: PreparedDataset) -> None:
    with pytest.raises(UserError, match=r"^optim\.batch_size 99 exceeds the number of training clips, \d+"):
        TrainingClips(data, with_settings("optim.batch_size=99")).count_steps()
    with pytest.raises(UserError, match=r"^optim\.batch_size 4 must be a multiple of the 3 processes"):
        TrainingClips(data, with_settings("optim.batch_size=4")).count_steps(3)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_clip_is_replaced_and_counted(
    data: PreparedDataset, tmp_path: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = damage(data, tmp_path, [0])
    config = with_settings(f"run.workers={workers}")
    clips = TrainingClips(damaged, config)
    (batch,) = clips.batches(0, 1)
    again = next(TrainingClips(damaged, with_settings("run.workers=0")).batches(0, 1))
    assert same(batch, again)
    keys = next(batch_keys(len(clips), 4, CONFIG.run.seed, 0, 1))
    expected = [index == 0 for _, index in keys]
    assert [bool(skipped) for skipped in batch["skipped"]] == expected or not any(expected)
    item = clips[0, 0]
    assert item["skipped"] >= 1
    assert item["clip"] != 0
    assert f"clip {clips.clips[0].id} of {damaged.root} cannot be read" in capfd.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_no_readable_clip_is_one_line(data: PreparedDataset, tmp_path: Path, workers: int) -> None:
    damaged = damage(data, tmp_path, range(9))
    config = with_settings(f"run.workers={workers}")
    with pytest.raises(UserError, match="nor 9 others; prepare the dataset again") as caught:
        list(TrainingClips(damaged, config).batches(0, 1))
    assert "\n" not in str(caught.value)
    assert not active_children(), "the loader's processes outlive the error"


def damage(data: PreparedDataset, to: Path, places: Any) -> PreparedDataset:
    """A copy of the prepared data with the videos of some clips overwritten."""
    for path in data.root.rglob("*"):
        if path.is_file():
            copy = to / path.relative_to(data.root)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    for place in places:
        clip = data.clips[place]
        assert clip.video_offset is not None
        assert clip.video_size is not None
        with (to / clip.shard).open("r+b") as shard:
            shard.seek(clip.video_offset)
            shard.write(bytes(clip.video_size))
    return PreparedDataset.open(to)


def test_frames_of_unequal_sizes_are_padded(mixed: PreparedDataset) -> None:
    clips = TrainingClips(mixed, replace(CONFIG, run=replace(CONFIG.run, workers=0)))
    (batch,) = clips.batches(0, 1)
    assert {tuple(clips[0, place]["frames"].shape[-2:]) for place in batch["clip"].tolist()} == {
        (32, 43),
        (40, 32),
    }
    assert batch["frames"].shape == (4, 32, 3, 40, 43)
    for number, place in enumerate(batch["clip"].tolist()):
        item = clips[0, place]
        height, width = item["frames"].shape[-2:]
        assert torch.equal(batch["frames"][number, ..., :height, :width], item["frames"])
        boxes = item["params"].video.box
        assert (boxes[:, 0] + boxes[:, 2]).max() <= height
        assert (boxes[:, 1] + boxes[:, 3]).max() <= width


def test_short_clip_repeats_its_last_frame_and_ends_in_silence(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path / "k400", train=2, val=1)
    short = write_video(tmp_path / "short.mkv", seconds=1.5).read_bytes()
    for path in root.rglob("*.mkv"):
        path.write_bytes(short)
    prepare(root, tmp_path / "out", PREPARE)
    dataset = PreparedDataset.open(tmp_path / "out")
    item = TrainingClips(dataset, CONFIG)[0, 0]
    (batch,) = evaluation_batches(dataset, dataset.split("val"), CONFIG, 2)
    windows = [(item["frames"], item["waveform"]), *zip(batch["frames"], batch["waveform"], strict=True)]
    for frames, waveform in windows:
        numbers = frame_numbers(frames.permute(0, 2, 3, 1).numpy())
        assert numbers == [*range(0, 24, 2), *[23] * 20]
        assert waveform[23000] > 0
        assert not waveform[24000:].any()


def test_a_wrong_sample_rate_is_refused(data: PreparedDataset) -> None:
    audio = ("audio.global_view=[80,451]", "audio.patch=[40,11]", "audio.local_view=[80,110]")
    config = with_settings("clip.sample_rate=8000", "clip.hop=71", "clip.f_max=4000", *audio)
    with pytest.raises(
        UserError, match=r"clip\.sample_rate needs clips prepared with sample_rate=8000, not 16000"
    ):
        TrainingClips(data, config)


def test_frames_smaller_than_the_view_are_refused(data: PreparedDataset) -> None:
    config = with_settings(f"video.global_view=[{CONFIG.video.global_view[0]},256,256]")
    line = f"^{data.root}: video\\.global_view needs clips prepared with short_side=256, not 40; prepare it"
    with pytest.raises(UserError, match=line):
        TrainingClips(data, config)
    with pytest.raises(UserError, match=line):
        list(evaluation_batches(data, data.split("val"), config, 2, modalities=["video"]))
    next(evaluation_batches(data, data.split("val"), config, 2, modalities=["audio"]))


def test_split_without_audio_is_refused(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path / "k400", train=2, val=2)
    silent = write_video(tmp_path / "silent.mkv", audio=False).read_bytes()
    for path in (root / "train").rglob("*.mkv"):
        path.write_bytes(silent)
    prepare(root, tmp_path / "out", PREPARE)
    with pytest.raises(UserError, match="no clip of split train has video and audio and lasts over"):
        TrainingClips(PreparedDataset.open(tmp_path / "out"), CONFIG)


def test_evaluation_windows_are_evenly_spaced(data: PreparedDataset) -> None:
    clips = data.split("val")
    (batch,) = evaluation_batches(data, clips, CONFIG, 3)
    assert batch["clip"].tolist() == [0, 0, 0, 1, 1, 1]
    heard = [start_of(*window)[1] for window in zip(batch["frames"], batch["waveform"], strict=True)]
    np.testing.assert_allclose(heard, [0, 0.5, 1.0] * 2, atol=1e-3)
    assert batch["frames"].shape == (6, 32, 3, 32, 32)


def test_training_windows_of_the_linear_probe_are_random_and_keyed_by_clip(data: PreparedDataset) -> None:
    clips = data.split("train")
    batches = list(evaluation_batches(data, clips, CONFIG, 5, train=True, seed=1))
    places = torch.cat([batch["clip"] for batch in batches]).tolist()
    assert places == [place for place in range(9) for _ in range(5)]
    assert batches[0]["params"].video.box.shape == (30, 1, 4)
    (other,) = evaluation_batches(data, clips[1:2], CONFIG, 5, train=True, seed=1)
    assert torch.equal(other["waveform"], batches[0]["waveform"][5:10])
    assert torch.equal(other["params"].video.box, batches[0]["params"].video.box[5:10])
    (reseeded,) = evaluation_batches(data, clips[1:2], CONFIG, 5, train=True, seed=2)
    assert not torch.equal(reseeded["waveform"], other["waveform"])


def test_batches_arrive_whatever_the_folder_for_temporary_files(
    data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paths of the sockets that loader workers create there have at most 107 bytes."""
    folder = tmp_path / (75 * "x")
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    (batch,) = TrainingClips(data, with_settings("run.workers=1")).batches(0, 1)
    assert len(batch["frames"]) == CONFIG.optim.batch_size
    assert tempfile.gettempdir() == str(folder)


def test_only_the_requested_modalities_are_read(data: PreparedDataset) -> None:
    clips = data.split("val")
    (heard,) = evaluation_batches(data, clips, CONFIG, 2, modalities=("audio",))
    assert sorted(heard) == ["clip", "waveform"]
    (seen,) = evaluation_batches(data, clips, CONFIG, 2, modalities=("video",))
    assert sorted(seen) == ["clip", "frames"]


def test_unreadable_clip_stops_an_evaluation(data: PreparedDataset, tmp_path: Path) -> None:
    damaged = damage(data, tmp_path, [9])
    with pytest.raises(UserError, match="cannot be read") as caught:
        list(evaluation_batches(damaged, damaged.split("val"), CONFIG, 1))
    assert "\n" not in str(caught.value)
