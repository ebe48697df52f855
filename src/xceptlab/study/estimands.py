"""What a claim is about: the mean or the median of the differences of two sides over seeds, and how
either is tested.

The mean is tested by t-tests, paired or, with ``pairing: none``, Welch's: powerful, and valid while
the differences are near normal. The median is tested by counting the signs of paired differences:
valid for any distribution, also where runs collapse or diverge, and blind to how large a difference
is.
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
from xceptlab.study.score_differences import is_on_margin
from xceptlab.study.statistics import MAX_PAIRS, POWER, ROUNDING, Array, Booleans

MIN_PAIRS = 3
"""The smallest number of pairs with which a claim is tested at all."""
PLAUSIBLE = 0.8
"""The level of the confidence interval of the mean over which forecasts range: they give the number
of seeds that are needed, or the chance to be decided, at the observed mean, and the smallest and
the largest such value at means within the interval.
"""


class Estimand(ABC):
    """The statistic of paired differences that a claim is about, with its tests and sentences.

    Differences are above 0 where the claim's first side is better. A study is sequential where
    seeds are added until its claims are decided: then its claims are tested again at every
    analysis.

    Args:
        claim: The claim.
        seeds: The seeds of the study; in a sequential study the tests account for all analyses.
    """

    boundary: statistics.Boundary | signs.SignBoundary | None
    """The adjustment of p-values for the repeated analyses of a sequential study; None with a list
    of seeds.
    """

    def __init__(self, claim: Claim, seeds: Sequence[int] | Seeds) -> None:
        self.claim = claim
        self.seeds = seeds

    def adjust(self, p: Array) -> Array:
        """Return one-sided p-values (...) made valid over all the repeated analyses of a sequential
        study.

        A study with a fixed list of seeds is analysed once, and its p-values are returned as they
        are.
        """
        if self.boundary is None:
            return p
        return self.boundary.chance(p)

    def nominal(self, level: float) -> float:
        """Return the level of each single analysis that gives all analyses of a sequential study
        ``level`` together.

        With a list of seeds it is ``level`` itself. For a median, whose p-values are discrete, it
        is the largest one that gives ``level`` at most; 0 where none is low enough.
        """
        if self.boundary is None:
            return level
        return self.boundary.nominal(level)

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
        confidence interval, valid at every analysis. The ends are infinite with too few
        differences to bound a median, and NaN where the variance over images is needed but not
        known.
        """

    @abstractmethod
    def p_values(self, differences: Array) -> Array:
        """Return one-sided p-values (..., 2) from paired differences (..., n).

        ``[..., 0]`` is small where the data support the claim, ``[..., 1]`` where they support its
        opposite. In a sequential study both are already adjusted for repeated analyses. A test of
        a mean needs n >= 2 and differences that vary (``has_spread``).
        """

    @abstractmethod
    def has_spread(self, differences: Array, tolerance: float) -> Booleans:
        """Whether n differences (..., n) vary, (...): whether their range, largest minus smallest,
        is above ``tolerance``, in the metric's unit. Always True for a median, whose test needs no
        spread.

        For unpaired arms the differences do not matter. It is whether the range of at least one
        arm's scores is above both ``tolerance`` and the rounding of 32-bit scores.
        """

    @abstractmethod
    def untestable(self, differences: Array) -> str:
        """Return in words why the differences (n,), n >= 1, cannot be tested; empty if they can.

        Whether they are enough to be tested is not checked.
        """

    @abstractmethod
    def power_sentence(self, differences: Array, level: float) -> str:
        """Return a sentence on the effect that as many pairs as these differences (n,), n >= 2,
        would have found with 80% power, at the ``level`` of a single analysis; or that so few pairs
        can find nothing.
        """

    @abstractmethod
    def more_seeds_clause(self, differences: Array, levels: Sequence[float]) -> str:
        """Return a clause on how many seeds would decide the claim with 80% power if further seeds
        were like these; or that no number, or none below ``MAX_PAIRS``, would.

        Args:
            differences: The paired differences (n,), n >= 2.
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
        and the average number of seeds with which the study ends, which is ``Seeds.max`` where it
        decides nothing.

        It is the conditional power under the current trend: further seeds are taken to be like
        those of the differences (n,), 2 <= n < ``Seeds.max``. ``level`` is that of all analyses
        together. Only for a sequential study.
        """

    @abstractmethod
    def stopping_sentence(self, differences: Array, level: float) -> str:
        """Return a sentence on how stopping early biases the estimate of a claim in a sequential
        study.

        For a mean it gives the simulated bias, and is empty where the bias rounds to 0. For a
        median it gives the direction only, and is never empty.

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
        arms: The scores of the claim's two sides with equal seeds, (2, ..., n); needed only for
            ``pairing: none``.
        image_variance: Where verdicts are to hold for other images, too (``scope: images``): what
            the sample of images adds to the variance of the mean difference, NaN if that is not
            known. None where verdicts are on the images that were scored.
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

        For unpaired arms it is the root of the sum of both arms' variances.
        """
        return np.asarray(differences.std(axis=-1, ddof=1))

    def error(self, spread: Array, n: int) -> tuple[Array, Array | float]:
        """Return the standard error (...) of the mean of n differences with this standard deviation
        (...), and its degrees of freedom.
        """
        error = spread / math.sqrt(n)
        degrees_of_freedom = n - 1
        return error, degrees_of_freedom

    def estimate(self, differences: Array) -> float:
        return float(differences.mean())

    def interval(self, differences: Array, alpha: float) -> tuple[float, float]:
        nominal = self.nominal(alpha)
        return self._interval(differences, 1 - 2 * nominal)

    def _interval(self, differences: Array, level: float) -> tuple[float, float]:
        """Return the ends (low, high) of the t interval of the mean at ``level``, such as 0.9."""
        mean = self.estimate(differences)
        spread = self.spread(differences)
        error, degrees_of_freedom = self.error(spread, len(differences))
        low, high = statistics.t_interval(mean, error, degrees_of_freedom, level)
        return float(low), float(high)

    def p_values(self, differences: Array) -> Array:
        n = differences.shape[-1]
        spread = self.spread(differences)
        error, degrees_of_freedom = self.error(spread, n)
        return statistics.t_tests(
            differences.mean(axis=-1),
            error,
            degrees_of_freedom,
            self.claim.kind,
            self.claim.margin,
            self.adjust,
        )

    def has_spread(self, differences: Array, tolerance: float) -> Booleans:
        ranges = np.ptp(differences, axis=-1)
        return np.asarray(ranges > tolerance)

    def untestable(self, differences: Array) -> str:
        if self.has_spread(differences, 0.0):
            return ""
        claim = self.claim
        a, b = claim.sides
        a_minus_b = -differences[0] if claim.measure.lower_is_better else differences[0]
        same = f"{a} - {b} is {a_minus_b:+.{claim.decimals}f}{claim.unit_suffix} for every seed"
        return f"{same}, and without spread a t-test has nothing to go by (`statistic: median` counts seeds)"

    def power_sentence(self, differences: Array, level: float) -> str:
        spread = self.spread(differences)
        error, degrees_of_freedom = self.error(spread, len(differences))
        detectable = statistics.detectable(
            float(error), float(degrees_of_freedom), self.claim.kind, level
        )
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
        mean and spread were the true ones, with the range of this number over all means within the
        80% interval of the observed one.

        Where the mean lies on a margin, or fewer than ``MAX_PAIRS`` seeds would not decide the
        claim, the clause says so instead.
        """
        estimate = self.estimate(differences)
        if is_on_margin(self.claim, estimate):
            return "the estimate lies on the margin, so that no number of seeds would decide it"
        need = self._seeds_needed(estimate, differences, levels)
        if need >= MAX_PAIRS:
            return self._too_many(estimate, levels)
        needs = [need]
        for mean in self._plausible_means(differences):
            need_at_mean = self._seeds_needed(mean, differences, levels)
            needs.append(need_at_mean)
        fewest = min(needs)
        most = max(needs)
        others = f"{fewest} to {most}" if most < MAX_PAIRS else f"{fewest} or more"
        power = f"80% power; {others} for means within their 80% interval"
        more = need - len(differences)
        return f"at this mean and spread about {need} seeds would decide it, {more} more ({power})"

    def _plausible_means(self, differences: Array) -> list[float]:
        """Return means within the 80% interval of the observed one, among them those at which the
        claim needs the fewest and the most seeds.

        They are the interval's ends and, where they lie within it, the margins, where the claim is
        hardest to decide, and for an equivalence 0, where it is easiest to show.
        """
        low, high = self._interval(differences, PLAUSIBLE)
        turns = [*self.claim.margins]
        if self.claim.kind == "equivalent":
            turns.append(0.0)
        means = [low, high]
        for mean in turns:
            if low < mean < high:
                means.append(mean)
        return means

    def _seeds_needed(self, mean: float, differences: Array, levels: Sequence[float]) -> int:
        """Return the smallest total number of seeds with which a test at the end would show the
        claim or its opposite with 80% power, if ``mean`` were the true mean of the differences and
        their observed spread the true spread.

        The number is larger than that of the observed differences, and at least ``MIN_PAIRS``. If
        it is ``MAX_PAIRS`` or more, no such number below ``MAX_PAIRS`` suffices.

        Args:
            mean: The mean that is taken for the true one.
            differences: The observed differences (n,), whose spread is used.
            levels: Two significance levels, each for one test without correction for further
                analyses: that of the test for the claim, and that of the test for its opposite.
        """
        distances, level = self._hurdles(mean, levels)
        if min(distances) == 0:
            return MAX_PAIRS
        spread = self.spread(differences)

        def error_of(n: int) -> tuple[Array, Array | float]:
            return self.error(spread, n)

        need = statistics.pairs_needed(distances, error_of, level)
        one_more = len(differences) + 1
        return max(need, one_more, MIN_PAIRS)

    def _hurdles(self, mean: float, levels: Sequence[float]) -> tuple[list[float], float]:
        """Return the distance of a true mean from the limit of each test that decides the claim, and
        the level of each of these tests.

        The tests are those that show the claim where ``mean`` makes it true, else the one that
        shows its opposite. ``levels`` are those at which a single analysis tests the two.
        """
        margin = self.claim.margin
        level_of_claim, level_of_opposite = levels
        if self.claim.kind == "superior":
            distances = [abs(mean - margin)]
            level = level_of_claim if mean > margin else level_of_opposite
        elif abs(mean) < margin:
            distances = [margin - mean, margin + mean]
            level = level_of_claim
        else:
            distances = [abs(mean) - margin]
            # Either of two outer tests shows the opposite, so that each has half the level.
            level = level_of_opposite / 2
        return distances, level

    def _too_many(self, mean: float, levels: Sequence[float]) -> str:
        """Return a clause for a claim that fewer than ``MAX_PAIRS`` seeds would not decide if
        ``mean`` were the true one.
        """
        return (
            f"at this mean and spread more than {MAX_PAIRS - 1} seeds would be needed to decide it"
        )

    def description(self, differences: Array) -> str:
        places = self.claim.decimals
        mean = self.estimate(differences)
        spread = float(self.spread(differences))
        upper = statistics.upper_spread(spread, len(differences))
        size = self._size(differences)
        sure = f"80% sure: at most {upper:.{places}f}"
        return (
            f"{size} have mean {mean:+.{places}f}, standard deviation {spread:.{places}f} ({sure})"
        )

    def conditional_power(self, differences: Array, level: float) -> tuple[float, float]:
        mean = self.estimate(differences)
        return self._conditional_power_at(mean, differences, level)

    def _conditional_power_at(
        self, mean: float, differences: Array, level: float
    ) -> tuple[float, float]:
        """Return the chance (0 to 1) that the claim is decided, either way, by ``Seeds.max`` seeds,
        and the average number of seeds with which the study ends, if further differences were
        normal with this ``mean`` and the spread of the ``differences`` (n,) so far.

        ``level`` is that of all analyses together.
        """
        observed = tuple(differences.tolist())
        arguments = self._simulation_arguments(differences, level)
        return statistics.sequential_power(mean, observed=observed, **arguments)

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
        arguments = self._simulation_arguments(differences, level)
        bias = statistics.stopping_bias(mean, **arguments)
        places = self.claim.decimals
        rounded = round(bias, places)
        if rounded == 0:
            return ""
        size = f"{rounded:+.{places}f}{self.claim.unit_suffix}"
        off = f"by {size} on average if this one were true"
        return f"To stop when decided moves an estimate away from the margin, {off}."

    def forecast_clause(self, differences: Array, level: float) -> str:
        if not isinstance(self.seeds, Seeds):
            return self.more_seeds_clause(differences, (level, level))
        chance, seeds = self.conditional_power(differences, level)
        chances = [chance]
        for mean in self._plausible_means(differences):
            chance_at_mean, _ = self._conditional_power_at(mean, differences, level)
            chances.append(chance_at_mean)
        lowest = min(chances)
        highest = max(chances)
        others = f"{lowest:.0%} to {highest:.0%} for means within their 80% interval"
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
        variances = self.arms.var(axis=-1, ddof=1)  # (2, ...)
        return np.sqrt(variances.sum(axis=0))

    def error(self, spread: Array, n: int) -> tuple[Array, Array | float]:
        scores_a, scores_b = self.arms
        _, degrees_of_freedom = statistics.unpaired_error(scores_a, scores_b)
        seeds = self.arms.shape[-1]
        # With other numbers of seeds, Welch's degrees of freedom grow like n - 1.
        per_seed = degrees_of_freedom / (seeds - 1)
        return spread / math.sqrt(n), per_seed * (n - 1)

    def has_spread(self, differences: Array, tolerance: float) -> Booleans:
        # The rounding of 32-bit scores is no spread, as it is none of paired differences.
        rounding = ROUNDING * np.abs(self.arms).max(axis=-1)  # (2, ...)
        ranges = np.ptp(self.arms, axis=-1)  # (2, ...)
        return np.asarray((ranges > np.maximum(tolerance, rounding)).any(axis=0))

    def _size(self, differences: Array) -> str:
        return f"{len(differences)} seeds of either arm"


class MeanOverImages(Mean):
    """The mean over seeds and images (``scope: images``), for verdicts that hold for other images,
    too: the test images are taken for a sample, whose variance its t-tests count in.

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

    def _too_many(self, mean: float, levels: Sequence[float]) -> str:
        error_of_images = math.sqrt(self.image_variance)
        distances, level = self._hurdles(mean, levels)
        if statistics.joint_power(distances, error_of_images, math.inf, level) >= POWER:
            return super()._too_many(mean, levels)
        floor = f"{error_of_images:.{self.claim.decimals}f}"
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
        nominal = self.nominal(alpha)
        low, high = signs.interval(differences, nominal)
        return float(low), float(high)

    def p_values(self, differences: Array) -> Array:
        return signs.p_values(differences, self.claim.kind, self.claim.margin, self.adjust)

    def has_spread(self, differences: Array, tolerance: float) -> Booleans:
        # Signs can be counted whether differences vary or not.
        return np.full(differences.shape[:-1], True)

    def untestable(self, differences: Array) -> str:
        return ""

    def power_sentence(self, differences: Array, level: float) -> str:
        n = len(differences)
        share = signs.share_needed(n, level)
        if math.isnan(share):
            return f"{n} pairs can find nothing at this level."
        where = "within the margins" if self.claim.kind == "equivalent" else "beyond the margin"
        return f"{n} pairs would have found a difference {where} in {share:.0%} of all seeds with 80% power."

    def more_seeds_clause(self, differences: Array, levels: Sequence[float]) -> str:
        """Return a clause on how many seeds would decide the claim with 80% power if the share of
        these differences that speak for it (or against it, if more do) were that of all seeds.

        The share of k of n differences is taken as (k + 0.5) / (n + 1). Against ``equivalent``
        speak the differences above the margin or those below its negative, whichever are more.
        Where as many speak for the claim as against it, or no number of seeds below ``MAX_PAIRS``
        would decide it, the clause says so.
        """
        holds, fails = signs.shares(differences, self.claim.kind, self.claim.margin)
        if holds == fails:
            return "as many differences speak for the claim as against it, so that no number of seeds would decide it"
        level_of_claim, level_of_opposite = levels
        if holds > fails:
            share = holds
            level = level_of_claim
            side = "speaks for the claim"
        else:
            share = fails
            level = level_of_opposite
            if self.claim.kind == "equivalent":
                # Either of two outer tests shows the opposite, so that each has half the level.
                level /= 2
            side = "speaks against it"
        n = len(differences)
        need = signs.pairs_needed(share, level, MAX_PAIRS)
        need = max(need, n + 1)
        if need >= MAX_PAIRS:
            seeds = f"more than {MAX_PAIRS - 1} would be needed to decide it"
        else:
            more = need - n
            seeds = f"about {need} would decide it, {more} more (80% power)"
        return f"if it {side} in {share:.0%} of all seeds, {seeds}"

    def description(self, differences: Array) -> str:
        places = self.claim.decimals
        lowest = differences.min()
        highest = differences.max()
        median = self.estimate(differences)
        around = f"{lowest:+.{places}f} to {highest:+.{places}f}"
        return f"{len(differences)} pairs have median {median:+.{places}f} ({around})"

    def conditional_power(self, differences: Array, level: float) -> tuple[float, float]:
        assert self.boundary is not None
        observed = tuple(differences.tolist())
        return signs.sequential_power(
            observed, self.claim.kind, self.claim.margin, self.boundary, level
        )

    def stopping_sentence(self, differences: Array, level: float) -> str:
        return "To stop when decided moves an estimate away from the margin."

    def forecast_clause(self, differences: Array, level: float) -> str:
        if not isinstance(self.seeds, Seeds):
            return self.more_seeds_clause(differences, (level, level))
        chance, seeds = self.conditional_power(differences, level)
        decided = f"{chance:.0%} chance to be decided by {self.seeds.max} seeds"
        return f"{decided}, {seeds:.1f} seeds on average (further seeds drawn from these)"
