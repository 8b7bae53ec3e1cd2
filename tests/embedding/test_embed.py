"""Tables of embeddings: what a row holds, what is left out, and that kills and processes change nothing."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.data.films import SOUND, Sound, Video, write_film
from tests.evaluation.conftest import run as run
from tests.tiny import tiny_config
from xkd.config import MODALITIES
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.data.sources.files import SourceFile
from xkd.data.sources.source import open_source
from xkd.embedding.clips import Source, cut, find_length, find_sources
from xkd.embedding.embed import embed
from xkd.embedding.encode import Encoders
from xkd.embedding.table import read_index
from xkd.errors import UserError
from xkd.rundir import RunDir
from xkd.weights import load


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nested folder: a film of ten seconds, silent ones, a sound, and what is no media."""
    folder = tmp_path_factory.mktemp("clips")
    write_film(folder / "a" / "long.mp4", Video(numbers=range(250)), SOUND)
    write_film(folder / "a" / "both.mkv", Video(), SOUND)
    write_film(folder / "b" / "silent.mkv")
    write_film(folder / "sound.wav", None, Sound("pcm_s16le", 16000))
    (folder / "text.mp4").write_text("no film")
    (folder / "notes.txt").write_text("no medium")
    (folder / ".hidden.mp4").write_text("not looked at")
    (folder / "gone.mp4").symlink_to("nowhere")
    return folder


@pytest.fixture(scope="module")
def table(run: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("table") / "embeddings.parquet"
    embed(run, [clips], out)
    return out


def test_a_row_is_a_window_with_the_vectors_that_it_has(run: Path, clips: Path, table: Path) -> None:
    rows = pq.read_table(table).to_pylist()
    spans = [(Path(row["path"]).name, row["start"], row["end"]) for row in rows]
    assert spans == [
        ("both.mkv", 0, 4),
        ("long.mp4", 0, 4),
        ("long.mp4", 4, 8),
        ("long.mp4", 6, 10),
        ("silent.mkv", 0, 4),
        ("sound.wav", 0, pytest.approx(4, abs=0.01)),
    ]
    present = [(row["video"] is not None, row["audio"] is not None) for row in rows]
    assert present == [(True, True), (True, True), (True, False), (True, False), (True, False), (False, True)]
    for row in rows:
        for m in MODALITIES:
            assert (row[m] is None) == (row[f"{m}_projected"] is None)
    for m in MODALITIES:
        encoder = load(run, m)
        with torch.inference_mode():
            expected = encoder.pool(encoder(encoder.transform(clips / "a" / "both.mkv")))[0].numpy()
        np.testing.assert_allclose(rows[0][m], expected, atol=1e-4)
        assert np.linalg.norm(rows[0][f"{m}_projected"]) == pytest.approx(1, abs=1e-4)


def test_what_cannot_be_read_is_listed(
    run: Path, clips: Path, table: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Path(f"{table}.skipped.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == str(clips / "text.mp4")
    assert row["reason"].startswith("not a known container")
    with pytest.raises(UserError, match=r"none of 1 clips could be read; .*skipped.csv has the reasons"):
        embed(run, [clips / "text.mp4"], tmp_path / "none.parquet")
    embed(run, [clips], table)
    assert "is complete, nothing to do" in capfd.readouterr().err
    assert not Path(f"{table}.parts").exists()


def test_a_folder_is_listed_as_prepare_lists_it(
    run: Path, clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, notes = find_sources([clips], RunDir(run).config())
    own = open_source(clips, "folder")
    left_out = {place for place, _ in own.left_out}  # `prepare` needs pictures where there are some
    listed = {str(clips / clip.place) for clip in own.clips} | {str(clips / place) for place in left_out}
    assert {source.path for source in found} == listed
    assert notes == [
        f"{clips}: left out: 1 file, hidden (first .hidden.mp4)",
        f"{clips}: left out: 1 file, no regular files, or links to none (first gone.mp4)",
        f"{clips}: left out: 1 file, no media by name (first notes.txt)",
    ]
    said = capsys.readouterr().err.splitlines()
    assert all(note in said for note in notes)


def test_a_tar_is_embedded_like_the_folder_that_it_unpacks_to(clips: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "some.TAR", "w") as tar:
        tar.add(clips / "a" / "both.mkv", "a/both.mkv")
        tar.add(clips / "notes.txt", "notes.txt")
    found, notes = find_sources([tmp_path / "some.TAR"], tiny_config())
    assert [source.path for source in found] == [str(tmp_path / "a" / "both.mkv")]
    assert find_length(found[0]) > 0
    assert notes == [f"{tmp_path / 'some.TAR'}: left out: 1 file, no media by name (first notes.txt)"]
    for name, said in (
        ("gone.tar", "gone.tar does not exist"),
        ("text.tar", "truncated or not an uncompressed tar"),
    ):
        (tmp_path / "text.tar").write_text("no tar")
        with pytest.raises(UserError, match=said):
            find_sources([tmp_path / name], tiny_config())


def test_what_is_damaged_is_listed(run: Path, clips: Path, tmp_path: Path) -> None:
    """A film without its second half, of which the header still tells, and a tar with a whole one."""
    folder, film = tmp_path / "films", write_film(tmp_path / "film.avi", Video(numbers=range(250)), SOUND)
    folder.mkdir()
    data = film.read_bytes()
    (folder / "half.avi").write_bytes(data[: len(data) // 2])
    with tarfile.open(folder / "0.tar", "w") as tar:
        tar.add(clips / "a" / "both.mkv", "in_tar.mkv")
    out = tmp_path / "damaged.parquet"
    embed(run, [folder], out)
    assert set(read_index(out).paths) == {str(folder / "half.avi"), str(folder / "in_tar.mkv")}
    with Path(f"{out}.damaged.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == str(folder / "half.avi")
    assert "s early" in row["damage"]
    assert not Path(f"{out}.skipped.csv").exists()
    config = PrepareConfig(short_side=32, workers=1)
    prepare(folder, tmp_path / "prepared", config)
    with (tmp_path / "prepared" / "damaged.csv").open(newline="") as file:
        assert [found["damage"] for found in csv.DictReader(file)] == [row["damage"]]


@pytest.mark.parametrize(
    ("out", "paths", "said"),
    [
        ("table.csv", ["a"], r"table.csv must end in .parquet or .npz"),
        ("table.parquet", ["missing"], "missing does not exist; give media files"),
        (
            "table.parquet",
            ["none"],
            r"none has no media files: left out: 1 file, no media by name",
        ),
        ("table.parquet", ["a", "a/both.mkv"], "both.mkv is given twice"),
    ],
)
def test_a_mistake_is_one_line(
    run: Path, clips: Path, tmp_path: Path, out: str, paths: list[str], said: str
) -> None:
    none = tmp_path / "none"
    none.mkdir()
    (none / "a.txt").touch()
    with pytest.raises(UserError, match=said):
        embed(run, [none if path == "none" else clips / path for path in paths], tmp_path / out)
    assert not (tmp_path / out).exists()


def test_a_table_inside_the_folder_that_it_describes_is_refused(run: Path, clips: Path) -> None:
    with pytest.raises(UserError, match=r"table.parquet is inside .*clips0; choose|whose files are embedded"):
        embed(run, [clips], clips / "table.parquet")


def test_another_tables_file_is_not_overwritten(run: Path, clips: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"was made with other clips; use another --out or delete it"):
        embed(run, [clips / "a"], table)
    (tmp_path / "mine.parquet").write_text("mine")
    with pytest.raises(UserError, match=r"mine.parquet is not a table of xkd embed"):
        embed(run, [clips / "a"], tmp_path / "mine.parquet")


def test_rows_per_clip_are_means_and_arrays_hold_the_same(
    run: Path, clips: Path, table: Path, tmp_path: Path
) -> None:
    embed(run, [clips], tmp_path / "clips.npz", rows="clip")
    windows, means = read_index(table), read_index(tmp_path / "clips.npz")
    assert [Path(path).name for path in means.paths] == ["both.mkv", "long.mp4", "silent.mkv", "sound.wav"]
    assert (means.starts[1], means.ends[1]) == (0, 10)
    np.testing.assert_allclose(
        means.vectors["video"][1], windows.vectors["video"][1:4].mean(axis=0), rtol=1e-5
    )
    np.testing.assert_allclose(means.vectors["audio"][1], windows.vectors["audio"][1], rtol=1e-5)
    assert np.isnan(means.vectors["audio"][2]).all()


def test_a_prepared_dataset_is_embedded_from_its_shards(run: Path, prepared: Path, tmp_path: Path) -> None:
    embed(run, [prepared], tmp_path / "prepared.parquet")
    index = read_index(tmp_path / "prepared.parquet")
    assert set(index.paths) == {str(prepared / clip.id) for clip in PreparedDataset.open(prepared).clips}
    assert not np.isnan(index.vectors["audio_projected"]).any()


def test_a_run_without_projectors_gives_pooled_features_alone(
    run: Path, clips: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    (old / "encoders").mkdir(parents=True)
    (old / "config.yaml").write_text((run / "config.yaml").read_text())
    for m in MODALITIES:
        RunDir(old).encoder("student", m).symlink_to(RunDir(run).encoder("student", m))
    encoders = Encoders.load(old, None, torch.device("cpu"))
    assert (encoders.role, set(encoders.sizes)) == ("student", {"video", "audio"})
    assert "published no projectors" in capfd.readouterr().err


@pytest.mark.parametrize("seconds", [0.0, 1.0, 239.9, 240.0, 1000.0])
def test_pieces_cover_a_long_file(seconds: float) -> None:
    pieces = cut(Source("film.mp4", SourceFile(Path("film.mp4"), 1)), seconds, 4.0)
    assert pieces[0].start == 0
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    assert pieces[-1].end is None if len(pieces) == 1 else (pieces[-1].end or 0) > seconds
    assert len(pieces) == max(1, int(seconds // 120))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    """The sources of the forty prepared clips, five times each: four parts."""
    folder = tmp_path_factory.mktemp("many")
    for path in (prepared.parent / "source").rglob("*.mp4"):
        for number in range(5):
            (folder / f"{number}-{path.name}").symlink_to(path)
    return folder


@pytest.mark.system
def test_a_kill_and_two_processes_change_no_row(run: Path, many: Path, tmp_path: Path) -> None:
    def command(name: str, *more: str) -> list[str]:
        code = "from xkd.cli import main; main()"
        out = str(tmp_path / name)
        return [sys.executable, "-c", code, "embed", str(many), "--run", str(run), "--out", out, *more]

    subprocess.run(command("whole.parquet"), check=True)
    process = subprocess.Popen(command("killed.parquet"), start_new_session=True)
    parts = tmp_path / "killed.parquet.parts" / ".unfinished"
    deadline = time.monotonic() + 300
    while not list(parts.glob("0*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.parquet").exists()
    subprocess.run(command("killed.parquet"), check=True)
    whole = (tmp_path / "whole.parquet").read_bytes()
    assert (tmp_path / "killed.parquet").read_bytes() == whole
    done = subprocess.run(
        command("two.parquet", "--processes", "2"), check=True, capture_output=True, text=True
    )
    count = len(list(many.rglob("*.mp4")))
    assert f"embed: {count}/{count}," in done.stderr
    one, two = read_index(tmp_path / "whole.parquet"), read_index(tmp_path / "two.parquet")
    assert (one.paths, one.starts.tolist()) == (two.paths, two.starts.tolist())
    for name, vectors in one.vectors.items():
        np.testing.assert_allclose(two.vectors[name], vectors, atol=1e-5)
