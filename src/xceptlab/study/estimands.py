"""What a claim is about: the mean or the median of paired differences over seeds, and how either is
tested.

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
"""The smallest number of pairs that any test judges."""
PLAUSIBLE = 0.8
"""The level of the interval of a mean, over which forecasts give a range."""


class Estimand(ABC):
    """The statistic of paired differences that a claim is about, with its tests and their words.

    Differences are above 0 where the claim's first arm is better. A study is sequential where seeds
    are added until its claims are decided: then its claims are tested again at every analysis.

    Args:
        claim: The claim.
        seeds: The seeds of the study; in a sequential study the tests account for all analyses.
    """

    boundary: statistics.Boundary | signs.SignBoundary | None
    """The adjustment of p-values for the repeated analyses of a sequential study; None with a list
    of seeds.
    """

    def __init__(self, claim: Claim, seeds: Sequence[int] | Seeds) -> None:
        self.claim, self.seeds = claim, seeds

    def adjust(self, p: Array) -> Array:
        """Return one-sided p-values (...) made valid over all the repeated analyses of a sequential
        study.

        A study with a fixed list of seeds is analysed once, and its p-values are returned as they
        are.
        """
        return p if self.boundary is None else self.boundary.chance(p)

    def nominal(self, level: float) -> float:
        """Return the level of each single analysis that gives all analyses of a sequential study
        ``level`` together.

        With a list of seeds it is ``level`` itself.
        """
        return level if self.boundary is None else self.boundary.nominal(level)

    @property
    def scope(self) -> str:
        """The images that a verdict holds for, in words such as ``on this test set``."""
        sets = {"test": "on this test set", "val": "on this validation set"}
        # Another tool may name a score by its split alone.
        split = split_of(self.claim.metric) or self.claim.metric
        return sets.get(split, "on the data that were scored")

    @abstractmethod
    def estimate(self, differences: Array) -> float:
        """Return the claim's statistic, mean or median, of paired differences (n,), n >= 1."""

    @abstractmethod
    def interval(self, differences: Array, alpha: float) -> tuple[float, float]:
        """Return the ends (low, high) of the confidence interval of level 1 - 2 alpha, from paired
        differences (n,), n >= 2.

        It belongs to the one-sided tests at ``alpha``. In a sequential study it is a repeated
        confidence interval, valid at every analysis.
        """

    @abstractmethod
    def p_values(self, differences: Array) -> Array:
        """Return one-sided p-values (..., 2) from paired differences (..., n).

        ``[..., 0]`` is small where the data support the claim, ``[..., 1]`` where they support its
        opposite. In a sequential study both are already adjusted for repeated analyses.
        """

    @abstractmethod
    def has_spread(self, differences: Array, tolerance: float) -> Booleans:
        """Whether differences (..., n) vary by more than ``tolerance``, (...); always True for a
        test that needs no spread.
        """

    @abstractmethod
    def untestable(self, differences: Array) -> str:
        """Return in words why the differences (n,) cannot be tested; empty if they can."""

    @abstractmethod
    def power_sentence(self, differences: Array, level: float) -> str:
        """Return a sentence on the effect that as many pairs as these differences (n,) would have
        found with 80% power, at the ``level`` of a single analysis.
        """

    @abstractmethod
    def more_seeds_clause(self, differences: Array, levels: Sequence[float]) -> str:
        """Return a clause on how many seeds would decide the claim with 80% power if further seeds
        were like these.

        Args:
            differences: The paired differences (n,).
            levels: The levels at which a single analysis tests the claim and its opposite.
        """

    @abstractmethod
    def description(self, differences: Array) -> str:
        """Return a clause on the differences (n,), n >= 2: their number, their statistic and how
        much they vary.
        """

    @abstractmethod
    def conditional_power(self, differences: Array, level: float) -> tuple[float, float]:
        """Return the chance (0 to 1) that the claim is decided, either way, by ``Seeds.max`` seeds,
        and the number of seeds that this takes on average.

        It is the conditional power under the current trend: further seeds are taken to be like
        those of the differences (n,), n >= 2. ``level`` is that of all analyses together. Only for
        a sequential study.
        """

    @abstractmethod
    def stopping_sentence(self, differences: Array, level: float) -> str:
        """Return a sentence on how stopping early biases the estimate of a claim in a sequential
        study; empty where the bias rounds to 0.

        Args:
            differences: The paired differences (n,), n >= 2, that decided the claim.
            level: The level of all analyses together.
        """

    @abstractmethod
    def forecast_clause(self, differences: Array, level: float) -> str:
        """Return a clause on the seeds that are still to come, from the differences (n,), n >= 2.

        In a sequential study it gives the chance to be decided by ``Seeds.max`` seeds, else the
        number of seeds that would decide the claim. ``level`` is that of all analyses together.
        """


def estimand_of(
    claim: Claim,
    seeds: Sequence[int] | Seeds,
    arms: Array | None = None,
    image_variance: float | None = None,
) -> Estimand:
    """Return the estimand that a claim declares.

    Args:
        claim: The claim.
        seeds: The seeds of the study.
        arms: The scores of the claim's two sides with equal seeds, (2, n); needed only for
            ``pairing: none``.
        image_variance: What the sample of images adds to the variance of the mean difference, where
            verdicts are to hold for other images, too (``scope: images``); None in another study.
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
    """The mean of paired differences over seeds, tested by paired t-tests."""

    boundary: statistics.Boundary | None

    def __init__(self, claim: Claim, seeds: Sequence[int] | Seeds) -> None:
        super().__init__(claim, seeds)
        self.boundary = None
        if isinstance(seeds, Seeds):
            self.boundary = statistics.Boundary(seeds.start, seeds.step, seeds.max)

    def spread(self, differences: Array) -> Array:
        """Return the standard deviation (...) of differences (..., n), n >= 2; ``error`` turns it
        into the standard error of their mean.
        """
        return np.asarray(differences.std(axis=-1, ddof=1))

    def error(self, spread: Array, n: int) -> tuple[Array, Array | float]:
        """Return the standard error (...) of the mean of n differences with this standard deviation
        (...), and its degrees of freedom.
        """
        return spread / math.sqrt(n), n - 1

    def estimate(self, differences: Array) -> float:
        return float(differences.mean())

    def interval(self, differences: Array, alpha: float) -> tuple[float, float]:
        return self._interval(differences, 1 - 2 * self.nominal(alpha))

    def _interval(self, differences: Array, level: float) -> tuple[float, float]:
        """Return the ends (low, high) of the t interval of the mean at ``level``, such as 0.9."""
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
        """Return the number of differences in words, such as ``5 pairs``."""
        return f"{len(differences)} pairs"

    def more_seeds_clause(self, differences: Array, levels: Sequence[float]) -> str:
        """Return a clause on how many seeds would decide the claim with 80% power if the observed
        mean and spread were the true ones.

        It adds the range of this number over all means within their 80% interval.
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
        """Return the means within their 80% interval at which the claim needs the fewest and the
        most seeds.

        They are among the interval's ends and, within it, the margins, where the claim is hardest
        to decide, and 0, where an equivalence is easiest to show.
        """
        low, high = self._interval(differences, PLAUSIBLE)
        turns = [*self.claim.margins]
        if self.claim.kind == "equivalent":
            turns.append(0.0)
        return [low, high, *(mean for mean in turns if low < mean < high)]

    def _seeds_needed(self, mean: float, differences: Array, levels: Sequence[float]) -> int:
        """Return how many seeds decide the claim with 80% power if ``mean`` is the true one;
        ``MAX_PAIRS`` if fewer do not.
        """
        margin = self.claim.margin
        if self.claim.kind == "superior":
            distances = [abs(mean - margin)]
            level = levels[0] if mean > margin else levels[1]
        elif abs(mean) < margin:
            distances, level = [margin - mean, margin + mean], levels[0]
        else:
            # Either of two outer tests shows the opposite, so that each has half the level.
            distances, level = [abs(mean) - margin], levels[1] / 2
        if min(distances) == 0:
            return MAX_PAIRS
        spread = self.spread(differences)
        need = statistics.pairs_needed(distances, lambda n: self.error(spread, n), level)
        return max(need, len(differences) + 1, MIN_PAIRS)

    def _too_many(self) -> str:
        """Return a clause for a claim that fewer than ``MAX_PAIRS`` seeds would not decide."""
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
        """Return what ``conditional_power`` does, if ``mean`` were the true one."""
        observed = tuple(differences.tolist())
        return statistics.sequential_power(
            mean, observed=observed, **self._simulation_arguments(differences, level)
        )

    def _simulation_arguments(self, differences: Array, level: float) -> dict[str, Any]:
        """Return the arguments by keyword that ``statistics.sequential_power`` and
        ``statistics.stopping_bias`` have in common.
        """
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
    """The difference of two arms' means over seeds that form no pairs (``pairing: none``), tested
    by Welch's t-tests.

    Args:
        claim: The claim.
        seeds: The seeds of the study, a list.
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
    """The mean over seeds and images (``scope: images``), for verdicts that hold for other images,
    too: the test images are taken for a sample.

    Args:
        claim: The claim.
        seeds: The seeds of the study, a list.
        image_variance: What the sample of images adds to the variance of the mean difference
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
    """The median of paired differences over seeds, tested by the exact sign test."""

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
        # Signs can be counted whether differences vary or not.
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
        """Return a clause on how many seeds would decide the claim with 80% power if the same share
        of all seeds spoke for it, or against it, as of these.
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
