"""The exact sign test on the median of paired differences: arrays in, numbers out.

It asks whether a difference lies beyond the margin for more than half of all seeds. It assumes
nothing of the differences' distribution, so that it also holds where some runs collapse or diverge,
which no test of a mean does. A *win* is a difference beyond the margin in the tested direction.
Functions take any number of leading axes ``(...)``, so that the simulations run the very code that
judges.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta, binom

from xceptlab.study.statistics import POWER, Array, Booleans, Kind, decisions, unadjusted


def upper_tail(wins: ArrayLike, n: int) -> Array:
    """Return the sign test's one-sided p-values, P(Bin(n, 1/2) >= wins) (...), for numbers of wins
    (...) among n pairs.
    """
    return np.asarray(binom.sf(np.asarray(wins) - 1, n, 0.5))


def p_values(
    differences: Array, kind: Kind, margin: float, adjust: Callable[[Any], Any] = unadjusted
) -> Array:
    """Return one-sided p-values (..., 2) of a claim on the median of paired differences (..., n).

    ``[..., 0]`` is small where the data support the claim, ``[..., 1]`` where they support its
    opposite.

    ``superior``: the median is above the margin; its opposite, it is below. ``equivalent``: it is
    within the margin, by two one-sided tests; its opposite, it is outside, by either outer test,
    hence Bonferroni's factor of 2. Differences equal to the margin count for neither side.
    ``adjust`` makes each one-sided p-value valid beside the other analyses of a sequential study,
    as ``SignBoundary.chance`` does.
    """
    n = differences.shape[-1]

    def one_sided(wins: Booleans) -> Array:
        return np.asarray(adjust(upper_tail(wins.sum(axis=-1), n)))

    above = one_sided(differences > margin)
    below = one_sided(differences < margin)
    if kind == "superior":
        return np.stack([above, below], axis=-1)
    inside = np.maximum(one_sided(differences > -margin), below)
    outside = 2 * np.minimum(above, one_sided(differences < -margin))
    return np.stack([inside, np.minimum(1.0, outside)], axis=-1)


def shares(differences: Array, kind: Kind, margin: float) -> tuple[float, float]:
    """Return the share of differences (n,) that speak for a claim, and of those that speak against
    it.

    Each share counts half an imaginary difference in, so that a few differences that agree do not
    count as all.
    """

    def share(wins: Booleans) -> float:
        return float((wins.sum() + 0.5) / (len(wins) + 1))

    above = share(differences > margin)
    below = share(differences < margin)
    if kind == "superior":
        return above, below
    inside = min(share(differences > -margin), below)
    outside = max(above, share(differences < -margin))
    return inside, outside


def interval(differences: Array, alpha: float) -> Array:
    """Return the confidence interval of the median at level 1 - 2 alpha, from differences (..., n):
    its lower and its upper end (..., 2).

    Its ends are order statistics, the r-th from below and from above, r being the largest with
    P(Bin(n, 1/2) <= r - 1) <= alpha. Where not even the smallest and the largest value reach the
    level, the ends are infinite.
    """
    n = differences.shape[-1]
    # This is the smallest count for which the chance of at most so many wins is alpha or more.
    r = int(binom.ppf(alpha, n, 0.5))
    # Where this chance is exactly alpha, the next larger r still keeps to it.
    if binom.cdf(r, n, 0.5) <= alpha:
        r += 1
    if r == 0:
        shape = (*differences.shape[:-1], 2)
        return np.broadcast_to([-np.inf, np.inf], shape).copy()
    ordered = np.sort(differences, axis=-1)
    return np.stack([ordered[..., r - 1], ordered[..., n - r]], axis=-1)


def fewest(level: float) -> int:
    """Return the smallest number of pairs with which a one-sided sign test at ``level`` can reject:
    5 at 0.05, 6 at 0.025.
    """
    return int(np.ceil(-np.log2(level) - 1e-12))


def good_sizes(level: float, max_pairs: int) -> list[int]:
    """Return the numbers of pairs, up to ``max_pairs``, with which the test needs no more wins than
    with one pair fewer: 5, 8, 11, 13, 16 ... at 0.05.
    """
    sizes = range(fewest(level), max_pairs + 1)
    return [n for n in sizes if threshold(n, level) == threshold(n - 1, level)]


def threshold(n: int, level: float) -> int:
    """Return the smallest number of wins among n pairs with which a one-sided test at ``level``
    rejects; n + 1 where even n do not suffice.
    """
    p = upper_tail(np.arange(n + 2), n)  # (n + 2,), falling
    return int(np.searchsorted(-p, -level))


def power(share: float, n: int, level: float) -> float:
    """Return the chance that a test of n pairs rejects at ``level`` if each difference is beyond
    the margin with chance ``share``.
    """
    return float(binom.sf(threshold(n, level) - 1, n, share))


def share_needed(n: int, level: float) -> float:
    """Return the smallest share (0 to 1) of all seeds whose difference must be beyond the margin, so
    that a one-sided sign test of n pairs at ``level`` rejects with a chance of ``POWER``; NaN where
    not even n wins reject.
    """
    wins = threshold(n, level)
    if wins > n:
        return float("nan")
    # This is the share for which P(Bin(n, share) >= wins) = POWER.
    return float(beta.ppf(POWER, wins, n - wins + 1))


def pairs_needed(share: float, level: float, max_pairs: int) -> int:
    """Return the smallest number of pairs with which a one-sided sign test at ``level`` rejects
    with a chance of ``POWER`` if each difference is beyond the margin with chance ``share``;
    ``max_pairs`` where fewer do not suffice.
    """
    for n in range(1, max_pairs):
        if power(share, n, level) >= POWER:
            return n
    return max_pairs


class SignBoundary:
    """Adjusts the sign test's p-values for repeated analyses, one after each number of pairs in
    ``analyses``.

    ``chance`` maps the nominal p-value of a single analysis to one that is valid over all analyses,
    ``nominal`` does the reverse. Both are exact: with a median on the margin the wins are a random
    walk of fair steps, whose chance to ever reach a threshold is computed step by step.
    """

    def __init__(self, analyses: range) -> None:
        self.analyses = analyses
        self._nominal, self._chances = _chances(analyses)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SignBoundary) and self.analyses == other.analyses

    def __hash__(self) -> int:
        return hash(self.analyses)

    def chance(self, p: ArrayLike) -> Array:
        """Return the chance (...) that the p-value of any analysis is at most the nominal p (...),
        with a median on the margin.

        It is a p-value that is valid over all analyses.
        """
        place = np.searchsorted(self._nominal, np.asarray(p) * (1 + 1e-12), side="right") - 1
        return np.where(place < 0, 0.0, self._chances[np.maximum(place, 0)])

    def nominal(self, level: float) -> float:
        """Return the largest nominal p whose ``chance`` is at most ``level``; 0 where there is
        none.
        """
        allowed = self._nominal[self._chances <= level]
        return float(allowed[-1]) if len(allowed) else 0.0


@functools.cache
def _chances(analyses: range) -> tuple[Array, Array]:
    """Return every p-value that an analysis can have, rising (c,), and for each the chance that the
    p-value of any analysis is at most this one (c,).
    """
    possible = [upper_tail(np.arange(n + 1), n) for n in analyses]
    nominal = np.unique(np.concatenate(possible))
    chances = [_crossing(analyses, level) for level in nominal]
    return nominal, np.array(chances)


def _crossing(analyses: range, level: float) -> float:
    """Return the exact chance that a one-sided sign test at the nominal ``level`` rejects at one of
    the analyses or more, if the true median is on the margin, so that a difference lies beyond it
    with a chance of one half.

    Args:
        analyses: The number of pairs at each analysis, rising; later ones contain the earlier.
        level: The nominal level of each single analysis.
    """
    # This holds, by number of wins, the chance of so many without having reached a threshold.
    alive = np.ones(1)
    crossed = 0.0
    before = 0
    for n in analyses:
        steps = n - before
        alive = np.convolve(alive, binom.pmf(np.arange(steps + 1), steps, 0.5))
        barrier = threshold(n, level * (1 + 1e-12))
        crossed += float(alive[barrier:].sum())
        alive[barrier:] = 0.0
        before = n
    return crossed


# A study is judged again at every analysis and by every report, often on the same differences.
@functools.lru_cache(maxsize=4096)
def sequential_power(
    observed: tuple[float, ...],
    kind: Kind,
    margin: float,
    boundary: SignBoundary,
    level: float,
    paths: int = 2000,
) -> tuple[float, float]:
    """Simulate the chance (0 to 1) that a claim is decided by the last analysis, and the number of
    pairs that this takes on average.

    Args:
        observed: The differences so far (n,), n >= 1, from which further ones are drawn.
        kind: What is claimed.
        margin: The claim's margin.
        boundary: The adjustment for the study's analyses.
        level: The level of all analyses together.
        paths: The number of simulated studies.
    """
    differences = np.random.default_rng(0).choice(observed, (paths, boundary.analyses[-1]))
    differences[:, : len(observed)] = observed
    to_come = [n for n in boundary.analyses if n > len(observed)]
    p = [p_values(differences[:, :n], kind, margin, boundary.chance).min(axis=-1) for n in to_come]
    return decisions(np.stack(p), to_come, level)
