from __future__ import annotations

import csv
import gc
import resource
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.samples import RATE, decode, frame_numbers, ramp, write_kinetics, write_video
from xkd.config.overrides import resolve
from xkd.data.media.prepared import WAV_HEADER, encode_wav
from xkd.data.media.transcode import transcode
from xkd.data.shards import prepare as module
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.data.shards.summary import Summary
from xkd.errors import UserError
from xkd.parallel.processes import run_each

CONFIG = PrepareConfig(short_side=32, max_fps=8, workers=2, max_skipped=0.2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kinetics(tmp_path_factory.mktemp("source") / "k400")


def copy_of(root: Path, to: Path) -> Path:
    """A copy of a dataset that a test may damage."""
    for path in root.rglob("*"):
        if path.is_file():
            copy = to / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return to


def everything(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def skipped(out: Path) -> list[dict[str, str]]:
    with (out / "skipped.csv").open() as file:
        return list(csv.DictReader(file))


def test_output_has_a_manifest_and_shards(root: Path, tmp_path: Path) -> None:
    found = prepare(root, tmp_path / "out", CONFIG).dataset
    assert (found.name, len(found.clips), found.skipped, len(found.classes)) == ("kinetics400", 8, 0, 2)
    assert found.counts == {"train": 6, "val": 2}
    assert found.seconds == pytest.approx(8 * 5, rel=1e-3)
    assert sorted(everything(tmp_path / "out")) == [
        "damaged.csv",
        "dataset.json",
        "manifest.arrow",
        "manifest.csv",
        "shards/000000.tar",
        "skipped.csv",
    ]
    manifest = PreparedDataset.open(tmp_path / "out")
    assert [clip.id for clip in manifest.clips][:2] == ["train00_000000_000005", "train01_000000_000005"]
    assert manifest.classes == ("clapping", "playing organ")


def test_offsets_address_the_members_of_a_plain_tar(root: Path, tmp_path: Path) -> None:
    prepare(root, tmp_path, CONFIG)
    manifest = PreparedDataset.open(tmp_path)
    for clip in manifest.clips:
        shard = (tmp_path / clip.shard).read_bytes()
        with tarfile.open(tmp_path / clip.shard) as tar:
            video, audio = (tar.getmember(f"{clip.id}.{suffix}") for suffix in ("mp4", "wav"))
            assert (video.offset_data, video.size) == (clip.video_offset, clip.video_size)
            assert (audio.offset_data, audio.size) == (clip.audio_offset, clip.audio_size)
        found = decode(shard[video.offset_data : video.offset_data + video.size])
        assert [frame_numbers(picture[None])[0] for _, picture in found] == list(range(0, 80, 2))
        sound = shard[audio.offset_data + WAV_HEADER : audio.offset_data + audio.size]
        assert np.array_equal(np.frombuffer(sound, "<i2"), ramp(5.0))


@pytest.mark.system
def test_bytes_do_not_depend_on_the_number_of_workers(
    miniature: Callable[[str], Path], tmp_path: Path
) -> None:
    config = PrepareConfig(short_side=64, max_fps=8, workers=2)
    prepare(miniature("kinetics400-mini"), tmp_path / "two", config)
    prepare(miniature("kinetics400-mini"), tmp_path / "one", resolve(config, None, ["workers=1"]))
    assert everything(tmp_path / "two") == everything(tmp_path / "one")


def test_rerun_of_a_complete_output_does_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepare(root, tmp_path, CONFIG)
    before = (tmp_path / "manifest.csv").stat().st_mtime_ns
    again = prepare(root, tmp_path, resolve(CONFIG, None, ["workers=1"]))
    assert (first.processed, again.processed) == (8, 0)
    assert again.dataset == first.dataset
    assert "nothing to do" in capsys.readouterr().err
    assert (tmp_path / "manifest.csv").stat().st_mtime_ns == before


def test_other_settings_are_refused(root: Path, tmp_path: Path) -> None:
    prepare(root, tmp_path, CONFIG)
    with pytest.raises(UserError, match=r"another short_side 32 \(not 16\)"):
        prepare(root, tmp_path, resolve(CONFIG, None, ["short_side=16"]))


def test_other_source_is_refused(root: Path, tmp_path: Path) -> None:
    prepare(root, tmp_path / "out", CONFIG)
    other = copy_of(root, tmp_path / "other")
    (other / "val.csv").write_text((other / "val.csv").read_text().replace("playing organ", "clapping"))
    (other / "val" / "playing_organ" / "val01_000000_000005.mkv").rename(
        other / "val" / "clapping" / "val01_000000_000005.mkv"
    )
    with pytest.raises(UserError, match="another revision"):
        prepare(other, tmp_path / "out", CONFIG)


def test_directory_with_other_files_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty, it has thesis\.txt"):
        prepare(root, tmp_path, CONFIG)


def test_broken_clip_is_skipped_counted_and_reported(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = copy_of(root, tmp_path / "source")
    broken = source / "train" / "clapping" / "train02_000000_000005.mkv"
    broken.write_bytes(broken.read_bytes()[:100])
    found = prepare(source, tmp_path / "out", CONFIG).dataset
    assert (len(found.clips), found.skipped) == (7, 1)
    (row,) = skipped(tmp_path / "out")
    assert row["clip"] == "train02_000000_000005"
    assert row["reason"]
    assert "train02_000000_000005" not in (tmp_path / "out" / "manifest.csv").read_text()
    said = capfd.readouterr().err
    assert "7 clips (train 5, val 2), 0.01 h, 2 classes, 0 without audio, 1 skipped; " in said
    assert "MB in, " in said
    assert said.endswith(f" clips/s; see {tmp_path / 'out' / 'skipped.csv'}\n")


def test_too_many_broken_clips_stop_the_run(root: Path, tmp_path: Path) -> None:
    source = copy_of(root, tmp_path / "source")
    for path in (source / "train" / "clapping").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 8 clips failed, more than max_skipped=0.2") as caught:
        prepare(source, tmp_path / "out", CONFIG)
    assert "\n" not in str(caught.value)
    assert [row["reason"] for row in skipped(tmp_path / "out")] == ["empty file", "empty file"]


def test_an_output_of_other_settings_is_refused_before_the_source_is_read(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"  # reading it would say that it is not a directory
    prepare(root, tmp_path / "out", CONFIG)
    with pytest.raises(UserError, match=r"out has another short_side .* \(not 16\); use another directory"):
        prepare(broken, tmp_path / "out", replace(CONFIG, short_side=16))
    (tmp_path / "out" / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"out is not empty, it has damaged\.csv"):
        prepare(broken, tmp_path / "out", CONFIG)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "out", Path("/proc/out")):
        with pytest.raises(UserError, match=f"cannot write {out}: "):
            prepare(broken, out, CONFIG)
    with pytest.raises(UserError, match="is not a directory"):
        prepare(broken, tmp_path / "new" / "out", CONFIG)
    assert not (tmp_path / "new").exists()


def test_audiovisual_dataset_without_audio_is_refused(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path / "silent", train=2, val=1, audio=False)
    with pytest.raises(UserError, match="silent: no clip has audio"):
        prepare(root, tmp_path / "out", CONFIG)


def test_clip_without_audio_is_kept(root: Path, tmp_path: Path) -> None:
    source = copy_of(root, tmp_path / "source")
    path = source / "val" / "clapping" / "val00_000000_000005.mkv"
    path.write_bytes(write_video(tmp_path / "silent.mkv", audio=False).read_bytes())
    assert prepare(source, tmp_path / "out", CONFIG).dataset.without_audio == 1
    (silent,) = (clip for clip in PreparedDataset.open(tmp_path / "out").clips if not clip.has("audio"))
    assert silent.id == "val00_000000_000005"
    assert silent.has("video")


def test_audio_dataset_has_no_video(tmp_path: Path) -> None:
    root = tmp_path / "esc"
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    (root / "meta" / "esc50.csv").write_text(
        "filename,fold,target,category,esc10,src_file,take\n1-1-A-0.wav,1,0,dog,True,1,A\n2-1-A-0.wav,2,0,dog,True,1,A\n"
    )
    for fold in (1, 2):
        (root / "audio" / f"{fold}-1-A-0.wav").write_bytes(encode_wav(ramp(2.0), RATE))
    summary = prepare(root, tmp_path / "out", CONFIG)
    clips = PreparedDataset.open(tmp_path / "out").clips
    assert (summary.dataset.name, [clip.splits.index("test") for clip in clips]) == ("esc50", [0, 1])
    assert not clips[0].has("video")
    assert clips[0].duration == 2.0


def test_classes_of_which_all_clips_are_missing_are_recorded(root: Path, tmp_path: Path) -> None:
    source = copy_of(root, tmp_path / "source")
    for path in source.rglob("playing_organ/*"):
        path.unlink()
    prepare(source, tmp_path / "out", resolve(CONFIG, None, ["allow_missing=true"]))
    found = PreparedDataset.open(tmp_path / "out")
    assert (found.classes, found.lost_classes, found.missing) == (("clapping",), ("playing organ",), 4)


def test_interrupted_run_is_resumed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARD_CLIPS", 3)
    whole = prepare(root, tmp_path / "whole", CONFIG)
    source = copy_of(root, tmp_path / "source")
    path = source / "train" / "playing_organ" / "train05_000000_000005.mkv"
    content = path.read_bytes()
    strict = resolve(CONFIG, None, ["max_skipped=0"])
    path.write_bytes(bytes(len(content)))
    with pytest.raises(UserError, match="1 of 8 clips failed"):
        prepare(source, tmp_path / "out", strict)
    first = tmp_path / "out" / "shards" / "000000.tar"
    written = first.stat().st_mtime_ns
    path.write_bytes(content)
    with pytest.raises(UserError, match="another max_fps 8"):
        prepare(source, tmp_path / "out", resolve(CONFIG, None, ["max_fps=4"]))
    resumed: Summary = prepare(source, tmp_path / "out", strict)
    assert len(resumed.dataset.clips) == len(whole.dataset.clips)
    assert first.stat().st_mtime_ns == written
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from xkd.data.shards import prepare as module

root, out, last = sys.argv[1:]
clips, append = itertools.count(), module._append

def die(*given):
    os.kill(os.getpid(), signal.SIGKILL)

module._SHARD_CLIPS = 8
module._append = lambda *given: die() if next(clips) == int(last) else append(*given)
module._finish = die
module.prepare(Path(root), Path(out), module.PrepareConfig(short_side=64, max_fps=8, workers=2))
"""


@pytest.mark.parametrize("clips", [3, 20, 45])
@pytest.mark.system
def test_rerunning_after_a_kill_writes_the_same_bytes(
    miniature: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clips: int
) -> None:
    """SIGKILL in the first shard, in a later one, and behind the last, before the manifest is written."""
    root, out = miniature("kinetics400-mini"), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(root), str(out), str(clips)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (out / "dataset.json").exists()
    monkeypatch.setattr(module, "_SHARD_CLIPS", 8)
    config = PrepareConfig(short_side=64, max_fps=8, workers=2)
    summary = prepare(root, out, config)
    assert summary.processed == {3: 45, 20: 45 - 16, 45: 0}[clips]
    prepare(root, tmp_path / "whole", config)
    assert everything(out) == everything(tmp_path / "whole")


def test_second_process_waits(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish, out = module._finish, tmp_path / "out"
    command = [str(Path(sys.executable).with_name("xkd")), "prepare", str(root), "--out", str(out)]
    started: list[subprocess.Popen[str]] = []

    def start_another(*given: Any) -> PreparedDataset:
        second = subprocess.Popen(
            [*command, "--set", "short_side=32", "--set", "max_fps=8"], stderr=subprocess.PIPE, text=True
        )
        assert second.stderr
        while "waiting for another process to write" not in second.stderr.readline():
            assert second.poll() is None
        started.append(second)
        return finish(*given)

    monkeypatch.setattr(module, "_finish", start_another)
    assert prepare(root, out, CONFIG).processed == 8
    assert "is complete, nothing to do" in started[0].communicate()[1]
    assert started[0].returncode == 0


def test_output_inside_the_source_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="is inside the dataset"):
        prepare(root, root / "prepared", CONFIG)


@pytest.mark.system
def test_short_sound_does_not_shorten_a_video_dataset(
    miniature: Callable[[str], Path], tmp_path: Path
) -> None:
    source = copy_of(miniature("hmdb51-mini"), tmp_path / "hmdb")
    path = next((source / "HMDB-51" / "sit").iterdir())
    sounding = write_video(tmp_path / "short.mkv", seconds=3.0, sound_seconds=0.5)
    path.write_bytes(sounding.read_bytes())
    prepare(source, tmp_path / "out", CONFIG)
    (clip,) = (clip for clip in PreparedDataset.open(tmp_path / "out").clips if clip.has("audio"))
    assert clip.duration == pytest.approx(3.0, abs=0.1)


@pytest.mark.system
def test_full_disk_is_one_line_and_a_rerun_resumes(miniature: Callable[[str], Path], tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    command = [str(Path(sys.executable).with_name("xkd")), "prepare", str(miniature("kinetics400-mini"))]
    command += ["--out", str(tmp_path / "out"), "--set", "short_side=64", "--set", "max_fps=8"]

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert full.returncode == 2
    assert f"xkd: cannot complete {tmp_path / 'out'}: " in full.stderr
    assert "File too large; rerun to resume" in full.stderr
    assert "Traceback" not in full.stderr
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "45 clips (train 30, val 15)" in again.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [("short_side=15", "short_side"), ("workers=0", "workers"), ("short_sid=3", "did you mean short_side")],
)
def test_invalid_settings_are_one_line_errors(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve(PrepareConfig(), None, [setting])
    assert "\n" not in str(caught.value)


def resident(path: Path) -> int:
    """Transcode a clip; return this process's resident memory, bytes."""
    gc.disable()  # Python collects so rarely in such a process that memory grows to gigabytes
    transcode(path, with_video=True, short_side=128, max_fps=None, sample_rate=RATE)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_memory_of_a_worker_does_not_grow_with_the_clips(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mkv", seconds=1.0, size=(320, 240))
    sizes = [size for size in run_each(resident, [clip] * 40, 1, 60.0) if isinstance(size, int)]
    assert len(sizes) == 40
    assert sizes[-1] - sizes[9] < 10e6
