from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import tiny_config
from xkd.config import MODALITIES
from xkd.data.datasets.training import SHORTEST, TrainingClips, batch_keys
from xkd.data.shards.clips import Clip, Clips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.table import read_clips, write_clips


def draw(count: int) -> list[Clip]:
    """Return clips of all kinds: odd names, several folds and labels, of one modality, short."""
    rng = np.random.default_rng(0)
    names = ["é", 'a "quoted", name', "two\nlines", "null", "NA", "-1", " "]
    clips = []
    for number in range(count):
        video, audio = rng.integers(0, 2**40, 2).tolist() if rng.random() < 0.8 else (None, 5)
        audio = None if rng.random() < 0.2 else audio
        clips.append(
            Clip(
                id=f"{names[number % len(names)]}{number}",
                splits=tuple(rng.choice(["train", "val", "test", "unused"], 2).tolist()),
                labels=tuple(sorted(set(rng.choice(["", "cat", "NA", "null"], 3).tolist()) - {""})),
                shard=f"shards/{number // 7:06d}.tar",
                video_offset=video,
                video_size=None if video is None else 9,
                audio_offset=audio,
                audio_size=None if audio is None else 44,
                duration=round(float(rng.uniform(0, 3)), 6),
            )
        )
    return clips


CLIPS = draw(100)


@pytest.fixture(scope="module", params=["built", "mapped", "csv"])
def columns(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clips:
    if request.param == "built":
        return Clips.of(CLIPS)
    root = tmp_path_factory.mktemp("columns")
    write_clips(root, Clips.of(CLIPS))
    if request.param == "csv":
        (root / "manifest.arrow").unlink()
    return read_clips(root)


def check(columns: Clips, clips: Sequence[Clip]) -> None:
    """Compare everything that columns tell with what a list of clips does."""
    assert len(columns) == len(clips)
    assert list(columns) == list(clips)
    assert columns == clips
    assert [columns[place] for place in range(-len(clips), len(clips))] == [*clips, *clips]
    assert columns[3:50:7] == clips[3:50:7]
    assert columns[::-1] == clips[::-1]
    assert columns.ids == [clip.id for clip in clips]
    assert columns.durations.tolist() == [clip.duration for clip in clips]
    assert columns.splits == {split for clip in clips for split in clip.splits}
    assert columns.bytes == sum((clip.video_size or 0) + (clip.audio_size or 0) for clip in clips)
    for modalities in ([], ["video"], ["audio"], MODALITIES):
        assert columns.has(*modalities).tolist() == [clip.has(*modalities) for clip in clips]
    assert columns.match("labels", bool).tolist() == [bool(clip.labels) for clip in clips]
    assert columns.match("splits", lambda splits: splits[1] == "val").tolist() == [
        clip.splits[1] == "val" for clip in clips
    ]
    for name in ("splits", "labels"):
        values, places = columns.distinct(name)
        assert [values[place] for place in places] == [getattr(clip, name) for clip in clips]
        assert len(set(values)) == len(values) == len(set(places.tolist()))
    ends = {clip.shard: 0 for clip in clips}
    for clip in clips:
        for m in MODALITIES:
            if clip.has(m):
                end = getattr(clip, f"{m}_offset") + getattr(clip, f"{m}_size")
                ends[clip.shard] = max(ends[clip.shard], end)
    assert columns.shard_ends() == ends


def test_columns_tell_what_clips_do(columns: Clips) -> None:
    check(columns, CLIPS)


def test_selections_of_selections_tell_what_those_of_clips_do(columns: Clips) -> None:
    chosen = np.random.default_rng(1).permutation(100)[:60]
    selected, clips = columns.select(chosen), [CLIPS[place] for place in chosen]
    check(selected, clips)
    check(selected.select(selected.has("video")), [clip for clip in clips if clip.has("video")])
    check(selected[:0], [])


def test_a_clip_is_found_by_its_id(columns: Clips) -> None:
    assert columns.find(CLIPS[42].id) == CLIPS[42]
    assert columns[:42].find(CLIPS[42].id) is None


def test_more_rows_than_are_decoded_at_once_stay_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xkd.data.shards.clips._CHUNK", 7)
    assert list(Clips.of(CLIPS)) == CLIPS
    with pytest.raises(IndexError):
        Clips.of(CLIPS)[100]
    assert list(Clips.of([])) == []


def test_files_of_equal_clips_have_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, chunk in (("a", 7), ("b", 1000)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr("xkd.data.shards.clips._CHUNK", chunk)
        write_clips(tmp_path / name, Clips.of(CLIPS))
    for file in ("manifest.csv", "manifest.arrow"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_training_takes_the_same_clips_in_the_same_order_as_from_rows(prepared: Path) -> None:
    dataset, config = PreparedDataset.open(prepared), tiny_config()
    listed = [clip for clip in dataset.clips if clip.splits[0] == "train"]
    expected = [clip for clip in listed if clip.has(*MODALITIES) and clip.duration > SHORTEST]
    training = TrainingClips(dataset, config)
    assert training.clips == expected
    keys = next(iter(batch_keys(len(training), 4, config.run.seed, 0, 1)))
    for _, index in keys:
        assert training[0, index]["clip"] == index
        assert training.clips[index] == expected[index]


OPENED = """
import sys
from pathlib import Path
from xkd.data.shards.manifest import PreparedDataset

clips = PreparedDataset.open(Path(sys.argv[1])).split("train")
assert clips.select(clips.has("video", "audio")).durations.all() and clips[3]
assert "pandas" not in sys.modules
"""


def test_opening_does_not_import_pandas(prepared: Path) -> None:
    subprocess.run([sys.executable, "-c", OPENED, str(prepared)], check=True)
