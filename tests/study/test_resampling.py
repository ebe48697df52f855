"""The differences that are drawn for simulated studies."""

import numpy as np
import pytest

from made import normal, observed
from xceptlab.study.resampling import DifferenceDistribution, RandomNumbers

MARGIN = 0.5


@pytest.mark.parametrize("shares", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.45), (0.3, 0.2)])
@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("n", [5, 6])
def test_failures_or_not_the_truth_is_moved_onto_the_margin(n, statistic, shares):
    values = np.array([0.2, 0.2, 0.2, 0.4, 0.6, 3.0])[:n]
    distribution = DifferenceDistribution.with_failures(
        observed(values, statistic=statistic, failed_score=10.0), shares
    )
    drawn = distribution.draw(
        RandomNumbers.of(np.random.default_rng(0), 4000, 20, range(8)), MARGIN
    )
    if statistic == "mean":
        assert drawn.mean() == pytest.approx(MARGIN, abs=5 * drawn.std() / np.sqrt(drawn.size))
    else:
        assert (drawn > MARGIN).mean() == pytest.approx(0.5, abs=0.01)
        assert (drawn < MARGIN).mean() == pytest.approx(0.5, abs=0.01)


def test_differences_in_whole_images_keep_their_mean():
    distribution = DifferenceDistribution.as_seen(
        observed(normal(8, 0.13, 0.1)), points_per_image=0.2
    )
    drawn = distribution.draw(
        RandomNumbers.of(np.random.default_rng(0), 4000, 20, range(8)), MARGIN
    )
    assert np.array_equal(drawn, np.round(0.2 * np.round(drawn / 0.2), 9))
    assert drawn.mean() == pytest.approx(MARGIN, abs=0.003)


def test_claims_keep_what_their_differences_share_by_seed():
    shared = normal(10)
    first, second = (DifferenceDistribution.as_seen(observed(shared, id=name)) for name in "xy")
    numbers = RandomNumbers.of(np.random.default_rng(0), 5, 10, range(10))
    assert np.array_equal(first.draw(numbers), second.draw(numbers))


def test_a_seed_that_two_claims_have_is_drawn_for_both_of_them_also_where_one_has_fewer():
    eight = normal(8)
    fewer, all_of_them = (
        DifferenceDistribution.as_seen(observed(eight[:n], id=str(n))) for n in (4, 8)
    )
    numbers = RandomNumbers.of(np.random.default_rng(0), 4000, 10, range(8))
    first, second = fewer.draw(numbers), all_of_them.draw(numbers)
    common = np.isin(second, first) & (numbers.seeds < 4)
    assert common.mean() == pytest.approx(0.5, abs=0.02)
    assert np.array_equal(first[common], second[common])
    for value in eight[:4]:
        assert np.isclose(first, value).mean() == pytest.approx(0.25, abs=0.02)
