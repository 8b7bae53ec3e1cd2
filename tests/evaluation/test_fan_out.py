from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.errors import UserError
from xkd.evaluation.fan_out import evaluate_item, fan_out
from xkd.evaluation.score import Score


@pytest.fixture(scope="module")
def data(prepared: Path, miniature: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of datasets as of a pipeline, one of them under another name than its own."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "mine-prepared").symlink_to(prepared)
    prepare(miniature("esc50-mini"), folder / "esc50-mini-prepared", PrepareConfig(short_side=32))
    return folder


def test_an_item_names_the_directory_of_its_dataset(run: Path, data: Path, tmp_path: Path) -> None:
    items = fan_out(str(run), True, str(data), ["mine", "esc50-mini"], ["raw"], ["svm"], [])
    assert items == [
        "mine-video-svm-raw",
        "mine-audio-svm-raw",
        *("esc50-mini-audio-svm-raw" + fold for fold in ("", "-fold2", "-fold3", "-fold4", "-fold5")),
    ]
    (score,) = evaluate_item(run, data, items[0], ["epochs=3"], tmp_path)
    assert score == Score.read(tmp_path / "embedded-video-svm-raw.json")
    assert score.data_revision == PreparedDataset.open(data / "mine-prepared").revision


def test_more_evaluations_than_a_pipeline_holds_are_refused_before_training(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = partial(fan_out, "runs/demo", False, str(data), ["esc50-mini"], [], ["svm"], [])
    monkeypatch.setattr("xkd.evaluation.fan_out.TASKS", 10)  # two evaluations each
    assert check() == []
    monkeypatch.setattr("xkd.evaluation.fan_out.TASKS", 9)
    with pytest.raises(UserError, match="20 evaluations, but at most 18 fit in one run of a pipeline"):
        check()


def test_a_failed_evaluation_of_an_item_loses_only_its_own_score(
    run: Path, data: Path, tmp_path: Path
) -> None:
    item = "esc50-mini-audio-svm-raw-fold6\nmine-audio-svm-raw"
    with pytest.raises(UserError, match="fold 6"):
        evaluate_item(run, data, item, [], tmp_path)
    assert [path.name for path in sorted(tmp_path.glob("*.*"))] == [
        "embedded-audio-svm-raw.json",
        "esc50-audio-svm-raw-fold6.failed",
    ]


def test_what_an_earlier_attempt_did_not_finish_comes_last(run: Path, data: Path, tmp_path: Path) -> None:
    """It may be what ended that attempt, and would end this one before the other is evaluated."""
    killed = tmp_path / "embedded-audio-svm-raw.failed"
    killed.write_text("running, or killed before it could record a reason")
    scores = evaluate_item(run, data, "mine-audio-svm-raw\nmine-video-svm-raw", [], tmp_path)
    assert [score.modality for score in scores] == ["video", "audio"]
    assert not killed.exists()


def test_a_dataset_given_twice_is_refused(data: Path) -> None:
    with pytest.raises(UserError, match="both hold embedded; give only one of them"):
        fan_out("runs/demo", False, str(data), ["mine", "mine"], [], [], [])


@pytest.mark.parametrize("trained", [False, True])
def test_a_pipeline_needs_a_run_directory(data: Path, trained: bool) -> None:
    with pytest.raises(UserError, match="run: must not be empty"):
        fan_out("", trained, str(data), ["mine"], [], [], [])


@pytest.mark.parametrize("item", ["mine-audio-svm", "mine-audio-svm-raw\n\n"])
def test_a_line_that_is_no_evaluation_is_refused(run: Path, data: Path, tmp_path: Path, item: str) -> None:
    with pytest.raises(UserError, match="is no evaluation, such as"):
        evaluate_item(run, data, item, [], tmp_path)
