from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.report.synthetic import write_run
from tests.tiny import tiny_config
from xkd.config import MODALITIES
from xkd.config.overrides import build, read_settings, to_dict, to_yaml
from xkd.config.presets.finetune import FINETUNING
from xkd.data.shards.clips import Clips
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import UserError
from xkd.evaluation import evaluate as module
from xkd.evaluation.evaluate import evaluate, evaluate_here
from xkd.evaluation.plan import make_task
from xkd.evaluation.score import Score, Task, previous_path, score_path


def task(
    modality: str = "video", encoder: str = "random", dataset: str = "embedded", **settings: object
) -> Task:
    protocol = "fusion" if modality == "audiovisual" else "svm"
    return make_task(
        dataset, modality, protocol, encoder, settings={"train_windows": 2, "test_windows": 2} | settings
    )


def finetune(*overrides: str, modality: str = "audio", encoder: str = "random") -> Task:
    settings = read_settings(None, ("test_windows=2", *overrides))
    return make_task("embedded", modality, "finetune", encoder, settings=settings)


def test_a_task_has_its_datasets_windows_and_settings() -> None:
    svm, tuned = (
        make_task("ucf101", "video", "svm", "raw"),
        make_task("fsd50k", "audio", "finetune", "teacher"),
    )
    assert (svm.windows, svm.seed, svm.finetune) == ({"train": 25, "test": 3}, 0, None)
    assert (tuned.windows, tuned.finetune) == ({"train": 1, "test": 8}, FINETUNING["fsd50k", "audio"])
    empty = {"train_windows": None, "test_windows": None}
    assert make_task("ucf101", "video", "svm", "raw", settings=empty) == svm


def test_a_task_is_equal_after_json_even_with_whole_floats() -> None:
    for one in (task(), finetune("lr_final=null")):
        values = json.loads(json.dumps(to_dict(one)))
        assert build(Task, values, "task") == one
        assert build(Task, values | {"test_windows": 25.0}, "task") == replace(one, test_windows=25)


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (("video", "fusion", "raw"), {}, "embedded has no evaluation by fusion of video; available: svm of"),
        (("audiovisual", "svm", "raw"), {}, "no evaluation by svm of audiovisual"),
        (("smell", "svm", "raw"), {}, "unknown modality .smell.; known: video"),
        (("video", "svm", "teachr"), {}, "protocol svm has no encoder teachr.*teacher"),
        (
            ("video", "svm", "raw"),
            {"test_window": 3},
            r"protocol svm has no setting test_window.*test_windows",
        ),
        (("video", "svm", "raw"), {"test_windows": 2.5}, "svm on embedded: test_windows"),
        (("video", "svm", "raw"), {"train_windows": 0}, "train_windows: must be greater than 0"),
        (("video", "svm", "raw"), {"lr": 1}, "protocol svm has no setting lr; available: train_windows"),
        (
            ("video", "finetune", "raw"),
            {},
            "finetune has no encoder raw; available: teacher",
        ),
        (
            ("video", "finetune", "random"),
            {"train_windows": 3},
            "finetune on embedded: unknown setting train_w",
        ),
    ],
)
def test_an_impossible_task_is_a_one_line_error(
    arguments: tuple[str, str, str], settings: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        make_task("embedded", *arguments, settings=settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("modality", ["video", "audio", "audiovisual"])
@pytest.mark.parametrize("encoder", ["teacher", "raw"])
def test_a_task_becomes_a_score(
    prepared: Path, run: Path, tmp_path_factory: pytest.TempPathFactory, modality: str, encoder: str
) -> None:
    out = tmp_path_factory.getbasetemp() / "scores"  # shared, so that fusion reads the features
    wanted = task(modality, encoder)
    score = evaluate(run, prepared, wanted, out)
    assert Score.read(out / f"{wanted.name}.json") == score
    assert (score.train_clips, score.test_clips, len(score.classes)) == (30, 10, 10)
    assert score.chance == pytest.approx(0.1)
    assert score.windows == {"train": 2, "test": 2}
    assert score.data_revision == PreparedDataset.open(prepared).revision
    shares = [value for value in score.per_class.values() if value is not None]
    assert np.mean(shares) == pytest.approx(score.score)  # one test clip of each action
    assert score.C in {float(cost) for cost in score.sweep}
    assert not list(out.glob("*.failed"))


def test_a_class_without_training_clips_is_named(
    prepared: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    rows = (data / "manifest.csv").read_text().splitlines(keepends=True)
    lost = [row for row in rows if not (",train," in row and ",jump," in row)]
    assert len(lost) < len(rows)
    (data / "manifest.csv").write_text("".join(lost))
    about = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(about | {"lost_classes": ["dance"]}))
    score = evaluate(run, data, task("video", "raw"), tmp_path / "scores")
    assert score.untrained == ["dance", "jump"]
    assert score.per_class["jump"] == 0
    assert f"{score.name}: no training clips of dance, jump\n" in capsys.readouterr().err
    assert evaluate(run, prepared, task("video", "raw"), tmp_path / "whole").untrained == []


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
    evaluate(run, prepared, task("audiovisual"), tmp_path / "scores")
    assert (tmp_path / "parsed").read_text() == f"{prepared}\n"


def test_fusion_concatenates_the_features_of_both(prepared: Path, run: Path, tmp_path: Path) -> None:
    score = evaluate(run, prepared, task("audiovisual", "random"), tmp_path)
    names = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "features").glob("*.npy")}
    assert names == {f"random-{m}-{part}" for m in ("video", "audio") for part in ("train", "test")}
    assert score.encoder_hash.count("+") == 1


def test_an_existing_score_is_kept(
    prepared: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = evaluate(run, prepared, task("audio"), tmp_path)
    path = score_path(tmp_path, score.name)
    written = path.stat().st_mtime_ns
    capsys.readouterr()
    assert evaluate(run, prepared, task("audio"), tmp_path) == score
    assert path.stat().st_mtime_ns == written
    said = f"{score.name}: top-1 {score.score:.1%} (chance 10.0%), evaluated on {score.date[:10]} already"
    assert said in capsys.readouterr().err


def test_a_score_of_other_settings_is_evaluated_again(
    prepared: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = evaluate(run, prepared, task("audio", "raw"), tmp_path)
    path, previous = score_path(tmp_path, score.name), previous_path(tmp_path, score.name)
    assert evaluate(run, prepared, task("audio", "raw", train_windows=3), tmp_path).windows["train"] == 3
    assert Score.read(previous) == score
    assert f"{previous} keeps the earlier score: windows.train 2 (not 3)\n" in capsys.readouterr().err

    # A mistake that is found first changes nothing; a task of a list is attempted, and then leaves no score.
    other = task("audio", "raw", train_windows=3)
    with pytest.raises(UserError, match="none does not exist"):
        evaluate(run, tmp_path / "none", other, tmp_path)
    assert path.exists()
    with pytest.raises(UserError, match="none does not exist"):
        evaluate(run, tmp_path / "none", other, tmp_path, planned=True)
    assert not path.exists()
    assert evaluate(run, prepared, task("audio", "raw", train_windows=3), tmp_path).windows["train"] == 3
    assert not previous.exists()


@pytest.mark.parametrize("encoder", ["raw", "random"])
def test_a_score_of_another_input_or_network_is_evaluated_again(
    prepared: Path, run: Path, tmp_path: Path, encoder: str
) -> None:
    config, other = tiny_config(), tmp_path / "other"
    shutil.copytree(run, other)
    if encoder == "raw":
        changed = replace(config, clip=replace(config.clip, f_max=7000.0))
    else:
        changed = replace(config, encoder=replace(config.encoder, heads=4))  # its weights stay the same
    (other / "config.yaml").write_text(to_yaml(changed))
    out = tmp_path / "scores"
    first = evaluate(run, prepared, task("audio", encoder), out)
    second = evaluate(other, prepared, task("audio", encoder), out)
    assert first.encoder_hash == second.encoder_hash
    assert Score.read(previous_path(out, first.name)) == first
    assert first.settings != second.settings
    assert len(list((out / "features").glob("*.npy"))) == 4


def reason(note: Path) -> str:
    return str(json.loads(note.read_text())["reason"])


def test_mistakes_are_one_line_errors_and_recorded_if_a_table_waits_for_the_score(
    prepared: Path, run: Path, tmp_path: Path
) -> None:
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished, ignore=shutil.ignore_patterns("encoders"))
    silent = without_audio(prepared, tmp_path / "silent")
    no_split = tmp_path / "no_split"
    shutil.copytree(prepared, no_split)
    rewrite(no_split, lambda text: text.replace(",train,", ",val,"))
    many = tmp_path / "many"
    shutil.copytree(prepared, many)
    rewrite(many, lambda text: text.replace(",bounce,", ",bounce;jump,"))
    retrieval = make_task("embedded", "audiovisual", "retrieval", "teacher")
    out = tmp_path / "scores"
    for arguments, said in (
        ((tmp_path / "none", prepared, task()), "no run in .*none"),
        ((unfinished, prepared, task(encoder="teacher")), "no encoder at .*teacher_video"),
        ((run, tmp_path / "none", task()), "none does not exist"),
        ((run, prepared, task(dataset="hmdb51")), "the task is for dataset hmdb51, but .* holds embedded"),
        ((run, no_split, task()), "has no split train; it has val"),
        ((run, silent, task("audio")), "no clip of split train in .*silent has audio"),
        ((run, many, task()), "the protocol needs one label per clip; .* has 2"),
        ((run, prepared, replace(task(), fold=9)), "has no fold 9"),
        ((run, prepared, finetune("batch_size=512")), "batch_size 512 exceeds the number of training clips"),
        ((unfinished, prepared, retrieval), "no encoder at .*teacher_video"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            evaluate(*arguments, out)
        assert "\n" not in str(caught.value)
        assert not out.exists()
    for arguments in ((tmp_path / "none", prepared, task()), (run, silent, task("audio"))):
        with pytest.raises(UserError) as caught:
            evaluate(*arguments, out, planned=True)
        assert reason(out / f"{arguments[2].name}.failed") == str(caught.value)
    with pytest.raises(UserError, match=r"cannot write .*run\.json: .*Not a directory"):
        evaluate(run, prepared, task(), run / "run.json")


def test_a_mistake_changes_no_score(prepared: Path, run: Path, tmp_path: Path) -> None:
    evaluate(run, prepared, task("audio", "raw"), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    with pytest.raises(UserError, match="no run in"):
        evaluate(tmp_path / "none", prepared, task("audio", "raw", test_windows=3), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_success_removes_the_record_of_an_earlier_failure(prepared: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / f"{task('audio').name}.failed").write_text("the disk was full")
    evaluate(run, prepared, task("audio"), tmp_path)
    assert not list(tmp_path.glob("*.failed"))


def test_a_collapsed_run_can_be_evaluated(prepared: Path, tmp_path: Path) -> None:
    from tests.report.synthetic import ONE_HOT

    run = write_run(tmp_path / "run", tiny_config(), ONE_HOT, rows=1)
    assert evaluate(run, prepared, task("audio", "teacher"), tmp_path / "scores").score >= 0


def without_audio(prepared: Path, out: Path) -> Path:
    shutil.copytree(prepared, out)
    manifest = PreparedDataset.open(out)
    clips = (replace(clip, audio_offset=None, audio_size=None) for clip in manifest.clips)
    replace(manifest, clips=Clips.of(clips)).write()
    return out


def rewrite(prepared: Path, change: object) -> None:
    path = prepared / "manifest.csv"
    assert callable(change)
    path.write_text(change(path.read_text()))


def test_settings_of_fine_tuning_are_laid_over_the_datasets(
    prepared: Path, run: Path, tmp_path: Path
) -> None:
    small = ("epochs=1", "batch_size=8", "warmup_epochs=0", "audio.masks=1")
    score = evaluate(run, prepared, finetune(*small), tmp_path)
    assert (score.finetune["batch_size"], score.finetune["audio"]["masks"]) == (8, 1)
    assert score.finetune["audio"]["warp"] == FINETUNING["embedded", "audio"].audio.warp
    with pytest.raises(UserError, match=r"batch_size 512 exceeds the number of training clips, 30"):
        evaluate(run, prepared, finetune(*small, "batch_size=512"), tmp_path / "wrong")
    assert evaluate(run, prepared, finetune(*small, "lr=1e-3"), tmp_path).finetune["lr"] == 1e-3
    assert len(list((tmp_path / "finetuned").iterdir())) == 2


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("epoch=3", r"unknown setting epoch.*epochs"),
        ("audio.mask=3", r"unknown setting audio\.mask"),
        ("audio.warp=-4", "audio"),
        ("patience=-1", "patience"),
        ("lr=quick", "lr"),
    ],
)
def test_a_wrong_setting_of_fine_tuning_is_a_one_line_error(setting: str, said: str) -> None:
    with pytest.raises(UserError, match=f"finetune on embedded: .*{said}") as caught:
        finetune(setting)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", ["svm", "finetune"])
@pytest.mark.system
def test_two_processes_give_the_score_of_one(
    prepared: Path, run: Path, tmp_path: Path, protocol: str
) -> None:
    """Without dropout and masks, whose random numbers depend on the process."""
    quiet = {"masks": 0, "warp": 0}
    tuned = {"epochs": 2, "batch_size": 8, "warmup_epochs": 0, "lr": 1e-3, "dropout": 0.0, "audio": quiet}
    settings = {"test_windows": 2} | (tuned if protocol == "finetune" else {"train_windows": 2})
    shared = make_task("embedded", "audio", protocol, "teacher", settings=settings)

    def score(processes: int) -> Score:
        return evaluate(run, prepared, shared, tmp_path / str(processes), processes)

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


@pytest.mark.system
def test_a_mistake_with_several_processes_is_a_one_line_error(
    prepared: Path, run: Path, tmp_path: Path
) -> None:
    odd = finetune("batch_size=9", encoder="teacher")
    for planned in (False, True):  # found by this process, and by the others
        with pytest.raises(UserError, match=r"^batch_size 9 must be a multiple of the 2 processes") as caught:
            evaluate(run, prepared, odd, tmp_path, 2, planned=planned)
        assert "\n" not in str(caught.value)
        assert bool(list(tmp_path.glob("*.failed"))) == planned
    (note,) = tmp_path.glob("*.failed")
    assert note.name == "embedded-audio-finetune-teacher.failed"
    assert "2 processes" in reason(note)


def test_a_score_of_another_preparation_is_computed_again(prepared: Path, run: Path, tmp_path: Path) -> None:
    """The same clips at another size: other features, and another network where it is fine-tuned."""
    score = evaluate(run, prepared, task("audio"), tmp_path)
    assert score.preparation == PreparedDataset.open(prepared).preparation
    other = tmp_path / "prepared"
    shutil.copytree(prepared, other)
    facts = json.loads((other / "dataset.json").read_text())
    facts["settings"]["short_side"] = 64
    (other / "dataset.json").write_text(json.dumps(facts))
    again = evaluate(run, other, task("audio"), tmp_path)
    assert again.preparation == PreparedDataset.open(other).preparation != score.preparation
    assert Score.read(previous_path(tmp_path, score.name)) == score


def test_two_evaluations_of_a_task_take_turns(
    prepared: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other settings: each returns its own score, and that of the first is kept."""
    first, second = task("audio", "raw"), task("audio", "raw", test_windows=3)
    started: list[threading.Thread] = []

    def start_another(*arguments: Any) -> None:
        monkeypatch.setattr(module, "evaluate_here", evaluate_here)
        evaluate_here(*arguments)
        started.append(threading.Thread(target=evaluate, args=(run, prepared, second, tmp_path)))
        started[0].start()
        started[0].join(0.5)

    monkeypatch.setattr(module, "evaluate_here", start_another)
    score = evaluate(run, prepared, first, tmp_path)
    assert score.windows == first.windows
    started[0].join()
    assert Score.read(score_path(tmp_path, first.name)).windows == second.windows
    assert Score.read(previous_path(tmp_path, first.name)) == score


def test_an_interrupted_task_is_recorded(
    prepared: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        (note,) = tmp_path.glob("*.failed")
        assert reason(note) == "running, or killed before it could record a reason"
        raise KeyboardInterrupt

    monkeypatch.setattr("xkd.evaluation.evaluate.evaluate_here", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, prepared, task("audio"), tmp_path)
    (note,) = tmp_path.glob("*.failed")
    assert reason(note) == "ended by KeyboardInterrupt"


def test_the_raw_inputs_of_both_modalities_have_costs_of_their_own(
    prepared: Path, run: Path, tmp_path: Path
) -> None:
    for modality in MODALITIES:
        evaluate(run, prepared, task(modality, encoder="raw"), tmp_path)
    assert len(list((tmp_path / "features").glob("cost-*.json"))) == 2
