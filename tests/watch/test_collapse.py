"""The verdict on histories of every kind."""

from __future__ import annotations

import math

import pytest

from xkd.watch.collapse import judge

K = 1024


def history(kd: float, kld: float, rows: int = 30) -> list[dict[str, float]]:
    row = {"loss": 1.0, "kd_video_to_audio": kd, "kd_audio_to_video": kd}
    return [row | {"kld_video_to_audio": kld, "kld_audio_to_video": kld, "step": 10 * i} for i in range(rows)]


@pytest.mark.parametrize(
    ("kd", "kld", "verdict"),
    [
        (5.0, 2.0, "healthy"),
        (0.01, 0.005, "one_hot"),
        (0.09, 0.06, "one_hot"),
        (math.log(K), 0.01, "constant"),
    ],
)
def test_verdicts(kd: float, kld: float, verdict: str) -> None:
    assert judge(history(kd, kld), K).verdict == verdict


def test_one_direction_is_enough() -> None:
    rows = [row | {"kd_audio_to_video": 0.01} for row in history(5.0, 2.0)]
    judged = judge(rows, K)
    assert judged.verdict == "one_hot"
    assert "audio_to_video" in judged.reason


def test_a_spike_changes_nothing() -> None:
    rows = history(5.0, 2.0)
    rows[-1] |= {"kd_video_to_audio": 0.0, "kld_video_to_audio": 0.0}
    assert judge(rows, K).healthy
    rows = history(0.01, 0.005)
    rows[-1] |= {"kd_video_to_audio": 5.0, "kld_video_to_audio": 3.0}
    assert judge(rows, K).verdict == "one_hot"


def test_not_finite_names_the_term_and_the_step() -> None:
    rows = history(5.0, 2.0)
    rows[12]["loss"] = math.nan
    judged = judge(rows, K)
    assert judged.verdict == "non_finite"
    assert "loss not finite at step 120" in judged.reason


def test_an_empty_history_is_not_healthy() -> None:
    assert not judge([], K).healthy


def test_without_distillation_nothing_can_collapse() -> None:
    assert judge([{"step": 1, "loss": 1.0, "reconstruct": 0.2}], None).healthy
    assert not judge([{"step": 1, "loss": math.nan}], None).healthy


def test_an_overflown_gradient_that_was_skipped_is_no_trouble() -> None:
    rows = history(5.0, 2.0)
    rows[3]["grad_norm"] = math.inf
    assert judge(rows, K).healthy
