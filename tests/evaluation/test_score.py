from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score, top_k_accuracy_score

from tests.report.synthetic import TASKS, write_run, write_scores
from tests.tiny import tiny_config
from xkd.errors import UserError
from xkd.evaluation.metrics import confusion, recalls, top_k
from xkd.evaluation.score import Score, TaskKey, parse_task_name


def test_top1_and_per_class_equal_sklearn() -> None:
    rng = np.random.default_rng(0)
    predictions, labels = rng.normal(size=(200, 7)), rng.integers(7, size=200)
    predicted = predictions.argmax(axis=1)
    assert top_k(predictions, labels, 1) == pytest.approx(accuracy_score(labels, predicted))
    expected = recall_score(labels, predicted, average=None, labels=range(7))
    assert list(recalls(predictions, labels, list("abcdefg")).values()) == pytest.approx(list(expected))


def test_top5_and_confusion_equal_sklearn() -> None:
    rng = np.random.default_rng(1)
    predictions, labels = rng.normal(size=(300, 9)), rng.integers(9, size=300)
    expected = top_k_accuracy_score(labels, predictions, k=5, labels=range(9))
    assert top_k(predictions, labels, 5) == pytest.approx(expected)
    names = list("abcdefghi")
    found = confusion(predictions, labels, names)
    matrix = [[found[true].get(taken, 0) for taken in names] for true in names]
    assert np.array_equal(matrix, confusion_matrix(labels, predictions.argmax(axis=1), labels=range(9)))


def test_a_class_without_test_clips_has_no_recall() -> None:
    assert recalls(np.eye(2), np.array([0, 0]), ["a", "b"]) == {"a": 0.5, "b": None}


def test_a_score_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tiny_config(), rows=1)
    folder = write_scores(tmp_path / "scores", run, TASKS[:3])
    scores = [Score.read(path) for path in folder.glob("*.json")]
    assert {score.name for score in scores} == {task.name for task in TASKS[:3]}
    for score in scores:
        assert Score.read(score.write(tmp_path / "copy")) == score


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "does not contain a JSON object"),
        ('{"dataset": "x", "protocol": "knn"}', "not a score"),
    ],
)
def test_a_damaged_score_is_a_one_line_error(tmp_path: Path, damage: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(damage)
    with pytest.raises(UserError, match=said) as caught:
        Score.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_ill_typed_field_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tiny_config(), rows=1)
    path = next(write_scores(tmp_path / "scores", run, TASKS[:1]).glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"score": "good"}))
    with pytest.raises(UserError, match="score: "):
        Score.read(path)


@pytest.mark.parametrize("fold", [1, 12])
@pytest.mark.parametrize("dataset", ["ucf101", "my-data", "audio-video"])
def test_a_task_name_is_parsed_into_its_fields(dataset: str, fold: int) -> None:
    key = TaskKey(dataset, "video", "svm", "raw", fold)
    assert parse_task_name(key.name) == key


def test_an_invalid_task_name_is_not_parsed() -> None:
    assert parse_task_name("notes") is parse_task_name("ucf101-video-knn-raw") is None
