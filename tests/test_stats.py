"""The numbers, against scipy and statsmodels used in another way, and against simulation."""

import numpy as np
import pytest
from scipy import stats as sp
from statsmodels.stats.weightstats import ttost_paired

from xceptlab import stats

A = np.array([97.2, 96.8, 98.4, 97.0, 97.6])
B = np.array([96.0, 96.4, 96.6, 96.2, 95.8])
MARGINS = [0.0, 0.5, 1.0, 1.4, 3.0]


@pytest.mark.parametrize("margin", MARGINS)
def test_superior_is_the_one_sided_paired_t_test_and_its_opposite(margin):
    holds, opposite = stats.p_values(A - B, "superior", margin)
    assert holds == pytest.approx(sp.ttest_rel(A - margin, B, alternative="greater").pvalue)
    assert opposite == pytest.approx(sp.ttest_rel(A - margin, B, alternative="less").pvalue)
    assert holds + opposite == pytest.approx(1)


@pytest.mark.parametrize("margin", MARGINS[1:])
def test_equivalent_is_tost(margin):
    holds, _ = stats.p_values(A - B, "equivalent", margin)
    assert holds == pytest.approx(ttost_paired(A, B, -margin, margin)[0])


@pytest.mark.parametrize("margin", MARGINS[1:])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_opposite_of_equivalent_is_either_outer_test_with_bonferronis_factor(margin, sign):
    d = sign * (A - B)
    _, opposite = stats.p_values(d, "equivalent", margin)
    above = sp.ttest_1samp(d, margin, alternative="greater").pvalue
    below = sp.ttest_1samp(d, -margin, alternative="less").pvalue
    assert opposite == pytest.approx(min(1, 2 * min(above, below)))


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.04, 0.01], [0.04, 0.02]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holms_adjustment_as_computed_by_hand(raw, adjusted):
    assert stats.holm(np.array(raw)) == pytest.approx(np.array(adjusted))


@pytest.mark.parametrize("level", [0.8, 0.9, 0.98])
def test_the_interval_is_students(level):
    d = A - B
    expected = sp.ttest_1samp(d, 0).confidence_interval(level)
    assert stats.interval(d, level) == pytest.approx((expected.low, expected.high))


def test_the_90_percent_interval_and_the_5_percent_test_agree():
    d = A - B
    low, high = stats.interval(d, 0.9)
    assert stats.p_values(d, "superior", low)[0] == pytest.approx(0.05)
    assert stats.p_values(d, "superior", high)[1] == pytest.approx(0.05)
    assert stats.p_values(d, "equivalent", high)[0] == pytest.approx(0.05)


def power(distance: float, spread: float, n: int, alpha: float) -> float:
    """Of a one-sided t-test, from the noncentral t distribution."""
    return float(sp.nct.sf(sp.t.ppf(1 - alpha, n - 1), n - 1, distance / spread * np.sqrt(n)))


@pytest.mark.parametrize(("kind", "each"), [("superior", 0.8), ("equivalent", 0.9)])
@pytest.mark.parametrize("n", [3, 5, 30])
def test_the_detectable_effect_is_found_with_the_stated_power(kind, each, n):
    effect = stats.detectable(2.0, n, kind, 0.05)
    assert power(effect, 2.0, n, 0.05) == pytest.approx(each, abs=1e-4)


@pytest.mark.parametrize(("kind", "each"), [("superior", 0.8), ("equivalent", 0.9)])
@pytest.mark.parametrize("distance", [0.5, 1.0, 5.0])
def test_the_pairs_needed_are_the_fewest_that_reach_the_power(kind, each, distance):
    n = stats.pairs_needed(distance, 1.0, kind, 0.05)
    assert power(distance, 1.0, n, 0.05) >= each
    assert n == 2 or power(distance, 1.0, n - 1, 0.05) < each


def test_a_hopeless_distance_asks_for_a_bounded_number_of_pairs():
    assert stats.pairs_needed(1e-6, 1.0, "superior", 0.05) == 1000


def test_correlation_is_pearsons_and_nan_where_an_arm_does_not_vary():
    assert stats.correlation(A, B) == pytest.approx(sp.pearsonr(A, B).statistic)
    assert stats.correlation(A, 2 * A - 1) == pytest.approx(1)
    assert np.isnan(stats.correlation(A, np.full(5, 90.0)))
    assert np.isnan(stats.correlation(A[:1], B[:1]))
    assert np.isnan(stats.correlation(A[:0], B[:0]))
