"""Search in a table of embeddings, with FAISS and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.embedding.test_embed import clips as clips
from tests.embedding.test_embed import table as table
from tests.evaluation.conftest import run as run
from xkd.embedding import search as module
from xkd.embedding.page import show, write_page
from xkd.embedding.search import find_nearest, search
from xkd.embedding.table import Index
from xkd.errors import UserError


def index(rows: int, paths: int) -> Index:
    rng = np.random.default_rng(0)
    names = [f"clip{row * paths // rows}" for row in range(rows)]
    vectors = {"video": rng.normal(size=(rows, 8)).astype(np.float32)}
    vectors["video"][5] = np.nan
    return Index(names, np.arange(rows, dtype=float), np.arange(rows, dtype=float) + 4, vectors, {})


@pytest.mark.parametrize("faiss", [True, False])
@pytest.mark.parametrize("k", [1, 3, 100])
def test_each_clip_is_found_by_its_best_row(monkeypatch: pytest.MonkeyPatch, faiss: bool, k: int) -> None:
    if not faiss:
        monkeypatch.setattr(module, "_has_faiss", lambda: False)
        monkeypatch.setattr(module, "_BLOCK", 7)
    table, query = index(60, 12), np.random.default_rng(1).normal(size=8)
    hits = find_nearest(table, "video", query, k, {"clip3"})
    vectors = table.vectors["video"] / np.linalg.norm(table.vectors["video"], axis=1, keepdims=True)
    cosines = vectors @ (query / np.linalg.norm(query))
    best: dict[str, float] = {}
    for path, cosine in zip(table.paths, cosines.tolist(), strict=True):
        if path != "clip3" and not np.isnan(cosine):
            best[path] = max(cosine, best.get(path, -2.0))
    expected = sorted(best.items(), key=lambda pair: -pair[1])[:k]
    assert [hit.path for hit in hits] == [path for path, _ in expected]
    assert [hit.cosine for hit in hits] == pytest.approx([cosine for _, cosine in expected], abs=1e-5)


def test_a_file_finds_its_own_copy_and_its_sound(
    run: Path, clips: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.mkv"
    copy.write_bytes((clips / "a" / "both.mkv").read_bytes())
    found = search(table, copy, 2)
    assert list(found) == [
        "Video like the video",
        "Sound like the sound",
        "Sound that fits the video",
        "Video that fits the sound",
    ]
    # Other films of the folder have the same pictures, or the same sound.
    everything = search(table, copy, 9)
    for title in list(found)[:2]:
        cosines = {Path(hit.path).name: hit.cosine for hit in everything[title]}
        assert cosines["both.mkv"] == pytest.approx(1, abs=1e-3)
        assert max(cosines.values()) < 1 + 1e-3
    own = search(table, clips / "b" / ".." / "a" / "both.mkv", 5)  # not spelled as in the table
    assert "both.mkv" not in {Path(hit.path).name for hit in own["Video like the video"]}
    assert list(search(table, clips / "b" / "silent.mkv", 1)) == [
        "Video like the video",
        "Sound that fits the video",
    ]
    show(found)
    assert f"{clips}/a/both.mkv" in capsys.readouterr().out
    write_page(copy, found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure>") == 8
    assert page.count("data:image/jpeg;base64,") >= 7
    assert "http" not in page


def test_a_mistake_is_one_line(run: Path, clips: Path, table: Path, tmp_path: Path) -> None:
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((table, clips / "text.mp4", 5), "text.mp4 cannot be read: not a known container"),
        ((tmp_path / "none.parquet", clips, 5), "none.parquet does not exist; make it with xkd embed"),
        ((table, clips, 0), "--k must be positive"),
    ]
    for arguments, said in cases:
        with pytest.raises(UserError, match=said):
            search(*arguments)
