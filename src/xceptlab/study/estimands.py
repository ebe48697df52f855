"""What a claim is about: the mean or the median over seeds of paired differences, and how each of
the two is tested.

The mean is tested by t-tests: powerful, and valid while the differences are near normal. The median
is tested by counting signs: valid for any distribution, also where runs collapse or diverge, and
blind to how large a difference is.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from xceptlab.runs.metrics import split_of
from xceptlab.study import signs, statistics
from xceptlab.study.claims import Claim
from xceptlab.study.definition import Seeds
from xceptlab.study.statistics import MAX_PAIRS, Array, Booleans

MIN_PAIRS = 3
"""No test judges fewer pairs."""
PLAUSIBLE = 0.8
"""Level of the interval of a mean over which forecasts give a range."""


class Estimand(ABC):
    """The statistic that a claim is about, of its paired differences (n,), which are above 0 where
    the first arm is better.

    Args:
        claim: The claim.
        seeds: Those of the study; where seeds are added until the claims are decided, tests account
            for all analyses.
    """

    boundary: statistics.Boundary | signs.SignBoundary | None
    """What the analyses of a sequential study cost; None with fixed seeds."""

    def __init__(self, claim: Claim, seeds: Sequence[int] | Seeds) -> None:
        self.claim, self.seeds = claim, seeds

    def adjust(self, p: Array) -> Array:
        """One-sided p-values (...) made valid beside the other analyses of a sequential study; with
        fixed seeds as they are.
        """
        return p if self.boundary is None else self.boundary.chance(p)

    def nominal(self, level: float) -> float:
        """The unadjusted p-value at which one analysis of a sequential study decides at the
        familywise ``level``.

        With fixed seeds it is ``level`` itself.
        """
        return level if self.boundary is None else self.boundary.nominal(level)

    @property
    def scope(self) -> str:
        """What a verdict holds for besides other seeds, in words: these images, or others, too."""
        sets = {"test": "on this test set", "val": "on this validation set"}
        return sets.get(split_of(self.claim.metric), "on the data that were scored")

    @abstractmethod
    def estimate(self, differences: Array) -> float:
        """The claim's statistic, mean or median, of paired differences (n,), n >= 1."""

    @abstractmethod
    def interval(self, differences: Array, alpha: float) -> tuple[float, float]:
        """The interval of level 1 - 2 alpha that belongs to the claim's tests at ``alpha``, from
        differences (n,), n >= 2.
        """

    @abstractmethod
    def p_values(self, differences: Array) -> Array:
        """For differences (..., n): p that the claim holds and p that its opposite does (..., 2).

        They are valid beside the other analyses of a sequential study.
        """

    @abstractmethod
    def has_spread(self, differences: Array, tolerance: float) -> Booleans:
        """Whether differences (..., n) vary by more than ``tolerance``, where the test needs that:
        (...).
        """

    @abstractmethod
    def untestable(self, differences: Array) -> str:
        """Why the differences (n,) cannot be tested, in words; empty if they can."""

    @abstractmethod
    def power_sentence(self, differences: Array, level: float) -> str:
        """What so many pairs would have found with 80% power at the ``level`` of a single analysis,
        in a sentence.
        """

    @abstractmethod
    def more_seeds_clause(self, differences: Array, levels: Sequence[float]) -> str:
        """How many seeds would probably decide the claim if these differences were typical, in a
        clause.

        Args:
            differences: The differences (n,).
            levels: Those of a single analysis, at which the claim and its opposite are tested.
        """

    @abstractmethod
    def description(self, differences: Array) -> str:
        """The differences (n,), n >= 2, in one clause: their number, their statistic and how they
        vary.
        """

    @abstractmethod
    def conditional_power(self, differences: Array, level: float) -> tuple[float, float]:
        """The chance to be decided, either way, by the most seeds, and the seeds that it takes on
        average.

        It is the conditional power under the current trend: further seeds are taken to be as those
        of the differences (n,), n >= 2. Only of a study whose seeds are added, at the ``level`` of
        all its analyses.
        """

    @abstractmethod
    def stopping_sentence(self, differences: Array, level: float) -> str:
        """How stopping when it was decided biases the claim's estimate, in a sentence; empty where
        that is next to nothing.

        The claim was decided by these differences (n,), n >= 2, at the study's ``level``.
        """

    @abstractmethod
    def forecast_clause(self, differences: Array, level: float) -> str:
        """What the differences (n,), n >= 2, say about the seeds still to come, at the study's
        ``level``, in a clause.
        """


def estimand_of(
    claim: Claim,
    seeds: Sequence[int] | Seeds,
    arms: Array | None = None,
    image_variance: float | None = None,
) -> Estimand:
    """The estimand that a claim declares.

    Args:
        claim: The claim.
        seeds: Those of the study.
        arms: The scores of the claim's two sides with equal seeds, (2, n), which unpaired arms
            need.
        image_variance: What images add to the variance, where a verdict is to hold for other
            images, too (``scope: images``).
    """
    if image_variance is not None:
        return MeanOverImages(claim, seeds, image_variance)
    if claim.pairing == "none":
        assert arms is not None
        return UnpairedMean(claim, seeds, arms)
    if claim.statistic == "mean":
        return Mean(claim, seeds)
    return Median(claim, seeds)


class Mean(Estimand):
    """The mean over seeds, by paired t-tests."""

    boundary: statistics.Boundary | None

    def __init__(self, claim: Claim, seeds: Sequence[int] | Seeds) -> None:
        super().__init__(claim, seeds)
        self.boundary = None
        if isinstance(seeds, Seeds):
            self.boundary = statistics.Boundary(seeds.start, seeds.step, seeds.max)

    def spread(self, differences: Array) -> Array:
        """The standard deviation (...) of differences (..., n), n >= 2, of which ``error`` makes
        the mean's standard error.
        """
        return np.asarray(differences.std(axis=-1, ddof=1))

    def error(self, spread: Array, n: int) -> tuple[Array, Array | float]:
        """The standard error of the mean of n differences of this spread (...), and its degrees of
        freedom.
        """
        return spread / math.sqrt(n), n - 1

    def estimate(self, differences: Array) -> float:
        return float(differences.mean())

    def interval(self, differences: Array, alpha: float) -> tuple[float, float]:
        return self._interval(differences, 1 - 2 * self.nominal(alpha))

    def _interval(self, differences: Array, level: float) -> tuple[float, float]:
        error, degrees_of_freedom = self.error(self.spread(differences), len(differences))
        low, high = statistics.t_interval(
            self.estimate(differences), error, degrees_of_freedom, level
        )
        return float(low), float(high)

    def p_values(self, differences: Array) -> Array:
        error, degrees_of_freedom = self.error(self.spread(differences), differences.shape[-1])
        mean, kind, margin = differences.mean(axis=-1), self.claim.kind, self.claim.margin
        return statistics.t_tests(mean, error, degrees_of_freedom, kind, margin, self.adjust)

    def has_spread(self, differences: Array, tolerance: float) -> Booleans:
        return np.asarray(np.ptp(differences, axis=-1) > tolerance)

    def untestable(self, differences: Array) -> str:
        if self.has_spread(differences, 0.0):
            return ""
        a, b = self.claim.sides
        a_minus_b = -differences[0] if self.claim.measure.lower_is_better else differences[0]
        same = f"{a} - {b} is {a_minus_b:+.{self.claim.decimals}f}{self.claim.unit_suffix} for every seed"
        return f"{same}, and without spread a t-test has nothing to go by (`statistic: median` counts seeds)"

    def power_sentence(self, differences: Array, level: float) -> str:
        error, degrees_of_freedom = map(
            float, self.error(self.spread(differences), len(differences))
        )
        detectable = statistics.detectable(error, degrees_of_freedom, self.claim.kind, level)
        smallest = f"{detectable:.{self.claim.decimals}f}"
        if self.claim.kind == "equivalent":
            found = f"equivalence within {smallest}"
        else:
            found = f"an effect of {smallest} beyond the margin"
        return f"{self._size(differences)} would have found {found} with 80% power."

    def _size(self, differences: Array) -> str:
        """How many pairs the differences are, in words."""
        return f"{len(differences)} pairs"

    def more_seeds_clause(self, differences: Array, levels: Sequence[float]) -> str:
        """How many seeds would probably decide the claim if the observed mean and spread were the
        true ones, in a clause.

        A range is added, over the means that are plausible at the observed spread.
        """
        if self.estimate(differences) in self.claim.margins:
            return "the estimate lies on the margin, so that no number of seeds would decide it"
        need = self._seeds_needed(self.estimate(differences), differences, levels)
        if need >= MAX_PAIRS:
            return self._too_many()
        plausible = [
            self._seeds_needed(mean, differences, levels)
            for mean in self._plausible_means(differences)
        ]
        fewest, most = min(need, *plausible), max(need, *plausible)
        others = f"{fewest} to {most}" if most < MAX_PAIRS else f"{fewest} or more"
        power = f"80% power; {others} for means within their 80% interval"
        return f"at this mean and spread about {need} seeds would decide it, {need - len(differences)} more ({power})"

    def _plausible_means(self, differences: Array) -> list[float]:
        """The ends of the mean's 80% interval, and the means within it that are harder or easier to
        decide than they are.
        """
        low, high = self._interval(differences, PLAUSIBLE)
        turns = [*self.claim.margins]
        if self.claim.kind == "equivalent":
            turns.append(0.0)
        return [low, high, *(mean for mean in turns if low < mean < high)]

    def _seeds_needed(self, mean: float, differences: Array, levels: Sequence[float]) -> int:
        """How many seeds decide the claim with 80% power if this is the true mean; ``MAX_PAIRS`` if
        fewer do not.
        """
        margin = self.claim.margin
        if self.claim.kind == "superior":
            distances = [abs(mean - margin)]
            level = levels[0] if mean > margin else levels[1]
        elif abs(mean) < margin:
            distances, level = [margin - mean, margin + mean], levels[0]
        else:
            # either of two outer tests shows the opposite
            distances, level = [abs(mean) - margin], levels[1] / 2
        if min(distances) == 0:
            return MAX_PAIRS
        spread = self.spread(differences)
        need = statistics.pairs_needed(distances, lambda n: self.error(spread, n), level)
        return max(need, len(differences) + 1, MIN_PAIRS)

    def _too_many(self) -> str:
        return (
            f"at this mean and spread more than {MAX_PAIRS - 1} seeds would be needed to decide it"
        )

    def description(self, differences: Array) -> str:
        places = self.claim.decimals
        spread = float(self.spread(differences))
        mean = f"mean {self.estimate(differences):+.{places}f}"
        sure = f"80% sure: at most {statistics.upper_spread(spread, len(differences)):.{places}f}"
        return f"{self._size(differences)} have {mean}, standard deviation {spread:.{places}f} ({sure})"

    def conditional_power(self, differences: Array, level: float) -> tuple[float, float]:
        return self._conditional_power_at(self.estimate(differences), differences, level)

    def _conditional_power_at(
        self, mean: float, differences: Array, level: float
    ) -> tuple[float, float]:
        """The chance to be decided and the seeds that it takes on average, if this were the true
        mean.
        """
        observed = tuple(differences.tolist())
        return statistics.sequential_power(
            mean, observed=observed, **self._simulation_arguments(differences, level)
        )

    def _simulation_arguments(self, differences: Array, level: float) -> dict[str, Any]:
        """The arguments that the simulations of this claim's analyses have in common."""
        assert isinstance(self.seeds, Seeds)
        return {
            "spread": float(self.spread(differences)),
            "kind": self.claim.kind,
            "margin": self.claim.margin,
            "analyses": self.seeds.analyses,
            "boundary": self.boundary,
            "level": level,
        }

    def stopping_sentence(self, differences: Array, level: float) -> str:
        mean = self.estimate(differences)
        bias = statistics.stopping_bias(mean, **self._simulation_arguments(differences, level))
        bias = round(bias, self.claim.decimals)
        if bias == 0:
            return ""
        off = f"by {bias:+.{self.claim.decimals}f}{self.claim.unit_suffix} on average if this one were true"
        return f"To stop when decided moves an estimate away from the margin, {off}."

    def forecast_clause(self, differences: Array, level: float) -> str:
        if not isinstance(self.seeds, Seeds):
            return self.more_seeds_clause(differences, (level, level))
        chance, seeds = self.conditional_power(differences, level)
        chances = [chance]
        for mean in self._plausible_means(differences):
            chance_at_mean, _ = self._conditional_power_at(mean, differences, level)
            chances.append(chance_at_mean)
        others = f"{min(chances):.0%} to {max(chances):.0%} for means within their 80% interval"
        return f"{chance:.0%} chance to be decided by {self.seeds.max} seeds, {seeds:.1f} seeds on average ({others})"


class UnpairedMean(Mean):
    """The mean over seeds of arms that are not paired, by Welch's t-tests (``pairing: none``).

    Args:
        claim: The claim.
        seeds: Those of the study, a list.
        arms: The scores of the arms a and b, (2, ..., n).
    """

    def __init__(self, claim: Claim, seeds: Sequence[int] | Seeds, arms: Array) -> None:
        super().__init__(claim, seeds)
        self.arms = arms

    def spread(self, differences: Array) -> Array:
        return np.sqrt(self.arms.var(axis=-1, ddof=1).sum(axis=0))

    def error(self, spread: Array, n: int) -> tuple[Array, Array | float]:
        _, degrees_of_freedom = statistics.unpaired_error(self.arms[0], self.arms[1])
        per_seed = degrees_of_freedom / (self.arms.shape[-1] - 1)
        return spread / math.sqrt(n), per_seed * (n - 1)

    def has_spread(self, differences: Array, tolerance: float) -> Booleans:
        return self.spread(differences) > tolerance

    def _size(self, differences: Array) -> str:
        return f"{len(differences)} seeds of either arm"


class MeanOverImages(Mean):
    """The mean over seeds and images: the test images are a sample, too, and other ones are to give
    the same verdict.

    Args:
        claim: The claim.
        seeds: Those of the study, a list.
        image_variance: What images add to the variance of the mean difference
            (``statistics.image_variance``); NaN if not known.
    """

    def __init__(self, claim: Claim, seeds: Sequence[int] | Seeds, image_variance: float) -> None:
        super().__init__(claim, seeds)
        self.image_variance = image_variance

    @property
    def scope(self) -> str:
        return "on images of this kind"

    def error(self, spread: Array, n: int) -> tuple[Array, Array | float]:
        return statistics.error_over_images(spread, n, self.image_variance)

    def untestable(self, differences: Array) -> str:
        if math.isnan(self.image_variance):
            kept = f"fewer than 2 pairs of runs have kept their {self.claim.metric} image by image"
            return f"{kept}, so that nothing is known of other images (scope: images)"
        return super().untestable(differences)

    def _size(self, differences: Array) -> str:
        return f"{len(differences)} pairs on so many images"

    def _too_many(self) -> str:
        floor = f"{math.sqrt(self.image_variance):.{self.claim.decimals}f}"
        return f"at this mean no number of seeds would decide it on so many test images, whose error alone is {floor}"


class Median(Estimand):
    """The median over seeds, by the exact sign test."""

    boundary: signs.SignBoundary | None

    def __init__(self, claim: Claim, seeds: Sequence[int] | Seeds) -> None:
        super().__init__(claim, seeds)
        self.boundary = None
        if isinstance(seeds, Seeds):
            self.boundary = signs.SignBoundary(seeds.analyses)

    def estimate(self, differences: Array) -> float:
        return float(np.median(differences))

    def interval(self, differences: Array, alpha: float) -> tuple[float, float]:
        low, high = signs.interval(differences, self.nominal(alpha))
        return float(low), float(high)

    def p_values(self, differences: Array) -> Array:
        return signs.p_values(differences, self.claim.kind, self.claim.margin, self.adjust)

    def has_spread(self, differences: Array, tolerance: float) -> Booleans:
        # signs are counted whether differences vary or not
        return np.full(differences.shape[:-1], True)

    def untestable(self, differences: Array) -> str:
        return ""

    def power_sentence(self, differences: Array, level: float) -> str:
        share = signs.share_needed(len(differences), level)
        if math.isnan(share):
            return f"{len(differences)} pairs can find nothing at this level."
        where = "within the margins" if self.claim.kind == "equivalent" else "beyond the margin"
        return f"{len(differences)} pairs would have found a difference {where} in {share:.0%} of all seeds with 80% power."

    def more_seeds_clause(self, differences: Array, levels: Sequence[float]) -> str:
        """How many seeds would probably decide the claim if as many differences spoke for it as do
        here, in a clause.
        """
        holds, fails = signs.shares(differences, self.claim.kind, self.claim.margin)
        if holds == fails:
            return "as many differences speak for the claim as against it, so that no number of seeds would decide it"
        if holds > fails:
            share, level, side = holds, levels[0], "speaks for the claim"
        else:
            share, level, side = fails, levels[1], "speaks against it"
        need = max(signs.pairs_needed(share, level, MAX_PAIRS), len(differences) + 1)
        if need >= MAX_PAIRS:
            seeds = f"more than {MAX_PAIRS - 1} would be needed to decide it"
        else:
            more = need - len(differences)
            seeds = f"about {need} would decide it, {more} more (80% power)"
        return f"if it {side} in {share:.0%} of all seeds, {seeds}"

    def description(self, differences: Array) -> str:
        places = self.claim.decimals
        around = f"{differences.min():+.{places}f} to {differences.max():+.{places}f}"
        return f"{len(differences)} pairs have median {self.estimate(differences):+.{places}f} ({around})"

    def conditional_power(self, differences: Array, level: float) -> tuple[float, float]:
        assert self.boundary is not None
        return signs.sequential_power(
            tuple(differences.tolist()), self.claim.kind, self.claim.margin, self.boundary, level
        )

    def stopping_sentence(self, differences: Array, level: float) -> str:
        return "To stop when decided moves an estimate away from the margin."

    def forecast_clause(self, differences: Array, level: float) -> str:
        if not isinstance(self.seeds, Seeds):
            return self.more_seeds_clause(differences, (level, level))
        chance, seeds = self.conditional_power(differences, level)
        resampled = f"{chance:.0%} chance to be decided by {self.seeds.max} seeds, {seeds:.1f} seeds on average"
        return f"{resampled} (further seeds drawn from these)"
