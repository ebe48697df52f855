"""The differences of the two sides' scores that a claim compares. Those that differ from each
other, or from the margin, by no more than the rounding of scores count as equal.
"""

import math

import numpy as np

from xceptlab.study.claims import Claim
from xceptlab.study.statistics import ROUNDING, Array


def rounding_of(scores: Array) -> Array:
    """Return how far apart (...), in the scores' unit, differences of both sides' scores (2, ...)
    may lie that count as equal.

    Each pair has its own: a score of 1,000,000 that stands for a diverged run hides no difference
    of other runs.
    """
    return ROUNDING * np.abs(scores).max(axis=0)


def all_alike(scores: Array) -> bool:
    """Whether the differences of both sides' scores (2, n), n >= 1, are equal but for rounding."""
    a, b = scores
    return bool(np.ptp(a - b) <= rounding_of(scores).min())


def is_on_margin(claim: Claim, value: float) -> bool:
    """Whether a mean or a median of differences lies on one of the claim's margins, but for the
    rounding of 64-bit numbers.
    """
    return any(math.isclose(value, margin, rel_tol=1e-9, abs_tol=1e-9) for margin in claim.margins)


def differences_of(claim: Claim, scores: Array) -> Array:
    """Return the differences (...) of both sides' scores (2, ...), above 0 where a is better.

    A difference that equals a margin of the claim but for rounding is set to that margin:
    96.4 - 96.2 is more than 0.2 to a computer, and would count as a win.
    """
    a, b = scores
    found = b - a if claim.measure.lower_is_better else a - b
    rounding = rounding_of(scores)
    for margin in claim.margins:
        found = np.where(np.abs(found - margin) <= rounding, margin, found)
    return found
