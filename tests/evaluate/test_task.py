from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.report.synthetic import TASKS, write_run
from tests.tiny import tiny_config
from xkd.config.overrides import resolve
from xkd.config.presets.finetune import FINETUNING
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import UserError
from xkd.evaluate.evaluate import evaluate
from xkd.evaluate.score import Score
from xkd.evaluate.task import Task, parse_task, task_values


def task(modality: str = "video", encoder: str = "random", **settings: object) -> Task:
    protocol = "fusion" if modality == "audiovisual" else "svm"
    common = {"dataset": "embedded", "train_windows": 2, "test_windows": 2}
    return parse_task({"modality": modality, "protocol": protocol, "encoder": encoder, **common, **settings})


def test_a_task_survives_json_even_with_whole_floats() -> None:
    values = json.loads(json.dumps(task_values(TASKS[0])))
    assert parse_task(values) == TASKS[0]
    assert parse_task(values | {"train_windows": 25.0}) == replace(TASKS[0], train_windows=25)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"modality": "video", "protocol": "fusion"},
            "protocol fusion is for modality audiovisual, not video",
        ),
        ({"modality": "audiovisual", "protocol": "svm"}, "protocol svm is for modality video or audio"),
        ({"modality": "smell"}, "modality"),
        ({"encoder": "teachr"}, "encoder"),
        ({"test_window": 3}, r"test_window .*test_windows"),
        ({"test_windows": 2.5}, "test_windows"),
        ({"train_windows": 0}, "at least 1"),
        ({"protocol": "finetune", "encoder": "raw"}, "raw input has nothing to fine-tune; choose encoder"),
        ({"protocol": "finetune", "train_windows": 3}, "train_windows is not for protocol finetune"),
        ({"protocol": "svm", "finetune": {"lr": 1}}, r"finetune\.lr is for protocol finetune"),
    ],
)
def test_a_wrong_task_is_one_clear_line(values: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        parse_task(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("modality", ["video", "audio", "audiovisual"])
@pytest.mark.parametrize("encoder", ["teacher", "raw"])
def test_a_task_becomes_a_score(
    prepared: Path, run: Path, tmp_path_factory: pytest.TempPathFactory, modality: str, encoder: str
) -> None:
    out = tmp_path_factory.getbasetemp() / "scores"  # shared, so that fusion finds the features
    wanted = task(modality, encoder)
    path = evaluate(run, prepared, wanted, out)
    assert path == out / f"{wanted.name}.json"
    score = Score.read(path)
    assert (score.train_clips, score.test_clips, len(score.classes)) == (30, 10, 10)
    assert score.chance == pytest.approx(0.1)
    assert score.windows == {"train": 2, "test": 2}
    assert score.data_revision == PreparedDataset.open(prepared).revision
    shares = [value for value in score.per_class.values() if value is not None]
    assert np.mean(shares) == pytest.approx(score.score)  # one test clip of each action
    assert score.C in {float(cost) for cost in score.sweep}
    assert not list(out.glob("*.failed"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_evaluation_parses_the_manifest_once(
    prepared: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    run = write_run(tmp_path / "run", replace(config, run=replace(config.run, workers=workers)))
    parse = PreparedDataset.open

    def count(root: Path) -> PreparedDataset:
        with (tmp_path / "parsed").open("a") as file:  # a file, to count in the loader's workers as well
            file.write(f"{root}\n")
        return parse(root)

    monkeypatch.setattr(PreparedDataset, "open", count)
    evaluate(run, prepared, replace(task("audiovisual"), dataset=""), tmp_path / "scores")
    assert (tmp_path / "parsed").read_text() == f"{prepared}\n"


def test_fusion_concatenates_the_features_of_both(prepared: Path, run: Path, tmp_path: Path) -> None:
    evaluate(run, prepared, task("audiovisual", "random"), tmp_path)
    names = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "features").glob("*.npy")}
    assert names == {f"random-{m}-{part}" for m in ("video", "audio") for part in ("train", "test")}
    score = Score.read(tmp_path / "embedded-audiovisual-fusion-random.json")
    assert score.encoder_hash.count("+") == 1


def test_a_task_without_a_dataset_takes_what_there_is(prepared: Path, run: Path, tmp_path: Path) -> None:
    path = evaluate(run, prepared, task("audio", "raw", dataset=""), tmp_path)
    assert path.name == "embedded-audio-svm-raw.json"
    assert Score.read(path).dataset == "embedded"


def test_a_score_that_is_there_is_kept(prepared: Path, run: Path, tmp_path: Path) -> None:
    path = evaluate(run, prepared, task("audio"), tmp_path)
    written = path.stat().st_mtime_ns
    assert evaluate(run, prepared, task("audio"), tmp_path) == path
    assert path.stat().st_mtime_ns == written
    with pytest.raises(UserError, match="a score of another windows"):
        evaluate(run, prepared, task("audio", train_windows=3), tmp_path)
    with pytest.raises(UserError, match="a score of another encoder"):
        evaluate(run, prepared, task("audio", seed=1), tmp_path)


def test_mistakes_are_clear_lines_and_leave_their_reason(prepared: Path, run: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished, ignore=shutil.ignore_patterns("encoders"))
    silent = without_audio(prepared, tmp_path / "silent")
    no_split = tmp_path / "no_split"
    shutil.copytree(prepared, no_split)
    rewrite(no_split, lambda text: text.replace(",train,", ",val,"))
    many = tmp_path / "many"
    shutil.copytree(prepared, many)
    rewrite(many, lambda text: text.replace(",bounce,", ",bounce;jump,"))
    out = tmp_path / "scores"
    for arguments, said in (
        ((tmp_path / "none", prepared, task()), "no run in .*none"),
        ((unfinished, prepared, task(encoder="teacher")), "no encoder at .*teacher_video"),
        ((run, tmp_path / "none", task()), "none does not exist"),
        ((run, prepared, task(dataset="ucf101")), "the task is for dataset ucf101, but .* holds embedded"),
        ((run, no_split, task()), "has no split train; it has val"),
        ((run, silent, task("audio")), "no clip of split train in .*silent has audio"),
        ((run, many, task()), "the protocol needs one label a clip; .* has 2"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            evaluate(*arguments, out)
        assert "\n" not in str(caught.value)
        assert (out / f"{arguments[2].name}.failed").read_text() == str(caught.value)


def test_success_removes_the_note_of_an_earlier_failure(prepared: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / f"{task('audio').name}.failed").write_text("the disk was full")
    evaluate(run, prepared, task("audio"), tmp_path)
    assert not list(tmp_path.glob("*.failed"))


def test_a_collapsed_run_is_evaluated_when_asked(prepared: Path, tmp_path: Path) -> None:
    from tests.report.synthetic import ONE_HOT

    run = write_run(tmp_path / "run", tiny_config(), ONE_HOT, rows=1)
    assert evaluate(run, prepared, task("audio", "teacher"), tmp_path / "scores").is_file()


def without_audio(prepared: Path, out: Path) -> Path:
    shutil.copytree(prepared, out)
    manifest = PreparedDataset.open(out)
    clips = tuple(replace(clip, audio_offset=None, audio_size=None) for clip in manifest.clips)
    replace(manifest, clips=clips).write()
    return out


def rewrite(prepared: Path, change: object) -> None:
    path = prepared / "manifest.csv"
    assert callable(change)
    path.write_text(change(path.read_text()))


def test_settings_of_fine_tuning_are_laid_over_others(prepared: Path, run: Path, tmp_path: Path) -> None:
    base = ["protocol=finetune", "modality=audio", "encoder=random", "test_windows=2"]
    small = ["finetune.epochs=1", "finetune.batch_size=8", "finetune.warmup_epochs=0"]
    given = [*base, *small, "finetune.audio.masks=1"]
    score = Score.read(evaluate(run, prepared, resolve(Task(), None, given), tmp_path))
    assert (score.finetune["batch_size"], score.finetune["audio"]["masks"]) == (8, 1)
    assert score.finetune["audio"]["warp"] == FINETUNING["embedded", "audio"].audio.warp
    for wrong, said in [
        ("finetune.epoch=3", r"finetune on embedded: no setting epoch.*epochs"),
        ("finetune.audio.mask=3", r"finetune on embedded: no setting audio\.mask"),
        (
            "finetune.audio.warp=-4",
            r"finetune on embedded: audio\.warp: .* greater than or equal to 0, got -4",
        ),
        ("finetune.patience=-1", r"patience: Input should be greater than or equal to 0, got -1"),
        ("finetune.lr=quick", "finetune on embedded: lr"),
        ("finetune.batch_size=512", r"batch_size 512 is more than the 30 training clips"),
    ]:
        with pytest.raises(UserError, match=said) as caught:
            evaluate(run, prepared, resolve(Task(), None, [*given, wrong]), tmp_path / "wrong")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"score of another finetune\.epochs"):
        evaluate(run, prepared, resolve(Task(), None, [*given, "finetune.epochs=2"]), tmp_path)


@pytest.mark.parametrize("protocol", ["svm", "finetune"])
def test_two_processes_evaluate_as_one_does(prepared: Path, run: Path, tmp_path: Path, protocol: str) -> None:
    """Without dropout and masks, whose random numbers are each process's own."""
    quiet = {"masks": 0, "warp": 0}
    tuning = {"epochs": 2, "batch_size": 8, "warmup_epochs": 0, "lr": 1e-3, "dropout": 0.0, "audio": quiet}
    values = {"modality": "audio", "protocol": protocol, "test_windows": 2}
    values |= {"finetune": tuning} if protocol == "finetune" else {"train_windows": 2}

    def score(processes: int) -> Score:
        return Score.read(evaluate(run, prepared, parse_task(values), tmp_path / str(processes), processes))

    alone, both = score(1), score(2)
    assert alone.score == both.score
    assert alone.confusion == both.confusion
    if protocol == "finetune":
        assert [row["loss"] for row in both.curve] == pytest.approx(
            [row["loss"] for row in alone.curve], rel=1e-4
        )
    else:
        for one in (tmp_path / "1/features").glob("*.npy"):
            other = np.load(tmp_path / "2/features" / one.name)
            np.testing.assert_allclose(np.load(one), other, rtol=1e-4, atol=1e-5)


def test_a_mistake_of_several_processes_is_one_line(prepared: Path, run: Path, tmp_path: Path) -> None:
    values = {"modality": "audio", "protocol": "finetune", "finetune": {"batch_size": 9}}
    with pytest.raises(UserError, match=r"batch_size 9 must be a multiple of the 2 processes") as caught:
        evaluate(run, prepared, parse_task(values), tmp_path, 2)
    assert "\n" not in str(caught.value)
    (note,) = tmp_path.glob("*.failed")
    assert note.name == "embedded-audio-finetune-teacher.failed"
    assert "2 processes" in note.read_text()


def test_a_score_of_another_preparation_is_not_passed_off(prepared: Path, run: Path, tmp_path: Path) -> None:
    """The same clips at another size: other features, and another network where it is fine-tuned."""
    score = Score.read(evaluate(run, prepared, task("audio"), tmp_path))
    assert score.preparation == PreparedDataset.open(prepared).preparation
    other = tmp_path / "prepared"
    shutil.copytree(prepared, other)
    facts = json.loads((other / "dataset.json").read_text())
    facts["settings"]["short_side"] = 64
    (other / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="score of another preparation of the data") as caught:
        evaluate(run, other, task("audio"), tmp_path)
    assert "remove it, or use another directory" in str(caught.value)


def test_an_interrupted_task_says_so(
    prepared: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        (note,) = tmp_path.glob("*.failed")
        assert note.read_text() == "is running, or was killed before it could say why"
        raise KeyboardInterrupt

    monkeypatch.setattr("xkd.evaluate.evaluate.evaluate_here", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, prepared, task("audio"), tmp_path)
    (note,) = tmp_path.glob("*.failed")
    assert note.read_text() == "was ended by KeyboardInterrupt"
