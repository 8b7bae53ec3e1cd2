from __future__ import annotations

import os
import signal
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import tiny_config
from xkd.config import FinetuneConfig, FinetuneVideoConfig, Modality
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.transforms.views import Views
from xkd.errors import RunInterruptedError, UserError
from xkd.evaluation.features import FeatureExtractor
from xkd.evaluation.plan import make_task
from xkd.evaluation.protocols.finetune.classifier import Classifier, layer_groups
from xkd.evaluation.protocols.finetune.protocol import _batches, fine_tune, train
from xkd.evaluation.protocols.finetune.step import FinetuneJob, FinetuneStepper, predict
from xkd.evaluation.splits import read_splits
from xkd.launch.distributed import DistributedContext
from xkd.model.vit import build_encoder
from xkd.rundir import RunDir
from xkd.train.checkpoint import Checkpoints, Trainee

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


def make_job(prepared: Path, modality: Modality = "video", settings: FinetuneConfig = SMALL) -> FinetuneJob:
    task = make_task("embedded", modality, "finetune", "random", settings={"test_windows": 2})
    return FinetuneJob(
        task=replace(task, finetune=settings),
        metric="top1",
        run=RunDir(prepared),
        config=tiny_config(),
        splits=read_splits(PreparedDataset.open(prepared), 1, (modality,), "top1"),
        extractors=[FeatureExtractor.load(RunDir(prepared), tiny_config(), "random", modality, 0)],
        out=prepared,
        context=ALONE,
    )


@pytest.mark.parametrize("decay", [0.45, 0.75, 1.0])
@pytest.mark.parametrize("depth", [2, 12])
def test_a_layers_learning_rate_decays_with_the_layers_above(decay: float, depth: int) -> None:
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


def test_learning_rates_are_scaled_per_group(prepared: Path) -> None:
    stepper = FinetuneStepper(classifier(), make_job(prepared))
    batch = next(_batches(make_job(prepared), 0, 1, stepper.views))
    stepper.step(1, [batch], 1e-2)
    rates = {group["lr"] / group["lr_scale"] for group in stepper.optimizer.param_groups}
    assert all(rate == pytest.approx(1e-2) for rate in rates)
    assert len({group["lr"] for group in stepper.optimizer.param_groups}) == 4


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_replaces_the_same_box_in_every_frame(prepared: Path, seed: int) -> None:
    settings = replace(
        SMALL, video=FinetuneVideoConfig(resolution=32, mixup=0.0, cutmix=1.0), label_smoothing=0.0
    )
    stepper = FinetuneStepper(classifier(), make_job(prepared, settings=settings))
    # Each clip is another constant, so that pixels of the partner are recognized.
    view = torch.arange(1.0, 5.0).view(4, 1, 1, 1, 1).expand(4, 3, 32, 32, 32).clone()
    mixed, targets = stepper._mix(view.clone(), torch.eye(10)[:4], seed)
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


def test_mixup_blends_clips_and_targets_equally(prepared: Path) -> None:
    settings = replace(
        SMALL, video=FinetuneVideoConfig(resolution=32, mixup=1.0, cutmix=0.0), label_smoothing=0.1
    )
    stepper = FinetuneStepper(classifier(), make_job(prepared, settings=settings))
    view = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1).expand(2, 3, 8, 16, 16).clone()
    mixed, targets = stepper._mix(view.clone(), torch.eye(10)[:2], 5)
    share = mixed[1].flatten()[0]
    assert mixed[1].eq(share).all()
    assert 0 < share < 1
    assert torch.allclose(targets.sum(1), torch.ones(2))
    assert targets[1, 1] == pytest.approx(0.9 * share.item() + 0.01, abs=1e-6)
    assert targets[1, 0] == pytest.approx(0.9 * (1 - share.item()) + 0.01, abs=1e-6)


def test_without_mixing_targets_are_smoothed(prepared: Path) -> None:
    settings = replace(SMALL, video=FinetuneVideoConfig(resolution=32, mixup=0.0, cutmix=0.0))
    stepper = FinetuneStepper(classifier(), make_job(prepared, settings=settings))
    view = torch.randn(3, 3, 8, 16, 16)
    same, targets = stepper._mix(view, torch.eye(10)[:3], 0)
    assert torch.equal(same, view)
    assert torch.allclose(targets, torch.eye(10)[:3] * 0.9 + 0.01)


def test_erasing_removes_the_same_box_from_every_frame(prepared: Path) -> None:
    video = FinetuneVideoConfig(resolution=32, mixup=0.0, cutmix=0.0, erasing=1.0)
    stepper = FinetuneStepper(classifier(), make_job(prepared, settings=replace(SMALL, video=video)))
    view = torch.zeros(2, 3, 8, 16, 16)
    erased, _ = stepper._mix(view.clone(), torch.eye(10)[:2], 0)
    box = erased != 0
    assert box.any()
    assert torch.equal(box, box[:, :1, :1].expand_as(box))


def test_a_prediction_is_the_mean_over_the_windows(prepared: Path) -> None:
    job, network = make_job(prepared, "audio"), classifier("audio").eval()
    clips = job.splits.test[:3]
    found = predict(network, job, clips)
    (batch,) = evaluation_batches(PreparedDataset.open(prepared), clips, job.config, 2, modalities=("audio",))
    view = Views(job.config).plain(batch)["audio"]
    with torch.no_grad():
        each = network(view).softmax(1).reshape(3, 2, -1).numpy()
    assert np.ptp(each, axis=1).max() > 1e-6  # the windows differ
    np.testing.assert_allclose(found, each.mean(axis=1), rtol=1e-5)
    many = predict(network, replace(job, metric="map"), clips)
    with torch.no_grad():
        logits = network(view).reshape(3, 2, -1).mean(dim=1)
    np.testing.assert_allclose(many, logits.sigmoid().numpy(), rtol=1e-5)


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_an_interrupted_fine_tuning_resumes_bit_equal(prepared: Path, tmp_path: Path, modality: Modality,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    job = make_job(prepared, modality)
    whole = classifier(modality)
    curve = train(whole, job, tmp_path / "whole")
    assert [row["epoch"] for row in curve] == [1, 2, 3]

    step, calls = FinetuneStepper.step, 0

    def interrupt(self: FinetuneStepper, number: int, *given: object) -> None:
        nonlocal calls
        calls += 1
        step(self, number, *given)  # type: ignore[arg-type]
        if number == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(FinetuneStepper, "step", interrupt)
    with pytest.raises(RunInterruptedError, match="saved at step 5 of"):
        train(classifier(modality), job, tmp_path / "halves")
    monkeypatch.setattr(FinetuneStepper, "step", step)
    resumed = classifier(modality)
    assert train(resumed, job, tmp_path / "halves") == curve
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_a_signal_while_the_last_step_is_saved_ends_a_fine_tuning(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing after the training would know of it, and the test clips may take long to predict."""
    job, save = make_job(prepared, "audio"), Checkpoints.save
    steps = SMALL.epochs * job.steps_per_epoch()

    def signaled(self: Checkpoints, step: int, trainee: Trainee) -> None:
        if step == steps:
            signal.raise_signal(signal.SIGTERM)
        save(self, step, trainee)

    with monkeypatch.context() as patched:
        patched.setattr("xkd.train.loop._SAVE_SECONDS", 0.0)
        patched.setattr("xkd.train.loop._SAVE_SHARE", 0)
        patched.setattr(Checkpoints, "save", signaled)
        with pytest.raises(RunInterruptedError, match=f"saved at step {steps} of {steps}"):
            train(classifier("audio"), job, tmp_path)
    assert len(train(classifier("audio"), job, tmp_path)) == SMALL.epochs


def test_a_published_network_is_not_retrained(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, curve = fine_tune(make_job(prepared, "audio"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["classifier.safetensors"]
    monkeypatch.setattr(
        "xkd.evaluation.protocols.finetune.protocol.train", lambda *_: pytest.fail("retrained")
    )
    again, same_curve = fine_tune(make_job(prepared, "audio"), tmp_path)
    assert same_curve == curve
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_early_stopping_keeps_the_epoch_with_the_best_score(prepared: Path, tmp_path: Path) -> None:
    scores = iter([0.2, 0.5, 0.4, 0.3, 0.9])
    settings = replace(SMALL, epochs=6, patience=2)
    job = make_job(prepared, "audio", settings)
    network, kept = classifier("audio"), {}
    end = FinetuneStepper.end_epoch

    def remember(self: FinetuneStepper, epoch: int, *given: object) -> None:
        end(self, epoch, *given)  # type: ignore[arg-type]
        kept[epoch] = {name: weight.clone() for name, weight in self.classifier.state_dict().items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FinetuneStepper, "end_epoch", remember)
        patch.setattr(FinetuneJob, "measure", lambda *_: {"score": next(scores)})
        curve = train(network, job, tmp_path)
    assert [row["validation"] for row in curve] == [0.2, 0.5, 0.4, 0.3]
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, kept[2][name])
    assert any(not torch.equal(weight, kept[4][name]) for name, weight in network.state_dict().items())


def test_impossible_settings_are_one_line_errors(prepared: Path, tmp_path: Path) -> None:
    odd = replace(SMALL, video=FinetuneVideoConfig(resolution=40))
    with pytest.raises(UserError, match=r"finetune.video.resolution 40 must be a multiple of .*\(16, 16\)"):
        make_job(prepared, settings=odd).steps_per_epoch()
    for settings, said in [
        (replace(SMALL, batch_size=96), "batch_size 96 exceeds the number of training clips, 30"),
        (
            replace(SMALL, batch_size=8, accumulate=3),
            "1 processes times accumulate 3",
        ),
        (replace(SMALL, batch_size=7), "parts of 7 clips, but MixUp and CutMix pair them"),
    ]:
        with pytest.raises(UserError, match=said):
            make_job(prepared, settings=settings).steps_per_epoch()
    with pytest.raises(UserError, match=r"not finite in epoch 1; lower finetune.lr"):
        train(
            classifier("audio"),
            make_job(prepared, "audio", replace(SMALL, lr=1e30, warmup_epochs=0)),
            tmp_path,
        )


def test_positions_are_interpolated_to_a_higher_resolution(prepared: Path) -> None:
    settings = replace(SMALL, video=FinetuneVideoConfig(resolution=48))
    job, network = make_job(prepared, settings=settings), classifier().eval()
    assert job.view_config.video.global_view == (32, 48, 48)
    assert network.encoder.positions.shape[1] == 1 + 4 * 2 * 2
    assert predict(network, job, job.splits.test[:2]).shape == (2, 10)


def test_without_a_final_learning_rate_it_is_constant(prepared: Path, tmp_path: Path) -> None:
    settings = replace(SMALL, lr=3e-3, lr_final=None, warmup_epochs=0)
    curve = train(classifier("audio"), make_job(prepared, "audio", settings), tmp_path)
    assert {row["lr"] for row in curve} == {3e-3}


def test_parts_steps_and_processes_are_mixed_differently(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, seen = make_job(prepared, settings=replace(SMALL, batch_size=8, accumulate=2)), list[int]()

    def keep_seed(view: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(seed)
        return view, labels

    for rank in (0, 1):
        stepper = FinetuneStepper(classifier(), job)
        stepper.context = DistributedContext(rank, 2, ALONE.device)
        monkeypatch.setattr(DistributedContext, "all_reduce_mean", lambda _, values: values)
        monkeypatch.setattr(stepper, "_mix", keep_seed)
        parts = list(islice(_batches(job, 0, 3, stepper.views), 6))
        for step in (1, 2, 3):
            stepper.step(step, parts[2 * step - 2 : 2 * step], 1e-3)
    assert len(set(seen)) == len(seen) == 12


def test_a_non_finite_state_is_not_saved(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xkd.train.loop._SAVE_SECONDS", 0.0)
    job, step = make_job(prepared, "audio"), FinetuneStepper.step

    def spoil(self: FinetuneStepper, number: int, *given: object) -> None:
        step(self, number, *given)  # type: ignore[arg-type]
        if number == 2:
            self._loss += torch.nan

    monkeypatch.setattr(FinetuneStepper, "step", spoil)
    with pytest.raises(UserError, match="not finite in epoch"):
        train(classifier("audio"), job, tmp_path)
    assert [path.name for path in tmp_path.glob("*.pt")] == ["step_00000001.pt"]
