"""The numbers, against scipy and statsmodels used in another way, and against simulation."""

import numpy as np
import pytest
from scipy import stats as sp
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from xceptlab.study import statistics

A = np.array([97.2, 96.8, 98.4, 97.0, 97.6])
B = np.array([96.0, 96.4, 96.6, 96.2, 95.8])
MARGINS = [0.0, 0.5, 1.0, 1.4, 3.0]


@pytest.mark.parametrize("margin", MARGINS)
def test_superior_is_the_one_sided_paired_t_test_and_its_opposite(margin):
    holds, opposite = statistics.p_values(A - B, "superior", margin)
    assert holds == pytest.approx(sp.ttest_rel(A - margin, B, alternative="greater").pvalue)
    assert opposite == pytest.approx(sp.ttest_rel(A - margin, B, alternative="less").pvalue)
    assert holds + opposite == pytest.approx(1)


@pytest.mark.parametrize("margin", MARGINS[1:])
def test_equivalent_is_tost(margin):
    holds, _ = statistics.p_values(A - B, "equivalent", margin)
    assert holds == pytest.approx(ttost_paired(A, B, -margin, margin)[0])


@pytest.mark.parametrize("margin", MARGINS[1:])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_opposite_of_equivalent_is_either_outer_test_with_bonferronis_factor(margin, sign):
    d = sign * (A - B)
    _, opposite = statistics.p_values(d, "equivalent", margin)
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
    assert statistics.holm(np.array(raw)) == pytest.approx(np.array(adjusted))


@pytest.mark.parametrize("level", [0.8, 0.9, 0.98])
def test_the_interval_is_students(level):
    d = A - B
    expected = sp.ttest_1samp(d, 0).confidence_interval(level)
    assert statistics.interval(d, level) == pytest.approx((expected.low, expected.high))


def test_the_90_percent_interval_and_the_5_percent_test_agree():
    d = A - B
    low, high = statistics.interval(d, 0.9)
    assert statistics.p_values(d, "superior", low)[0] == pytest.approx(0.05)
    assert statistics.p_values(d, "superior", high)[1] == pytest.approx(0.05)
    assert statistics.p_values(d, "equivalent", high)[0] == pytest.approx(0.05)


def power(distance: float, spread: float, n: int, alpha: float) -> float:
    """Of a one-sided t-test, from the noncentral t distribution."""
    return float(sp.nct.sf(sp.t.ppf(1 - alpha, n - 1), n - 1, distance / spread * np.sqrt(n)))


def of_pairs(n: int) -> tuple[float, int]:
    """The standard error of the mean of n pairs of spread 1, and its degrees of freedom."""
    return 1 / np.sqrt(n), n - 1


@pytest.mark.parametrize(("kind", "each"), [("superior", 0.8), ("equivalent", 0.9)])
@pytest.mark.parametrize("n", [3, 5, 30])
def test_the_detectable_effect_is_found_with_the_stated_power(kind, each, n):
    effect = statistics.detectable(2 / np.sqrt(n), n - 1, kind, 0.05)
    assert power(effect, 2.0, n, 0.05) == pytest.approx(each, abs=1e-4)
    assert statistics.power(effect, 2 / np.sqrt(n), n - 1, 0.05) == pytest.approx(each, abs=1e-4)


@pytest.mark.parametrize("distance", [0.5, 1.0, 5.0])
def test_the_pairs_needed_are_the_fewest_that_reach_the_power(distance):
    n = statistics.pairs_needed([distance], of_pairs, 0.05)
    assert power(distance, 1.0, n, 0.05) >= 0.8
    assert n == 2 or power(distance, 1.0, n - 1, 0.05) < 0.8


@pytest.mark.parametrize(("near", "far"), [(0.5, 0.5), (0.5, 0.6), (0.5, 3.0)])
def test_two_tests_need_the_pairs_with_which_both_succeed_often_enough(near, far):
    n = statistics.pairs_needed([near, far], of_pairs, 0.05)
    misses = [
        sum(1 - power(distance, 1.0, pairs, 0.05) for distance in (near, far))
        for pairs in (n - 1, n)
    ]
    assert misses[0] > 0.2 >= misses[1]
    d = np.random.default_rng(0).normal((far - near) / 2, 1.0, (4000, n))
    found = statistics.p_values(d, "equivalent", (far + near) / 2)[:, 0] <= 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_a_hopeless_distance_asks_for_a_bounded_number_of_pairs():
    assert statistics.pairs_needed([1e-6], of_pairs, 0.05) == 1000


def test_unpaired_arms_have_welchs_error():
    error, freedom = statistics.unpaired_error(A, B)
    expected = sp.ttest_ind(A, B, equal_var=False)
    assert (A.mean() - B.mean()) / error == pytest.approx(expected.statistic)
    assert freedom == pytest.approx(expected.df)
    several = statistics.unpaired_error(np.stack([A, B]), np.stack([B, A]))
    assert several[0] == pytest.approx([error, error])


# ---- what pairing gains --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correlation", "spread_b"), [(0.0, 1.0), (0.5, 1.0), (0.9, 2.0), (-0.5, 1.0)]
)
def test_the_interval_of_the_variance_that_pairing_leaves_covers_as_often_as_it_says(
    correlation, spread_b
):
    rng = np.random.default_rng(0)
    true = 1 - 2 * correlation * spread_b / (1 + spread_b**2)
    covered = 0
    for _ in range(2000):
        a, noise = rng.standard_normal((2, 5))
        b = spread_b * (correlation * a + np.sqrt(1 - correlation**2) * noise)
        _, low, high = statistics.variance_left(a, b)
        covered += low <= true <= high
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_the_variance_that_pairing_leaves_is_told_where_it_can_be():
    left, low, high = statistics.variance_left(A, B)
    assert left == pytest.approx(np.var(A - B) / (np.var(A) + np.var(B)))
    assert 0 <= low < left < high <= 2
    assert statistics.variance_left(A, A + 1.5) == (0, 0, 0)
    assert statistics.variance_left(A, 100 - A) == pytest.approx((2, 2, 2))
    for a, b in ((A, np.full(5, 90.0)), (A[:2], B[:2]), (A[:0], B[:0])):
        assert np.isnan(statistics.variance_left(a, b)).all()


# ---- a study that stops when it is decided -------------------------------------------------------


def test_the_mean_at_which_a_study_stops_is_too_far_from_the_margin():
    boundary = statistics.Boundary(4, 2, 20)
    common = {
        "spread": 1.0,
        "kind": "superior",
        "margin": 0.0,
        "analyses": range(4, 21, 2),
        "boundary": boundary,
        "level": 0.05,
    }
    assert statistics.stopping_bias(1.0, **common) == pytest.approx(0.11, abs=0.02)
    assert statistics.stopping_bias(-1.0, **common) == pytest.approx(-0.11, abs=0.02)
    assert statistics.stopping_bias(0.0, **common) == pytest.approx(0.0, abs=0.01)
    assert statistics.stopping_bias(9.0, **common) == pytest.approx(
        0.0, abs=0.01
    )  # decided at the first analysis, whatever comes


# ---- where the error comes from ------------------------------------------------------------------


def test_skew_is_seen_where_it_can_be_and_seldom_where_there_is_none():
    rng = np.random.default_rng(0)
    normal = np.mean([statistics.skewed(rng.standard_normal(8)) for _ in range(100)])
    exponential = np.mean([statistics.skewed(rng.exponential(size=20)) for _ in range(50)])
    assert normal < 0.15
    assert exponential > 0.6
    assert not statistics.skewed(np.array([1.0, 2.0, 9.0]))
    assert not statistics.skewed(np.ones(9))
    assert statistics.skewed(np.array([0.1, 0.2, 0.15, 0.12, 30.0, 0.18]))


@pytest.mark.parametrize(
    ("hits", "n", "bound"),
    [(0, 5, 1 - 0.05**0.2), (5, 5, 1.0), (1, 5, 0.6574), (0, 20, 1 - 0.05 ** (1 / 20))],
)
def test_the_upper_bound_of_a_share_is_clopper_and_pearsons(hits, n, bound):
    assert statistics.upper_share(hits, n) == pytest.approx(bound, abs=1e-4)
    if hits < n:
        assert sp.binom.cdf(hits, n, statistics.upper_share(hits, n)) == pytest.approx(0.05)


# ---- factorial studies ---------------------------------------------------------------------------


def test_effects_of_a_grid_without_noise_are_those_it_was_made_of():
    seeds, a, b, c = np.meshgrid(*map(np.arange, (3, 2, 3, 2)), indexing="ij")
    scores = (
        5.0 * seeds
        + 2 * a
        + 10 * (b == 1)
        - 3 * (b == 2)
        + 0.5 * c
        + 4 * a * (b == 2)
        + 6 * a * (b == 1) * c
    )
    found = {
        (e.factors, e.levels): e.estimate for e in statistics.effects(scores.astype(float), 0.95)
    }
    assert found == pytest.approx(
        {
            ((0,), (1,)): 2 + 4 / 3 + 6 / 3 / 2,
            ((1,), (1,)): 10 + 6 / 4,
            ((1,), (2,)): -3 + 4 / 2,
            ((2,), (1,)): 0.5 + 6 / 6,
            ((0, 1), (1, 1)): 6 / 2,
            ((0, 1), (1, 2)): 4,
            ((0, 2), (1, 1)): 6 / 3,
            ((1, 2), (1, 1)): 6 / 2,
            ((1, 2), (2, 1)): 0.0,
            ((0, 1, 2), (1, 1, 1)): 6,
            ((0, 1, 2), (1, 2, 1)): 0.0,
        },
        abs=1e-9,
    )


def test_effects_are_t_tests_of_each_seeds_contrast():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5, 2, 2)) + rng.normal(size=(5, 1, 1))
    (a0b0, a0b1), (a1b0, a1b1) = np.moveaxis(scores, 0, -1)
    contrasts = [
        (a1b0 + a1b1 - a0b0 - a0b1) / 2,
        (a0b1 + a1b1 - a0b0 - a1b0) / 2,
        (a1b1 - a0b1) - (a1b0 - a0b0),
    ]
    tests = [sp.ttest_1samp(contrast, 0) for contrast in contrasts]
    _, holm, *_ = multipletests([test.pvalue for test in tests], method="holm")
    for effect, contrast, test, p in zip(
        statistics.effects(scores, 0.9), contrasts, tests, holm, strict=True
    ):
        assert effect.estimate == pytest.approx(contrast.mean())
        assert (effect.low, effect.high) == pytest.approx(tuple(test.confidence_interval(0.9)))
        assert effect.p_adjusted == pytest.approx(p)


def test_an_effect_that_does_not_vary_has_no_p_value():
    scores = np.random.default_rng(0).normal(90, 1, (4, 2, 2))
    scores[:, 1] = scores[:, 0] + 3
    first, second, both = statistics.effects(scores, 0.95)
    assert (first.estimate, both.estimate) == pytest.approx((3, 0), abs=1e-9)
    assert np.isnan([first.p_adjusted, both.p_adjusted]).all()
    assert 0 < second.p_adjusted <= 1


@pytest.mark.parametrize("spreads", [(1, 1, 1, 1), (1, 1, 1, 10), (0.1, 10, 10, 0.1)])
def test_the_intervals_of_effects_cover_as_often_as_they_say_however_the_cells_vary(spreads):
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        scores = rng.normal(size=(4, 2, 2)) * np.reshape(spreads, (2, 2)) + rng.normal(
            0, 3, size=(4, 1, 1)
        )
        covered.append([e.low <= 0 <= e.high for e in statistics.effects(scores, 0.9)])
    assert np.mean(covered, axis=0) == pytest.approx(np.full(3, 0.9), abs=0.03)


@pytest.mark.parametrize("mean", [25.0, 30.0])
def test_where_every_study_stops_at_once_no_noise_of_the_simulation_is_told_as_a_bias(mean):
    boundary = statistics.Boundary(3, 1, 5)
    bias = statistics.stopping_bias(mean, 3.7, "superior", 0.5, range(3, 6), boundary, 0.05)
    assert abs(bias) < 1e-3


def test_a_cell_of_huge_scores_hides_no_effect_without_it():
    rng = np.random.default_rng(0)
    scores = rng.normal(1.0, 0.01, (5, 2, 3))
    scores[:, 1] += 0.5
    alone = statistics.effects(scores, 0.9)
    scores[:, :, 2] = 1e6 + rng.normal(0, 1.0, (5, 2))
    with_huge = statistics.effects(scores, 0.9)
    between_others = [i for i, e in enumerate(alone) if (e.factors, e.levels) == ((1,), (1,))]
    assert between_others
    for i in between_others:
        assert with_huge[i].p_adjusted <= 1
