from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.report.synthetic import write_run
from xkd.config.presets import get_preset
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.errors import UserError
from xkd.evaluation.fan_out import evaluate_item, fan_out, find_prepared
from xkd.evaluation.score import Score


@pytest.fixture(scope="module")
def data(prepared: Path, miniature: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of datasets as of a pipeline, one of them under another name than its own."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "mine-prepared").symlink_to(prepared)
    prepare(miniature("esc50-mini"), folder / "esc50-mini-prepared", PrepareConfig(short_side=32))
    return folder


def test_an_item_has_the_directory_of_its_dataset(run: Path, data: Path, tmp_path: Path) -> None:
    prepared = [data / "mine-prepared", data / "esc50-mini-prepared"]
    items = fan_out(str(run), True, prepared, ["raw"], ["svm"], [])
    assert items == [
        f"{data}/mine-prepared/embedded-video-svm-raw",
        f"{data}/mine-prepared/embedded-audio-svm-raw",
        *(
            f"{data}/esc50-mini-prepared/esc50-audio-svm-raw{fold}"
            for fold in ("", "-fold2", "-fold3", "-fold4", "-fold5")
        ),
    ]
    (score,) = evaluate_item(run, items[0], ["epochs=3"], tmp_path)
    assert score == Score.read(tmp_path / "embedded-video-svm-raw.json")
    assert score.data_revision == PreparedDataset.open(data / "mine-prepared").revision


def test_more_evaluations_than_a_pipeline_holds_are_refused_before_training(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = partial(fan_out, "runs/demo", False, [data / "esc50-mini-prepared"], [], ["svm"], [])
    monkeypatch.setattr("xkd.evaluation.fan_out.TASKS", 10)  # two evaluations each
    assert check() == []
    monkeypatch.setattr("xkd.evaluation.fan_out.TASKS", 9)
    with pytest.raises(UserError, match="20 evaluations, but at most 18 fit in one run of a pipeline"):
        check()


def test_a_failed_evaluation_of_an_item_loses_only_its_own_score(
    run: Path, data: Path, tmp_path: Path
) -> None:
    item = (
        f"{data}/esc50-mini-prepared/esc50-audio-svm-raw-fold6\n{data}/mine-prepared/embedded-audio-svm-raw"
    )
    with pytest.raises(UserError, match="fold 6"):
        evaluate_item(run, item, [], tmp_path)
    assert [path.name for path in sorted(tmp_path.glob("*.*"))] == [
        "embedded-audio-svm-raw.json",
        "esc50-audio-svm-raw-fold6.failed",
    ]


def test_what_an_earlier_attempt_did_not_finish_comes_last(run: Path, data: Path, tmp_path: Path) -> None:
    """It may be what ended that attempt, and would end this one before the other is evaluated."""
    killed = tmp_path / "embedded-audio-svm-raw.failed"
    killed.write_text("running, or killed before it could record a reason")
    lines = [f"{data}/mine-prepared/embedded-{modality}-svm-raw" for modality in ("audio", "video")]
    scores = evaluate_item(run, "\n".join(lines), [], tmp_path)
    assert [score.modality for score in scores] == ["video", "audio"]
    assert not killed.exists()


def test_a_dataset_given_twice_is_refused(data: Path) -> None:
    with pytest.raises(UserError, match="both hold embedded; give only one of them"):
        fan_out("runs/demo", False, [data / "mine-prepared"] * 2, [], [], [])


@pytest.mark.parametrize("trained", [False, True])
def test_a_pipeline_needs_a_run_directory(data: Path, trained: bool) -> None:
    with pytest.raises(UserError, match="run: must not be empty"):
        fan_out("", trained, [data / "mine-prepared"], [], [], [])


@pytest.mark.parametrize("item", ["data/embedded-audio-svm", "data/embedded-audio-svm-raw\n\n"])
def test_a_line_that_is_no_evaluation_is_refused(run: Path, tmp_path: Path, item: str) -> None:
    with pytest.raises(UserError, match="is no evaluation, such as"):
        evaluate_item(run, item, [], tmp_path)


def test_datasets_are_found_as_the_preset_of_the_run_implies(tmp_path: Path) -> None:
    write_run(tmp_path / "run", get_preset("toy"), rows=1)
    names, toy = ["a", "sets/b"], "prepared-short_side-64-max_fps-8"
    for folder in (f"a-{toy}", f"sets/b-{toy}", f"a-{toy}-folds-5", "a-prepared"):
        (tmp_path / folder).mkdir(parents=True)
    find = partial(find_prepared, data=str(tmp_path))
    run = str(tmp_path / "run")
    assert find(run, "", [], names=names) == [tmp_path / f"a-{toy}", tmp_path / f"sets/b-{toy}"]
    assert find(run, "", ["folds=5"], names=["a"]) == [tmp_path / f"a-{toy}-folds-5"]
    assert find("runs/none", "paper", [], names=["a"]) == [tmp_path / "a-prepared"]
    with pytest.raises(UserError) as caught:
        find(run, "", ["folds=5"], names=names)
    command = (
        f"xkd prepare {tmp_path}/sets/b --preset toy --set folds=5 --out {tmp_path}/sets/b-{toy}-folds-5"
    )
    assert f"does not exist: make it with `{command}`, or give the prepare_settings" in str(caught.value)
