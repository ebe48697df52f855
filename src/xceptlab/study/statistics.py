"""The statistics of verdicts: arrays in, numbers out. scipy does the computing.

What decides verdicts takes any number of leading axes ``(...)``, so that the simulations run the
very code that judges. A study is *sequential* where seeds are added until its claims are decided,
so that they are tested at several analyses.
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
"""What a claim says of a difference: that it is above the margin, or within it either way."""

ROUNDING = 1e-6
"""How far apart scores or differences may lie that count as equal, as a share of the larger score:
the rounding of 32-bit scores may move them so far.
"""
POWER = 0.8
"""The power, 0 to 1, for which numbers of pairs and detectable effects are computed."""
MAX_PAIRS = 1000
"""The number of pairs at which a search for the number that a claim needs ends; as a result it
means that fewer do not suffice.
"""


def unadjusted(p: Any) -> Any:
    """Return the p-values (...) as they are: a study with one analysis has no other ones to adjust
    them for.
    """
    return p


def p_values(
    differences: Array, kind: Kind, margin: float, adjust: Callable[[Any], Any] = unadjusted
) -> Array:
    """Return one-sided p-values (..., 2) of a claim on the mean of paired differences (..., n), by
    t-tests, with n >= 2 differences that are not all equal.

    ``[..., 0]`` is small where the data support the claim, that the mean is above the margin
    (``superior``) or within it either way (``equivalent``); ``[..., 1]`` is small where they
    support its opposite. ``adjust`` makes each one-sided p-value valid beside the other analyses of
    a sequential study, as ``Boundary.chance`` does.
    """
    n = differences.shape[-1]
    mean = differences.mean(axis=-1)
    error = stats.sem(differences, axis=-1)
    return t_tests(mean, error, n - 1, kind, margin, adjust)


def t_tests(
    mean: Array | float,
    error: Array | float,
    degrees_of_freedom: Array | float,
    kind: Kind,
    margin: float,
    adjust: Callable[[Any], Any] = unadjusted,
) -> Array:
    """Return one-sided p-values (..., 2) of a claim and of its opposite, from a mean and its error.

    ``superior``: one-sided t-tests of mean > margin and of mean < margin. ``equivalent``: two
    one-sided tests (Schuirmann 1987) of |mean| < margin; its opposite, |mean| > margin, is shown
    by either outer test, hence Bonferroni's factor of 2.

    Args:
        mean: The mean (...) of the differences.
        error: Its standard error (...), above 0.
        degrees_of_freedom: The degrees of freedom (...) of the error.
        kind: What is claimed.
        margin: The claim's margin.
        adjust: Makes each one-sided p-value valid beside the other analyses of a sequential study.
    """

    def above(limit: float) -> Array:
        t = (mean - limit) / error
        p = stats.t.sf(t, degrees_of_freedom)
        return np.asarray(adjust(p))

    def below(limit: float) -> Array:
        t = (mean - limit) / error
        p = stats.t.cdf(t, degrees_of_freedom)
        return np.asarray(adjust(p))

    if kind == "superior":
        return np.stack([above(margin), below(margin)], axis=-1)
    p_inside = np.maximum(above(-margin), below(margin))
    smaller_outside = np.minimum(above(margin), below(-margin))
    p_outside = np.minimum(1.0, 2 * smaller_outside)
    return np.stack([p_inside, p_outside], axis=-1)


def holm(p: Array) -> Array:
    """Return p-values (..., m) adjusted for m hypotheses by Holm's (1979) method, (..., m).

    The chance that any true null hypothesis gets an adjusted p-value at or below alpha is at most
    alpha.
    """
    m = p.shape[-1]
    order = np.argsort(p, axis=-1)
    rank = np.argsort(order, axis=-1)
    factors = np.arange(m, 0, -1)  # (m,): m, m - 1, ..., 1
    ordered = np.take_along_axis(p, order, axis=-1)  # (..., m), rising
    rising = np.maximum.accumulate(ordered * factors, axis=-1)
    adjusted = np.minimum(1.0, rising)
    return np.take_along_axis(adjusted, rank, axis=-1)


def holm_level(p: Array, i: int, alpha: float) -> float:
    """Return the level at which Holm's method tests hypothesis i of m, given the p-values (m,) of
    all: alpha / (m - the number that is rejected before it).
    """
    m = len(p)
    is_this_one = np.arange(m) == i
    others = np.where(is_this_one, 1.0, p)
    is_rejected = holm(others) <= alpha
    rejected = int(is_rejected.sum())
    return alpha / (m - rejected)


def interval(differences: Array, level: float) -> Array:
    """Return the t interval at ``level``, such as 0.9, of the mean of differences (..., n), n >= 2:
    its lower and its upper end (..., 2).
    """
    n = differences.shape[-1]
    mean = differences.mean(axis=-1)
    error = stats.sem(differences, axis=-1)
    return t_interval(mean, error, n - 1, level)


def t_interval(
    mean: Array | float, error: Array | float, degrees_of_freedom: Array | float, level: float
) -> Array:
    """Return the t interval at ``level``, such as 0.9, of a mean (...) with this standard error
    (...): its lower and its upper end (..., 2).
    """
    critical = stats.t.ppf((1 + level) / 2, degrees_of_freedom)
    half = error * critical
    low = mean - half
    high = mean + half
    return np.stack([low, high], axis=-1)


def power(
    distance: Array | float, error: Array | float, degrees_of_freedom: Array | float, level: float
) -> Array:
    """Return the chance (...) that a one-sided t-test at ``level`` rejects, for a mean that truly
    lies at ``distance`` (...) from the tested limit, above 0 on the side that the test is to show.

    The standard error of the mean (...) is above 0.
    """
    critical = stats.t.isf(level, degrees_of_freedom)
    noncentrality = distance / error
    chance = stats.nct.sf(critical, degrees_of_freedom, noncentrality)
    # For enormous effects scipy gives NaN.
    return np.where(np.isnan(chance), 1.0, chance)


def joint_power(
    distances: Sequence[float],
    error: Array | float,
    degrees_of_freedom: Array | float,
    level: float,
) -> float:
    """Return a lower bound of the chance that all of some one-sided t-tests at ``level`` reject,
    whose limits lie at these distances (> 0) from the true mean; 1 for a standard error of 0.

    It is 1 minus the sum of their chances to fail: exact for one test, and for several perhaps
    below 0.
    """
    if error == 0:
        return 1.0
    chances = [float(power(distance, error, degrees_of_freedom, level)) for distance in distances]
    return 1 - sum(1 - chance for chance in chances)


def detectable(error: float, degrees_of_freedom: float, kind: Kind, level: float) -> float:
    """Return the smallest effect, in the unit of the standard error ``error``, that a one-sided
    t-test at ``level`` would have found with a chance of ``POWER``.

    ``superior``: how far beyond the margin the mean would have to be. ``equivalent``: the smallest
    margin that would be shown for a true difference of 0, by two tests.
    """
    power_of_each = POWER
    if kind == "equivalent":
        # Either of two tests can fail; the chances that they do add up.
        chance_to_fail = 1 - POWER
        power_of_each = 1 - chance_to_fail / 2

    def excess_power(errors: float) -> float:
        """Return how much more power than needed an effect of so many standard errors has."""
        chance = power(errors, 1.0, degrees_of_freedom, level)
        return float(chance) - power_of_each

    critical = stats.t.isf(level, degrees_of_freedom)
    large = 3 * critical + 50.0
    smallest = optimize.brentq(excess_power, 0.0, large)
    return error * float(smallest)


def pairs_needed(
    distances: Sequence[float],
    error: Callable[[int], tuple[Array | float, Array | float]],
    level: float,
) -> int:
    """Return the smallest number of pairs, 2 or more, with which one or two one-sided t-tests all
    reject with a chance of ``POWER``; ``MAX_PAIRS`` where fewer do not suffice. The chance of two
    tests is the lower bound that ``joint_power`` gives.

    Args:
        distances: The distance (> 0) of the true mean from each test's limit: two to show a claim
            of ``equivalent``, else one.
        error: Returns the mean's standard error and its degrees of freedom for a number of pairs.
        level: The level of each test.
    """

    def suffice(n: int) -> bool:
        standard_error, degrees_of_freedom = error(n)
        return joint_power(distances, standard_error, degrees_of_freedom, level) >= POWER

    sizes = range(2, MAX_PAIRS)
    return sizes.start + bisect.bisect_left(sizes, True, key=suffice)


def at_chance(accuracy: float, chance: float, images: int) -> bool:
    """Whether an accuracy on so many images is not significantly above ``chance``, that of
    guessing, both in percent, by a one-sided binomial test at 1%.

    Where the number of images is not known (0), whether it is not above ``chance`` at all. An
    accuracy of NaN is not at chance.
    """
    if not images:
        return accuracy <= chance
    # A mean over runs need not be a whole number of images.
    right = np.ceil(accuracy * images / 100 - 1e-6)
    share_by_guessing = chance / 100
    p = stats.binom.sf(right - 1, images, share_by_guessing)
    return bool(p > 0.01)


def upper_share(hits: int, n: int, level: float = 0.95) -> float:
    """Return the one-sided upper confidence bound of a share, from ``hits`` among ``n`` >= 1, such
    as 0.45 from 0 of 5.

    It is Clopper & Pearson's (1934), exact for an n that was fixed before: it lies below the true
    share with a chance of 1 - ``level`` at most.
    """
    if hits == n:
        return 1.0
    misses = n - hits
    bound = stats.beta.ppf(level, hits + 1, misses)
    return float(bound)


def unpaired_error(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the standard error (...) of the difference between the means of unpaired scores a and
    b (..., n), n >= 2, and its degrees of freedom (...).

    The degrees of freedom are Welch's (1947), for variances that differ.
    """
    n = a.shape[-1]
    of_a = a.var(axis=-1, ddof=1) / n  # the variance of a's mean
    of_b = b.var(axis=-1, ddof=1) / n
    both = of_a + of_b
    squares = of_a**2 + of_b**2
    with np.errstate(invalid="ignore"):
        welch = (n - 1) * both**2 / squares
    degrees_of_freedom = np.where(both > 0, welch, n - 1)
    return np.sqrt(both), degrees_of_freedom


def variance_left(a: Array, b: Array, level: float = 0.95) -> tuple[float, float, float]:
    """Return how much pairing leaves of the variance of a difference, var(a - b) / (var a + var b),
    and the ends of its interval at ``level``, from paired scores (n,).

    At 1 pairing gains nothing, near 0 it removes almost all variance; above 1, up to 2, unpaired
    arms would be compared more precisely. All three are NaN with fewer than 3 pairs, or where a or
    b does not vary.

    With f the ratio of the variances of a - b and a + b it is 2 f / (1 + f), and f has an exact
    interval where scores are normal, since a - b and a + b are a pair of correlated variables
    (Pitman 1939; Morgan 1939).
    """
    n = len(a)
    if n < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return (np.nan, np.nan, np.nan)
    differences = a - b
    sums = a + b
    of_differences = differences.var(ddof=1)
    of_sums = sums.var(ddof=1)
    left = float(2 * of_differences / (of_differences + of_sums))
    # The scores lie on a line of slope 1 or -1, so that the interval has no width.
    if min(of_differences, of_sums) == 0:
        return (left, left, left)
    ratio = of_differences / of_sums
    correlation = np.corrcoef(differences, sums)[0, 1]
    unexplained = 1 - correlation**2
    critical = stats.t.ppf((1 + level) / 2, n - 2)
    # The ends of the ratio's interval are ratio * (widening - root) and ratio * (widening + root).
    widening = 1 + 2 * unexplained * critical**2 / (n - 2)
    root = np.sqrt(widening**2 - 1)
    lowest_ratio = ratio * (widening - root)
    highest_ratio = ratio * (widening + root)
    low = 2 * lowest_ratio / (1 + lowest_ratio)
    high = 2 * highest_ratio / (1 + highest_ratio)
    return left, float(low), float(high)


# ---- seeds until decided -------------------------------------------------------------------------


class Boundary:
    """Adjusts the t-test's p-values for repeated analyses: after ``start`` pairs, then after every
    ``step`` further pairs, up to ``max_pairs``.

    ``chance`` maps the nominal p-value of a single analysis to one that is valid over all analyses,
    ``nominal`` does the reverse. With a mean on the margin the sequence of t statistics does not
    depend on the unknown variance, so the chance that the smallest p-value of all analyses is below
    some nominal p is a fixed function. An adjusted p-value is at most a in any analysis with a
    chance of at most a, and so is whatever is built of such p-values: TOST, Bonferroni's factor,
    Holm's family. The function is tabulated by ``benchmarks/statistics_boundaries.py`` in
    ``boundaries.csv``; a schedule that the table lacks is a ``KeyError``.
    """

    def __init__(self, start: int, step: int, max_pairs: int) -> None:
        nominal, table = _boundaries()
        self.schedule = start, step, max_pairs
        self._analyses = 1 + (max_pairs - start) // step
        chances = table[start, step, max_pairs]
        # At p = 1 the chance is 1, which the table leaves out.
        log_nominal = np.log([*nominal, 1.0])
        log_chances = np.log([*chances, 1.0])
        smooth = interpolate.PchipInterpolator(log_nominal, log_chances)
        lowest = np.log(nominal[0])
        self._log_nominal = np.linspace(lowest, 0, 2000)
        self._log_chance = smooth(self._log_nominal)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Boundary):
            return False
        return self.schedule == other.schedule

    def __hash__(self) -> int:
        return hash(self.schedule)

    def chance(self, p: ArrayLike) -> Array:
        """Return the chance (...) that the p-value of any analysis is below the nominal p (...),
        with a true mean on the margin; an upper bound of it below the smallest p in the table.

        It is a p-value that is valid over all analyses.
        """
        above_zero = np.maximum(p, 1e-300)
        logarithm = np.log(above_zero)
        log_chance = np.interp(logarithm, self._log_nominal, self._log_chance)
        tabulated = np.exp(log_chance)
        # Below the smallest p in the table, np.interp stays at the chance of that p, which is too
        # large. Bonferroni's bound falls with p; it is taken where it is the smaller one.
        bonferroni = self._analyses * np.asarray(p)
        return np.minimum(tabulated, bonferroni)

    def nominal(self, chance: float) -> float:
        """Return the level at which to test at each single analysis, so that with a true mean on
        the margin any of them rejects with this ``chance``.

        For a chance below the smallest in the table it is Bonferroni's level, which is smaller than
        the exact one.
        """
        logarithm = np.log(chance)
        smallest_in_table = self._log_chance[0]
        if logarithm < smallest_in_table:
            bonferroni = chance / self._analyses
            return float(bonferroni)
        log_nominal = np.interp(logarithm, self._log_chance, self._log_nominal)
        return float(np.exp(log_nominal))


@functools.cache
def _boundaries() -> tuple[Array, dict[tuple[int, int, int], Array]]:
    """Read the table in ``boundaries.csv``.

    Returns:
        The nominal p-values (c,) and, by (start, step, max_pairs), for each of them the chance (c,)
        that the p-value of any analysis is below it.
    """
    path = resources.files("xceptlab.study").joinpath("boundaries.csv")
    with path.open(encoding="utf-8") as file:
        header = file.readline().split(",")
        rows = np.loadtxt(file, delimiter=",")
    # The first three columns are start, step and max_pairs.
    nominal = np.array(header[3:], dtype=float)
    chances: dict[tuple[int, int, int], Array] = {}
    for row in rows:
        start, step, max_pairs = map(int, row[:3])
        chances[start, step, max_pairs] = row[3:]
    return nominal, chances


# A study is judged again at every analysis and by every report, often on the same differences.
@functools.lru_cache(maxsize=4096)
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
    """Simulate the chance (0 to 1) that a claim on the mean is decided, either way, by the last
    analysis, and the number of pairs that a study takes on average: an undecided one takes all.

    With 4,000 paths the chance has a standard error of at most 0.8 percentage points.

    Args:
        mean: The mean of further differences, which are drawn from a normal distribution.
        spread: Their standard deviation.
        kind: What is claimed.
        margin: The claim's margin.
        analyses: The number of pairs at each analysis.
        boundary: The adjustment for these analyses.
        level: The level of all analyses together.
        observed: The differences so far (n,), with which every simulated study begins; fewer than
            the pairs of the last analysis.
        paths: The number of simulated studies.
    """
    generator = np.random.default_rng(0)
    differences = generator.normal(mean, spread, (paths, analyses[-1]))
    differences[:, : len(observed)] = observed

    def p_of(so_far: Array) -> Array:
        return p_values(so_far, kind, margin, boundary.chance)

    to_come = [n for n in analyses if n > len(observed)]
    return decisions(differences, to_come, p_of, level)


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
    """Simulate how far the mean at which a sequential study stops exceeds the true one on average,
    in the unit of the mean.

    A study stops when its scores happen to be clear, so that its estimate is biased away from the
    margin (Whitehead 1986, *Biometrika* 73). The bias is below 0 where it lowers the mean.

    Args:
        mean: The true mean of the differences, which are drawn from a normal distribution.
        spread: Their standard deviation.
        kind: What is claimed.
        margin: The claim's margin.
        analyses: The number of pairs at each analysis; a study that is never decided stops at the
            last one.
        boundary: The adjustment for these analyses.
        level: The level of all analyses together.
        paths: The number of simulated studies.
    """
    generator = np.random.default_rng(0)
    differences = generator.normal(mean, spread, (paths, analyses[-1]))
    # Every fixed number of pairs has exactly this mean, so that the noise of the simulation is no
    # bias.
    differences += mean - differences.mean(axis=0)
    # A study that nothing decides stops at the last analysis.
    at_stop = differences.mean(axis=-1)  # (paths,)
    for n in reversed(analyses):
        so_far = differences[:, :n]
        p = p_values(so_far, kind, margin, boundary.chance)  # (paths, 2)
        decided = p.min(axis=-1) <= level
        at_stop = np.where(decided, so_far.mean(axis=-1), at_stop)
    return float(at_stop.mean() - mean)


def decisions(
    differences: Array, analyses: Sequence[int], p_of: Callable[[Array], Array], level: float
) -> tuple[float, float]:
    """Return the share (0 to 1) of simulated studies that are decided by the last analysis, and the
    number of pairs that a study takes on average: an undecided one takes those of the last
    analysis.

    Args:
        differences: The differences of the simulated studies, (studies, pairs).
        analyses: The number of pairs at each analysis that is to come, of which there is at least
            one.
        p_of: Function from the differences up to an analysis (studies, n) to the p-values
            (studies, 2) of the claim and of its opposite, valid over all analyses.
        level: A claim is decided by a p-value at or below this.
    """
    smaller_p = []
    for n in analyses:
        p = p_of(differences[:, :n])  # (studies, 2)
        smaller_p.append(p.min(axis=-1))
    decides = np.stack(smaller_p) <= level  # (analyses, studies)
    decided = decides.any(axis=0)
    first_that_decides = decides.argmax(axis=0)
    pairs = np.asarray(analyses)[first_that_decides]
    needed = np.where(decided, pairs, analyses[-1])
    share = decided.mean()
    average = needed.mean()
    return float(share), float(average)


def upper_spread(spread: float, n: int) -> float:
    """Return the one-sided upper 80% confidence limit of a standard deviation that n normal values,
    n >= 2, estimate as ``spread``.
    """
    degrees_of_freedom = n - 1
    low_quantile = stats.chi2.ppf(1 - 0.8, degrees_of_freedom)
    factor = np.sqrt(degrees_of_freedom / low_quantile)
    return float(spread * factor)


# ---- where the error comes from ------------------------------------------------------------------


def skewed(differences: Array) -> bool:
    """Whether differences (n,) are more skewed, in either direction, than 19 of 20 normal samples
    of their size.

    It is simulated, as n is too small for formulas. Fewer than 4 differences, and differences that
    are all equal, are not skewed.
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
    """Indices of the factors whose effect it is, one to three, in the order of the grid."""
    levels: tuple[int, ...]
    """Index of each factor's level that is compared with the factor's first level."""
    estimate: float
    """Mean at the level minus mean at the first level. Of an interaction, the effect of the first
    factors at the last factor's level minus that at its first level."""
    low: float
    """The lower end of the estimate's interval."""
    high: float
    """The upper end of the estimate's interval."""
    p_adjusted: float
    """Two-sided p-value of no effect, after Holm's correction over all effects; NaN where every
    seed has the same effect.
    """


def effects(scores: Array, level: float) -> list[Effect]:
    """Return the main effects and the interactions of two and three factors, with intervals at
    ``level``, from scores (seeds, levels of factor 1, levels of factor 2, ...).

    An effect is a contrast that is computed for every seed, so that it is tested by a t-test over
    the seeds (n - 1 degrees of freedom, n >= 2), which asks nothing of the other cells' variances;
    one variance pooled over all cells covers too seldom where they differ (Boik 1981; Maxwell &
    Delaney 2004, chapters 11 to 13).
    """
    _, *shape = scores.shape
    compared = _levels_to_compare(shape)
    contrasts = np.stack([_contrast(scores, levels) for levels in compared])  # (effects, seeds)
    # An effect that varies by the rounding of 32-bit scores alone counts as the same in all seeds.
    rounding = np.array([ROUNDING * _smallest_scale(scores, levels) for levels in compared])
    vary = np.ptp(contrasts, axis=-1) > rounding  # (effects,)
    p = np.ones(len(compared))
    test = stats.ttest_1samp(contrasts[vary], 0.0, axis=-1)
    p[vary] = test.pvalue
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


def _smallest_scale(scores: Array, levels: dict[int, int]) -> float:
    """Return the smallest, over the seeds, of each seed's largest absolute score among the cells
    that an effect compares.

    Args:
        scores: Scores (seeds, levels of factor 1, levels of factor 2, ...).
        levels: ``{factor: level}`` of the levels that are compared with the factors' first ones, by
            their indices.
    """
    for factor, level in levels.items():
        scores = scores.take([0, level], axis=1 + factor)
    return float(np.abs(scores).reshape(len(scores), -1).max(axis=1).min())


def _levels_to_compare(shape: Sequence[int]) -> list[dict[int, int]]:
    """Return the effects of 1 to 3 factors of a grid whose factors have so many levels.

    Each is ``{factor: level}`` of the levels that are compared with the factors' first ones, by
    their indices.
    """
    singles = []
    for factor, size in enumerate(shape):
        singles += [(factor, level) for level in range(1, size)]
    compared = []
    for order in (1, 2, 3):
        for several in itertools.combinations(singles, order):
            levels = dict(several)
            # With fewer keys, two of the levels are of the same factor.
            if len(levels) == order:
                compared.append(levels)
    return compared


def _contrast(scores: Array, levels: dict[int, int]) -> Array:
    """Return an effect in each seed (seeds,), averaged over all other factors.

    Args:
        scores: Scores (seeds, levels of factor 1, levels of factor 2, ...).
        levels: ``{factor: level}`` of the levels that are compared with the factors' first ones, by
            their indices.
    """
    factors = scores.ndim - 1
    # The last factor is reduced first, so that the axes of the ones before it keep their places.
    for factor in reversed(range(factors)):
        by_level = np.moveaxis(scores, factor + 1, 0)
        if factor in levels:
            level = levels[factor]
            scores = by_level[level] - by_level[0]
        else:
            scores = by_level.mean(axis=0)
    return scores


def image_variance(differences: Array) -> Array:
    """Return what the sample of images adds to the variance of a mean difference, B / N (...), from
    the differences on every image (..., n seeds, N images); n, N >= 2.

    Every run of a claim's arms is scored on the same test images, so that the difference of a seed
    on an image is the sum of a mean, a part of the seed, a part of the image, and a rest. The mean
    squares of this two-way table tell the parts apart (Searle, Casella & McCulloch 1992, *Variance
    Components*). B = max(0, (MS_images - MS_residual) / n) is the variance over images of what all
    seeds have in common. Over new seeds *and* new images the variance of the mean difference is
    s^2/n + B/N, so that no number of seeds takes the standard error below the root of B / N.
    """
    *_, n, images = differences.shape
    by_image = differences.mean(axis=-2, keepdims=True)  # (..., 1, N)
    by_seed = differences.mean(axis=-1, keepdims=True)  # (..., n, 1)
    mean = by_image.mean(axis=-1, keepdims=True)  # (..., 1, 1)
    ms_images = n * _sum_of_squares(by_image - mean) / (images - 1)  # (...)
    residual = differences - by_image - by_seed + mean  # (..., n, N)
    degrees_of_freedom = (n - 1) * (images - 1)
    ms_residual = _sum_of_squares(residual) / degrees_of_freedom  # (...)
    component = (ms_images - ms_residual) / n
    variance_over_images = np.maximum(0.0, component)
    return np.asarray(variance_over_images / images)


def _sum_of_squares(table: Array) -> Array:
    """Return the sum of squares (...) over the last two axes of a table (..., n, N)."""
    squares = table**2
    return np.asarray(squares.sum(axis=(-2, -1)))


def error_over_images(spread: Array | float, n: int, added: Array | float) -> tuple[Array, Array]:
    """Return the standard error (...) of a mean difference over seeds and images, and its degrees
    of freedom (...).

    The degrees of freedom are Satterthwaite's (1946) for the sum of both variances; that of the
    images, estimated from many of them, counts as known. They are infinite where the differences do
    not vary over seeds.

    Args:
        spread: The standard deviation (...) of the differences over seeds.
        n: The number of seeds, 2 or more.
        added: What the images add to the variance (...), as ``image_variance`` returns it; NaN
            makes the error NaN.
    """
    of_seeds = np.asarray(spread**2 / n)
    both = of_seeds + added
    with np.errstate(divide="ignore", invalid="ignore"):
        satterthwaite = both**2 * (n - 1) / of_seeds**2
    degrees_of_freedom = np.where(of_seeds > 0, satterthwaite, np.inf)
    return np.sqrt(both), degrees_of_freedom
