"""The verdict on histories of every kind."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.tiny import tiny_config
from xkd.config.pretrain import WINDOW
from xkd.model.terms import DIRECTIONS
from xkd.monitor.collapse import (
    MAX_GRACE_STEPS,
    CollapseThresholds,
    detect_stall,
    find_onset,
    judge,
)

K = 1024
THRESHOLDS = CollapseThresholds(K, batch_size=32)
LAST = "in the last 10 logged rows (steps 210 to 300)"


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
def test_each_kind_of_collapse_has_its_verdict(kd: float, kld: float, verdict: str) -> None:
    assert judge(history(kd, kld), THRESHOLDS).verdict == verdict


def test_a_teacher_without_information_is_constant_even_if_kld_stays_positive() -> None:
    """Norms prevent a student from matching a uniform teacher (docs/collapse.md, no alignment)."""
    judged = judge(history(7.4, 1.4, information=0.006), THRESHOLDS)
    assert judged.verdict == "constant"
    assert "information 0.006 nats" in judged.reason
    assert judge(history(7.4, 1.4, information=0.1), THRESHOLDS).verdict == "healthy"
    assert judge(history(0.4, 0.2, information=0.006), THRESHOLDS).verdict == "one_hot"


def test_a_teacher_without_information_that_may_be_untrained_is_undecided() -> None:
    assert judge(history(18.0, 17.0, information=0.006), THRESHOLDS).verdict == "undecided"
    assert judge(history(6.0, 3.0, information=0.006), THRESHOLDS).verdict == "constant"


def test_a_reason_says_what_was_compared_over_which_steps_with_which_limit() -> None:
    rows = history(5.0, 2.0)
    rows[-1] |= {"kld_audio_to_video": 1.0, "information_video_to_audio": 0.1}  # no median
    for row in rows[-10:]:
        row["kld_video_to_audio"] = 1.8
    healthy = judge(rows, THRESHOLDS)
    assert healthy.reason == (
        f"{LAST}, median KLD is at least 1.8 nats (26 %) and information "
        "at least 1.5 nats (43 %) in both directions; below 2 % would be a collapse"
    )
    untrained = judge(history(18.0, 17.0, information=0.0017), THRESHOLDS)
    assert untrained.reason == (
        f"{LAST}, median KLD is at least 17 nats (245 %) and information "
        "at least 0.0017 nats (0.049 %) in both directions: untrained teachers have as little information; "
        "it is judged once KLD is below 50 %"
    )
    collapsed = judge(history(7.4, 1.4, information=0.006), THRESHOLDS)
    assert collapsed.reason == (
        f"{LAST}, median KD video_to_audio is 7.4 nats (107 %), KLD 1.4 nats (20 %), "
        "information 0.006 nats (0.17 %): the teacher's output is the same for every clip"
    )


def test_one_collapsed_direction_is_a_collapse() -> None:
    rows = [row | {"kd_audio_to_video": 0.01} for row in history(5.0, 2.0)]
    judged = judge(rows, THRESHOLDS)
    assert judged.verdict == "one_hot"
    assert "audio_to_video" in judged.reason


def test_fewer_than_half_a_window_of_spikes_do_not_change_the_verdict() -> None:
    """Section B.5 reports minor spikes on the way to zero."""
    rows = history(5.0, 2.0)
    for spike in (-1, -4, -5, -9):
        rows[spike] |= {"kd_video_to_audio": 0.0, "kld_video_to_audio": 0.0}
    assert judge(rows, THRESHOLDS).verdict == "healthy"
    rows = history(0.01, 0.005)
    for spike in (-1, -4, -5, -9):
        rows[spike] |= {"kd_video_to_audio": 5.0, "kld_video_to_audio": 3.0}
    assert judge(rows, THRESHOLDS).verdict == "one_hot"


@pytest.mark.parametrize(("kd", "kld", "verdict"), [(0.01, 0.005, "one_hot"), (5.0, 2.0, "healthy")])
def test_a_run_is_undecided_before_a_full_window_and_during_warmup(
    kd: float, kld: float, verdict: str
) -> None:
    assert judge([], THRESHOLDS).verdict == "undecided"
    short = judge(history(kd, kld, WINDOW - 1), THRESHOLDS)
    assert short.verdict == "undecided"
    assert not short.failed
    assert "takes 10 logged rows, so far 9" in short.reason
    assert judge(history(kd, kld, WINDOW), THRESHOLDS).verdict == verdict
    rows = history(kd, kld)
    first = int(rows[-WINDOW]["step"])
    judged = judge(rows, CollapseThresholds(K, 32, grace_steps=first))
    assert judged.verdict == "undecided"
    assert "too early" in judged.reason
    assert f"rows after the warm-up of {first} steps, so far 9" in judged.reason
    assert judge(rows, CollapseThresholds(K, 32, grace_steps=first - 1)).verdict == verdict


def test_the_onset_is_the_first_step_of_the_first_collapsed_window() -> None:
    rows = history(5.0, 2.0)
    for row in rows[-15:]:
        row |= {"kd_video_to_audio": 0.0, "kld_video_to_audio": 0.0}
    detected = next(end for end in range(1, len(rows) + 1) if judge(rows[:end], THRESHOLDS).failed)
    assert detected < len(rows)
    assert (
        find_onset(rows, THRESHOLDS)
        == find_onset(rows[:detected], THRESHOLDS)
        == rows[detected - WINDOW]["step"]
    )
    assert find_onset(history(0.01, 0.005), THRESHOLDS) == history(0.01, 0.005)[0]["step"]


def test_thresholds_follow_from_the_configuration() -> None:
    config = tiny_config()
    assert CollapseThresholds.from_config(config, 7) == CollapseThresholds(64, 4, grace_steps=7)
    long = replace(config, optim=replace(config.optim, epochs=800, warmup_epochs=30))
    assert CollapseThresholds.from_config(long, 940).grace_steps == MAX_GRACE_STEPS
    assert (
        CollapseThresholds.from_config(replace(config, loss=replace(config.loss, distill=0.0)), 7).out_dim
        is None
    )
    assert CollapseThresholds(K, 32).collapse_threshold == pytest.approx(0.02 * math.log(K))


def test_the_non_finite_verdict_names_the_field_and_the_step() -> None:
    rows = history(5.0, 2.0)
    rows[-3]["loss"] = math.nan
    judged = judge(rows, THRESHOLDS)
    assert judged.verdict == "non_finite"
    assert "loss not finite at step 280" in judged.reason


def test_a_run_stalls_after_ten_minutes_and_twenty_usual_intervals_without_a_row() -> None:
    rows = history(5.0, 2.0)
    last = rows[-1]["time"]
    assert detect_stall(rows, last + 590) is None
    stalled = detect_stall(rows, last + 610)
    assert stalled
    assert stalled.verdict == "stalled"
    assert "10 minutes, since step 300" in stalled.reason
    slow = [row | {"time": 100 * row["time"]} for row in rows]
    assert detect_stall(slow, 100 * last + 1900) is None
    assert detect_stall(slow, 100 * last + 2100)
    assert detect_stall(rows[:1], rows[0]["time"] + 610)


def test_a_run_without_distillation_cannot_collapse() -> None:
    assert (
        judge([{"step": 1, "loss": 1.0, "reconstruct": 0.2}], CollapseThresholds(None, 32)).verdict
        == "healthy"
    )
    assert judge([{"step": 1, "loss": math.nan}], CollapseThresholds(None, 32)).failed


def test_an_overflowed_gradient_norm_is_healthy() -> None:
    rows = history(5.0, 2.0)
    rows[-3]["grad_norm"] = math.inf
    assert judge(rows, THRESHOLDS).verdict == "healthy"
