"""A table shows the scores of its run, of its tasks and of one set of settings, and says why no others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.report.synthetic import ONE_HOT, TASKS, write_run, write_scores
from tests.tiny import tiny_config
from xkd.config import PretrainConfig
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import UserError
from xkd.evaluation.plan import make_task, read_tasks
from xkd.evaluation.score import record_failure
from xkd.report.collect import collect
from xkd.report.load import read_run
from xkd.rundir import RunDir

VIDEO = tuple(task for task in TASKS if task.modality == "video")
OLD, NEW = "2026-11-23T10:00:00+00:00", "2026-11-24T10:00:00+00:00"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", tiny_config(), rows=1)


def deeper(config: PretrainConfig) -> PretrainConfig:
    return replace(config, encoder=replace(config.encoder, depth=1))


def more_heads(config: PretrainConfig) -> PretrainConfig:
    return replace(config, encoder=replace(config.encoder, heads=4))


def other_sound(config: PretrainConfig) -> PretrainConfig:
    return replace(config, clip=replace(config.clip, n_fft=512))


@pytest.mark.parametrize(
    ("change", "kept", "said"),
    [
        (deeper, ["raw"], "settings.encoder.depth 2 (not 1)"),
        (more_heads, ["raw"], "settings.encoder.heads 2 (not 4)"),
        (other_sound, [], "settings.clip.n_fft 1024 (not 512)"),
    ],
)
def test_scores_of_another_network_or_input_are_left_out(
    run: Path, tmp_path: Path, change: Any, kept: list[str], said: str
) -> None:
    scores = write_scores(tmp_path / "scores", run, VIDEO)
    other = write_run(tmp_path / "other", change(tiny_config()), rows=1, seed=1)
    read = read_run(other, scores)
    assert [score.encoder for score in read.scores] == kept
    assert read.left_out["embedded-video-svm-random.json"] == said
    assert read.left_out["embedded-video-svm-teacher.json"].startswith(f"{said}, encoder_hash ")
    assert len(read_run(run, scores).scores) == 4


def test_a_run_that_ended_without_encoders_shows_no_scores(run: Path, tmp_path: Path) -> None:
    ended = write_run(tmp_path / "ended", tiny_config(), ONE_HOT, rows=1)
    shutil.rmtree(ended / "encoders")
    read = read_run(ended, write_scores(tmp_path / "scores", run, VIDEO))
    assert read.skipped_evaluation
    assert set(read.left_out.values()) == {"the run has no encoders"}


def test_scores_of_an_encoder_that_the_run_lacks_are_left_out(run: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", run, VIDEO)
    other = tmp_path / "student"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("teacher*"))
    read = read_run(other, scores)
    assert [score.encoder for score in read.scores] == ["random", "raw", "student"]
    assert "no encoder at " in read.left_out["embedded-video-svm-teacher.json"]


FIELDS: tuple[dict[str, Any], ...] = (
    {"data_revision": "another"},
    {"preparation": "another"},
    {"windows": {"train": 5, "test": 1}},
    {"seed": 1},
    {"finetune": {"epochs": 3}},
)


@pytest.mark.parametrize("changed", FIELDS, ids=[next(iter(fields)) for fields in FIELDS])
def test_the_newest_score_decides_about_data_and_settings(
    run: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    scores = write_scores(tmp_path, run, VIDEO[1:], date=OLD)
    write_scores(scores, run, VIDEO[:1], date=NEW, **changed)
    read = read_run(run, scores)
    assert [score.encoder for score in read.scores] == ["teacher"]
    assert len(read.left_out) == 3
    (reason,) = set(read.left_out.values())
    assert reason.startswith(next(iter(changed)))
    write_scores(scores, run, VIDEO[1:], date=NEW, **changed)
    assert not read_run(run, scores).left_out


def test_protocols_may_have_other_preparations_and_settings(run: Path, tmp_path: Path) -> None:
    """Fine-tuning needs larger pictures than a linear probe of the same dataset."""
    write_scores(tmp_path, run, VIDEO)
    tuned = make_task("embedded", "video", "finetune", "teacher")
    write_scores(tmp_path, run, (tuned,), preparation="larger", windows={"train": 1, "test": 3}, date=NEW)
    assert not read_run(run, tmp_path).left_out


def test_files_that_are_no_scores_are_left_out(run: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path, run, VIDEO[:2])
    teacher, student = (scores / f"embedded-video-svm-{name}.json" for name in ("teacher", "student"))
    shutil.copy(teacher, scores / "copy.json")
    values = json.loads(student.read_text())
    del values["settings"]  # as written by an earlier version
    student.write_text(json.dumps(values))
    (scores / "damaged.json").write_text("{")
    read = read_run(run, scores)
    assert [score.encoder for score in read.scores] == ["teacher"]
    assert read.left_out["copy.json"] == "it is a score of embedded-video-svm-teacher"
    assert "not valid JSON" in read.left_out["damaged.json"]
    assert f"{student} is not a score: settings: " in read.left_out[student.name]
    assert read.left_out[student.name].endswith("; evaluate the task again")


def test_a_failure_is_shown_of_this_run_alone(run: Path, tmp_path: Path) -> None:
    """Not of an earlier pretraining in the same place or of earlier weights, nor a file of another form."""
    scores = write_scores(tmp_path / "scores", run, VIDEO)
    record_failure(scores, "embedded-audio-svm-raw", RunDir(run), "the disk was full")
    (scores / "embedded-audio-svm-teacher.failed").write_text("the disk was full")
    assert list(read_run(run, scores).failures.values()) == ["the disk was full"]
    again = tmp_path / "again"
    shutil.copytree(run, again)
    steps = 2 * RunDir(run).info()["steps"]
    differences: list[dict[str, Any]] = [{"id": "another"}, {"steps": steps}, {"rollbacks": [{}]}]
    for changed in differences:
        (again / "run.json").write_text(json.dumps(RunDir(run).info() | changed))
        assert read_run(again, scores).failures == {}


def params(path: Path, data: str = "nowhere", **sections: Any) -> Path:
    entries = {task.name: {"data": data, **task.key._asdict()} for task in VIDEO[:2]}
    path.write_text(yaml.safe_dump({"tasks": entries, "svm": {"train_windows": None, "seed": 0}} | sections))
    return path


def test_only_scores_of_the_tasks_and_their_settings_are_shown(run: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", run, VIDEO)
    record_failure(scores, "embedded-audio-svm-raw", RunDir(run), "an earlier task")
    record_failure(scores, "embedded-video-svm-student", RunDir(run), "a failure before it was evaluated")
    data = collect(run, scores, tasks=read_tasks(params(tmp_path / "params.yaml")))
    assert [score.encoder for score in data.run.scores] == ["student", "teacher"]
    assert set(data.left_out.values()) == {"not among the tasks"}
    assert list(data.run.failures.values()) == ["a failure before it was evaluated"]
    assert not data.tables[0].missing
    more = read_tasks(params(tmp_path / "params.yaml", svm={"train_windows": 7, "seed": 1}))
    other = collect(run, scores, tasks=more)
    assert other.run.scores == []
    assert "windows.train 5 (not 7), seed 0 (not 1)" in other.left_out.values()
    assert [table.dataset for table in other.tables] == ["embedded"]


def test_only_scores_of_the_tasks_data_are_shown(prepared: Path, run: Path, tmp_path: Path) -> None:
    expected, tasks = PreparedDataset.open(prepared), params(tmp_path / "params.yaml", str(prepared))
    write_scores(tmp_path / "scores", run, VIDEO[:1], **expected.identity)
    scores = write_scores(tmp_path / "scores", run, VIDEO[1:2])  # of other data of the same name
    data = collect(run, scores, tasks=read_tasks(tasks))
    assert [score.name for score in data.run.scores] == [VIDEO[0].name]
    (reason,) = data.left_out.values()
    assert reason == (
        f"data_revision 5f0c2a9be1d4 (not {expected.revision}), "
        f"preparation 0a1b2c3d4e5f (not {expected.preparation})"
    )


def test_a_mistake_in_the_tasks_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("svm: {}")
    with pytest.raises(UserError, match="no section 'tasks'"):
        read_tasks(tmp_path / "params.yaml")
    with pytest.raises(UserError, match=r"tasks\.mine must have data, dataset, modality, "):
        read_tasks(params(tmp_path / "params.yaml", tasks={"mine": {"dataset": "embedded"}}))
    mine = {"data": "nowhere", **VIDEO[0].key._asdict()}
    with pytest.raises(UserError, match=r"tasks\.mine\.protocol must be a string, got \['svm'\]"):
        read_tasks(params(tmp_path / "params.yaml", tasks={"mine": mine | {"protocol": ["svm"]}}))
    with pytest.raises(UserError, match=r"svm must be a mapping of settings, got 3"):
        read_tasks(params(tmp_path / "params.yaml", tasks={"mine": mine}, svm=3))
