"""The statistics: arrays in, numbers out. scipy does the computing.

What decides verdicts takes any number of leading axes ``(...)``, so that the simulations run the
very code that judges.
"""

import bisect
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import interpolate, optimize, stats

Array = NDArray[np.float64]
Integers = NDArray[np.int_]
Booleans = NDArray[np.bool_]
Kind = Literal["superior", "equivalent"]

POWER = 0.8
"""The chance with which an effect is to be found."""
MAX_PAIRS = 1000
"""Where counting how many seeds a claim needs ends."""


def unadjusted(p: Any) -> Any:
    """The p-values (...) of a study's only analysis as they are: there is no other analysis to
    adjust them for.
    """
    return p


def p_values(
    differences: Array, kind: Kind, margin: float, adjust: Callable[[Any], Any] = unadjusted
) -> Array:
    """For paired differences (..., n), n >= 2 and of some spread: p that the claim holds and p that
    its opposite does (..., 2).

    ``adjust`` makes each one-sided p-value valid beside the other analyses of a sequential study,
    as ``Boundary.chance`` does.
    """
    n = differences.shape[-1]
    return t_tests(
        differences.mean(axis=-1), stats.sem(differences, axis=-1), n - 1, kind, margin, adjust
    )


def t_tests(
    mean: Array | float,
    error: Array | float,
    degrees_of_freedom: Array | float,
    kind: Kind,
    margin: float,
    adjust: Callable[[Any], Any] = unadjusted,
) -> Array:
    """The p-values (..., 2) of a claim and of its opposite, as ``p_values`` has them, from a mean (...) and its standard error.

    The standard error (...) is above 0 and has these degrees of freedom (...).

    ``superior``: one-sided t-tests of mean > margin and of mean < margin. ``equivalent``: two one-sided tests (Schuirmann 1987)
    of |mean| < margin; its opposite, |mean| > margin, is shown by either outer test, hence Bonferroni's factor of 2.
    """

    def above(limit: float) -> Array:
        return np.asarray(adjust(stats.t.sf((mean - limit) / error, degrees_of_freedom)))

    def below(limit: float) -> Array:
        return np.asarray(adjust(stats.t.cdf((mean - limit) / error, degrees_of_freedom)))

    if kind == "superior":
        return np.stack([above(margin), below(margin)], axis=-1)
    inside = np.maximum(above(-margin), below(margin))
    outside = 2 * np.minimum(above(margin), below(-margin))
    return np.stack([inside, np.minimum(1.0, outside)], axis=-1)


def holm(p: Array) -> Array:
    """Holm's (1979) adjustment of p-values (..., m) -> (..., m).

    The chance that any true null hypothesis gets one at or below alpha is at most alpha.
    """
    order = np.argsort(p, axis=-1)
    rank = np.argsort(order, axis=-1)
    factors = np.arange(p.shape[-1], 0, -1)
    ordered = np.take_along_axis(p, order, axis=-1)
    rising = np.maximum.accumulate(ordered * factors, axis=-1)
    return np.take_along_axis(np.minimum(1.0, rising), rank, axis=-1)


def holm_level(p: Array, i: int, alpha: float) -> float:
    """The level at which Holm tests hypothesis i of p-values (m,), given the others: alpha / (m -
    those rejected before it).
    """
    others = np.where(np.arange(len(p)) == i, 1.0, p)
    rejected = int((holm(others) <= alpha).sum())
    return alpha / (len(p) - rejected)


def interval(differences: Array, level: float) -> Array:
    """The t interval of the mean of differences (..., n), n >= 2, at ``level`` (0 to 1): low and
    high (..., 2).
    """
    n = differences.shape[-1]
    return t_interval(differences.mean(axis=-1), stats.sem(differences, axis=-1), n - 1, level)


def t_interval(
    mean: Array | float, error: Array | float, degrees_of_freedom: Array | float, level: float
) -> Array:
    """The t interval at ``level`` of a mean (...) with this standard error (...): low and high
    (..., 2).
    """
    half = error * stats.t.ppf((1 + level) / 2, degrees_of_freedom)
    return np.stack([mean - half, mean + half], axis=-1)


def power(
    distance: Array | float, error: Array | float, degrees_of_freedom: Array | float, level: float
) -> Array:
    """The chance (...) of a one-sided t-test at ``level`` to find a mean at ``distance`` (...) from
    its limit.

    The mean has this standard error (...) > 0, with so many degrees of freedom (...).
    """
    found = stats.nct.sf(
        stats.t.ppf(1 - level, degrees_of_freedom), degrees_of_freedom, distance / error
    )
    return np.where(np.isnan(found), 1.0, found)  # scipy gives NaN for enormous effects


def detectable(error: float, degrees_of_freedom: float, kind: Kind, level: float) -> float:
    """The distance from the margin at which a mean of this standard error would have been found
    with ``POWER``.

    ``superior``: how far beyond the margin the mean would have to be. ``equivalent``: the smallest
    margin that would be shown for a true difference of 0, by two tests.
    """
    power_of_each = POWER if kind == "superior" else 1 - (1 - POWER) / 2

    def short_of(errors: float) -> float:
        return float(power(errors, 1.0, degrees_of_freedom, level)) - power_of_each

    critical = stats.t.ppf(1 - level, degrees_of_freedom)
    return error * float(optimize.brentq(short_of, 0.0, critical + 50.0))


def pairs_needed(
    distances: Sequence[float],
    error: Callable[[int], tuple[Array | float, Array | float]],
    level: float,
) -> int:
    """The number of pairs with which one-sided tests find means at all these distances (> 0) from
    their limits with ``POWER``.

    It is ``MAX_PAIRS`` at most. The chance that one of several tests fails is taken to be the sum
    of their chances, which it is at most.

    Args:
        distances: One for a claim of ``superior``, two for the two tests of ``equivalent``.
        error: The mean's standard error and degrees of freedom, given the number of pairs.
        level: The level of each test.
    """

    def suffice(n: int) -> bool:
        misses = [1 - float(power(distance, *error(n), level)) for distance in distances]
        return 1 - sum(misses) >= POWER

    sizes = range(2, MAX_PAIRS)
    return sizes.start + bisect.bisect_left(sizes, True, key=suffice)


def at_chance(accuracy: float, chance: float, images: int) -> bool:
    """Whether so many images cannot tell an accuracy from that of guessing, both in percent: a
    one-sided binomial test at 1%.

    Where the number of images is not known, 0, the accuracies themselves are compared. NaN is not
    at chance.
    """
    if not images:
        return accuracy <= chance
    # a mean over runs need not be a whole number of images
    right = np.ceil(accuracy * images / 100 - 1e-6)
    return bool(stats.binom.sf(right - 1, images, chance / 100) > 0.01)


def upper_share(hits: int, n: int, level: float = 0.95) -> float:
    """The one-sided upper confidence bound of a share that ``hits`` of ``n`` >= 1 show, such as
    0.45 for 0 of 5.

    It is Clopper & Pearson's (1934), exact for an n that was fixed before: it is below the true
    share in 5% of cases at most.
    """
    if hits == n:
        return 1.0
    return float(stats.beta.ppf(level, hits + 1, n - hits))


def unpaired_error(a: Array, b: Array) -> tuple[Array, Array]:
    """The standard error (...) of the difference of two means over unpaired scores (..., n), n >=
    2, and its degrees of freedom.

    The degrees of freedom (...) are Welch's (1947), for variances that differ.
    """
    n = a.shape[-1]
    of_a, of_b = a.var(axis=-1, ddof=1) / n, b.var(axis=-1, ddof=1) / n
    both = of_a + of_b
    with np.errstate(invalid="ignore"):
        degrees_of_freedom = np.where(both > 0, (n - 1) * both**2 / (of_a**2 + of_b**2), n - 1)
    return np.sqrt(both), degrees_of_freedom


def variance_left(a: Array, b: Array, level: float = 0.95) -> tuple[float, float, float]:
    """What pairing leaves of the variance: var(a - b) / (var a + var b) of paired scores (n,), with
    its interval.

    1 is no gain, 0 all of it; above 1, up to 2, unpaired arms would be compared more precisely.
    With f the ratio of the variances of a - b and a + b this is 2 f / (1 + f), and f has an exact
    interval where scores are normal, since a - b and a + b are a pair of correlated variables
    (Pitman 1939; Morgan 1939). NaN with fewer than 3 pairs, or where one of the two does not vary.
    """
    n = len(a)
    if n < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return (np.nan, np.nan, np.nan)
    differences, sums = a - b, a + b
    of_differences, of_sums = differences.var(ddof=1), sums.var(ddof=1)
    left = float(2 * of_differences / (of_differences + of_sums))
    # the scores lie on a line of slope 1 or -1, and so will others
    if min(of_differences, of_sums) == 0:
        return (left, left, left)
    correlation = np.corrcoef(differences, sums)[0, 1]
    critical = stats.t.ppf((1 + level) / 2, n - 2)
    widening = 1 + 2 * (1 - correlation**2) * critical**2 / (n - 2)
    root = np.sqrt(widening**2 - 1)
    low, high = (of_differences / of_sums * (widening + side * root) for side in (-1, 1))
    return left, float(2 * low / (1 + low)), float(2 * high / (1 + high))


# ---- seeds until decided -------------------------------------------------------------------------


class Boundary:
    """What peeking costs a study that is analysed after ``start`` pairs, then every ``step`` pairs,
    up to ``max_pairs``.

    At a mean on the margin the sequence of t statistics does not depend on the unknown variance, so
    the chance that the smallest p-value of all analyses is below some nominal p is a fixed
    function: ``chance``. A p-value put through it is valid however often one analyses (P(any
    analysis's <= a) <= a), and so is whatever is built of such p-values: TOST, Bonferroni's factor,
    Holm's family. The function is tabulated by ``benchmarks/statistics_boundaries.py`` in
    ``boundaries.csv``.
    """

    def __init__(self, start: int, step: int, max_pairs: int) -> None:
        nominal, table = _boundaries()
        self.schedule = start, step, max_pairs
        self._analyses = 1 + (max_pairs - start) // step
        chances = table[start, step, max_pairs]
        smooth = interpolate.PchipInterpolator(np.log([*nominal, 1.0]), np.log([*chances, 1.0]))
        self._nominal = np.linspace(np.log(nominal[0]), 0, 2000)
        self._chance = smooth(self._nominal)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Boundary) and self.schedule == other.schedule

    def __hash__(self) -> int:
        return hash(self.schedule)

    def chance(self, p: ArrayLike) -> Array:
        """The chance (...) that any analysis's p-value is below nominal p (...), with a true mean
        on the margin.

        It is a p-value that is valid for the whole sequential study.
        """
        logarithm = np.log(np.maximum(p, 1e-300))
        tabulated = np.exp(np.interp(logarithm, self._nominal, self._chance))
        return np.minimum(tabulated, self._analyses * np.asarray(p))  # Bonferroni, below the table

    def nominal(self, chance: float) -> float:
        """The nominal p that has this ``chance``; below the table Bonferroni's, which is smaller."""
        logarithm = np.log(chance)
        if logarithm < self._chance[0]:
            return float(chance / self._analyses)
        return float(np.exp(np.interp(logarithm, self._chance, self._nominal)))


@functools.cache
def _boundaries() -> tuple[Array, dict[tuple[int, int, int], Array]]:
    """The nominal p-values (c,) and, by (start, step, max_pairs), the chance that some analysis's
    is below each (c,).
    """
    with (
        resources.files("xceptlab.study").joinpath("boundaries.csv").open(encoding="utf-8") as file
    ):
        nominal = np.array(file.readline().split(",")[3:], dtype=float)
        rows = np.loadtxt(file, delimiter=",")
    return nominal, {(int(row[0]), int(row[1]), int(row[2])): row[3:] for row in rows}


@functools.lru_cache(maxsize=4096)  # a study is judged anew at every analysis, and by every command
def sequential_power(
    mean: float,
    spread: float,
    kind: Kind,
    margin: float,
    analyses: range,
    boundary: Boundary,
    level: float,
    observed: tuple[float, ...] = (),
    paths: int = 4000,
) -> tuple[float, float]:
    """The chance that a claim is decided by the last analysis, and the pairs that it takes on
    average, by simulation (+- 1%).

    Every simulated study begins with the ``observed`` differences (n,), where there are any; its
    further ones are normal, of this mean and spread.
    """
    differences = np.random.default_rng(0).normal(mean, spread, (paths, analyses[-1]))
    differences[:, : len(observed)] = observed
    to_come = [n for n in analyses if n > len(observed)]
    p = [p_values(differences[:, :n], kind, margin, boundary.chance).min(axis=-1) for n in to_come]
    return decisions(np.stack(p), to_come, level)


@functools.lru_cache(maxsize=4096)
def stopping_bias(
    mean: float,
    spread: float,
    kind: Kind,
    margin: float,
    analyses: range,
    boundary: Boundary,
    level: float,
    paths: int = 4000,
) -> float:
    """How far the mean at which a study stops exceeds the true one on average, by simulation with
    normal differences.

    A study stops when its scores happen to be clear, so that its estimate is biased away from the
    margin (Whitehead 1986, *Biometrika* 73).
    """
    differences = np.random.default_rng(0).normal(mean, spread, (paths, analyses[-1]))
    at_stop = differences.mean(axis=-1)  # of a study that nothing decides
    for n in reversed(analyses):
        so_far = differences[:, :n]
        decided = p_values(so_far, kind, margin, boundary.chance).min(axis=-1) <= level
        at_stop = np.where(decided, so_far.mean(axis=-1), at_stop)
    return float(at_stop.mean() - differences.mean())


def decisions(p: Array, analyses: Sequence[int], level: float) -> tuple[float, float]:
    """The share of simulated studies that are decided by the last analysis, and the pairs that a
    study takes on average.

    Args:
        p: The smaller p-value of the claim and of its opposite, (analyses, studies).
        analyses: The number of pairs at each analysis.
        level: A claim is decided by a p-value at or below this.
    """
    below = p <= level
    decided = below.any(axis=0)
    pairs = np.asarray(analyses)[below.argmax(axis=0)]
    needed = np.where(decided, pairs, analyses[-1])
    return float(decided.mean()), float(needed.mean())


def upper_spread(spread: float, n: int) -> float:
    """The upper 80% confidence limit of a normal standard deviation that n values estimate as
    ``spread``.
    """
    return float(spread * np.sqrt((n - 1) / stats.chi2.ppf(1 - 0.8, n - 1)))


# ---- where the error comes from ------------------------------------------------------------------


def skewed(differences: Array) -> bool:
    """Whether differences (n,) are more skewed than 19 of 20 normal samples of their size, by
    simulation, as n is small.
    """
    if len(differences) < 4 or np.ptp(differences) == 0:
        return False
    rng = np.random.default_rng(0)
    test = stats.monte_carlo_test(
        differences,
        lambda size: rng.standard_normal(size),
        stats.skew,
        vectorized=True,
        n_resamples=2000,
    )
    return bool(test.pvalue <= 0.05)


# ---- factorial studies ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A main effect, or an interaction of two or three factors, averaged over the other factors."""

    factors: tuple[int, ...]
    """The factors whose effect it is, one to three axes of the grid."""
    levels: tuple[int, ...]
    """The level of each factor that is compared with the factor's first level."""
    estimate: float
    """Mean at the level - mean at the first level; of an interaction, the effect of the factors
    before the last one at the last one's level - at its first."""
    low: float
    """The lower end of the estimate's interval."""
    high: float
    """The upper end of the estimate's interval."""
    p_adjusted: float
    """Two-sided p-value of no effect, after Holm's correction over all effects; NaN where every
    seed has the same effect.
    """


def effects(scores: Array, level: float) -> list[Effect]:
    """Main effects and interactions of scores (seeds, levels of factor 1, levels of factor 2, ...),
    with intervals at ``level``.

    An effect is a contrast that is computed for every seed, so that it is tested by a t-test over
    the seeds (n - 1 degrees of freedom, n >= 2), which asks nothing of the other cells' variances;
    one variance pooled over all cells covers too seldom where they differ (Boik 1981; Maxwell &
    Delaney 2004, chapters 11 to 13).
    """
    _, *shape = scores.shape
    compared = _levels_to_compare(shape)
    contrasts = np.stack([_contrast(scores, levels) for levels in compared])  # (effects, seeds)
    # not by the rounding of 32-bit scores alone
    vary = np.ptp(contrasts, axis=-1) > 1e-6 * np.abs(scores).max()
    p = np.ones(len(compared))
    p[vary] = stats.ttest_1samp(contrasts[vary], 0.0, axis=-1).pvalue
    adjusted = np.where(vary, holm(p), np.nan)
    ends = interval(contrasts, level)
    found = []
    for i, levels in enumerate(compared):
        effect = Effect(
            factors=tuple(levels),
            levels=tuple(levels.values()),
            estimate=float(contrasts[i].mean()),
            low=float(ends[i, 0]),
            high=float(ends[i, 1]),
            p_adjusted=float(adjusted[i]),
        )
        found.append(effect)
    return found


def _levels_to_compare(shape: Sequence[int]) -> list[dict[int, int]]:
    """The effects of a grid whose factors have so many levels: each as {factor: level that is
    compared}, of 1 to 3 factors.
    """
    singles = []
    for factor, size in enumerate(shape):
        singles += [(factor, level) for level in range(1, size)]
    compared = []
    for order in (1, 2, 3):
        for several in itertools.combinations(singles, order):
            levels = dict(several)
            if len(levels) == order:  # else two of them are levels of one factor
                compared.append(levels)
    return compared


def _contrast(scores: Array, levels: dict[int, int]) -> Array:
    """An effect in each seed (seeds,) of scores (seeds, levels of factor 1, ...), given {factor:
    level that is compared}.

    Other factors are averaged over.
    """
    for factor in reversed(range(scores.ndim - 1)):
        by_level = np.moveaxis(scores, factor + 1, 0)
        if factor in levels:
            scores = by_level[levels[factor]] - by_level[0]
        else:
            scores = by_level.mean(axis=0)
    return scores


def image_variance(differences: Array) -> Array:
    """The variance that the images add to a mean difference, B / N, of differences (..., n seeds, N
    images); n, N >= 2.

    Every run of a claim's arms is scored on the same test images, so that the difference of a seed
    on an image is the sum of a mean, a part of the seed, a part of the image, and a rest. The mean
    squares of this two-way table tell the parts apart (Searle, Casella & McCulloch 1992, *Variance
    Components*). B = max(0, (MS_images - MS_residual) / n) is the variance over images of what all
    seeds have in common. Over new seeds *and* new images the variance of the mean difference is
    s^2/n + B/N, so that no number of seeds takes the standard error below the root of B / N.
    """
    *_, n, images = differences.shape
    by_image = differences.mean(axis=-2, keepdims=True)
    by_seed = differences.mean(axis=-1, keepdims=True)
    mean = by_image.mean(axis=-1, keepdims=True)
    of_images = n * ((by_image - mean) ** 2).sum(axis=(-2, -1)) / (images - 1)
    rest = differences - by_image - by_seed + mean
    of_rest = (rest**2).sum(axis=(-2, -1)) / ((n - 1) * (images - 1))
    return np.asarray(np.maximum(0.0, (of_images - of_rest) / n) / images)


def error_over_images(spread: Array | float, n: int, added: Array | float) -> tuple[Array, Array]:
    """Standard error of a mean over seeds and images, and its degrees of freedom (...), of n
    differences of this spread (...).

    ``added`` is their ``image_variance``. The degrees of freedom are Satterthwaite's (1946) of the
    sum of both variances; that of the images, estimated from many of them, counts as known.
    """
    of_seeds = np.asarray(spread**2 / n)
    both = of_seeds + added
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(of_seeds > 0, both**2 * (n - 1) / of_seeds**2, np.inf)
    return np.sqrt(both), freedom
