"""Judge many simulated studies at once, by the tests and rules by which ``judging`` judges one; but
no claim is given up (``futility``).
"""

from collections.abc import Sequence

import numpy as np

from xceptlab.study import statistics
from xceptlab.study.estimands import MIN_PAIRS, Estimand
from xceptlab.study.statistics import Array, Integers

SUPPORTED, CONTRADICTED = 1, -1
"""Numbers that stand for these verdicts in arrays; 0 stands for any other."""


def p_values_at(
    estimand: Estimand, differences: Array, analyses: Sequence[int], rounding_tolerance: float = 0.0
) -> Array:
    """Return the p-values of a claim and of its opposite at every analysis, (analyses, ..., 2).

    They are 1 where an analysis has nothing to test: too few pairs, or no spread for a test of a
    mean to go by.

    Args:
        estimand: The claim's estimand.
        differences: Paired differences of all seeds, (..., n).
        analyses: The number of pairs at each analysis, n at most.
        rounding_tolerance: How far apart differences may lie that still count as equal.
    """
    *leading, _ = differences.shape
    p = np.ones((len(analyses), *leading, 2))
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
    """Decide the claims of simulated studies by p-values that Holm's method adjusts over all
    claims: a verdict is that of the first analysis that supports or contradicts the claim.

    This is the rule of ``judging.judge``, and of its ``_outcome``, for many studies at once, but
    for ``futility``: no claim is given up here. A test checks that both rules agree in studies
    that give no claim up.

    Args:
        p: The p-values (analyses, studies, claims, 2) of every claim and of its opposite, before
            Holm's adjustment.
        alpha: Familywise error rate.

    Returns:
        The outcomes (studies, claims), each ``SUPPORTED``, ``CONTRADICTED`` or 0, and the indices
        (studies, claims) of the analyses that gave them, the last one for 0.
    """
    analyses, studies, claims, _ = p.shape
    outcome = np.zeros((studies, claims), dtype=np.int_)
    at = np.full((studies, claims), analyses - 1)
    # A decided claim keeps the p-values of the analysis that decided it.
    current = p[0]
    for number, fresh in enumerate(p):
        is_open = outcome == 0  # (studies, claims)
        current = np.where(is_open[..., None], fresh, current)  # (studies, claims, 2)
        adjusted_for = statistics.holm(current[..., 0])
        adjusted_against = statistics.holm(current[..., 1])
        supported = is_open & (adjusted_for <= alpha)
        contradicted = is_open & ~supported & (adjusted_against <= alpha)
        outcome[supported] = SUPPORTED
        outcome[contradicted] = CONTRADICTED
        at[supported | contradicted] = number
    return outcome, at
