from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.tiny import tiny_config
from xkd.config import FinetuneConfig, FinetuneVideoConfig, Modality
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.shards.manifest import Clip, PreparedDataset
from xkd.data.transforms.views import Views
from xkd.errors import UserError
from xkd.evaluate.protocols.classifier import Classifier, layer_groups
from xkd.evaluate.protocols.finetune import _batches, check, fine_tune, train
from xkd.evaluate.protocols.finetune_step import FinetuneJob, FinetuneStepper, predict
from xkd.launch.distributed import DistributedContext
from xkd.model.networks import build_encoder

ALONE = DistributedContext(0, 1, torch.device("cpu"))
SMALL = FinetuneConfig(
    epochs=3,
    batch_size=8,
    lr=2e-3,
    warmup_epochs=1,
    layer_decay=0.8,
    dropout=0.1,
    video=FinetuneVideoConfig(resolution=32),
)


def classifier(modality: Modality = "video", classes: int = 10) -> Classifier:
    torch.manual_seed(0)
    return Classifier(build_encoder(tiny_config(), modality), classes, 0.1)


def lesson(prepared: Path, modality: Modality = "video", tuning: FinetuneConfig = SMALL) -> FinetuneJob:
    manifest = PreparedDataset.open(prepared)
    clips = manifest.split("train")
    return FinetuneJob(
        name="test",
        dataset=manifest,
        config=tiny_config(),
        modality=modality,
        tuning=tuning,
        train=clips,
        labels=truth(manifest, clips),
        many_labels=False,
        validation=manifest.split("val"),
        validate=lambda says: float(
            (says.argmax(1) == truth(manifest, manifest.split("val")).argmax(1)).mean()
        ),
        windows=2,
        seed=0,
    )


def truth(manifest: PreparedDataset, clips: list[Clip]) -> NDArray[np.bool_]:
    return np.array([[name in clip.labels for name in manifest.classes] for clip in clips])


@pytest.mark.parametrize("decay", [0.45, 0.75, 1.0])
@pytest.mark.parametrize("depth", [2, 12])
def test_a_layer_s_learning_rate_is_the_decay_to_the_layers_above(decay: float, depth: int) -> None:
    config = tiny_config()
    config = replace(config, encoder=replace(config.encoder, depth=depth))
    network = Classifier(build_encoder(config, "video"), 5, 0.0)
    groups = layer_groups(network, replace(SMALL, layer_decay=decay, weight_decay=0.05))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    seen = {}
    for group in groups:
        for parameter in group["params"]:
            seen[names[id(parameter)]] = (group["lr_scale"], group["weight_decay"])
    assert set(seen) == set(names.values())
    for name, (scale, weight_decay) in seen.items():
        if name.startswith("encoder.blocks."):
            layer = int(name.split(".")[2]) + 1
        else:
            layer = depth + 1 if name.startswith(("encoder.norm", "head")) else 0
        assert scale == pytest.approx(decay ** (depth + 1 - layer)), name
        plain = name.endswith("bias") or "norm" in name or name in ("encoder.cls_token", "encoder.positions")
        assert weight_decay == (0.0 if plain else 0.05), name


def test_learning_rates_follow_the_groups(prepared: Path) -> None:
    tuner = FinetuneStepper(classifier(), lesson(prepared), ALONE)
    batch = next(_batches(lesson(prepared), 0, 1, ALONE))
    tuner.step(1, [batch], 1e-2)
    rates = {group["lr"] / group["lr_scale"] for group in tuner.optimizer.param_groups}
    assert all(rate == pytest.approx(1e-2) for rate in rates)
    assert len({group["lr"] for group in tuner.optimizer.param_groups}) == 4


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_replaces_a_box_over_height_and_width_in_every_frame(prepared: Path, seed: int) -> None:
    tuning = replace(
        SMALL, video=FinetuneVideoConfig(resolution=32, mixup=0.0, cutmix=1.0), label_smoothing=0.0
    )
    tuner = FinetuneStepper(classifier(), lesson(prepared, tuning=tuning), ALONE)
    # Every clip a constant of its own: what comes from the partner is seen at once.
    view = torch.arange(1.0, 5.0).view(4, 1, 1, 1, 1).expand(4, 3, 32, 32, 32).clone()
    mixed, targets = tuner._mixed(view.clone(), torch.eye(10)[:4], seed)
    foreign = mixed != view
    assert torch.equal(foreign, foreign[:, :1, :1].expand_as(foreign))
    inside = foreign[0, 0, 0]
    rows, columns = inside.any(1), inside.any(0)
    assert torch.equal(inside, rows[:, None] & columns)
    assert not inside.all()
    # The partner's weight in the target is its share of the pixels, and so of the whole volume.
    for place in range(4):
        partner = 3 - place
        assert targets[place, partner] == pytest.approx(inside.float().mean().item(), abs=1e-6)
        assert targets[place, place] == pytest.approx(1 - inside.float().mean().item(), abs=1e-6)
        assert mixed[place][foreign[place]].eq(partner + 1).all()


def test_mixup_blends_clips_and_targets_alike(prepared: Path) -> None:
    tuning = replace(
        SMALL, video=FinetuneVideoConfig(resolution=32, mixup=1.0, cutmix=0.0), label_smoothing=0.1
    )
    tuner = FinetuneStepper(classifier(), lesson(prepared, tuning=tuning), ALONE)
    view = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1).expand(2, 3, 8, 16, 16).clone()
    mixed, targets = tuner._mixed(view.clone(), torch.eye(10)[:2], 5)
    share = mixed[1].flatten()[0]
    assert mixed[1].eq(share).all()
    assert 0 < share < 1
    assert torch.allclose(targets.sum(1), torch.ones(2))
    assert targets[1, 1] == pytest.approx(0.9 * share.item() + 0.01, abs=1e-6)
    assert targets[1, 0] == pytest.approx(0.9 * (1 - share.item()) + 0.01, abs=1e-6)


def test_without_mixing_targets_are_smoothed(prepared: Path) -> None:
    tuning = replace(SMALL, video=FinetuneVideoConfig(resolution=32, mixup=0.0, cutmix=0.0))
    tuner = FinetuneStepper(classifier(), lesson(prepared, tuning=tuning), ALONE)
    view = torch.randn(3, 3, 8, 16, 16)
    same, targets = tuner._mixed(view, torch.eye(10)[:3], 0)
    assert torch.equal(same, view)
    assert torch.allclose(targets, torch.eye(10)[:3] * 0.9 + 0.01)


def test_erasing_takes_the_same_box_of_every_frame(prepared: Path) -> None:
    video = FinetuneVideoConfig(resolution=32, mixup=0.0, cutmix=0.0, erasing=1.0)
    tuner = FinetuneStepper(classifier(), lesson(prepared, tuning=replace(SMALL, video=video)), ALONE)
    view = torch.zeros(2, 3, 8, 16, 16)
    erased, _ = tuner._mixed(view.clone(), torch.eye(10)[:2], 0)
    box = erased != 0
    assert box.any()
    assert torch.equal(box, box[:, :1, :1].expand_as(box))


def test_a_clip_s_prediction_is_the_mean_over_its_windows(prepared: Path) -> None:
    task, network = lesson(prepared, "audio"), classifier("audio").eval()
    clips = list(task.validation)[:3]
    found = predict(network, task, clips, ALONE)
    (batch,) = evaluation_batches(
        PreparedDataset.open(prepared), clips, task.config, 2, modalities=("audio",)
    )
    view = Views(task.config).plain(batch)["audio"]
    with torch.no_grad():
        each = network(view).softmax(1).reshape(3, 2, -1).numpy()
    assert np.ptp(each, axis=1).max() > 1e-6  # the windows differ
    np.testing.assert_allclose(found, each.mean(axis=1), rtol=1e-5)
    many = predict(network, replace(task, many_labels=True), clips, ALONE)
    with torch.no_grad():
        logits = network(view).reshape(3, 2, -1).mean(dim=1)
    np.testing.assert_allclose(many, logits.sigmoid().numpy(), rtol=1e-5)


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_stopped_fine_tuning_goes_on_bit_equal(prepared: Path, tmp_path: Path, modality: Modality,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    import os
    import signal

    from xkd.errors import RunInterruptedError

    task = lesson(prepared, modality)
    whole = classifier(modality)
    curve = train(whole, task, tmp_path / "whole", ALONE)
    assert [row["epoch"] for row in curve] == [1, 2, 3]

    step, calls = FinetuneStepper.step, 0

    def interrupt(self: FinetuneStepper, number: int, *given: object) -> None:
        nonlocal calls
        calls += 1
        step(self, number, *given)  # type: ignore[arg-type]
        if number == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(FinetuneStepper, "step", interrupt)
    with pytest.raises(RunInterruptedError, match="step 5 of"):
        train(classifier(modality), task, tmp_path / "halves", ALONE)
    monkeypatch.setattr(FinetuneStepper, "step", step)
    resumed = classifier(modality)
    assert train(resumed, task, tmp_path / "halves", ALONE) == curve
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_a_published_network_is_not_trained_again(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, classes = lesson(prepared, "audio"), PreparedDataset.open(prepared).classes
    test = PreparedDataset.open(prepared).split("val")
    encoder = build_encoder(tiny_config(), "audio")
    first = fine_tune(encoder, task, classes, test, tmp_path, ALONE)
    assert not (tmp_path / "checkpoints").exists()
    monkeypatch.setattr("xkd.evaluate.protocols.finetune.train", lambda *_: pytest.fail("trained again"))
    again = fine_tune(build_encoder(tiny_config(), "audio"), task, classes, test, tmp_path, ALONE)
    assert again.curve == first.curve
    np.testing.assert_array_equal(first.decisions, again.decisions)


def test_the_epoch_with_the_best_validation_counts(prepared: Path, tmp_path: Path) -> None:
    scores = iter([0.2, 0.5, 0.4, 0.3, 0.9])
    tuning = replace(SMALL, epochs=6, patience=2)
    task = replace(lesson(prepared, "audio", tuning), validate=lambda _: next(scores))
    network, kept = classifier("audio"), {}
    end = FinetuneStepper.end_epoch

    def remember(self: FinetuneStepper, epoch: int, *given: object) -> None:
        end(self, epoch, *given)  # type: ignore[arg-type]
        kept[epoch] = {name: weight.clone() for name, weight in self.classifier.state_dict().items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FinetuneStepper, "end_epoch", remember)
        curve = train(network, task, tmp_path, ALONE)
    assert [row["validation"] for row in curve] == [0.2, 0.5, 0.4, 0.3]
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, kept[2][name])
    assert any(not torch.equal(weight, kept[4][name]) for name, weight in network.state_dict().items())


def test_what_cannot_be_trained_is_one_clear_line(prepared: Path, tmp_path: Path) -> None:
    odd = replace(SMALL, video=FinetuneVideoConfig(resolution=40))
    with pytest.raises(UserError, match=r"finetune.video.resolution 40 must be a multiple of .*\(16, 16\)"):
        check(lesson(prepared, tuning=odd), ALONE)
    for tuning, said in [
        (replace(SMALL, batch_size=96), "batch_size 96 is more than the 30 training clips"),
        (
            replace(SMALL, batch_size=8, accumulate=3),
            "1 processes times finetune.accumulate 3",
        ),
        (replace(SMALL, batch_size=7), "parts of 7 clips, and MixUp and CutMix pair them"),
    ]:
        with pytest.raises(UserError, match=said):
            check(lesson(prepared, tuning=tuning), ALONE)
    with pytest.raises(UserError, match=r"not finite in epoch 1; set finetune.lr lower"):
        train(
            classifier("audio"),
            lesson(prepared, "audio", replace(SMALL, lr=1e30, warmup_epochs=0)),
            tmp_path,
            ALONE,
        )


def test_positions_are_interpolated_to_a_higher_resolution(prepared: Path) -> None:
    tuning = replace(SMALL, video=FinetuneVideoConfig(resolution=48))
    task, network = lesson(prepared, tuning=tuning), classifier().eval()
    assert task.views.video.global_view == (32, 48, 48)
    assert network.encoder.positions.shape[1] == 1 + 4 * 2 * 2
    assert predict(network, task, list(task.validation)[:2], ALONE).shape == (2, 10)


def test_a_fixed_learning_rate_stays_where_it_is_set(prepared: Path, tmp_path: Path) -> None:
    tuning = replace(SMALL, lr=3e-3, lr_final=None, warmup_epochs=0)
    curve = train(classifier("audio"), lesson(prepared, "audio", tuning), tmp_path, ALONE)
    assert {row["lr"] for row in curve} == {3e-3}


def test_no_two_parts_of_a_batch_are_mixed_alike(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are two steps, or two processes."""
    task, seen = lesson(prepared, tuning=replace(SMALL, batch_size=8, accumulate=2)), list[int]()

    def keep_seed(view: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(seed)
        return view, labels

    for rank in (0, 1):
        tuner = FinetuneStepper(classifier(), task, ALONE)
        tuner.context = DistributedContext(rank, 2, ALONE.device)
        monkeypatch.setattr(DistributedContext, "all_reduce_mean", lambda _, values: values)
        monkeypatch.setattr(tuner, "_mixed", keep_seed)
        parts = list(islice(_batches(task, 0, 3, ALONE), 6))
        for step in (1, 2, 3):
            tuner.step(step, parts[2 * step - 2 : 2 * step], 1e-3)
    assert len(set(seen)) == len(seen) == 12


def test_a_state_that_is_not_finite_is_not_saved(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xkd.evaluate.protocols.finetune._SAVE_EVERY", 0.0)
    task, step = lesson(prepared, "audio"), FinetuneStepper.step

    def spoil(self: FinetuneStepper, number: int, *given: object) -> None:
        step(self, number, *given)  # type: ignore[arg-type]
        if number == 2:
            self._loss += torch.nan

    monkeypatch.setattr(FinetuneStepper, "step", spoil)
    with pytest.raises(UserError, match="not finite in epoch"):
        train(classifier("audio"), task, tmp_path, ALONE)
    assert [path.name for path in tmp_path.glob("*.pt")] == ["step_00000001.pt"]
