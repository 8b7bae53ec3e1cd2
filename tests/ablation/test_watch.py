"""What the watch's early signals predict, and how its verdicts are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from xkd.ablation.page import correlations
from xkd.ablation.plot import early_signals
from xkd.ablation.result import Measurement
from xkd.ablation.tables import Column
from xkd.ablation.watch import Observed, comparable, judge_verdicts, predictions
from xkd.rundir import Verdict

STEPS = 400
VIDEO, AUDIO = (
    Column(dataset="embedded", modality=modality, protocol="svm") for modality in ("video", "audio")
)


def observed(
    percent: float, information: float = 0.0, verdict: str = "healthy", untrained: float = 40.0
) -> Observed:
    """Return a run whose video teacher's information is `information` until 60 % of the steps, then 9."""
    rows = [
        {
            "step": step,
            "information_video_to_audio": information if step <= 0.6 * STEPS else 9.0,
            "kld_video_to_audio": 1.0,
        }
        for step in (1, *range(10, STEPS + 1, 10))
    ]
    return Observed(
        preset="ablation",
        seed=0,
        verdict=Verdict(verdict, "", STEPS),  # type: ignore[arg-type]
        metrics=rows,
        scores={VIDEO: recognized(percent)},
        untrained={VIDEO: recognized(untrained)},
    )


def recognized(percent: float) -> Measurement:
    return Measurement([(np.arange(200) < 2 * percent).astype(np.int8)])


@pytest.fixture
def runs() -> Sequence[Observed]:
    random = np.random.default_rng(0)
    signals = random.normal(size=30).round(1)  # with ties
    scores = (50 + 3 * signals + random.normal(scale=3, size=30)).round()
    return [observed(*pair) for pair in zip(scores, signals, strict=True)]


def test_early_information_correlates_with_the_score(runs: Sequence[Observed]) -> None:
    early, half = predictions(runs)  # a constant signal predicts nothing, and audio has none
    assert (early.signal, early.column, early.fraction, early.runs) == ("information", VIDEO, 0.1, 30)
    values = [run.metrics[3]["information_video_to_audio"] for run in runs]
    expected = spearmanr(values, [run.scores[VIDEO].percent for run in runs]).statistic
    assert early.correlation == pytest.approx(expected)
    drawn = np.random.default_rng(1).integers(30, size=(2000, 30))
    samples = [
        spearmanr(
            np.array(values)[each], np.array([run.scores[VIDEO].percent for run in runs])[each]
        ).statistic
        for each in drawn
    ]
    assert (early.low, early.high) == pytest.approx(np.percentile(samples, [2.5, 97.5]), abs=0.04)
    assert half[3:] == early[3:]  # its rows end before 60 %
    ((name, texts), *others) = [row for row in correlations([early, half], [(VIDEO, 0.1)]) if any(row[1])]
    assert (name, others) == ("information", [])
    assert texts[0] == f"{expected:+.2f} [{early.low:+.2f}, {early.high:+.2f}]"


def test_few_runs_have_no_correlation(runs: Sequence[Observed]) -> None:
    assert predictions(runs[:4]) == []


def test_runs_of_one_length_are_compared(runs: Sequence[Observed]) -> None:
    longer = replace(runs[0], metrics=[*runs[0].metrics, {"step": 2 * STEPS}])
    assert comparable([longer, *runs]) == list(runs)
    assert comparable([]) == []


def test_early_signals_are_drawn(runs: Sequence[Observed], tmp_path: Path) -> None:
    early_signals(runs).savefig(tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text().count("after 10% of the schedule") == 4


@pytest.mark.parametrize(
    ("percent", "verdict", "called", "wrong"),
    [
        (41.0, "constant", True, False),
        (60.0, "constant", True, True),
        (41.0, "healthy", False, True),
        (41.0, "undecided", False, True),
        (60.0, "healthy", False, False),
    ],
)
def test_verdicts_are_judged_by_what_runs_learned(
    percent: float, verdict: str, called: bool, wrong: bool
) -> None:
    run = observed(percent, verdict=verdict)
    judged = {each.called: each for each in judge_verdicts([run])}
    assert (judged[called].runs, judged[not called].runs) == ([run], [])
    assert judged[called].wrong == ([run] if wrong else [])


def test_gains_are_over_the_encoder_before_pretraining() -> None:
    _, others = judge_verdicts([observed(41.0), observed(55.0)])
    assert others.gain(VIDEO) == pytest.approx((8, 98**0.5))
    assert others.gain(AUDIO) is None
    assert others.learned == 1
