"""Verdicts on the median: beside those on the mean, in words, with failures, and over several
analyses.
"""

import math

import numpy as np
import pytest

from xceptlab.study.claims import Claim
from xceptlab.study.definition import Seeds, Study
from xceptlab.study.judging import judge
from xceptlab.study.wording import forecast, sign_count

NAMED = {"a": [97.4, 97.6, 97.2, 97.5, 97.3], "b": [96.0, 96.2, 96.1, 96.0, 96.2]}


def claim(
    name: str = "c", statistic: str = "median", kind: str = "superior", margin: float = 0.5
) -> Claim:
    return Claim(
        id=name,
        contrast=("a", "b"),
        metric="test/top1",
        kind=kind,
        margin=margin,
        statistic=statistic,
    )


def scores(a, b) -> dict[str, dict[int, float]]:
    return {"a": dict(enumerate(a)), "b": dict(enumerate(b))}


def study(seeds, *claims: Claim) -> Study:
    arms = {"a": {"model.residual": "all"}, "b": {"model.residual": "none"}}
    return Study(question="?", base=[], seeds=seeds, arms=arms, claims=list(claims))


def test_one_diverged_run_of_the_baseline_takes_the_mean_but_not_the_median_away():
    table = scores(NAMED["a"], [*NAMED["b"][:4], 10.0])
    mean, median = (judge([claim(statistic=s)], [table], range(5))[0] for s in ("mean", "median"))
    assert (mean.outcome, median.outcome) == ("inconclusive", "supported")
    assert median.p_adjusted == 1 / 32
    assert median.estimate == pytest.approx(1.4)
    assert (median.low, median.high) == (pytest.approx(1.1), pytest.approx(87.3))


def test_the_sentence_says_that_it_is_of_the_median():
    (v,) = judge([claim()], [scores(NAMED["a"], NAMED["b"])], range(5))
    assert v.summary.startswith(
        "Supported: a is 1.40 points better than b in test/top1 in the median on this test set (90% interval +1.10 to +1.50"
    )
    assert v.pairing_and_power.endswith(
        "5 pairs would have found a difference beyond the margin in 96% of all seeds with 80% power."
    )
    assert sign_count(v) == ""


def test_differences_without_spread_are_counted_where_a_t_test_has_nothing_to_go_by():
    table = scores([80.0] * 5, [43.0] * 5)
    mean, median = (judge([claim(statistic=s)], [table], range(5))[0] for s in ("mean", "median"))
    assert mean.outcome == "inconclusive"
    assert "+37.00 points for every seed" in mean.summary
    assert "`statistic: median` counts seeds" in mean.summary
    assert median.outcome == "supported"


@pytest.mark.parametrize(
    ("shift", "outcome"),
    [(0.0, "supported"), (3.0, "contradicted"), (-3.0, "contradicted"), (1.0, "inconclusive")],
)
def test_equivalent_is_judged_on_both_sides(shift, outcome):
    d = np.random.default_rng(0).normal(shift, 0.1, 8)
    (v,) = judge([claim(kind="equivalent", margin=1.0)], [scores(90 + d, [90.0] * 8)], range(8))
    assert v.outcome == outcome


def test_means_and_medians_stand_in_one_family():
    table = scores(NAMED["a"], NAMED["b"])
    both = judge([claim("mean", "mean"), claim("median")], [table, table], range(5))
    # the mean's p is tiny, and leaves the median its whole level
    assert [v.outcome for v in both] == ["supported", "supported"]
    medians = judge([claim("one"), claim("two")], [table, table], range(5))
    assert [v.outcome for v in medians] == ["inconclusive", "inconclusive"]
    assert all("by itself it would be supported (p = 0.031)" in v.summary for v in medians)


def test_a_claim_on_the_mean_says_in_how_many_seeds_it_holds():
    (v,) = judge([claim(statistic="mean")], [scores(NAMED["a"], NAMED["b"])], range(5))
    assert (
        sign_count(v)
        == "The difference is beyond the margin in 5 of 5 seeds (sign test p = 0.031, by itself)."
    )
    (v,) = judge([claim(statistic="mean")], [scores([*NAMED["a"][:4], 96.0], NAMED["b"])], range(5))
    assert (
        sign_count(v)
        == "The difference is beyond the margin in 4 of 5 seeds (sign test p = 0.19, by itself)."
    )
    (v,) = judge(
        [claim(statistic="mean", kind="equivalent", margin=2.0)],
        [scores(NAMED["a"], NAMED["b"])],
        range(5),
    )
    assert (
        sign_count(v)
        == "The difference is within the margin in 5 of 5 seeds (sign test p = 0.031, by itself)."
    )


@pytest.mark.parametrize(("alpha", "fewest"), [(0.05, 5), (0.1, 4), (0.01, 7)])
def test_too_few_seeds_for_a_small_p_value_are_counted_only(alpha, fewest):
    rng = np.random.default_rng(0)
    for n in (3, fewest - 1, fewest):
        table = scores(90 + rng.normal(0, 0.1, n), [80.0] * n)
        (v,) = judge([claim(statistic="mean")], [table], range(n), alpha)
        p = f" (sign test p = {0.5**n:.2g}, by itself)" if n >= fewest else ""
        assert sign_count(v) == f"The difference is beyond the margin in {n} of {n} seeds{p}."


def test_few_pairs_have_no_finite_interval_and_say_how_many_would_do():
    (v,) = judge([claim()], [scores(NAMED["a"][:4], NAMED["b"][:4])], range(4))
    assert v.outcome == "inconclusive"
    assert math.isinf(v.low)
    assert "(no finite 90% interval, 4 seeds" in v.summary
    assert (
        "if it speaks for the claim in 90% of all seeds, about 8 would decide it, 4 more (80% power)"
        in v.summary
    )
    assert "pairs can find nothing at this level" in v.pairing_and_power


# ---- seeds ---------------------------------------------------------------------------------------


def test_seeds_until_decided_account_for_all_analyses():
    plan = Seeds(start=6, step=2, max=20, stop="decided")
    table = scores(np.full(20, 91.0), np.full(20, 90.0))
    (v,) = judge([claim()], [table], plan)
    assert (v.outcome, v.n) == ("supported", 6)
    assert 1 / 64 < v.p_adjusted <= 0.05  # more than a single analysis's
    mixed = scores([89.0, 91, 91, 91, 91, 91, 91, 91, 91, 91, *[91] * 10], np.full(20, 90.0))
    (v,) = judge([claim()], [mixed], plan)
    assert (v.outcome, v.n) == ("supported", 10)  # 9 of 10


def test_the_forecast_draws_further_seeds_from_those_that_are_there():
    plan = Seeds(start=6, step=2, max=20, stop="decided")
    (v,) = judge([claim()], [scores([91.0, 91, 91, 91], [90.0] * 4)], plan)
    assert v.outcome == "incomplete"
    assert (
        "4 pairs have median +1.00 (+1.00 to +1.00); 100% chance to be decided by 20 seeds, 6.0 seeds on average"
        in forecast(v, study(plan, claim()))
    )
