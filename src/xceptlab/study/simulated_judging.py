"""The judging of many simulated studies at once, by the same tests and rules by which judging.py
judges one.
"""

from collections.abc import Sequence

import numpy as np

from xceptlab.study import statistics
from xceptlab.study.estimands import MIN_PAIRS, Estimand
from xceptlab.study.statistics import Array, Integers

SUPPORTED, CONTRADICTED = 1, -1


def p_values_at(
    estimand: Estimand, differences: Array, analyses: Sequence[int], rounding_tolerance: float = 0.0
) -> Array:
    """The p-values of a claim and of its opposite at every analysis, (analyses, ..., 2), of
    differences (..., n).

    They are 1 where an analysis has nothing to test: too few pairs, or no spread above
    ``rounding_tolerance`` for a test of a mean to go by.
    """
    p = np.ones((len(analyses), *differences.shape[:-1], 2))
    for number, n in enumerate(analyses):
        if n < MIN_PAIRS:
            continue
        so_far = differences[..., :n]
        with np.errstate(divide="ignore", invalid="ignore"):
            tested = estimand.p_values(so_far)
        testable = estimand.has_spread(so_far, rounding_tolerance)
        p[number] = np.where(testable[..., None], tested, 1.0)
    return p


def decided(p: Array, alpha: float) -> tuple[Integers, Integers]:
    """What simulated studies decide, where a claim's verdict is that of the first analysis that
    supports or contradicts it.

    It is the rule of ``judging._outcome`` and of ``judging.judge``'s analyses for many studies at
    once; a test keeps them equal.

    Args:
        p: The p-values of every claim and of its opposite, before Holm's adjustment, (analyses,
            studies, claims, 2).
        alpha: Familywise error rate.

    Returns:
        By study and claim (studies, claims) the outcome, ``SUPPORTED``, ``CONTRADICTED`` or 0, and
        the index of the analysis that it is from.
    """
    outcome = np.zeros(p.shape[1:3], dtype=np.int_)
    at = np.full(p.shape[1:3], len(p) - 1)
    current = p[0]
    for number, fresh in enumerate(p):
        is_open = outcome == 0
        current = np.where(is_open[..., None], fresh, current)
        supported = is_open & (statistics.holm(current[..., 0]) <= alpha)
        contradicted = is_open & ~supported & (statistics.holm(current[..., 1]) <= alpha)
        outcome[supported] = SUPPORTED
        outcome[contradicted] = CONTRADICTED
        at[supported | contradicted] = number
    return outcome, at
