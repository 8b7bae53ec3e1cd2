"""What `xkd ablate` trains and evaluates, and how mistakes and failures are told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.report.synthetic import write_run
from tests.tiny import tiny_config
from xkd.ablation.grid import check_columns
from xkd.ablation.plan import plan_runs
from xkd.ablation.run import ablate, by_name, claim, evaluate_run, raise_failed
from xkd.ablation.settings import AblateConfig
from xkd.ablation.tables import find_tables
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import TrainingError, UserError, prefixed

S13 = find_tables(["S13"])


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> PreparedDataset:
    return PreparedDataset.open(prepared)


def test_a_failed_evaluation_is_told_after_the_others(dataset: PreparedDataset, tmp_path: Path) -> None:
    path = write_run(tmp_path / "runs/align_across-seed0", tiny_config(), rows=20)
    (path / "encoders/teacher_video.safetensors").write_bytes(b"")
    (run,) = (run for run in plan_runs(S13, "small", 1).runs if run.name == path.name)
    failed = evaluate_run(run, S13, "small", {"embedded": dataset}, (), tmp_path)
    assert [text.partition(":")[0] for text in failed] == ["align_across-seed0, embedded-video-svm-teacher"]
    assert [file.stem for file in (path / "scores").glob("*.json")] == ["embedded-audio-svm-teacher"]
    with pytest.raises(UserError, match=r"^1 evaluations failed, the first: align_across-seed0, "):
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
        by_name([str(prepared), str(prepared)])
    check_columns(S13, "small", {"embedded": dataset})


def test_a_prefix_keeps_the_exit_code() -> None:
    with (
        pytest.raises(TrainingError, match=r"^ablation-seed0: killed$") as caught,
        prefixed("ablation-seed0: "),
    ):
        raise TrainingError("killed", 137)
    assert caught.value.exit_code == 137
