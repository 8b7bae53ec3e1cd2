"""Which columns the table of a dataset of one's own has."""

from __future__ import annotations

from pathlib import Path

from tests.report.synthetic import write_run, write_scores
from tests.tiny import tiny_config
from xkd.evaluation.plan import make_task
from xkd.evaluation.score import record_failure
from xkd.report.aggregate import Group, aggregate
from xkd.report.collect import collect
from xkd.report.load import read_run
from xkd.rundir import RunDir


def test_only_protocols_by_which_it_was_evaluated_are_columns(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tiny_config())
    scores = tmp_path / "scores"
    scores.mkdir()

    def columns() -> set[str]:
        evaluated = read_run(run, scores)
        return {record.column.name for record in aggregate([Group("run", (evaluated,))], ["mine"])}

    assert columns() == set()
    # Of a folder without labels, the evaluation that it has may fail.
    record_failure(scores, "mine-audiovisual-retrieval-teacher", RunDir(run), "out of memory")
    assert columns() == {"audiovisual_retrieval"}
    write_scores(scores, run, (make_task("mine", "video", "svm", "teacher"),))
    assert columns() == {"audiovisual_retrieval", "video"}


def test_tables_have_only_rows_and_sentences_of_what_was_evaluated(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tiny_config())
    write_scores(tmp_path / "scores", run, (make_task("mine", "audiovisual", "retrieval", "teacher"),))
    (table,) = collect(run, tmp_path / "scores").tables
    assert [line.title for line in table.lines()] == ["Teacher", "Chance"]
    assert table.measure == "In %."
    write_scores(tmp_path / "scores", run, (make_task("mine", "video", "svm", "random"),))
    (table,) = collect(run, tmp_path / "scores").tables
    assert [line.title for line in table.lines()] == ["Teacher", "Random initialization", "Chance"]
    assert table.measure.startswith("Top-1 accuracy of a linear SVM")
    assert "Late fusion" not in table.measure
    write_scores(tmp_path / "scores", run, (make_task("mine", "audiovisual", "fusion", "raw"),))
    (table,) = collect(run, tmp_path / "scores").tables
    assert (
        "Late fusion: one SVM on the features of the video and the audio encoder together." in table.measure
    )
    assert "Raw input: frames and spectrogram themselves" in table.measure
