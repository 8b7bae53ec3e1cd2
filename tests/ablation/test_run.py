"""What `xkd ablate` trains and evaluates, and how mistakes and failures are reported."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.report.synthetic import write_run, write_scores
from tests.tiny import tiny_config
from xkd.ablation.grid import check_columns
from xkd.ablation.page import write_results
from xkd.ablation.plan import plan_runs
from xkd.ablation.result import find_score
from xkd.ablation.run import PAGE, ablate, by_name, claim, evaluate_run, raise_failed
from xkd.ablation.settings import AblateConfig
from xkd.ablation.tables import find_tables
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import TrainingError, UserError, prefixed
from xkd.evaluation.plan import make_task
from xkd.rundir import RunDir

S13 = find_tables(["S13"])


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> PreparedDataset:
    return PreparedDataset.open(prepared)


def test_a_failed_evaluation_is_reported_after_the_others(dataset: PreparedDataset, tmp_path: Path) -> None:
    path = write_run(tmp_path / "runs/align_across-seed0", tiny_config(), rows=20)
    (path / "encoders/teacher_video.safetensors").write_bytes(b"")
    (run,) = (run for run in plan_runs(S13, "small", 1).runs if run.name == path.name)
    failed = evaluate_run(run, S13, "small", {"embedded": dataset}, (), tmp_path)
    assert [text.partition(":")[0] for text in failed] == ["align_across-seed0, embedded-video-svm-teacher"]
    assert [file.stem for file in (path / "scores").glob("*.json")] == ["embedded-audio-svm-teacher"]
    with pytest.raises(UserError, match=r"^evaluations that failed: 1, the first: align_across-seed0, "):
        raise_failed(failed)


def test_a_run_of_other_data_is_refused(prepared: Path, tmp_path: Path) -> None:
    run = plan_runs(S13, "small", 1, SETTINGS).runs[0]
    write_run(tmp_path / "runs" / run.name, run.config, rows=20)  # of another revision
    config = AblateConfig(tables=("S13",), data=str(prepared), out=str(tmp_path), settings=SETTINGS)
    with pytest.raises(
        UserError, match=r"^ablation-seed0: .* was started on data revision 5f0c2a9be1d4, not "
    ):
        ablate(config)


SETTINGS = ("optim.batch_size=8", "run.workers=0")


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        (["optim.lr=1e-3", "loss.align=0"], ["loss.align=0", "optim.lr=1e-3"], True),
        (["optim.lr=1", "optim.lr=2"], ["optim.lr=2"], True),
        (["optim.lr=1", "optim.lr=2"], ["optim.lr=2", "optim.lr=1"], False),
    ],
)
def test_the_last_of_equal_settings_counts(
    dataset: PreparedDataset, tmp_path: Path, first: Sequence[str], second: Sequence[str], fits: bool
) -> None:
    claim(tmp_path, "small", dataset, first)
    if fits:
        claim(tmp_path, "small", dataset, second)
    else:
        with pytest.raises(UserError, match="has runs of settings"):
            claim(tmp_path, "small", dataset, second)


def test_datasets_that_tables_cannot_use_are_refused(dataset: PreparedDataset, prepared: Path) -> None:
    with pytest.raises(
        UserError, match=r"^Table S13 cannot be evaluated: no prepared dataset hmdb51 was given"
    ):
        check_columns(S13, "paper", {"embedded": dataset})
    with pytest.raises(UserError, match=r"^scale small is evaluated on one dataset, not on embedded, other"):
        check_columns(S13, "small", {"embedded": dataset, "other": dataset})
    with pytest.raises(UserError, match=r"both hold embedded$"):
        by_name([prepared, prepared])
    check_columns(S13, "small", {"embedded": dataset})


def test_a_prefix_keeps_the_exit_code() -> None:
    with (
        pytest.raises(TrainingError, match=r"^ablation-seed0: killed$") as caught,
        prefixed("ablation-seed0: "),
    ):
        raise TrainingError("killed", 137)
    assert caught.value.exit_code == 137


def test_tables_of_data_that_does_not_fit_leave_earlier_ones(
    dataset: PreparedDataset, prepared: Path, tmp_path: Path
) -> None:
    smaller = tmp_path / "smaller"
    shutil.copytree(prepared, smaller)
    text = (smaller / "dataset.json").read_text()
    (smaller / "dataset.json").write_text(text.replace('"short_side": 48', '"short_side": 24'))
    config = AblateConfig(
        tables=("S13",), data=str(prepared), out=str(tmp_path / "out"), downstream=(str(smaller),)
    )
    with pytest.raises(
        UserError, match=r"^ablation-seed0: .*smaller: .* needs clips prepared with short_side=32"
    ):
        ablate(config, PAGE)
    assert not (tmp_path / "out").exists()


def test_a_score_without_all_clips_is_not_current(dataset: PreparedDataset, tmp_path: Path) -> None:
    path = write_run(tmp_path / "runs/align_across-seed0", tiny_config(), rows=20)
    task = make_task("embedded", "audio", "svm", "teacher")
    for recognized in ("", "01"):
        identity = dataset.identity | task.identity
        write_scores(path / "scores", path, (task,), **identity, recognized=recognized)
        assert find_score(RunDir(path), dataset, task) is None
    write_scores(path / "scores", path, (task,), **identity)
    assert find_score(RunDir(path), dataset, task)


def test_settings_that_a_run_refuses_are_not_printed_for_dvc() -> None:
    with pytest.raises(UserError, match=r"^ablation@small: bogus\.x=1: unknown setting bogus"):
        AblateConfig(tables=("S13",), settings=("bogus.x=1",)).needed_runs()


def test_a_run_without_metrics_does_not_stop_the_tables(dataset: PreparedDataset, tmp_path: Path) -> None:
    path = write_run(tmp_path / "runs/ablation-seed0", tiny_config(), rows=20)
    (path / "metrics.jsonl").write_text("")
    page = write_results(S13, "small", 1, {"embedded": dataset}, (), tmp_path)
    assert "Table S13" in page.read_text()


def test_a_file_that_is_no_verdict_is_named(tmp_path: Path) -> None:
    run = RunDir(write_run(tmp_path / "run", tiny_config(), rows=20))
    run.verdict_file.write_text('{"verdict": "healthy"}')
    with pytest.raises(UserError, match=r"verdict\.json is not a verdict: reason"):
        run.verdict()
