"""The statistics: arrays in, numbers out. scipy and statsmodels do the computing."""

import bisect
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

MOST_PAIRS = 1000
"""Where counting how many seeds a claim needs ends."""


def p_values(differences: NDArray[np.float64], kind: Literal["superior", "equivalent"], margin: float) -> tuple[float, float]:
    """For paired differences (n,), n >= 2 and of some spread: (p that the claim holds, p that its opposite does).

    ``superior``: one-sided t-tests of mean > margin and of mean < margin. ``equivalent``: two one-sided tests (Schuirmann 1987)
    of |mean| < margin; its opposite, |mean| > margin, is shown by either outer test, hence Bonferroni's factor of 2.
    """
    if kind == "superior":
        return _t(differences, margin, "greater"), _t(differences, margin, "less")
    inside = max(_t(differences, -margin, "greater"), _t(differences, margin, "less"))
    outside = 2 * min(_t(differences, margin, "greater"), _t(differences, -margin, "less"))
    return inside, min(1.0, outside)


def _t(differences: NDArray[np.float64], mean: float, alternative: str) -> float:
    return float(stats.ttest_1samp(differences, mean, alternative=alternative).pvalue)


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's (1979) adjustment of p-values (m,) -> (m,): all below alpha, all hold but with chance alpha."""
    from statsmodels.stats.multitest import multipletests

    return multipletests(p, method="holm")[1] if len(p) else p


def interval(differences: NDArray[np.float64], level: float) -> tuple[float, float]:
    """The t interval of the mean of differences (n,), n >= 2, at ``level`` (0 to 1)."""
    mean, error = differences.mean(), stats.sem(differences)
    half = error * stats.t.ppf((1 + level) / 2, len(differences) - 1)
    return float(mean - half), float(mean + half)


def detectable(spread: float, n: int, kind: Literal["superior", "equivalent"], alpha: float, power: float = 0.8) -> float:
    """The distance that n pairs of standard deviation ``spread`` would have found with ``power``.

    ``superior``: how far beyond the margin the mean would have to be. ``equivalent``: the smallest margin that would be shown for
    a true difference of 0 (each of the two tests at power 1 - (1 - power) / 2, as for two that fail independently).
    """
    from statsmodels.stats.power import TTestPower

    each = power if kind == "superior" else 1 - (1 - power) / 2
    return float(spread * TTestPower().solve_power(nobs=n, alpha=alpha, power=each, alternative="larger"))


def pairs_needed(
    distance: float, spread: float, kind: Literal["superior", "equivalent"], alpha: float, power: float = 0.8
) -> int:
    """Pairs that find a mean at ``distance`` (> 0) from the margin with ``power``, at standard deviation ``spread`` (> 0).

    At most ``MOST_PAIRS``.
    """
    from statsmodels.stats.power import TTestPower

    each = power if kind == "superior" else 1 - (1 - power) / 2
    sizes = range(2, MOST_PAIRS)
    return sizes.start + bisect.bisect_left(
        sizes, True, key=lambda n: not TTestPower().power(distance / spread, n, alpha, alternative="larger") < each
    )


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson's correlation of (n,) and (n,); NaN where one of them does not vary."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
