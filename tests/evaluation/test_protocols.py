"""Every linear protocol on the miniature of its dataset, over its folds."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from xkd.cli import app
from xkd.config.presets.finetune import FINETUNING
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.data.sources.source import LAYOUTS
from xkd.errors import UserError
from xkd.evaluation.evaluate import evaluate
from xkd.evaluation.features import ClipFeatures
from xkd.evaluation.metrics import average_precisions, mean_over_classes
from xkd.evaluation.plan import make_task
from xkd.evaluation.protocols.finetune.classifier import load_classifier
from xkd.evaluation.protocols.linear_head import RECIPES, Recipe, fit_and_predict
from xkd.evaluation.score import Score
from xkd.evaluation.specs import EVAL_SPECS

pytestmark = pytest.mark.system

FEW = {"train_windows": 2, "test_windows": 2}


@pytest.fixture(scope="session")
def mini(miniature: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Prepared miniatures by dataset."""
    folder = tmp_path_factory.mktemp("minis")

    def get(dataset: str) -> Path:
        config = PrepareConfig(short_side=32, max_fps=8, dataset=dataset)
        prepare(miniature(f"{dataset}-mini"), folder / dataset, config)
        return folder / dataset

    return get


def score_of(run: Path, data: Path, out: Path, modality: str, protocol: str = "svm", fold: int = 1) -> Score:
    return evaluate(
        run, data, make_task(PreparedDataset.open(data).name, modality, protocol, "raw", fold, FEW), out
    )


@pytest.mark.parametrize("dataset", ["ucf101", "hmdb51", "esc50"])
def test_every_fold_has_a_score(mini: Callable[[str], Path], run: Path, tmp_path: Path, dataset: str) -> None:
    data, setup = mini(dataset), EVAL_SPECS[dataset][0]
    manifest, modality, folds = PreparedDataset.open(data), setup.modality, setup.folds
    assert manifest.folds == folds
    scores = [score_of(run, data, tmp_path, modality=modality, fold=fold) for fold in range(1, folds + 1)]
    assert [score.fold for score in scores] == list(range(1, folds + 1))
    tested = [len(manifest.split("test", fold)) for fold in range(1, folds + 1)]
    assert [score.test_clips for score in scores] == tested
    # The cost is chosen once, on the first fold's training clips, and the features are extracted once.
    assert len({score.C for score in scores}) == 1
    assert scores[0].sweep == scores[-1].sweep
    assert len(list((tmp_path / "features").glob("cost-*.json"))) == 1
    assert len(list((tmp_path / "features").glob("*.npy"))) == 2
    names = [
        f"{dataset}-{modality}-svm-raw{suffix}.json"
        for suffix in ("", *(f"-fold{f}" for f in range(2, folds + 1)))
    ]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == sorted(names)
    with pytest.raises(UserError, match=f"has no fold {folds + 1}; the number of folds is {folds}"):
        score_of(run, data, tmp_path, modality=modality, fold=folds + 1)


def test_the_cost_does_not_depend_on_test_clips(
    mini: Callable[[str], Path], run: Path, tmp_path: Path
) -> None:
    """With other labels on the test clips of the first fold the choice is the same."""
    data = mini("esc50")
    honest = score_of(run, data, tmp_path / "honest", modality="audio", fold=2)
    table = data / "manifest.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    wrong = [row | {"labels": "dog" if row["splits"].startswith("test") else row["labels"]} for row in rows]
    lie = tmp_path / "lie"
    lie.mkdir()
    (lie / "shards").symlink_to(data / "shards")
    (lie / "dataset.json").write_bytes((data / "dataset.json").read_bytes())
    with (lie / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(wrong)
    planted = score_of(run, lie, tmp_path / "planted", modality="audio", fold=1)
    assert (planted.C, planted.sweep) == (honest.C, honest.sweep)
    assert planted.score != score_of(run, data, tmp_path / "honest", modality="audio", fold=1).score


def test_the_linear_head_is_scored_on_several_labels(
    mini: Callable[[str], Path], run: Path, tmp_path: Path
) -> None:
    score = score_of(run, mini("fsd50k"), tmp_path, modality="audio", protocol="fc")
    assert (score.metric, score.C, score.sweep) == ("map", None, {})
    assert (score.train_clips, score.test_clips, len(score.classes)) == (48, 16, 7)
    assert score.score == pytest.approx(np.mean([value for value in score.per_class.values() if value]))
    assert score.per_class["Music"] == 1.0  # every clip is
    assert score.chance == pytest.approx((4 / 16 * 4 + 8 / 16 * 2 + 1) / 7)


def test_kinetics_has_a_score_by_each_protocol(
    mini: Callable[[str], Path], run: Path, tmp_path: Path
) -> None:
    data = mini("kinetics400")
    for modality, protocol in (
        ("video", "svm"),
        ("audio", "svm"),
        ("audiovisual", "fusion"),
        ("video", "fc"),
    ):
        score = score_of(run, data, tmp_path, modality=modality, protocol=protocol)
        assert (score.metric, score.train_clips, score.test_clips) == ("top1", 30, 15)


def test_every_dataset_but_those_for_pretraining_has_an_evaluation() -> None:
    pretraining = {"audioset", "kinetics600", "kinetics700"}
    assert set(EVAL_SPECS) == {*LAYOUTS, "embedded"} - pretraining
    assert {
        dataset for dataset, setups in EVAL_SPECS.items() if any(s.protocol == "fc" for s in setups)
    } == set(RECIPES)


@pytest.mark.parametrize(
    ("dataset", "protocol", "said"),
    [
        ("ucf101", "svm", "dataset ucf101 has no evaluation by svm of audio; available: svm of video"),
        ("fsd50k", "svm", "available: fc of audio"),
        ("audioset", "svm", "no evaluation of dataset audioset; available: embedded, ucf101"),
    ],
)
def test_an_unsupported_dataset_and_protocol_is_a_one_line_error(
    mini: Callable[[str], Path], run: Path, tmp_path: Path, dataset: str, protocol: str, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        score_of(run, mini(dataset), tmp_path, modality="audio", protocol=protocol)
    assert "\n" not in str(caught.value)


def test_mean_average_precision_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.random((50, 6)) < 0.2, rng.random((50, 6))
    labels[:, 2] = False
    found = average_precisions(predictions, labels, "abcdef")
    assert found["c"] is None
    rest = [0, 1, 3, 4, 5]
    assert mean_over_classes(found) == pytest.approx(
        average_precision_score(labels[:, rest], predictions[:, rest])
    )
    with pytest.raises(UserError, match="no class has a test clip"):
        mean_over_classes({"a": None})


RECIPE = Recipe(lr=0.05, decays=True, weight_decay=1e-5, dropout=0.3, batch_size=16, epochs=40)


def test_the_linear_head_learns_several_labels_and_depends_on_the_seed_alone() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((40, 3)) < 0.4
    clip = np.repeat(np.arange(40), 2)
    features = (labels[clip] @ rng.normal(size=(3, 12)) + 0.1 * rng.normal(size=(80, 12))).astype(np.float32)
    windows = ClipFeatures(features, clip, 40)
    first, again, other = (
        fit_and_predict(windows, labels, windows, RECIPE, seed, multi_label=True) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert mean_over_classes(average_precisions(first, labels, "abc")) > 0.95
    assert ((first >= 0) & (first <= 1)).all()
    one = fit_and_predict(
        windows,
        np.eye(3, dtype=bool)[labels.argmax(1)],
        windows,
        RECIPES["kinetics400"],
        0,
        multi_label=False,
    )
    np.testing.assert_allclose(one.sum(1), 1, atol=1e-5)


TUNED = {"epochs": 2, "batch_size": 4, "warmup_epochs": 1, "video": {"resolution": 32}}
"""Enough to test that it trains; the paper's settings need GPUs."""


@pytest.mark.parametrize(
    ("dataset", "modality", "folds"),
    [
        ("ucf101", "video", (1, 3)),
        ("hmdb51", "video", (2,)),
        ("kinetics400", "video", (1,)),
        ("esc50", "audio", (1, 5)),
        ("fsd50k", "audio", (1,)),
    ],
)
def test_fine_tuning_is_scored_on_the_folds_of_its_dataset(
    mini: Callable[[str], Path],
    run: Path,
    tmp_path: Path,
    dataset: str,
    modality: str,
    folds: tuple[int, ...],
) -> None:
    data = mini(dataset)
    for fold in folds:
        score = evaluate(
            run, data, make_task(dataset, modality, "finetune", "teacher", fold, TUNED), tmp_path
        )
        manifest = PreparedDataset.open(data)
        part = "test" if any("test" in clip.splits for clip in manifest.clips) else "val"
        assert score.test_clips == len(manifest.split(part, fold))
        assert score.metric == ("map" if dataset == "fsd50k" else "top1")
        assert [row["epoch"] for row in score.curve] == [1, 2]
        assert score.finetune["epochs"] == 2
        assert ("validation" in score.curve[0]) == (dataset == "fsd50k")
        (network,) = tmp_path.glob(f"finetuned/{score.name}-*/classifier.safetensors")
        classifier, classes = load_classifier(network)
        assert classes == tuple(score.classes)
        assert classifier.head.out_features == len(classes)


def test_the_help_lists_the_protocols_of_each_dataset() -> None:
    said = CliRunner().invoke(app, ["evaluate", "--help"]).output.split("By dataset:")[1].split("\n\n")[0]
    found = {}
    for line in said.strip().splitlines():
        names, setups = re.fullmatch(r"\s*((?:\w+, )*\w+)\s{2,}(.+)", line).groups()  # type: ignore[union-attr]
        by_modality = [part.split(": ") for part in setups.split("; ")]
        for name in names.split(", "):
            found[name] = {(m, protocol) for m, protocols in by_modality for protocol in protocols.split()}
    assert found == {name: {(s.modality, s.protocol) for s in setups} for name, setups in EVAL_SPECS.items()}


def test_the_settings_are_those_of_tables_s6_and_s7() -> None:
    """As printed: epochs, batch, lr, lr final, warm-up, weight decay, layer decay, dropout, smoothing."""
    printed = {
        ("kinetics400", "video"): (100, 96, 5e-4, 1e-6, 30, 0.05, 0.45, 0.5, 0.1),
        ("ucf101", "video"): (100, 96, 5e-4, 1e-6, 5, 0.05, 0.45, 0.5, 0.1),
        ("hmdb51", "video"): (100, 96, 1e-4, 1e-6, 20, 0.05, 0.55, 0.5, 0.1),
        ("esc50", "audio"): (100, 64, 1e-4, 0, 10, 0.005, 0.65, 0.5, 0),
        ("fsd50k", "audio"): (30, 64, 1e-4, None, 0, 1e-5, 0.65, 0.3, 0),
    }
    names = "epochs batch_size lr lr_final warmup_epochs weight_decay layer_decay dropout label_smoothing"
    recipes = {(name, str(modality)): recipe for (name, modality), recipe in FINETUNING.items()}
    for key, expected in printed.items():
        recipe = recipes[key]
        assert tuple(getattr(recipe, name) for name in names.split()) == expected
        assert bool(recipe.patience) == (key[0] == "fsd50k")
    mixing = {name: (r.video.mixup, r.video.cutmix) for (name, m), r in FINETUNING.items() if m == "video"}
    assert mixing["ucf101"] == mixing["kinetics400"] == (0.6, 0.5)
    assert mixing["hmdb51"] == (1.0, 1.0)
    audio = FINETUNING["esc50", "audio"].audio
    assert (audio.volume, audio.time_mask, audio.frequency_mask, audio.masks, audio.warp) == (
        0.2,
        20,
        10,
        2,
        20,
    )
    # Every fine-tuning has settings, and the reverse.
    setups = {name: [s for s in all_ if s.protocol == "finetune"] for name, all_ in EVAL_SPECS.items()}
    of_own = {("own", "video"), ("own", "audio")}
    assert {(name, str(s.modality)) for name, tuned in setups.items() for s in tuned} | of_own == set(recipes)
    windows = {name: {s.test_windows for s in tuned} for name, tuned in setups.items()}
    assert [windows[name] for name in ("ucf101", "hmdb51", "kinetics400", "esc50")] == [{3}] * 4
    assert windows["fsd50k"] == {8}
