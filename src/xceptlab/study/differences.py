"""The differences of two sides' scores, without what rounding alone makes of them."""

import numpy as np

from xceptlab.study.claims import Claim
from xceptlab.study.statistics import Array

ROUNDING = 1e-6
"""How far apart scores or differences may lie that count as equal, as a part of the largest score:
the rounding of 32-bit scores may move them so far.
"""


def rounding_of(scores: Array) -> float:
    """Return how far apart scores like these, or their differences, may lie that count as equal."""
    return ROUNDING * float(np.abs(scores).max(initial=0.0))


def differences_of(claim: Claim, scores: Array) -> Array:
    """Return the differences (...) of both sides' scores (2, ...), above 0 where a is better.

    One that only rounding tells from the claim's margin is put on it: 96.4 - 96.2 is more than 0.2
    to a computer, and would count as a win.
    """
    a, b = scores
    found = b - a if claim.measure.lower_is_better else a - b
    rounding = rounding_of(scores)
    for margin in claim.margins:
        found = np.where(np.abs(found - margin) <= rounding, margin, found)
    return found
