from __future__ import annotations

import csv
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import median

import pytest

from tests.report.synthetic import ONE_HOT, TASKS, write_run, write_scores
from xkd.config.presets import get_preset
from xkd.errors import UserError
from xkd.evaluation.plan import make_task
from xkd.evaluation.score import record_failure
from xkd.lock import LOCK
from xkd.monitor.collapse import CollapseThresholds
from xkd.report.aggregate import Group, aggregate
from xkd.report.load import read_run
from xkd.report.signals import drift, signal_lines
from xkd.report.tables import EMPTY
from xkd.report.tabulate import tabulate
from xkd.rundir import RunDir, Verdict, read_rows

NETWORK = re.compile(r"""(?:src|href|url|@import)\s*[=(]?\s*["']?\s*(?:https?:)?//""", re.IGNORECASE)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "toy", get_preset("toy"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run without sample clips, whose report is drawn faster."""
    run = write_run(tmp_path_factory.mktemp("runs") / "bare", get_preset("toy"), rows=3)
    (run / "reconstruction.pt").unlink()
    return run


@pytest.fixture(scope="module")
def report(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    return tabulate(run, write_scores(out / "scores", run), out / "report")


class Page(HTMLParser):
    """The text, tags and addresses of a page, whose tags must be nested properly."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.open, self.addresses, self.tags = "", list[str](), list[str](), list[str]()
        self.ids = set[str]()
        self.feed(path.read_text())
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href") and value]
        self.ids |= {value for name, value in attrs if name == "id" and value}
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data + "\n"


def test_the_table_shows_scores_and_gains(report: Path) -> None:
    table = (report.parent / "tables.md").read_text()
    assert "| Teacher | 52.0 (+31.0) | 60.0 (+31.0) | 65.0 (+31.0) |" in table
    assert "| Random initialization | 21.0 | 29.0 | 34.0 |" in table
    assert "| Raw input | 12.0 (-9.0) | 20.0 (-9.0) | 25.0 (-9.0) |" in table
    assert "| Chance | 10.0 | 10.0 | 10.0 |" in table
    assert "missing" not in table
    assert "Settings that differ from the preset: none" in table


def test_the_page_is_well_formed_and_needs_no_network(report: Path) -> None:
    page = Page(report)
    links = [address[1:] for address in page.addresses if address.startswith("#") and address[1:] in page.ids]
    assert len(links) == len(set(links)) == page.tags.count("h2")  # the table of contents
    pictures = [address for address in page.addresses if not address.startswith("#")]
    assert all(address.startswith("data:image/png") for address in pictures)
    assert len(pictures) == 6  # of clips
    assert page.tags.count("svg") == 15  # scores, confusions (3), losses (4), distillation (4), schedules (3)
    assert "script" not in page.tags
    assert not NETWORK.search(report.read_text())
    for text in (
        "Healthy",
        "Teacher",
        "Random initialization",
        "52.0",
        "+31.0",
        "Provenance",
        "bounce",
    ):
        assert text in page.text


def test_the_figures_need_no_network(report: Path) -> None:
    figures = sorted(report.parent.glob("figures/*"))
    assert [figure.name for figure in figures] == [
        "attention_audio.png",
        "attention_video.png",
        "confusion_embedded_audio.svg",
        "confusion_embedded_audiovisual.svg",
        "confusion_embedded_video.svg",
        "distillation.svg",
        "losses.svg",
        "mask_ratios_audio.png",
        "mask_ratios_video.png",
        "reconstruction_audio.png",
        "reconstruction_video.png",
        "schedules.svg",
        "scores_embedded.svg",
    ]
    for figure in figures:
        if figure.suffix == ".svg":
            assert not NETWORK.search(figure.read_text())
    largest = math.log(get_preset("toy").projector.out_dim)
    assert f"ln K = {largest:.2f}" in (report.parent / "figures" / "distillation.svg").read_text()


def test_the_files_for_dvc_hold_scores_and_curves(report: Path, run: Path) -> None:
    metrics = json.loads((report.parent / "scores.json").read_text())
    assert metrics["verdict"] == "healthy"
    assert metrics["embedded"]["teacher"] == {"video": 0.52, "audio": 0.6, "audiovisual": 0.65}
    assert metrics["embedded"]["teacher_gain"]["video"] == pytest.approx(0.31)
    assert metrics["embedded"]["chance"] == {"video": 0.1, "audio": 0.1, "audiovisual": 0.1}
    with (report.parent / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(TASKS)
    assert {row["train_windows"] for row in rows} == {"5"}
    with (report.parent / "curves.csv").open() as file:
        curves = list(csv.DictReader(file))
    assert len(curves) == 100
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert float(curves[-1]["kld_video_to_audio"]) == history[-1]["kld_video_to_audio"]


def test_equal_input_gives_an_identical_page(report: Path, run: Path, tmp_path: Path) -> None:
    again = tabulate(run, report.parent.parent / "scores", tmp_path)
    assert again.read_bytes() == report.read_bytes()


def test_missing_scores_are_shown_with_their_reason(bare: Path, tmp_path: Path) -> None:
    some = tuple(t for t in TASKS if t.encoder != "raw" and t.name != "embedded-audio-svm-student")
    scores = write_scores(tmp_path / "scores", bare, some)
    record_failure(scores, "embedded-audio-svm-student", RunDir(bare), "no clip of split train has <audio>")
    report = tabulate(bare, scores, tmp_path / "report")
    table = (report.parent / "tables.md").read_text()
    assert "| Student | 47.0 (+26.0) | missing | 60.0 (+26.0) |" in table
    assert "| Raw input |" not in table
    assert re.findall("^- .*: no .*", table, re.M) == ["- Student, audio: no clip of split train has <audio>"]
    left = (
        "Not evaluated: video, fine-tuned (top-1); audio, fine-tuned (top-1); video to audio, retrieval "
        "(recall@1); video (raw input); audio (raw input); late fusion (raw input)."
    )
    assert left in table
    page = Page(report)
    assert page.text.count("missing\n") == 1
    assert "no clip of split train has <audio>" in page.text
    assert left in page.text


def test_classes_without_training_clips_are_named(bare: Path, tmp_path: Path) -> None:
    video, audio = TASKS[0], TASKS[1]
    scores = write_scores(tmp_path / "scores", bare, (replace(video, dataset="ucf101"),), untrained=["jump"])
    more = ["jump", "orbit"]
    write_scores(scores, bare, (replace(video, dataset="ucf101", fold=3),), untrained=more)
    write_scores(scores, bare, (audio,), untrained=["shake & spin"])
    write_scores(scores, bare, (TASKS[2],), untrained=[f"class {n:02d}" for n in range(25)])
    report = tabulate(bare, scores, tmp_path / "report")
    table = (report.parent / "tables.md").read_text()
    assert "No training clips, all skipped or missing:\n\n- video: jump, orbit (fold 3)\n" in table
    assert "\n- audio: shake & spin\n" in table
    assert ", class 19, and 5 more\n" in table
    assert "orbit (fold 3)" in Page(report).text
    assert (
        r"No training clips, audio: shake \& spin; late fusion: "
        in (report.parent / "tables.tex").read_text()
    )
    with (report.parent / "scores.csv").open() as file:
        assert {row["untrained"][:12] for row in csv.DictReader(file)} == {
            *("jump", "jump; orbit", "shake & spin", "class 00; cl"),
        }


def test_without_the_random_initialization_there_is_no_gain(bare: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", bare, TASKS[:3])
    report = tabulate(bare, scores, tmp_path / "report")
    assert "| Teacher | 52.0 | 60.0 | 65.0 |" in (report.parent / "tables.md").read_text()


def test_a_collapsed_run_gets_a_report_without_tables(tmp_path: Path) -> None:
    config = get_preset("toy")
    config = replace(config, loss=replace(config.loss, centering=False))
    run = write_run(tmp_path / "run", config, ONE_HOT)
    report = tabulate(run, tmp_path / "no scores", tmp_path / "report")
    page = Page(report)
    for text in ("Collapsed: one-hot", ONE_HOT.reason, "evaluation was skipped", "loss.centering"):
        assert text in page.text
    assert 'class="scores"' not in report.read_text()
    assert sum(address.startswith("data:") for address in page.addresses) == 6
    assert "evaluation was skipped" in (report.parent / "tables.md").read_text()
    assert json.loads((report.parent / "scores.json").read_text())["verdict"] == "one_hot"


def test_an_undecided_run_has_its_tables_and_is_not_shown_as_healthy(bare: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(bare, run)
    (run / "verdict.json").write_text(json.dumps(Verdict("undecided", "too early to judge", 30).to_dict()))
    report = tabulate(run, write_scores(tmp_path / "scores", run, TASKS), tmp_path / "report")
    page = Page(report)
    assert "Undecided" in page.text
    assert "Healthy" not in page.text
    assert 'class="banner undecided"' in report.read_text()
    assert "| Teacher | 52.0 (+31.0) |" in (report.parent / "tables.md").read_text()


def test_a_run_that_was_not_evaluated_gets_a_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", get_preset("toy"))
    report = tabulate(run, run / "scores", tmp_path / "report")
    tables = (report.parent / "tables.md").read_text()
    assert "There are no scores yet" in tables
    assert "unless the column says otherwise" not in tables
    assert "There are no scores yet" in Page(report).text


def test_a_run_with_non_finite_losses_gets_a_report(tmp_path: Path) -> None:
    verdict = Verdict("non_finite", "loss not finite at step 10", 10)
    run = write_run(tmp_path / "run", get_preset("toy"), verdict, rows=1)
    row = json.loads((run / "metrics.jsonl").read_text())
    row |= {"loss": float("nan"), "kd_video_to_audio": float("inf")}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n" + '{"step": 20, "lo')
    (run / "reconstruction.pt").unlink()
    report = tabulate(run, tmp_path / "scores", tmp_path / "report")
    page = Page(report)
    assert "Loss not finite at step 10" in page.text
    assert page.text.count("the run saved no sample clips") == 6
    metrics = json.loads((report.parent / "scores.json").read_text())
    assert "loss" not in metrics["pretrain"]
    with (report.parent / "curves.csv").open() as file:
        (curves,) = csv.DictReader(file)
    assert (curves["loss"], curves["kd_video_to_audio"], curves["align_video_to_audio"]) == (
        "nan",
        "inf",
        "nan",
    )
    assert "" not in curves.values()


def test_a_run_that_logged_nothing_gets_a_report(tmp_path: Path) -> None:
    verdict = Verdict("non_finite", "the run logged nothing, so nothing can be said of it", 0)
    run = write_run(tmp_path / "run", get_preset("toy"), verdict, rows=0)
    assert "no metrics were logged" in tabulate(run, tmp_path / "scores", tmp_path / "report").read_text()


def test_folds_are_averaged_and_a_single_accuracy_has_its_standard_error(bare: Path, tmp_path: Path) -> None:
    for fold, value in ((1, 0.4), (2, 0.6), (3, 0.5)):
        task = replace(TASKS[0], dataset="hmdb51", fold=fold)
        write_scores(tmp_path, bare, (task,), score=value)
    write_scores(tmp_path, bare, (make_task("fsd50k", "audio", "fc", "teacher"),), metric="map")
    records = aggregate([Group("run", (read_run(bare, tmp_path),))], ["hmdb51", "fsd50k"])
    first, overall, single = (record for record in records if record.mean is not None)
    assert (first.column.split, first.std, first.n) == ("1", None, 1)
    assert first.mean == pytest.approx(40)
    assert first.error == pytest.approx(100 * (0.24 / first.scores[0].test_clips) ** 0.5)
    assert (overall.column.split, overall.n) == ("all", 3)
    assert (overall.mean, overall.std, overall.error) == pytest.approx((50, 10, 10))
    assert (single.column.metric, single.error) == ("mAP", 0)


def test_tables_have_the_protocols_and_folds_of_their_dataset(bare: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    video = tuple(task for task in TASKS if task.modality == "video")
    for fold in (1, 3):
        tasks = tuple(replace(task, dataset="ucf101", fold=fold) for task in video)
        write_scores(folder, bare, tasks, score=0.4 + fold / 100)
    record_failure(folder, "ucf101-video-svm-teacher-fold2", RunDir(bare), "the node was lost")
    layers = tuple(
        replace(task, dataset="fsd50k", protocol="fc") for task in TASKS if task.modality == "audio"
    )
    write_scores(folder, bare, layers, metric="map", C=None, sweep={}, chance=0.02)
    report = tabulate(bare, folder, tmp_path / "report")
    table = (report.parent / "tables.md").read_text()
    assert "| | Audio, FC (mAP) |\n" in table
    assert "| Chance | 2.0 |" in table
    assert "| Teacher | 42.0 ± 1.4 (n=2) (+0.0) |" in table
    assert "- Teacher, video: fold 2: the node was lost" in table
    assert "- Student, video: fold 2: not evaluated" in table
    assert "42.0\n± 1.4 (n=2)\n" in Page(report).text
    metrics = json.loads((report.parent / "scores.json").read_text())
    assert metrics["fsd50k"]["chance"] == {"audio_fc": 0.02}


def test_the_papers_number_is_compared_with_ours_of_the_same_splits(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", get_preset("toy"), rows=3)
    (run / "reconstruction.pt").unlink()
    settings = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(settings.replace("preset: toy", "preset: paper"))
    video = tuple(replace(task, dataset="ucf101") for task in TASKS if task.modality == "video")
    scores = write_scores(tmp_path / "scores", run, video, score=0.8)
    write_scores(scores, run, tuple(replace(task, fold=2) for task in video), score=0.7)
    report = tabulate(run, scores, tmp_path / "report")
    table = (report.parent / "tables.md").read_text()
    assert "| The paper's teacher, split 1 (Table S15) | 84.7 (ours -4.7) |" in table
    assert "| The paper's student, split 1 (Table S15) | 84.4 (ours -4.4) |" in table
    # One fold of three is missing: our mean is of something else.
    assert "| The paper's teacher, all splits (Table S16) | 83.8 |" in table
    assert "84.7 (ours -4.7)" in report.read_text()
    write_scores(scores, run, tuple(replace(task, fold=3) for task in video), score=0.6)
    tabulate(run, scores, tmp_path / "report")
    table = (report.parent / "tables.md").read_text()
    assert "| The paper's teacher, all splits (Table S16) | 83.8 (ours -13.8) |" in table
    with (report.parent / "tables.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["encoder"] == "teacher"]
    shown = [
        tuple(row[name] for name in ("split", "mean", "std", "n", "paper", "difference")) for row in rows
    ]
    assert shown == [("1", "80.0", "", "1", "84.7", "-4.7"), ("all", "70.0", "10.0", "3", "83.8", "-13.8")]
    assert rows[1]["source"] == "Table S16"


TUNED = tuple(
    make_task("embedded", modality=modality, protocol="finetune", encoder=encoder)
    for modality in ("video", "audio")
    for encoder in ("teacher", "student", "random")
)


def test_fine_tuning_has_columns_and_learning_curves(bare: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", bare, TASKS + TUNED)
    report = tabulate(bare, scores, tmp_path / "report")
    table = (report.parent / "tables.md").read_text()
    assert "| Video, fine-tuned (top-1) | Video, fine-tuned (top-5) |" in table
    assert "| Teacher | 52.0 (+31.0) | 60.0 (+31.0) | 65.0 (+31.0) | 52.0 (+31.0) | 82.0 (+31.0) |" in table
    assert f"| 12.0 (-9.0) | 20.0 (-9.0) | 25.0 (-9.0) |{f' {EMPTY} |' * 4}\n" in table
    assert "| Chance | 10.0 | 10.0 | 10.0 | 10.0 | 50.0 | 10.0 | 50.0 |" in table
    assert "Not evaluated: video to audio, retrieval (recall@1)." in table
    teacher = json.loads((report.parent / "scores.json").read_text())["embedded"]["teacher"]
    assert teacher["video_finetune"] == 0.52
    assert teacher["audio_finetune_top5"] == 0.9
    drawn = (report.parent / "figures" / "finetuning_embedded.svg").read_text()
    for text in (
        "Video, fine-tuned: training loss",
        "Audio, fine-tuned: validation score",
        "Random initialization",
    ):
        assert text in drawn
    page = Page(report)
    assert "Fine-tuning on embedded" in page.text
    row = page.text[page.text.index("embedded-video-finetune-teacher\n") :].splitlines()
    assert row[1:5] == ["52.0", "82.0", "30", f"{100 * 0.52 * (1 - math.exp(-30 / 6)):.1f}"]


def test_confusions_are_summed_over_folds(bare: Path, tmp_path: Path) -> None:
    confusion = {"bounce": {"bounce": 3, "slide": 7}, "slide": {"slide": 9, "jump": 1}}
    tasks = tuple(task for task in TASKS if task.modality == "video")
    for fold in (1, 2, 3):
        folds = tuple(replace(task, dataset="hmdb51", fold=fold) for task in tasks)
        write_scores(tmp_path / "scores", bare, folds, confusion=confusion)
    report = tabulate(bare, tmp_path / "scores", tmp_path / "report")
    drawn = (report.parent / "figures" / "confusion_hmdb51_video.svg").read_text()
    assert sorted(re.findall(r">(\d+)</text>", drawn)) == ["21", "27", "3", "9"]
    text = Page(report).text
    assert text.index("bounce predicted as slide: 21") < text.index("slide predicted as jump: 3")


def test_many_classes_have_a_list_instead_of_a_matrix(bare: Path, tmp_path: Path) -> None:
    classes = [f"class {index}" for index in range(101)]
    tasks = tuple(replace(task, dataset="ucf101") for task in TASKS if task.modality == "video")
    confusion = {"class 3": {"class 4": 5, "class 3": 2}}
    write_scores(tmp_path / "scores", bare, tasks, classes=classes, confusion=confusion)
    report = tabulate(bare, tmp_path / "scores", tmp_path / "report")
    assert "class 3 predicted as class 4: 5" in Page(report).text
    assert not list((report.parent / "figures").glob("confusion*"))


def test_per_class_scores_are_means_over_folds(bare: Path, tmp_path: Path) -> None:
    task = make_task(dataset="hmdb51", modality="video", protocol="svm", encoder="teacher")
    for fold, share in ((1, 0.2), (2, 0.4)):
        values = {"bounce": share, "slide": None if fold == 1 else 0.7}
        write_scores(tmp_path / "scores", bare, (replace(task, fold=fold),), per_class=values)
    text = Page(tabulate(bare, tmp_path / "scores", tmp_path / "report")).text
    assert "bounce\n30\n" in text
    assert "slide\n70\n" in text


def test_a_failed_task_is_shown_even_if_its_dataset_has_no_score(bare: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", bare)
    record_failure(scores, "fsd50k-audio-fc-teacher", RunDir(bare), "the node was lost")
    report = tabulate(bare, scores, tmp_path / "report")
    assert "- Teacher, audio, FC (mAP): the node was lost" in (report.parent / "tables.md").read_text()
    assert "No figure: nothing was evaluated" in Page(report).text


def test_latex_is_balanced_and_its_rows_have_the_declared_columns(bare: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", bare, TASKS + TUNED)
    for fold in (1, 2):
        write_scores(scores, bare, (replace(TASKS[0], dataset="hmdb51", fold=fold),), score=fold / 4)
    report = tabulate(bare, scores, tmp_path / "report")
    source = (report.parent / "tables.tex").read_text()
    lines = [line for line in source.splitlines() if line and not line.startswith("%")]
    code = "\n".join(lines)
    assert code.count("{") == code.count("}")
    open_, tables = list[str](), 0
    for line in lines:
        if start := re.fullmatch(r"\\begin\{(\w+)\}(?:\{(\w+)\})?", line):
            open_.append(start[1])
            width = len(start[2] or "")
            tables += start[1] == "tabular"
        elif ended := re.fullmatch(r"\\end\{(\w+)\}", line):
            assert open_.pop() == ended[1]
        elif open_[-1] == "tabular" and not line.endswith("rule"):
            assert line.endswith(r" \\")
            assert len(line.split(" & ")) == width
    assert (open_, tables) == ([], 2)
    assert code.isascii()
    assert not re.search(r"(?<!\\)[%_#]", code)
    assert r"Teacher & 37.5 $\pm$ 17.7 (n=2) \\" in code
    assert "% Weights, video: " in source


def test_user_errors_are_reported_in_one_line(bare: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", bare, TASKS[:1])
    for arguments, message in (
        ((tmp_path / "none", scores), "no run in .*none"),
        ((bare, tmp_path / "none"), "none does not exist; run xkd evaluate"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            tabulate(*arguments, tmp_path / "report")
        assert "\n" not in str(caught.value)


def test_scores_that_are_left_out_are_listed(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = write_scores(tmp_path / "scores", bare, TASKS[:1])
    write_scores(scores, bare, TASKS[3:4], encoder_hash="0123")
    old = tmp_path / "report" / "figures" / "scores_hmdb51.svg"
    old.parent.mkdir(parents=True)
    old.touch()
    report = tabulate(bare, scores, tmp_path / "report")
    table, name = (report.parent / "tables.md").read_text(), "embedded-video-svm-student.json"
    (line,) = re.findall(rf"^- {scores}/{name}: encoder_hash 0123 \(not .*\)$", table, re.M)
    assert "| Teacher | 52.0 |" in table
    assert "| Student |" not in table
    printed = capsys.readouterr()
    assert printed.err == f"xkd: left out {line[2:]}\n"
    assert printed.out == f"{table}\nreport: {report}\n"
    assert line[2:].replace(": ", "\n: ", 1) in Page(report).text
    assert f"% Left out: {line[2:]}" in (report.parent / "tables.tex").read_text()
    with (report.parent / "scores.csv").open() as file:
        assert [row["encoder"] for row in csv.DictReader(file)] == ["teacher"]
    assert not old.exists()


@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_a_run_that_has_not_finished_gets_a_report_that_says_so(
    bare: Path, tmp_path: Path, state: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(bare, run)
    (run / "verdict.json").unlink()
    if state == "running":
        (run / LOCK).touch()
    report = tabulate(run, tmp_path / "none", tmp_path / "report", compare=[])
    page = Page(report)
    assert f"{state.capitalize()} at step 30 of 1000" in page.text
    assert "So far: undecided" in page.text
    assert 'class="banner undecided"' in report.read_text()
    assert "Healthy" not in page.text
    table = (report.parent / "tables.md").read_text()
    assert f"**{state}** at step 30 of 1000" in table
    assert "collapsed" not in table
    assert json.loads((report.parent / "scores.json").read_text())["state"] == state


def test_the_page_shows_values_where_a_curve_is_pointed_at_and_in_tables(report: Path, run: Path) -> None:
    page = report.read_text()
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kd = f"{history[-1]['kd_video_to_audio']:.4g}"
    stripes = re.findall(r'<text y="[\d.]+" text-anchor="end">(.*?)</text>', page)
    (shown,) = [stripe for stripe in stripes if ">step 1000<" in stripe and f">KD {kd}<" in stripe]
    assert ">KLD " in shown
    assert re.search(rf"<td>1000</td><td>{kd}</td>", page)


def test_the_signals_of_the_verdict_have_their_values_limits_and_lowest_values(
    run: Path, report: Path
) -> None:
    text = " ".join(Page(report).text.split())
    history = RunDir(run).metrics()
    lines = signal_lines(history, CollapseThresholds(1024, 32))
    kld = lines[1]
    assert kld.title == "KLD, video → audio"
    assert kld.cells[0] == f"{median(row['kld_video_to_audio'] for row in history[-10:]):.3g}"
    assert kld.cells[3:] == [f"{0.02 * math.log(1024):.3g}", f"{math.log(1024):.3g}"]
    dip = [row | ({"kld_video_to_audio": 0.01} if 200 <= row["step"] < 260 else {}) for row in history]
    cells = signal_lines(dip, CollapseThresholds(1024, 32))[1].cells
    assert cells[:2] == [kld.cells[0], "0.01"]
    assert cells[2] == "160\N{EN DASH}250"  # the first ten rows of which more than half are low
    assert signal_lines(history[:9], CollapseThresholds(1024, 32)) == []
    assert "Lowest after the warm-up" in text
    assert kld.title in text
    assert f'<td data-column="At the end">{kld.cells[0]}</td>' in report.read_text()  # the title, on a phone


def test_a_report_remarks_on_teachers_that_end_nearly_uniform(
    run: Path, report: Path, tmp_path: Path
) -> None:
    history = RunDir(run).metrics()
    names = [name for name in history[0] if name.startswith("teacher_entropy")]
    assert "nearly uniform" not in report.read_text()
    assert '<div class="banner healthy"' in report.read_text()
    drifting = [row | dict.fromkeys(names, 0.95 * math.log(512)) for row in history]
    assert "95 and 95 %" in drift(drifting, CollapseThresholds(512, 32))
    assert drift(drifting[:9], CollapseThresholds(512, 32)) == ""
    assert drift(drifting, CollapseThresholds(None, 32)) == ""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in drifting))
    tabulate(tmp_path / "run", write_scores(tmp_path / "scores", run), tmp_path / "report")
    for name in ("tables.md", "report.html"):
        assert "nearly uniform" in (tmp_path / "report" / name).read_text()
    page = (tmp_path / "report" / "report.html").read_text()
    assert '<div class="banner undecided"' in page  # not green
    assert "<strong>Healthy, but the teachers tell little</strong>" in page


@pytest.mark.parametrize(("first", "drawn"), [(4, True), (9, False)])
def test_evaluations_while_training_are_drawn(tmp_path: Path, first: int, drawn: bool) -> None:
    run = write_run(tmp_path / "run", get_preset("toy"), rows=10)
    rows = read_rows(run / "metrics.jsonl")
    for row in rows[first::5]:  # one alone is no curve
        row |= {"validation_loss": 3.0, "knn_video": 0.4, "knn_audio": 0.3}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = tabulate(run, run / "scores", tmp_path / "report")
    text = Page(report).text
    assert "Evaluation while training" in text
    for panel in ("split val\n", "Accuracy of nearest neighbors"):
        assert (panel in text) is drawn
    assert ("one evaluation alone was logged" in text) is not drawn
    assert (report.parent / "figures" / "probes.svg").exists() is drawn


def test_one_logged_step_and_one_epoch_are_no_curves(bare: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(bare, run)
    first = (run / "metrics.jsonl").read_text().splitlines()[0]
    (run / "metrics.jsonl").write_text(f"{first}\n")
    curve = [{"epoch": 1.0, "loss": 2.0, "validation": 0.4}]
    scores = write_scores(tmp_path / "scores", run, TUNED, curve=curve)
    report = tabulate(run, scores, tmp_path / "report")
    assert Page(report).text.count("metrics of one step alone, 10, were logged") == 3
    names = {path.name for path in (report.parent / "figures").iterdir()}
    assert not names & {"losses.svg", "distillation.svg", "schedules.svg", "finetuning_embedded.svg"}


def test_a_long_history_is_thinned(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", get_preset("toy"), rows=2500)
    (run / "reconstruction.pt").unlink()
    report = tabulate(run, write_scores(tmp_path / "scores", run, ()), tmp_path / "report")
    with (report.parent / "curves.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert (len(steps), steps[0], steps[-1]) == (1000, 10, 25000)
    assert "nothing was evaluated" in Page(report).text


def test_curves_leave_out_values_per_process(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", get_preset("toy"))
    metrics = run / "metrics.jsonl"
    lines = [
        json.loads(line) | {"seconds_forward_by_rank": [1.0, 2.0]}
        for line in metrics.read_text().splitlines()
    ]
    metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (run / "reconstruction.pt").unlink()
    report = tabulate(run, write_scores(tmp_path / "scores", run, ()), tmp_path / "report")
    with (report.parent / "curves.csv").open() as file:
        header = next(csv.reader(file))
    assert "loss" in header
    assert "seconds_forward_by_rank" not in header


def test_panels_have_room_for_the_labels_of_their_axes(tmp_path: Path) -> None:
    """Without the report's style, other ticks are measured: those of these values are shorter by a digit."""
    run = write_run(tmp_path / "run", get_preset("toy"), rows=6)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line, loss in zip(lines, (1.05, 0.99, 0.94, 0.84, 0.83, 0.81), strict=True):
        line |= {"reconstruct_video": loss, "reconstruct_audio": loss}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "reconstruction.pt").unlink()
    report = tabulate(run, write_scores(tmp_path / "scores", run, ()), tmp_path / "report").read_text()
    (panel,) = re.findall(r"<svg[^>]*>(?:(?!</svg>).)*>Reconstruction<.*?</svg>", report, re.DOTALL)
    left = float(re.findall(r'viewBox="([-\d.]+)', panel)[-1])
    labels = re.findall(r'<text style="[^"]*text-anchor: end[^"]*" x="([\d.]+)"[^>]*>([\d.]+)</text>', panel)
    assert len(labels) > 2
    for x, text in labels:
        assert float(x) - 5 * len(text) > left, text
