"""Draw differences like those that were seen, for simulated studies: resampled pairs, with
failures, and shifted to a chosen true difference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xceptlab.study.claims import Claim
from xceptlab.study.score_differences import differences_of, is_on_margin, rounding_of
from xceptlab.study.statistics import Array, Booleans, Integers
from xceptlab.study.verdict import Outcome, Verdict
from xceptlab.text import counted

A_FAILS, B_FAILS = 1, 2
"""Bits of a number that says whose run fails with a seed: 0 for neither side's, 1 for a's, 2 for
b's, 3 for both.
"""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What a study has shown of a claim, from which further studies are drawn.

    A pair is the runs of both sides with one seed; there are n.
    """

    claim: Claim
    scores: Array
    """The scores of the claim's two sides, a and b, by pair (2, n)."""
    seeds: tuple[int, ...]
    """The seed of each pair (n,); claims that share a seed are resampled together."""
    failed: Booleans
    """Whether each side's run of each pair failed (2, n); False for an effect, whose sides are made
    of several runs.
    """
    failed_score: float = math.nan
    """The score of a failed run; NaN where that is not known."""
    points_per_image: float = 0.0
    """The percentage points by which one more correct image changes an accuracy; 0 where that is
    not known.
    """
    why_not: str = ""
    """Why nothing can be simulated for the claim, whatever its differences are; empty where
    something can.
    """

    @classmethod
    def of(
        cls,
        verdict: Verdict,
        failed: Sequence[tuple[str, int]],
        *,
        failed_score: float = math.nan,
        points_per_image: float = 0.0,
        why_not: str = "",
    ) -> "Observed":
        """Collect from a verdict what simulated studies of its claim are drawn from: the scores of the
        claim's two sides by seed, and which of their runs failed.

        Args:
            verdict: The verdict on the claim.
            failed: The failed runs among those that the verdict's differences are made of, each as
                (arm, seed).
            failed_score: The score that a simulated failed run gets; NaN where that is not known.
            points_per_image: The percentage points by which one more correct image changes an
                accuracy; 0 for other metrics, and where that is not known.
            why_not: A reason, in words, why no studies can be simulated for the claim, whatever its
                differences are; empty where there is none.
        """
        fails = []  # (2, n): the two sides' runs
        for arm in verdict.claim.sides:
            of_side = [(arm, seed) in failed for seed in verdict.differences]
            fails.append(of_side)
        return cls(
            claim=verdict.claim,
            scores=verdict.arms,
            seeds=tuple(verdict.differences),
            failed=np.array(fails, dtype=bool),
            failed_score=failed_score,
            points_per_image=points_per_image,
            why_not=why_not,
        )

    @property
    def differences(self) -> Array:
        """The paired differences (n,), above 0 where a is better."""
        return differences_of(self.claim, self.scores)

    @property
    def rounding_tolerance(self) -> float:
        """How far apart differences may lie that still count as equal, in the metric's unit;
        infinite without pairs.
        """
        return float(rounding_of(self.scores).min(initial=math.inf))

    @property
    def why_not_simulated(self) -> str:
        """Why no further studies can be simulated, in words; empty where they can."""
        n = len(self.differences)
        if self.why_not:
            return self.why_not
        if n < 2:
            return f"{counted(n, 'pair')} of runs cannot tell how differences vary"
        if np.ptp(self.differences) <= self.rounding_tolerance:
            return (
                f"all {n} differences are the same, from which nothing can be learned about others"
            )
        return ""

    @property
    def why_no_failures(self) -> str:
        """Why no failed runs can be simulated, in words; empty where they can."""
        if self.claim.contrast is None:
            return "an effect is one of several arms"
        if math.isnan(self.failed_score):
            return "nothing says what a failed run scores (`diverged:` does)"
        if (~self.failed.any(axis=0)).sum() < 2:
            return "fewer than 2 pairs are without a failed run"
        return ""


@dataclass(frozen=True, kw_only=True)
class RandomNumbers:
    """The random numbers of all simulations, each (studies, seeds).

    Simulations share them, so that they differ only in what is simulated.
    """

    seeds: Integers
    """The observed seed whose pair each simulated seed repeats, the same for all claims."""
    pair: Array
    """Numbers from 0 to 1 that choose the pair to repeat where a claim has no pair of the observed
    seed.
    """
    fails_a: Array
    """Numbers from 0 to 1: a's run fails where the number is below its share of failures."""
    fails_b: Array
    """Numbers from 0 to 1: b's run fails where the number is below its share of failures."""
    tie: Array
    """Numbers from 0 to 1 that decide whether a difference is rounded up or down, and on which side
    of the true median a tied one lies.
    """

    @classmethod
    def of(
        cls, rng: np.random.Generator, studies: int, n: int, seeds: Sequence[int]
    ) -> "RandomNumbers":
        """Draw the random numbers of ``studies`` studies of n seeds each, which repeat the
        ``seeds`` that were observed; where there are none, they repeat seed 0.
        """
        shape = (studies, n)
        # The numbers depend on the order in which they are drawn.
        return cls(
            seeds=rng.choice(np.array(seeds or [0]), shape),
            pair=rng.random(shape),
            fails_a=rng.random(shape),
            fails_b=rng.random(shape),
            tie=rng.random(shape),
        )


@dataclass(frozen=True, kw_only=True)
class DifferenceDistribution:
    """A distribution from which the differences of simulated studies are drawn: one of n pairs,
    chosen at random, in which the run of either side may fail.
    """

    claim: Claim
    scores: Array
    """The scores of the two sides, (2, 4, n): by side, by whose run fails (neither's, a's, b's,
    both) and by pair; (2, 1, n) where nothing fails.
    """
    seeds: tuple[int, ...]
    """The seed of each pair (n,)."""
    shares: tuple[float, float] = (0.0, 0.0)
    """The shares (0 to 1) of the seeds with which the runs of a and of b fail, independently."""
    points_per_image: float = 0.0
    """Differences are rounded to multiples of this, at random up or down so that the mean stays; 0
    rounds nothing.
    """

    @classmethod
    def as_seen(cls, observed: Observed, points_per_image: float = 0.0) -> "DifferenceDistribution":
        """Return the distribution of the pairs that were seen, without further failures.

        Differences are rounded to multiples of ``points_per_image``; 0 rounds nothing.
        """
        return cls(
            claim=observed.claim,
            scores=observed.scores[:, None],
            seeds=observed.seeds,
            points_per_image=points_per_image,
        )

    @classmethod
    def with_failures(
        cls, observed: Observed, shares: tuple[float, float]
    ) -> "DifferenceDistribution":
        """Return the distribution of those pairs of which no run failed, in which the runs of a and
        b fail, independently, with these shares (0 to 1) of the seeds, and then have the score
        ``observed.failed_score``.
        """
        sound = ~observed.failed.any(axis=0)
        a, b = observed.scores[:, sound]
        seeds = tuple(np.array(observed.seeds)[sound].tolist())
        failed_scores = np.full(len(a), observed.failed_score)
        scores = [[a, failed_scores, a, failed_scores], [b, b, failed_scores, failed_scores]]
        return cls(claim=observed.claim, scores=np.array(scores), seeds=seeds, shares=shares)

    @property
    def values(self) -> Array:
        """All differences that can be drawn: (4, n), by whose run fails, or (1, n)."""
        return differences_of(self.claim, self.scores)

    @property
    def weights(self) -> Array:
        """The chance of each of the ``values``, (4, n) or (1, n)."""
        kinds, n = self.values.shape
        a, b = self.shares
        chances = np.array([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b])
        return np.repeat(chances[:kinds, None] / n, n, axis=1)

    @property
    def true_difference(self) -> float:
        """The mean or the median of the distribution, whichever the claim is about."""
        if self.claim.statistic == "mean":
            return float((self.values * self.weights).sum())
        return _median(self.values.ravel(), self.weights.ravel())

    @property
    def right_verdict(self) -> Outcome:
        """The verdict that is right for the true difference: ``inconclusive`` if this is equal to a
        margin but for rounding, else ``supported`` or ``contradicted``.
        """
        if self.claim.kind == "equivalent":
            inside = self.claim.margin - abs(self.true_difference)
        else:
            inside = self.true_difference - self.claim.margin
        if is_on_margin(self.claim, self.true_difference):
            return "inconclusive"
        return "supported" if inside > 0 else "contradicted"

    def draw_scores(self, numbers: RandomNumbers) -> Array:
        """Draw the scores of both sides (2, studies, seeds) by random numbers (studies, seeds)."""
        pair = (numbers.pair * len(self.seeds)).astype(np.int_)
        for place, seed in enumerate(self.seeds):
            pair[numbers.seeds == seed] = place
        share_a, share_b = self.shares
        fails = A_FAILS * (numbers.fails_a < share_a) + B_FAILS * (numbers.fails_b < share_b)
        return self.scores[:, fails, pair]

    def draw(self, numbers: RandomNumbers, truth: float | None = None) -> Array:
        """Draw differences (studies, seeds) by random numbers (studies, seeds), shifted so that the
        true difference is ``truth``; None shifts nothing.

        They are rounded to multiples of ``points_per_image``, if that is not 0.
        """
        drawn = differences_of(self.claim, self.draw_scores(numbers))
        if truth is not None:
            drawn = self._moved(drawn, truth, numbers)
        if self.points_per_image:
            images = np.floor(drawn / self.points_per_image + numbers.tie)
            return np.round(images * self.points_per_image, 9)
        return drawn

    def _moved(self, drawn: Array, truth: float, numbers: RandomNumbers) -> Array:
        """Shift drawn differences (studies, seeds) so that the distribution's mean or median,
        whichever the claim is about, becomes ``truth``.

        Of a median, the drawn differences that equal it are put just below or just above ``truth``,
        at random by ``numbers.tie``, so that a difference lies on each side with a chance of one
        half: a real difference is never exactly the median of all that are possible.
        """
        moved = drawn + (truth - self.true_difference)
        if self.claim.statistic == "mean":
            return moved
        above = self.weights[self.values > self.true_difference].sum()
        tied = self.weights[self.values == self.true_difference].sum()
        upwards = numbers.tie * tied < 0.5 - above
        next_to = 1e-9 * np.ptp(self.values)
        beside = truth + np.where(upwards, next_to, -next_to)
        return np.where(drawn == self.true_difference, beside, moved)


def _median(values: Array, weights: Array) -> float:
    """Return the median of a distribution on values (n,) with weights (n,) that sum to 1.

    It is the middle between two values where half of the weight lies at or below the smaller one.
    """
    order = np.argsort(values)
    order = order[weights[order] > 0]
    up_to = np.cumsum(weights[order])
    middle = int(np.searchsorted(up_to, 0.5 - 1e-9))
    if up_to[middle] > 0.5 + 1e-9:
        return float(values[order[middle]])
    return float(values[order[middle : middle + 2]].mean())
