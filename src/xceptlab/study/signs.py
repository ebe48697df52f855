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
    one_fewer = np.asarray(wins) - 1
    p = binom.sf(one_fewer, n, 0.5)
    return np.asarray(p)


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

    def one_sided(is_win: Booleans) -> Array:
        wins = is_win.sum(axis=-1)
        p = upper_tail(wins, n)
        return np.asarray(adjust(p))

    above = one_sided(differences > margin)
    below = one_sided(differences < margin)
    if kind == "superior":
        return np.stack([above, below], axis=-1)
    above_lower_margin = one_sided(differences > -margin)
    below_lower_margin = one_sided(differences < -margin)
    p_inside = np.maximum(above_lower_margin, below)
    smaller_outside = np.minimum(above, below_lower_margin)
    p_outside = np.minimum(1.0, 2 * smaller_outside)
    return np.stack([p_inside, p_outside], axis=-1)


def shares(differences: Array, kind: Kind, margin: float) -> tuple[float, float]:
    """Return the shares (0 to 1) of the differences (n,) that speak for a claim and against it.

    Against ``equivalent`` speak those above the margin or those below its negative, whichever are
    more. The share of k of n differences is taken as (k + 0.5) / (n + 1), so that a few differences
    that agree do not count as all.
    """

    def share(is_win: Booleans) -> float:
        wins = is_win.sum()
        return float((wins + 0.5) / (len(is_win) + 1))

    above = share(differences > margin)
    below = share(differences < margin)
    if kind == "superior":
        return above, below
    below_lower_margin = share(differences < -margin)
    inside = share(np.abs(differences) < margin)
    outside = max(above, below_lower_margin)
    return inside, outside


def interval(differences: Array, alpha: float) -> Array:
    """Return the confidence interval of the median at level 1 - 2 alpha, from differences (..., n):
    its lower and its upper end (..., 2).

    Its ends are order statistics, the r-th from below and from above, r being the largest with
    P(Bin(n, 1/2) <= r - 1) <= alpha. Where not even the smallest and the largest value reach the
    level, the ends are infinite.
    """
    *leading, n = differences.shape
    # The smallest count for which the chance of at most so many wins is alpha or more is the r that
    # is looked for, except where that chance is exactly alpha: then the next larger one keeps to
    # the level, too.
    r = int(binom.ppf(alpha, n, 0.5))
    if binom.cdf(r, n, 0.5) <= alpha:
        r += 1
    if r == 0:
        whole_line = [-np.inf, np.inf]
        return np.broadcast_to(whole_line, (*leading, 2)).copy()
    ordered = np.sort(differences, axis=-1)
    low = ordered[..., r - 1]
    high = ordered[..., n - r]
    return np.stack([low, high], axis=-1)


def fewest(level: float) -> int:
    """Return the smallest number of pairs with which a one-sided sign test at ``level`` can reject:
    5 at 0.05, 6 at 0.025.
    """
    # The p-value of n wins among n pairs is 2 ** -n.
    halvings = -np.log2(level)
    return int(np.ceil(halvings - 1e-12))


def good_sizes(level: float, max_pairs: int) -> list[int]:
    """Return the numbers of pairs, up to ``max_pairs``, with which a one-sided sign test at
    ``level`` can reject and needs no more wins than with one pair fewer: 5, 8, 11, 13, 16 ... at
    0.05.
    """
    good = []
    for n in range(fewest(level), max_pairs + 1):
        with_one_fewer = threshold(n - 1, level)
        if threshold(n, level) == with_one_fewer:
            good.append(n)
    return good


def threshold(n: int, level: float) -> int:
    """Return the smallest number of wins among n pairs with which a one-sided sign test at
    ``level`` rejects; n + 1 where even n do not suffice.
    """
    wins = np.arange(n + 2)  # 0 to n, and n + 1, whose p-value is 0
    p = upper_tail(wins, n)  # (n + 2,), falling
    first_that_rejects = np.searchsorted(-p, -level)
    return int(first_that_rejects)


def power(share: float, n: int, level: float) -> float:
    """Return the chance that a one-sided sign test of n pairs rejects at ``level`` if each
    difference is beyond the margin with chance ``share``.
    """
    wins = threshold(n, level)
    chance = binom.sf(wins - 1, n, share)
    return float(chance)


def share_needed(n: int, level: float) -> float:
    """Return the smallest share (0 to 1) of all seeds whose difference must be beyond the margin,
    so that a one-sided sign test of n pairs at ``level`` rejects with a chance of ``POWER``; NaN
    where not even n wins reject.
    """
    wins = threshold(n, level)
    if wins > n:
        return float("nan")
    # The beta distribution's quantile solves P(Bin(n, share) >= wins) = POWER for the share.
    share = beta.ppf(POWER, wins, n - wins + 1)
    return float(share)


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
        if not isinstance(other, SignBoundary):
            return False
        return self.analyses == other.analyses

    def __hash__(self) -> int:
        return hash(self.analyses)

    def chance(self, p: ArrayLike) -> Array:
        """Return the chance (...) that the p-value of any analysis is at most the nominal p (...),
        with a median on the margin.

        It is a p-value that is valid over all analyses.
        """
        # Equal p-values may differ by rounding.
        slightly_above = np.asarray(p) * (1 + 1e-12)
        possible = np.searchsorted(self._nominal, slightly_above, side="right")
        largest = possible - 1  # the index of the largest possible p-value up to p; -1 for none
        chances = self._chances[np.maximum(largest, 0)]
        return np.where(largest < 0, 0.0, chances)

    def nominal(self, level: float) -> float:
        """Return the level at which to test at each single analysis, so that all analyses together
        have ``level`` at most: the largest p-value that an analysis can have and whose ``chance``
        is at most ``level``; 0 where there is none.
        """
        keeps_to_level = self._chances <= level
        allowed = self._nominal[keeps_to_level]
        if len(allowed) == 0:
            return 0.0
        return float(allowed[-1])


@functools.cache
def _chances(analyses: range) -> tuple[Array, Array]:
    """Return every p-value that an analysis can have, rising (c,), and for each the chance that the
    p-value of any analysis is at most this one (c,).
    """
    possible = []
    for n in analyses:
        wins = np.arange(n + 1)
        possible.append(upper_tail(wins, n))
    nominal = np.unique(np.concatenate(possible))
    chances = [_chance_to_reject(analyses, level) for level in nominal]
    return nominal, np.array(chances)


def _chance_to_reject(analyses: range, level: float) -> float:
    """Return the exact chance that a one-sided sign test at the nominal ``level`` rejects at one of
    the analyses or more, if the true median is on the margin, so that a difference lies beyond it
    with a chance of one half.

    Args:
        analyses: The number of pairs at each analysis, rising; later ones contain the earlier.
        level: The nominal level of each single analysis.
    """
    # not_rejected[w] is the chance to have w wins so far without any analysis having rejected.
    not_rejected = np.ones(1)
    rejected = 0.0
    pairs_before = 0
    for n in analyses:
        new_pairs = n - pairs_before
        new_wins = np.arange(new_pairs + 1)
        chances_of_new_wins = binom.pmf(new_wins, new_pairs, 0.5)
        not_rejected = np.convolve(not_rejected, chances_of_new_wins)  # (n + 1,)
        wins_to_reject = threshold(n, level * (1 + 1e-12))
        rejected_here = not_rejected[wins_to_reject:].sum()
        rejected += float(rejected_here)
        not_rejected[wins_to_reject:] = 0.0
        pairs_before = n
    return rejected


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
    """Simulate the chance (0 to 1) that a claim on the median is decided, either way, by the last
    analysis, and the number of pairs that a study takes on average: an undecided one takes all.

    Args:
        observed: The differences so far (n,), from which further ones are drawn; n is at least 1,
            and below the number of pairs at the last analysis.
        kind: What is claimed.
        margin: The claim's margin.
        boundary: The adjustment for the study's analyses; its ``analyses`` are the numbers of pairs
            at these.
        level: The level of all analyses together.
        paths: The number of simulated studies.
    """
    max_pairs = boundary.analyses[-1]
    generator = np.random.default_rng(0)
    differences = generator.choice(observed, (paths, max_pairs))
    differences[:, : len(observed)] = observed

    def p_of(so_far: Array) -> Array:
        return p_values(so_far, kind, margin, boundary.chance)

    to_come = [n for n in boundary.analyses if n > len(observed)]
    return decisions(differences, to_come, p_of, level)
