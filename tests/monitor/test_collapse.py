"""The verdict on histories of every kind."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.tiny import tiny_config
from xkd.model.terms import DIRECTIONS
from xkd.monitor.collapse import LONGEST_GRACE, WINDOW, CollapseThresholds, judge, onset

K = 1024
LIMITS = CollapseThresholds(K, clips=32)


def history(kd: float, kld: float, rows: int = 30, information: float = 1.5) -> list[dict[str, float]]:
    row = {"loss": 1.0}
    for d in DIRECTIONS:
        row |= {f"kd_{d}": kd, f"kld_{d}": kld, f"information_{d}": information}
    return [row | {"step": 10 + 10 * i, "time": 1000.0 + i} for i in range(rows)]


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
    assert judge(history(kd, kld), LIMITS).verdict == verdict


def test_a_teacher_that_tells_nothing_is_constant_though_kld_stays() -> None:
    """Norms keep a student from following a teacher to uniform outputs (docs/collapse.md, no alignment)."""
    judged = judge(history(7.4, 1.4, information=0.006), LIMITS)
    assert judged.verdict == "constant"
    assert "tells 0.006 nats" in judged.reason
    assert judge(history(7.4, 1.4, information=0.1), LIMITS).healthy
    assert judge(history(0.4, 0.2, information=0.006), LIMITS).verdict == "one_hot"


def test_an_untrained_teacher_tells_nothing_and_is_no_collapse() -> None:
    assert judge(history(18.0, 17.0, information=0.006), LIMITS).healthy
    assert not judge(history(6.0, 3.0, information=0.006), LIMITS).healthy


def test_one_direction_is_enough() -> None:
    rows = [row | {"kd_audio_to_video": 0.01} for row in history(5.0, 2.0)]
    judged = judge(rows, LIMITS)
    assert judged.verdict == "one_hot"
    assert "audio_to_video" in judged.reason


def test_spikes_change_nothing() -> None:
    """Section B.5 speaks of minor spikes on the way to zero; fewer than half of a window are overruled."""
    rows = history(5.0, 2.0)
    for spike in (-1, -4, -5, -9):
        rows[spike] |= {"kd_video_to_audio": 0.0, "kld_video_to_audio": 0.0}
    assert judge(rows, LIMITS).healthy
    rows = history(0.01, 0.005)
    for spike in (-1, -4, -5, -9):
        rows[spike] |= {"kd_video_to_audio": 5.0, "kld_video_to_audio": 3.0}
    assert judge(rows, LIMITS).verdict == "one_hot"


def test_nothing_collapses_before_a_window_and_in_the_warmup() -> None:
    assert judge(history(0.01, 0.005, WINDOW - 1), LIMITS).healthy
    assert not judge(history(0.01, 0.005, WINDOW), LIMITS).healthy
    rows = history(0.01, 0.005)
    began = int(rows[-WINDOW]["step"])
    judged = judge(rows, CollapseThresholds(K, 32, grace=began))
    assert judged.healthy
    assert "too early" in judged.reason
    assert not judge(rows, CollapseThresholds(K, 32, grace=began - 1)).healthy


def test_the_onset_is_where_the_first_window_that_showed_it_begins() -> None:
    rows = history(5.0, 2.0)
    for row in rows[-15:]:
        row |= {"kd_video_to_audio": 0.0, "kld_video_to_audio": 0.0}
    called = next(end for end in range(1, len(rows) + 1) if not judge(rows[:end], LIMITS).healthy)
    assert called < len(rows)
    assert onset(rows, LIMITS) == onset(rows[:called], LIMITS) == rows[called - WINDOW]["step"]
    assert onset(history(0.01, 0.005), LIMITS) == history(0.01, 0.005)[0]["step"]


def test_limits_of_a_run() -> None:
    config = tiny_config()
    assert CollapseThresholds.of(config, 7) == CollapseThresholds(64, 4, grace=7)
    long = replace(config, optim=replace(config.optim, epochs=800, warmup_epochs=30))
    assert CollapseThresholds.of(long, 940).grace == LONGEST_GRACE
    assert CollapseThresholds.of(replace(config, loss=replace(config.loss, distill=0.0)), 7).outputs is None
    assert CollapseThresholds(K, 32).zero == pytest.approx(0.02 * math.log(K))


def test_not_finite_names_the_term_and_the_step() -> None:
    rows = history(5.0, 2.0)
    rows[-3]["loss"] = math.nan
    judged = judge(rows, LIMITS)
    assert judged.verdict == "non_finite"
    assert "loss not finite at step 280" in judged.reason


def test_long_silence_is_a_stall_short_and_usual_silence_is_none() -> None:
    rows = history(5.0, 2.0)
    ended = rows[-1]["time"]
    assert judge(rows, LIMITS).healthy
    assert judge(rows, LIMITS, ended + 590).healthy
    judged = judge(rows, LIMITS, ended + 610)
    assert judged.verdict == "stalled"
    assert "10 minutes, since step 300" in judged.reason
    slow = [row | {"time": 100 * row["time"]} for row in rows]
    assert judge(slow, LIMITS, 100 * ended + 1900).healthy
    assert judge(slow, LIMITS, 100 * ended + 2100).verdict == "stalled"


def test_a_collapse_goes_before_a_stall() -> None:
    assert judge(history(0.01, 0.005), LIMITS, 1e6).verdict == "one_hot"


def test_an_empty_history_is_not_healthy() -> None:
    assert not judge([], LIMITS).healthy


def test_without_distillation_nothing_can_collapse() -> None:
    assert judge([{"step": 1, "loss": 1.0, "reconstruct": 0.2}], CollapseThresholds(None, 32)).healthy
    assert not judge([{"step": 1, "loss": math.nan}], CollapseThresholds(None, 32)).healthy


def test_an_overflown_gradient_that_was_skipped_is_no_trouble() -> None:
    rows = history(5.0, 2.0)
    rows[-3]["grad_norm"] = math.inf
    assert judge(rows, LIMITS).healthy
