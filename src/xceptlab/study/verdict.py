"""The ``Verdict`` on a claim, which ``judging`` makes; docs/statistics.md says what it means."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xceptlab.study.claims import Claim
from xceptlab.study.statistics import Array

Outcome = Literal["supported", "contradicted", "inconclusive", "incomplete"]
"""What is said of a claim: ``incomplete`` while scores are missing; ``inconclusive`` where they
show neither the claim nor its opposite.
"""


@dataclass(frozen=True, kw_only=True, repr=False)
class Verdict:
    """What the scores say of a claim, in numbers and in words.

    Differences are a - b, or b - a in a metric in which lower is better, such as the loss: above 0,
    a is the better side.
    """

    claim: Claim
    """The claim that is judged."""
    outcome: Outcome
    """Whether the claim is supported, contradicted, or neither."""
    estimate: float
    """The mean or the median of the paired differences, whichever the claim is about, in the
    metric's unit; NaN without pairs.
    """
    low: float
    """The lower end of the confidence interval that belongs to the claim's tests; NaN with fewer
    than 2 pairs and where ``image_variance`` is NaN, -inf with too few pairs to bound a median."""
    high: float
    """The upper end of the confidence interval that belongs to the claim's tests; NaN with fewer
    than 2 pairs and where ``image_variance`` is NaN, inf with too few pairs to bound a median."""
    level: float
    """The interval's level, 1 - 2 alpha."""
    n: int
    """The number of pairs, which are the seeds of which both sides have a score."""
    p_adjusted: float = math.nan
    """Holm-adjusted p-value: that of the opposite of the claim where the opposite is shown, or
    would be but for the other claims, else that of the claim; NaN where nothing was tested.
    """
    pairing_and_power: str = ""
    """What the pairing gained, and which effect this n would have found with 80% power at the level
    that Holm leaves the claim, in words; empty where nothing was tested."""
    variance_left: tuple[float, float, float]
    """What pairing leaves of the variance of a difference, var(a - b) / (var a + var b), and the
    ends of its 95% interval; NaN with fewer than 3 pairs, and where a side's scores do not vary."""
    differences: dict[int, float]
    """The paired differences by seed."""
    scores: tuple[dict[int, float], dict[int, float]]
    """The scores of the sides a and b, each by seed."""
    diverged: tuple[tuple[str, int], ...] = ()
    """The runs, each as (arm, seed), that have no finite score and count as the claim declares.
    Always empty for a study, whose report lists its diverged runs itself."""
    tested: bool = False
    """Whether the outcome comes from a test; False while scores are missing, with too few pairs,
    and where the differences cannot be tested, such as the mean of differences without spread."""
    max_seeds: int | None = None
    """The largest number of seeds in a study that adds seeds until its claims are decided, whose
    interval is a repeated one, valid at every analysis; None with a list of seeds."""
    image_variance: float | None = None
    """What the sample of images adds to the variance of the estimate, where the verdict is to hold
    for other images (``scope: images``), NaN if not known; None where it is not to."""
    stopping: str = ""
    """What it means for the estimate that the claim was decided before ``max_seeds``, and the
    estimate with the seeds that came later, in words; empty where there is nothing to say.
    """
    chance_when_given_up: float | None = None
    """The chance (0 to 1) to be decided by ``max_seeds`` seeds, if the claim was given up because
    it is below the study's ``futility``; None where the claim was not given up.
    """
    summary: str = ""
    """The verdict in a sentence of plain words. For a study further ones say, where it is so, how
    the arms were tuned, how many runs of each arm diverged and what they count as, and that all
    arms of the claim are at chance."""
    warnings: tuple[str, ...] = ()
    """Why the verdict may mean less than it says, a clause each; empty where nothing is known."""

    def __repr__(self) -> str:
        judged = f", {self.estimate:+.{self.claim.decimals}f} from {self.n} pairs" if self.n else ""
        return f"<Verdict {self.claim.id}: {self.outcome}{judged}>"

    def __str__(self) -> str:
        return f"{self.outcome.upper()}  {self.claim.id}: {self.summary}"

    @property
    def has_interval(self) -> bool:
        """Whether ``low`` and ``high`` are known. They are not with fewer than 2 pairs, nor where
        ``scope: images`` asks for values by image that runs have not kept. A known interval may be
        infinite.
        """
        return not math.isnan(self.low)

    @property
    def values(self) -> Array:
        """The paired differences (n,), by rising seed."""
        return np.array(list(self.differences.values()), dtype=np.float64)

    @property
    def arms(self) -> Array:
        """The scores of the sides a and b that form pairs, (2, n), by rising seed."""
        a, b = self.scores
        paired_a = [a[seed] for seed in self.differences]
        paired_b = [b[seed] for seed in self.differences]
        return np.array([paired_a, paired_b], dtype=np.float64)

    @property
    def decided(self) -> bool:
        """Whether the claim is supported or contradicted."""
        return self.outcome in ("supported", "contradicted")

    @property
    def settled(self) -> bool:
        """Whether the claim asks for no more seeds, since it is decided or was given up."""
        return self.decided or self.chance_when_given_up is not None
