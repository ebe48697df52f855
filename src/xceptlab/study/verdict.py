"""A verdict on a claim, as judging.py makes it; docs/statistics.md says what it means."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xceptlab.study.claims import Claim
from xceptlab.study.statistics import Array

ROUNDING = 1e-6
"""The part of the largest score up to which differences count as equal: what the rounding of 32-bit
scores may make of them.
"""

Outcome = Literal["supported", "contradicted", "inconclusive", "incomplete"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Verdict:
    """What the scores say of a claim. Differences are a - b, or b - a for the loss: above 0, a is
    the better arm.
    """

    claim: Claim
    outcome: Outcome
    estimate: float
    """The claim's statistic of the paired differences, their mean or median; NaN without pairs."""
    low: float
    """The lower end of the interval that belongs to the claim's tests: NaN with fewer than 2 pairs,
    -inf where few pairs bound no median."""
    high: float
    """The upper end of the interval that belongs to the claim's tests: NaN with fewer than 2 pairs,
    inf where few pairs bound no median."""
    level: float
    """The interval's level, 1 - 2 alpha."""
    n: int
    """The number of complete pairs."""
    p_adjusted: float = math.nan
    """Holm-adjusted p-value: of the opposite where that is shown, or would be but for the other
    claims, else of the claim; NaN where nothing was tested."""
    pairing_and_power: str = ""
    """What the pairing gained, and what this n would have found with 80% power at the level that
    Holm leaves the claim, in words; empty where nothing was tested."""
    variance_left: tuple[float, float, float]
    """What pairing leaves of the variance of a difference, var(a - b) / (var a + var b), with its
    95% interval; NaN where the scores do not tell."""
    differences: dict[int, float]
    """The paired differences by seed."""
    scores: tuple[dict[int, float], dict[int, float]]
    """The scores of the arms a and b, by seed."""
    diverged: tuple[tuple[str, int], ...] = ()
    """The runs, by (arm, seed), that have no finite score and count as the claim declares; only of
    scores from elsewhere.
    """
    tested: bool = False
    """Whether there were pairs to test."""
    max_seeds: int | None = None
    """Seeds at most, where seeds are added until the claims are decided; the interval is then the
    repeated one.
    """
    image_variance: float | None = None
    """What other images would add to the variance of the estimate, where the verdict is to hold for
    them; NaN if not known.
    """
    stopping: str = ""
    """What it means for the estimate that the claim was decided before the most seeds, in words;
    empty where it was not.
    """
    chance_when_given_up: float | None = None
    """The chance to be decided by the most seeds, of a claim that was given up because it is below
    the study's ``futility``; None of another claim."""
    summary: str = ""
    """One sentence in plain words; a second one where the verdict means nothing."""
    warnings: tuple[str, ...] = ()
    """Why the verdict may mean less than it says, a clause each."""

    def __repr__(self) -> str:
        judged = f", {self.estimate:+.{self.claim.decimals}f} from {self.n} pairs" if self.n else ""
        return f"<Verdict {self.claim.id}: {self.outcome}{judged}>"

    def __str__(self) -> str:
        return f"{self.outcome.upper()}  {self.claim.id}: {self.summary}"

    @property
    def values(self) -> Array:
        """The paired differences (n,)."""
        return np.array(list(self.differences.values()), dtype=np.float64)

    @property
    def arms(self) -> Array:
        """The scores of the arms a and b that form pairs, (2, n)."""
        a, b = self.scores
        return np.array(
            [[scores[seed] for seed in self.differences] for scores in (a, b)], dtype=np.float64
        )

    @property
    def decided(self) -> bool:
        """Whether the claim is supported or contradicted."""
        return self.outcome in ("supported", "contradicted")

    @property
    def settled(self) -> bool:
        """Whether the claim asks for no more seeds."""
        return self.decided or self.chance_when_given_up is not None
