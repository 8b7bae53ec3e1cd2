"""The schema of pretraining and fine-tuning: ranges of single settings, rules between them."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any, get_type_hints

import pytest
from pydantic import ValidationError

from xkd import config
from xkd.config import ClipConfig, FinetuneConfig, PretrainConfig, check_division, other
from xkd.config.overrides import build, resolve, to_dict
from xkd.errors import UserError

CLASSES = [kind for kind in vars(config).values() if dataclasses.is_dataclass(kind)]


def fields(kind: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Every setting by its dotted name, with its type."""
    found = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        nested = fields(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else []
        found += nested or [(prefix + name, hint)]
    return found


@pytest.mark.parametrize("kind", [PretrainConfig, FinetuneConfig])
def test_every_number_has_a_range(kind: type[Any]) -> None:
    unbounded = [name for name, hint in fields(kind) if hint in (int, float, int | None, float | None)]
    assert unbounded == []


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_settings_are_immutable_and_refuse_unknown_names(kind: type[Any]) -> None:
    with pytest.raises(ValidationError, match="unknown_name"):
        kind(unknown_name=1)
    assert kind.__dataclass_params__.frozen
    assert kind.__doc__


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.seed=-1", "run.seed: must be at least 0, got -1"),
        ("run.seed=4294967296", "run.seed: must be less than 4294967296, got 4294967296"),
        ("optim.epochs=0", "optim.epochs: must be greater than 0, got 0"),
        ("optim.lr=0", "optim.lr: must be greater than 0, got 0"),
        ("optim.lr=.nan", "optim.lr: must be greater than 0, got nan"),
        ("optim.betas=[0.9, 1]", "optim.betas.1: must be less than 1, got 1"),
        ("optim.warmup_epochs=800", "optim: warmup_epochs 800 must be less than epochs 800"),
        ("optim.ema_final=0.9", "optim: ema_base 0.997 must not exceed ema_final 0.9"),
        ("video.mask_ratio=1", "video.mask_ratio: must be less than 1, got 1"),
        (
            "video.patch=[4, 16, 15]",
            "video: global_view (32, 112, 112) must be a multiple of patch (4, 16, 15)",
        ),
        ("video.patch=[16, 16]", "video: global_view (32, 112, 112) must be a multiple of patch (16, 16)"),
        (
            "audio.mask=tube",
            "audio: mask tube is only for video: it hides the same positions in all frames",
        ),
        ("audio.mask=tubes", "audio.mask: must be 'random' or 'tube', got 'tubes'"),
        ("audio.teacher_temperature=0", "audio.teacher_temperature: must be greater than 0, got 0"),
        ("audio.local_views=-1", "audio.local_views: must be at least 0, got -1"),
        (
            "views.video_global.crop_area=[0, 1]",
            "views.video_global.crop_area.0: must be greater than 0, got 0",
        ),
        (
            "views.video_global.crop_area=[1, 0.5]",
            "views.video_global.crop_area: expected the lower bound first, got (1.0, 0.5)",
        ),
        ("encoder.heads=5", "encoder: dim 768 must be a multiple of heads 5"),
        ("projector.layers=1", "projector.layers: must be at least 2, got 1"),
        ("loss.align=-1", "loss.align: must be at least 0, got -1"),
        (
            "run.metrics_port=70000",
            "run.metrics_port: must be at most 65535, got 70000",
        ),
        ("run.keep_checkpoints=0", "run.keep_checkpoints: must be greater than 0, got 0"),
        (
            "run={on_collapse: rollback, checkpoint_every: 5}",
            (
                "run: on_collapse rollback: a verdict is based on 90 steps, but the oldest of "
                "keep_checkpoints=2 may be only 5 steps old; increase keep_checkpoints"
            ),
        ),
        ("modalities=[]", "modalities must be video, audio or both, each once"),
        ("modalities=[video, video]", "modalities must be video, audio or both, each once"),
        ("modalities=[video]", "a single modality needs loss.align=0, loss.distill=0 and share=none"),
        ("clip.fps=4", "video.global_view has 32 frames but clip.seconds x clip.fps is 16"),
        ("clip.hop=160", "audio.global_view has 448 frames but clip.seconds of audio have 401"),
        ("audio.local_view=[40, 112]", "audio.local_view and audio.global_view must have the same mel bins"),
    ],
)
def test_an_invalid_pretraining_is_one_line_with_the_field(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(PretrainConfig(), None, [override])
    assert str(caught.value) == f"configuration: {message}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("layer_decay=0", "layer_decay: must be greater than 0, got 0"),
        ("dropout=1", "dropout: must be less than 1, got 1"),
        ("lr_final=-1", "lr_final: must be at least 0, got -1"),
        ("warmup_epochs=100", "warmup_epochs 100 must be less than epochs 100"),
        ("video.magnitude=11", "video.magnitude: must be at most 10, got 11"),
        ("audio.crop_canvas=0.5", "audio.crop_canvas: must be at least 1, got 0.5"),
        ("audio.crop_range=[2, 1]", "audio.crop_range: expected the lower bound first, got (2.0, 1.0)"),
    ],
)
def test_an_invalid_fine_tuning_is_one_line_with_the_field(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(FinetuneConfig(), None, [override])
    assert str(caught.value) == f"configuration: {message}"


def test_all_losses_off_and_local_teachers_without_local_views_are_refused() -> None:
    off = [f"loss.{name}=0" for name in ("align", "distill", "reconstruct")]
    with pytest.raises(UserError, match="align, distill and reconstruct must not all be zero"):
        resolve(PretrainConfig(), None, off)
    with pytest.raises(UserError, match=r"views\.teacher=local needs at least one local view"):
        resolve(PretrainConfig(), None, ["views.teacher=local", "audio.local_views=0"])


@pytest.mark.parametrize("kind", [PretrainConfig, FinetuneConfig])
def test_plain_values_build_the_same_settings(kind: type[Any]) -> None:
    assert build(kind, to_dict(kind()), "values") == kind()


def test_whole_floats_count_as_integers() -> None:
    """KFP's local runner turns the integers of a JSON object into floats."""
    assert resolve(PretrainConfig(), None, (), optim={"epochs": 3.0, "warmup_epochs": 0.0}).optim.epochs == 3


def test_waveforms_are_the_shortest_whole_hundredths_of_a_second() -> None:
    clip = ClipConfig()
    assert [clip.samples(frames) for frames in (448, 112)] == [64000, 16000]
    for frames in range(1, 449):
        length = clip.samples(frames)
        assert length % 160 == 0
        assert length - 160 < (frames - 1) * clip.hop <= length


def test_grids_count_tokens_along_each_axis() -> None:
    paper = PretrainConfig()
    assert (paper.video.grid, paper.audio.grid) == ((8, 7, 7), (20, 28))
    assert [paper.modality(m) for m in ("video", "audio")] == [paper.video, paper.audio]
    assert [other("video"), other("audio")] == ["audio", "video"]


def test_the_teachers_view_is_the_global_or_the_first_local_one() -> None:
    views = PretrainConfig().views
    assert [replace(views, teacher=name).teacher_index for name in ("global", "local")] == [0, 1]


def test_a_batch_must_divide_among_processes_and_parts() -> None:
    check_division(256, 8, 4)
    with pytest.raises(
        UserError, match=r"^batch_size 256 must be a multiple of the 3 processes times accumulate 2$"
    ):
        check_division(256, 3, 2)
