from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.tiny import tiny_config
from xkd.cli import app
from xkd.config import MODALITIES, Modality
from xkd.config.overrides import to_yaml
from xkd.data.shards.clips import Clips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.errors import UserError
from xkd.evaluation.plan import choose, plan, stages

NAMES = ("ucf101", "esc50")


@pytest.fixture(scope="module")
def data(miniature: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Prepared miniatures of a dataset of videos with three folds and one of sounds with five."""
    folder = tmp_path_factory.mktemp("minis")
    for name in NAMES:
        prepare(miniature(f"{name}-mini"), folder / name, PrepareConfig(short_side=32, max_fps=8))
    return [folder / name for name in NAMES]


def kinds(
    data: Sequence[Path],
    encoders: Sequence[str] = (),
    protocols: Sequence[str] = (),
    modalities: Sequence[Modality] = MODALITIES,
) -> set[tuple[str, str, str, int]]:
    tasks = [task for _, task in choose(data, encoders, protocols, modalities)]
    found: set[tuple[str, str, str, int]] = {
        (f"{task.protocol} of {task.modality}", task.encoder, task.dataset, task.fold) for task in tasks
    }
    assert len(found) == len(tasks)
    return found


def test_all_protocols_folds_and_encoders_are_planned(data: list[Path]) -> None:
    assert kinds(data) == {
        (f"{protocol} of {modality}", encoder, dataset, fold)
        for dataset, modality, folds in (("ucf101", "video", 3), ("esc50", "audio", 5))
        for fold in range(1, folds + 1)
        for protocol in ("svm", "finetune")
        for encoder in ("teacher", "student", "random", "raw")
        if (protocol, encoder) != ("finetune", "raw")
    }


def test_encoders_and_protocols_can_be_selected(prepared: Path, data: list[Path]) -> None:
    chosen = kinds([*data, prepared], ["student", "raw"], ["fusion", "finetune"])
    assert {kind[:3] for kind in chosen} == {
        ("finetune of video", "student", "ucf101"),
        ("finetune of audio", "student", "esc50"),
        ("finetune of video", "student", "embedded"),
        ("finetune of audio", "student", "embedded"),
        ("fusion of audiovisual", "student", "embedded"),
        ("fusion of audiovisual", "raw", "embedded"),
    }


def test_missing_modalities_are_left_out(prepared: Path, data: list[Path], tmp_path: Path) -> None:
    video = {("svm of video", "embedded"), ("finetune of video", "embedded")}
    assert {(kind, name) for kind, _, name, _ in kinds([prepared], modalities=["video"])} == video
    shutil.copytree(prepared, tmp_path / "silent")
    manifest = PreparedDataset.open(tmp_path / "silent")
    mute = [replace(clip, audio_offset=None, audio_size=None) for clip in manifest.clips]
    replace(manifest, clips=Clips.of(mute)).write()
    assert {(kind, name) for kind, _, name, _ in kinds([tmp_path / "silent"])} == video


def test_settings_of_fine_tuning_are_not_passed_to_other_protocols(prepared: Path, run: Path) -> None:
    settings = {"epochs": 3, "video": {"resolution": 32}}
    tasks = [task for _, task in plan(run, [prepared], ["teacher"], ["svm", "finetune"], settings)]
    given = {task.protocol: task.finetune and task.finetune.epochs for task in tasks}
    assert given == {"svm": None, "finetune": 3}
    with pytest.raises(UserError, match=r"finetune on embedded: unknown setting epoch.*epochs"):
        plan(run, [prepared], ["teacher"], ["finetune"], {"epoch": 3})


def test_mistakes_are_found_without_a_run(prepared: Path) -> None:
    assert len(choose([prepared])) == 21
    chosen = choose([prepared], ["teacher"], ["finetune"], finetune={"epochs": 3})
    assert [task.finetune.epochs for _, task in chosen if task.finetune] == [3, 3]
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"encoders": ["teachr"]}, r"no encoder teachr .*teacher"),
        ({"protocols": ["svn"]}, r"no protocol svn .*svm"),
        ({"finetune": {"epoch": 3}}, r"finetune on embedded: unknown setting epoch.*epochs"),
        (
            {"finetune": {"seed": 2**53 + 1}},
            r"finetune on embedded: seed: .*less than .*got 9007199254740993$",
        ),
    ]
    for given, said in mistakes:
        with pytest.raises(UserError, match=said):
            choose([prepared], **given)


def test_a_run_without_teachers_is_evaluated_on_its_student(
    prepared: Path, run: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(run, alone, ignore=shutil.ignore_patterns("teacher*", "*audio*"))
    config, loss = tiny_config(), replace(tiny_config().loss, align=0, distill=0)
    (alone / "config.yaml").write_text(to_yaml(replace(config, modalities=("video",), loss=loss)))
    tasks = [task for _, task in plan(alone, [prepared], protocols=["svm"])]
    assert [(task.modality, task.encoder) for task in tasks] == [
        ("video", encoder) for encoder in ("student", "random", "raw")
    ]


def test_mistakes_are_one_line_errors(
    prepared: Path, run: Path, data: list[Path], miniature: Callable[[str], Path], tmp_path: Path
) -> None:
    prepare(miniature("audioset-mini"), tmp_path / "audioset", PrepareConfig(short_side=32, max_fps=8))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished, ignore=shutil.ignore_patterns("encoders"))
    shutil.copytree(run, tmp_path / "student", ignore=shutil.ignore_patterns("teacher*"))
    for arguments, said in (
        ((run, [prepared], ["teachr"]), r"no encoder teachr \(did you mean teacher\?\)"),
        ((run, [prepared], [], ["svn"]), r"no protocol svn \(did you mean svm\?\)"),
        (
            (run, [tmp_path / "audioset"]),
            "audioset: no evaluation of dataset audioset; available: embedded, ucf101",
        ),
        ((run, [data[0], prepared, data[0]]), "ucf101 and .*ucf101 both hold ucf101"),
        ((run, data, [], ["fc"]), "nothing to evaluate: none of ucf101, esc50 has an evaluation by fc"),
        ((run, [tmp_path / "none"]), "none does not exist"),
        ((tmp_path / "none", [prepared]), "no run in .*none"),
        ((unfinished, [prepared]), "no encoders in .*unfinished"),
        ((tmp_path / "student", [prepared], ["teacher"]), "no encoder at .*teacher_video"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            plan(*arguments)
        assert "\n" not in str(caught.value)


def test_a_dataset_whose_name_dvc_cannot_quote_is_refused(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "it's").symlink_to(prepared)
    with pytest.raises(UserError, match=r"it's: .* cannot pass on a name with an apostrophe"):
        stages([tmp_path / "it's"])


def test_the_command_prints_the_tasks_section_of_params_yaml(data: list[Path]) -> None:
    given = [*map(str, data), "--encoder", "teacher", "--protocol", "finetune"]
    printed = CliRunner().invoke(app, ["tasks", *given])
    assert printed.exit_code == 0
    assert yaml.safe_load(printed.stdout) == {"tasks": stages(data, ["teacher"], ["finetune"])}
    assert list(stages(data, ["teacher"], ["finetune"]))[:4] == [
        "ucf101-video-finetune-teacher",
        "esc50-audio-finetune-teacher",
        "ucf101-video-finetune-teacher-fold2",
        "esc50-audio-finetune-teacher-fold2",
    ]
