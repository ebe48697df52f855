"""The sign test: against scipy's binomial test, by its published table, and by how often it is
wrong where a t-test fails.
"""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from xceptlab.study import signs, statistics

TRIALS = 20_000
MOST = 0.05 + 3 * math.sqrt(0.05 * 0.95 / TRIALS)
"""Alpha and three standard errors of the simulation."""


def collapsing(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    """Differences (TRIALS, n) whose median is 0, of an arm that collapses by 78 points in a share
    of its seeds.
    """
    above = rng.random((TRIALS, n)) < 0.5
    size = np.abs(rng.normal(0, 0.3, (TRIALS, n)))
    fallen = ~above & (rng.random((TRIALS, n)) < 2 * share)
    return np.where(above, size, np.where(fallen, -78.0, -size))


DRAWS = {
    "normal": lambda rng, n: rng.standard_normal((TRIALS, n)),
    "heavy tails": lambda rng, n: rng.standard_t(2, (TRIALS, n)),
    "skewed up": lambda rng, n: rng.exponential(1.0, (TRIALS, n)) - math.log(2),
    "skewed down": lambda rng, n: math.log(2) - rng.exponential(1.0, (TRIALS, n)),
    "discrete": lambda rng, n: rng.integers(-2, 3, (TRIALS, n)) * 0.2,
    **{
        f"collapse in {share:.0%}": lambda rng, n, s=share: collapsing(rng, n, s)
        for share in (0.02, 0.05, 0.1, 0.2, 0.3)
    },
}
"""Differences with a median of 0."""


# ---- exact ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 8, 13])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_superior_is_the_binomial_test_on_both_sides(n, margin):
    d = np.random.default_rng(n).normal(0.5, 1.0, n)
    supported, contradicted = signs.p_values(d, "superior", margin)
    assert supported == pytest.approx(
        binomtest(int((d > margin).sum()), n, alternative="greater").pvalue
    )
    assert contradicted == pytest.approx(
        binomtest(int((d < margin).sum()), n, alternative="greater").pvalue
    )


@pytest.mark.parametrize("n", [5, 8, 13])
def test_equivalent_is_the_larger_of_two_and_its_opposite_twice_the_smaller_of_two(n):
    d = np.random.default_rng(n).normal(0.2, 1.0, n)
    p = {
        name: binomtest(int(wins.sum()), n, alternative="greater").pvalue
        for name, wins in {"> -m": d > -1, "< m": d < 1, "> m": d > 1, "< -m": d < -1}.items()
    }
    inside, outside = signs.p_values(d, "equivalent", 1.0)
    assert inside == pytest.approx(max(p["> -m"], p["< m"]))
    assert outside == pytest.approx(min(1.0, 2 * min(p["> m"], p["< -m"])))


def test_a_difference_on_the_margin_counts_for_neither_side():
    d = np.array([0.5, 0.5, 1.0, 1.0, 1.0])
    assert signs.p_values(d, "superior", 0.5).tolist() == [0.5, 1.0]
    assert signs.p_values(np.full(8, 0.5), "superior", 0.5).tolist() == [1.0, 1.0]


def test_leading_axes_are_studies_of_their_own():
    d = np.random.default_rng(0).normal(0, 1, (3, 4, 7))
    whole = signs.p_values(d, "equivalent", 0.3)
    assert whole.shape == (3, 4, 2)
    assert np.array_equal(whole[2, 1], signs.p_values(d[2, 1], "equivalent", 0.3))


@pytest.mark.parametrize(
    ("claims", "pairs"), [(1, 5), (2, 6), (3, 6), (4, 7), (6, 7), (7, 8), (12, 8)]
)
def test_the_fewest_pairs_by_the_number_of_claims(claims, pairs):
    assert signs.fewest(0.05 / claims) == pairs
    assert signs.upper_tail(pairs, pairs) <= 0.05 / claims < signs.upper_tail(pairs - 1, pairs - 1)


def test_the_sizes_that_waste_nothing():
    assert signs.good_sizes(0.05, 20) == [5, 8, 11, 13, 16, 18]


@pytest.mark.parametrize(("n", "low", "high"), [(5, 0, 4), (8, 1, 6), (11, 2, 8), (20, 5, 14)])
def test_the_interval_is_of_order_statistics(n, low, high):
    shuffled = np.random.default_rng(0).permutation(np.arange(float(n)))
    assert signs.interval(shuffled, 0.05).tolist() == [low, high]


def test_fewer_than_five_pairs_have_no_finite_interval():
    assert signs.interval(np.arange(4.0), 0.05).tolist() == [-math.inf, math.inf]
    assert signs.interval(np.zeros((2, 3)), 0.05).tolist() == [[-math.inf, math.inf]] * 2


def test_the_interval_excludes_the_margin_where_the_test_decides():
    d = np.random.default_rng(1).standard_t(2, (500, 11))
    low, high = np.moveaxis(signs.interval(d, 0.05), -1, 0)
    p = signs.p_values(d, "superior", 0.0)
    assert np.array_equal(p[:, 0] <= 0.05, low > 0)
    assert np.array_equal(p[:, 1] <= 0.05, high < 0)


# ---- how often it is wrong -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 8, 11, 13])
@pytest.mark.parametrize("name", DRAWS)
def test_false_verdicts_are_as_rare_as_alpha_whatever_the_distribution(name, n):
    d = DRAWS[name](np.random.default_rng(n), n)
    supported, contradicted = np.moveaxis(signs.p_values(1.0 + d, "superior", 1.0) <= 0.05, -1, 0)
    assert supported.mean() <= MOST
    assert contradicted.mean() <= MOST
    for edge in (-1.0, 1.0):
        assert (signs.p_values(edge + d, "equivalent", 1.0)[:, 0] <= 0.05).mean() <= MOST


def test_where_an_arm_collapses_the_t_test_errs_and_the_sign_test_does_not():
    """The second arm loses 78 points in one seed of twenty; otherwise the difference is exactly the
    margin, give or take.
    """
    rng = np.random.default_rng(0)
    d = rng.normal(0.0, 0.3, (TRIALS, 5)) + 78.0 * (rng.random((TRIALS, 5)) < 0.05)
    mean = 78.0 * 0.05
    # contradicted, though the mean is the margin
    assert (statistics.p_values(d, "superior", mean)[:, 1] <= 0.05).mean() > 0.5
    assert (signs.p_values(d, "superior", np.median(d))[:, 1] <= 0.05).mean() <= MOST


# ---- several analyses ----------------------------------------------------------------------------


def test_the_thresholds_of_a_schedule_and_their_chance():
    boundary = signs.SignBoundary(range(6, 21, 2))
    level = boundary.nominal(0.05)
    needed = [f"{signs.threshold(n, level)}/{n}" for n in boundary.analyses]
    assert needed == ["6/6", "8/8", "9/10", "10/12", "12/14", "13/16", "14/18", "15/20"]
    assert float(boundary.chance(level)) == pytest.approx(0.0448, abs=0.0001)


@pytest.mark.parametrize("analyses", [range(6, 21, 2), range(5, 14, 4), range(8, 41, 5)])
def test_the_chance_of_any_analysis_is_what_is_simulated(analyses):
    boundary = signs.SignBoundary(analyses)
    d = np.random.default_rng(3).standard_normal((TRIALS, analyses[-1]))
    smallest = np.min([signs.p_values(d[:, :n], "superior", 0.0)[:, 0] for n in analyses], axis=0)
    for level in (0.3, 0.1, 0.05, 0.01):
        expected = float(boundary.chance(level))
        assert (smallest <= level).mean() == pytest.approx(
            expected, abs=4 * math.sqrt(expected / TRIALS)
        )
        made_valid = boundary.chance(smallest)
        assert (made_valid <= level).mean() <= level + 3 * math.sqrt(level / TRIALS)


def test_one_analysis_costs_nothing():
    boundary = signs.SignBoundary(range(9, 10))
    tails = signs.upper_tail(np.arange(10), 9)
    assert boundary.chance(tails) == pytest.approx(tails)
    assert boundary.nominal(0.02) == tails[9 - 1]


# ---- power ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.8, 0.9, 0.97])
def test_the_pairs_that_are_needed_are_those_that_are_enough_by_simulation(share):
    n = signs.pairs_needed(share, 0.05, 1000)
    wins = np.random.default_rng(0).random((TRIALS, n)) < share
    found = (signs.upper_tail(wins.sum(axis=1), n) <= 0.05).mean()
    assert found == pytest.approx(signs.power(share, n, 0.05), abs=0.015)
    assert (
        signs.power(share, n, 0.05) >= 0.8 > max(signs.power(share, m, 0.05) for m in range(1, n))
    )


def test_where_nothing_is_to_be_found_no_number_of_pairs_is_enough():
    assert signs.pairs_needed(0.5, 0.05, 300) == 300
