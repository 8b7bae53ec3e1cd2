"""Retrieval across modalities: ranks, its score, and what a report shows of it."""

from __future__ import annotations

import base64
import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.conftest import run as run
from xkd.errors import UserError
from xkd.evaluation.evaluate import evaluate
from xkd.evaluation.plan import make_task, plan
from xkd.evaluation.protocols.retrieval import rank_of_own, recalls
from xkd.report.tabulate import tabulate
from xkd.rundir import RunDir


def task(encoder: str) -> object:
    return make_task("embedded", "audiovisual", "retrieval", encoder, settings={"test_windows": 1})


def test_ranks_are_those_of_a_sort() -> None:
    rng = np.random.default_rng(0)
    queries, candidates = rng.integers(-2, 3, (2, 2000, 3)).astype(float)  # with many ties
    order = np.argsort(-(queries @ candidates.T), axis=1, kind="stable")
    expected = (order == np.arange(2000)[:, None]).argmax(axis=1)
    np.testing.assert_array_equal(rank_of_own(queries, candidates), expected)


def test_recall_counts_the_first_and_the_first_five() -> None:
    assert recalls(np.array([0, 4, 5, 0, 9, 30])) == {"score": 2 / 6, "top5": 3 / 6, "chance": 1 / 6}
    assert recalls(np.array([0, 1]))["top5"] is None


@pytest.fixture(scope="module")
def unlabeled(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared clips without labels and without a training split."""
    data = tmp_path_factory.mktemp("unlabeled") / "data"
    shutil.copytree(prepared, data)
    with (data / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (data / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "labels": "", "splits": "val"} for row in rows if row["splits"] == "val")
    return data


def test_clips_need_no_labels_and_no_training_split(run: Path, unlabeled: Path, tmp_path: Path) -> None:
    score = evaluate(run, unlabeled, task("random"), tmp_path / "scores")  # type: ignore[arg-type]
    assert (score.metric, score.train_clips, score.test_clips) == ("recall", 0, 10)
    assert score.chance == pytest.approx(0.1)
    assert (score.classes, score.untrained, score.per_class) == ([], [], {})
    assert set(score.retrieval) == {"audio_to_video"}


def test_the_report_shows_recall_with_chance_and_examples(run: Path, prepared: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    for encoder in ("teacher", "random"):
        score = evaluate(run, prepared, task(encoder), scores)  # type: ignore[arg-type]
    score = evaluate(run, prepared, task("teacher"), scores)  # type: ignore[arg-type]
    found = score.retrieval
    assert len(found["examples"]) == 5
    for example in found["examples"]:
        assert example["clip"] not in example["video"]
        assert (example["rank"] <= 4) == (example["clip"] in example["audio"])
        for name in (example["clip"], *example["audio"], *example["video"]):
            assert base64.b64decode(found["pictures"][name]).startswith(b"\xff\xd8")
            assert found["labels"][name]
    page = tabulate(run, scores, tmp_path / "report")
    text, table = page.read_text(), (tmp_path / "report" / "tables.md").read_text()
    assert "Retrieval on embedded, teacher" in text
    assert text.count("data:image/jpeg") == 5 * 9
    assert "Video to audio, retrieval (recall@1)" in table
    assert "Video to audio, retrieval (recall@5)" in table
    assert "| 10.0 | 50.0 |" in table  # chance


def test_a_run_without_projectors_has_no_retrieval(run: Path, prepared: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old)
    RunDir(old).projector("teacher", "audio").unlink()
    planned = {(t.protocol, t.encoder) for _, t in plan(old, [prepared])}
    assert {encoder for protocol, encoder in planned if protocol == "retrieval"} == {"student", "random"}
    assert ("svm", "teacher") in planned
    with pytest.raises(
        UserError, match=r"no projector at .*teacher_audio_projector.safetensors; runs of earl"
    ):
        evaluate(old, prepared, task("teacher"), tmp_path / "scores")  # type: ignore[arg-type]
