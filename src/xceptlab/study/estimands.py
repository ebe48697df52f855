"""What a claim asks of paired differences, their mean or their median over seeds, and how each of the two is tested.

The mean is tested by t-tests: powerful, and valid while the differences are near normal. The median is tested by counting signs:
valid for any distribution, also where runs collapse or diverge, and blind to how large a difference is.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xceptlab.errors import Refused
from xceptlab.runs.metrics import split_of
from xceptlab.study import images, signs, statistics
from xceptlab.study.definition import Claim, Seeds, Study
from xceptlab.study.statistics import MOST_PAIRS, Array

LEAST_PAIRS = 3
"""Fewer pairs are judged by no test."""
PLAUSIBLE = 0.8
"""Level of the interval of a mean over which forecasts give a range."""


class Estimand(ABC):
    """What is asked of the differences (n,) of a claim's pairs, above 0 where the claim's first arm is better.

    Args:
        claim: The claim.
        seeds: Those of the study; where seeds are added until the claims are decided, tests account for all analyses.
    """

    def __init__(self, claim: Claim, seeds: Sequence[int] | Seeds) -> None:
        self.claim, self.seeds = claim, seeds

    @property
    def scope(self) -> str:
        """What a verdict holds for besides other seeds, in words."""
        sets = {"test": "on this test set", "val": "on this validation set"}
        return sets.get(split_of(self.claim.metric), "on the data that were scored")

    @abstractmethod
    def estimate(self, d: Array) -> float:
        """The claim's statistic, mean or median, of paired differences (n,), n >= 1."""

    @abstractmethod
    def interval(self, d: Array, alpha: float) -> tuple[float, float]:
        """The interval that belongs to the claim's tests at ``alpha``, of level 1 - 2 alpha; n >= 2."""

    @abstractmethod
    def p_values(self, d: Array) -> Array:
        """Of differences (..., n): p that the claim holds and p that its opposite does (..., 2).

        They are valid beside the other analyses of a sequential study.
        """

    @abstractmethod
    def nominal(self, level: float) -> float:
        """The unadjusted p-value at which one analysis of a sequential study decides at the familywise ``level``.

        With fixed seeds it is ``level`` itself.
        """

    @abstractmethod
    def untestable(self, d: Array) -> str:
        """Why the differences cannot be tested, in words; empty if they can."""

    @abstractmethod
    def power(self, d: Array, level: float) -> str:
        """What so many pairs would have found with 80% power at the ``level`` of a single analysis, in words."""

    @abstractmethod
    def more_seeds(self, d: Array, levels: Sequence[float]) -> str:
        """How many seeds would probably decide the claim if these differences were typical.

        Args:
            d: The differences.
            levels: Those of a single analysis, at which the claim and its opposite are tested.
        """

    @abstractmethod
    def describe(self, d: Array) -> str:
        """The differences in one clause, n >= 2."""

    @abstractmethod
    def prospect(self, d: Array, level: float) -> tuple[float, float]:
        """The chance to be decided, either way, by the most seeds, and the seeds it takes on average.

        For a study whose seeds are added, n >= 2, at the ``level`` of all its analyses. Further seeds are taken to be as those so
        far: it is the conditional power under the current trend.
        """

    @abstractmethod
    def stopping(self, d: Array, level: float) -> str:
        """What it does to the estimate that seeds ended with these n >= 2, which decided the claim at the study's ``level``.

        Empty where it is too little to be seen.
        """

    @abstractmethod
    def outlook(self, d: Array, level: float) -> str:
        """What the differences, n >= 2, say about the seeds that are still to come, at the study's ``level``."""


def estimand(
    claim: Claim, seeds: Sequence[int] | Seeds, arms: Array | None = None, image_variance: float | None = None
) -> Estimand:
    """The estimand that a claim declares.

    Args:
        claim: The claim.
        seeds: Those of the study.
        arms: The scores of the claim's two sides with equal seeds, (2, n), which unpaired arms need.
        image_variance: What images add to the variance, where a verdict is to hold for other images, too (``scope: images``).
    """
    if image_variance is not None:
        return MeanOverImages(claim, seeds, image_variance)
    if claim.pairing == "none":
        assert arms is not None
        return UnpairedMean(claim, seeds, arms)
    if claim.statistic == "mean":
        return Mean(claim, seeds)
    return Median(claim, seeds)


def refuse_too_few_seeds(study: Study, file: Path) -> None:
    """Refuse a study of too few seeds for a claim on a median to be supported, whatever its runs score.

    Args:
        study: The study.
        file: Where it stands.

    Raises:
        Refused: Which claim, how many seeds it needs at least, and which numbers waste none.
    """
    seeds = study.seeds
    most = seeds.max if isinstance(seeds, Seeds) else len(seeds)
    for claim in study.claims:
        if claim.statistic != "median":
            continue
        level = study.alpha / len(study.claims)
        smallest_p = 0.5**most
        if smallest_p > Median(claim, seeds).nominal(level):
            raise Refused(f"{file}: claim {claim.id!r}: statistic: {_seeds_of_a_median(level, len(study.claims) - 1, most)}")


def _seeds_of_a_median(level: float, other_claims: int, most: int) -> str:
    """How many seeds a claim on a median needs at ``level``, in words, where the study has ``most``."""
    beside = ""
    if other_claims == 1:
        beside = " beside 1 other claim"
    elif other_claims:
        beside = f" beside {other_claims} other claims"
    good = ", ".join(map(str, signs.good_sizes(level, 24)))
    return f"a median needs {signs.fewest(level)} seeds or more{beside}, not {most} (of {good} each seed counts)"


class Mean(Estimand):
    """The mean over seeds, by paired t-tests."""

    def __init__(self, claim: Claim, seeds: Sequence[int] | Seeds) -> None:
        super().__init__(claim, seeds)
        self.boundary: statistics.Boundary | None = None
        if isinstance(seeds, Seeds):
            self.boundary = statistics.Boundary(seeds.start, seeds.step, seeds.max)

    def spread(self, d: Array) -> Array:
        """The standard deviation (...) that the error of the mean is made of, of differences (..., n), n >= 2."""
        return np.asarray(d.std(axis=-1, ddof=1))

    def error(self, spread: Array, n: int) -> tuple[Array, Array | float]:
        """The standard error of the mean of n differences of this spread (...), and its degrees of freedom."""
        return spread / math.sqrt(n), n - 1

    def estimate(self, d: Array) -> float:
        return float(d.mean())

    def interval(self, d: Array, alpha: float) -> tuple[float, float]:
        return self._interval(d, 1 - 2 * self.nominal(alpha))

    def _interval(self, d: Array, level: float) -> tuple[float, float]:
        low, high = statistics.t_interval(self.estimate(d), *self.error(self.spread(d), len(d)), level)
        return float(low), float(high)

    def p_values(self, d: Array) -> Array:
        error, freedom = self.error(self.spread(d), d.shape[-1])
        mean, kind, margin = d.mean(axis=-1), self.claim.kind, self.claim.margin
        if self.boundary is None:
            return statistics.t_tests(mean, error, freedom, kind, margin)
        return statistics.t_tests(mean, error, freedom, kind, margin, self.boundary.chance)

    def nominal(self, level: float) -> float:
        return level if self.boundary is None else self.boundary.nominal(level)

    def untestable(self, d: Array) -> str:
        if np.ptp(d) > 0:
            return ""
        a, b = self.claim.sides
        a_minus_b = -d[0] if self.claim.lower_is_better else d[0]
        same = f"{a} - {b} is {a_minus_b:+.{self.claim.decimals}f}{self.claim.unit} for every seed"
        return f"{same}, and without spread a t-test has nothing to go by (`statistic: median` counts seeds)"

    def power(self, d: Array, level: float) -> str:
        error, freedom = map(float, self.error(self.spread(d), len(d)))
        detectable = statistics.detectable(error, freedom, self.claim.kind, level)
        smallest = f"{detectable:.{self.claim.decimals}f}"
        if self.claim.kind == "equivalent":
            found = f"equivalence within {smallest}"
        else:
            found = f"an effect of {smallest} beyond the margin"
        return f"{self._size(d)} would have found {found} with 80% power."

    def _size(self, d: Array) -> str:
        """How much there is to go by, in words."""
        return f"{len(d)} pairs"

    def more_seeds(self, d: Array, levels: Sequence[float]) -> str:
        """How many seeds would probably decide the claim if the observed mean and spread were the true ones, with a range.

        The range is over the means that are plausible, at the observed spread.
        """
        if self.estimate(d) in self.claim.margins:
            return "the estimate lies on the margin, so that no number of seeds would decide it"
        need = self._seeds_needed(self.estimate(d), d, levels)
        if need >= MOST_PAIRS:
            return self._too_many()
        plausible = [self._seeds_needed(mean, d, levels) for mean in self._plausible_means(d)]
        fewest, most = min(need, *plausible), max(need, *plausible)
        others = f"{fewest} to {most}" if most < MOST_PAIRS else f"{fewest} or more"
        power = f"80% power; {others} for means within their 80% interval"
        return f"at this mean and spread about {need} seeds would decide it, {need - len(d)} more ({power})"

    def _plausible_means(self, d: Array) -> list[float]:
        """The ends of the mean's 80% interval, and what lies within it that is harder or easier to decide than they are."""
        low, high = self._interval(d, PLAUSIBLE)
        turns = [*self.claim.margins]
        if self.claim.kind == "equivalent":
            turns.append(0.0)
        return [low, high, *(mean for mean in turns if low < mean < high)]

    def _seeds_needed(self, mean: float, d: Array, levels: Sequence[float]) -> int:
        """How many seeds decide the claim with 80% power if this is the true mean; ``MOST_PAIRS`` if none that can be had."""
        margin = self.claim.margin
        if self.claim.kind == "superior":
            distances = [abs(mean - margin)]
            level = levels[0] if mean > margin else levels[1]
        elif abs(mean) < margin:
            distances, level = [margin - mean, margin + mean], levels[0]
        else:
            distances, level = [abs(mean) - margin], levels[1] / 2  # either of two outer tests shows the opposite
        if min(distances) == 0:
            return MOST_PAIRS
        spread = self.spread(d)
        need = statistics.pairs_needed(distances, lambda n: self.error(spread, n), level)
        return max(need, len(d) + 1, LEAST_PAIRS)

    def _too_many(self) -> str:
        return f"at this mean and spread more than {MOST_PAIRS - 1} seeds would be needed to decide it"

    def describe(self, d: Array) -> str:
        places = self.claim.decimals
        spread = float(self.spread(d))
        sure = f"80% sure: at most {statistics.upper_spread(spread, len(d)):.{places}f}"
        return f"{self._size(d)} have mean {self.estimate(d):+.{places}f}, standard deviation {spread:.{places}f} ({sure})"

    def prospect(self, d: Array, level: float) -> tuple[float, float]:
        return self._prospect(self.estimate(d), d, level)

    def _prospect(self, mean: float, d: Array, level: float) -> tuple[float, float]:
        """The chance to be decided and the seeds on average, if this were the true mean."""
        return statistics.sequential_power(mean, observed=tuple(d.tolist()), **self._plan(d, level))

    def _plan(self, d: Array, level: float) -> dict[str, Any]:
        """What the simulations of this claim's analyses have in common."""
        assert isinstance(self.seeds, Seeds)
        return {
            "spread": float(self.spread(d)),
            "kind": self.claim.kind,
            "margin": self.claim.margin,
            "analyses": self.seeds.analyses,
            "boundary": self.boundary,
            "level": level,
        }

    def stopping(self, d: Array, level: float) -> str:
        bias = round(statistics.stopping_bias(self.estimate(d), **self._plan(d, level)), self.claim.decimals)
        if bias == 0:
            return ""
        off = f"by {bias:+.{self.claim.decimals}f}{self.claim.unit} on average if this one were true"
        return f"To stop when decided moves an estimate away from the margin, {off}."

    def outlook(self, d: Array, level: float) -> str:
        if not isinstance(self.seeds, Seeds):
            return self.more_seeds(d, (level, level))
        chance, seeds = self.prospect(d, level)
        chances = [chance, *(self._prospect(mean, d, level)[0] for mean in self._plausible_means(d))]
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

    def spread(self, d: Array) -> Array:
        return np.sqrt(self.arms.var(axis=-1, ddof=1).sum(axis=0))

    def error(self, spread: Array, n: int) -> tuple[Array, Array | float]:
        _, freedom = statistics.unpaired_error(self.arms[0], self.arms[1])
        per_seed = freedom / (self.arms.shape[-1] - 1)
        return spread / math.sqrt(n), per_seed * (n - 1)

    def untestable(self, d: Array) -> str:
        return super().untestable(d) if self.spread(d) == 0 else ""

    def _size(self, d: Array) -> str:
        return f"{len(d)} seeds of either arm"


class MeanOverImages(Mean):
    """The mean over seeds and images: the test images are a sample, too, and other ones are to give the same verdict.

    Args:
        claim: The claim.
        seeds: Those of the study, a list.
        image_variance: Of the mean difference, what images add to it (``images.image_variance``); NaN where it is not known.
    """

    def __init__(self, claim: Claim, seeds: Sequence[int] | Seeds, image_variance: float) -> None:
        super().__init__(claim, seeds)
        self.image_variance = image_variance

    @property
    def scope(self) -> str:
        return "on images of this kind"

    def error(self, spread: Array, n: int) -> tuple[Array, Array | float]:
        return images.error(spread, n, self.image_variance)

    def untestable(self, d: Array) -> str:
        if math.isnan(self.image_variance):
            kept = f"fewer than 2 pairs of runs have kept their {self.claim.metric} image by image"
            return f"{kept}, so that nothing is known of other images (scope: images)"
        return super().untestable(d)

    def _size(self, d: Array) -> str:
        return f"{len(d)} pairs on so many images"

    def _too_many(self) -> str:
        floor = f"{math.sqrt(self.image_variance):.{self.claim.decimals}f}"
        return f"at this mean no number of seeds would decide it on so many test images, whose error alone is {floor}"


class Median(Estimand):
    """The median over seeds, by the exact sign test."""

    def __init__(self, claim: Claim, seeds: Sequence[int] | Seeds) -> None:
        super().__init__(claim, seeds)
        self.boundary: signs.SignBoundary | None = None
        if isinstance(seeds, Seeds):
            self.boundary = signs.SignBoundary(seeds.analyses)

    def estimate(self, d: Array) -> float:
        return float(np.median(d))

    def interval(self, d: Array, alpha: float) -> tuple[float, float]:
        low, high = signs.interval(d, self.nominal(alpha))
        return float(low), float(high)

    def p_values(self, d: Array) -> Array:
        return signs.p_values(d, self.claim.kind, self.claim.margin, self.boundary)

    def nominal(self, level: float) -> float:
        return level if self.boundary is None else self.boundary.nominal(level)

    def untestable(self, d: Array) -> str:
        return ""

    def power(self, d: Array, level: float) -> str:
        share = signs.share_needed(len(d), level)
        if math.isnan(share):
            return f"{len(d)} pairs can find nothing at this level."
        where = "within the margins" if self.claim.kind == "equivalent" else "beyond the margin"
        return f"{len(d)} pairs would have found a difference {where} in {share:.0%} of all seeds with 80% power."

    def more_seeds(self, d: Array, levels: Sequence[float]) -> str:
        """How many pairs would probably decide the claim if differences lay on its side, or the other, as often as in these."""
        holds, fails = signs.shares(d, self.claim.kind, self.claim.margin)
        if holds == fails:
            return "as many differences speak for the claim as against it, so that no number of seeds would decide it"
        if holds > fails:
            share, level, side = holds, levels[0], "speaks for the claim"
        else:
            share, level, side = fails, levels[1], "speaks against it"
        need = max(signs.pairs_needed(share, level, MOST_PAIRS), len(d) + 1)
        if need >= MOST_PAIRS:
            return f"if it {side} in {share:.0%} of all seeds, more than {MOST_PAIRS - 1} would be needed to decide it"
        return f"if it {side} in {share:.0%} of all seeds, about {need} would decide it, {need - len(d)} more (80% power)"

    def describe(self, d: Array) -> str:
        places = self.claim.decimals
        around = f"{d.min():+.{places}f} to {d.max():+.{places}f}"
        return f"{len(d)} pairs have median {self.estimate(d):+.{places}f} ({around})"

    def prospect(self, d: Array, level: float) -> tuple[float, float]:
        assert self.boundary is not None
        return signs.sequential_power(tuple(d.tolist()), self.claim.kind, self.claim.margin, self.boundary, level)

    def stopping(self, d: Array, level: float) -> str:
        return "To stop when decided moves an estimate away from the margin."

    def outlook(self, d: Array, level: float) -> str:
        if not isinstance(self.seeds, Seeds):
            return self.more_seeds(d, (level, level))
        chance, seeds = self.prospect(d, level)
        resampled = f"{chance:.0%} chance to be decided by {self.seeds.max} seeds, {seeds:.1f} seeds on average"
        return f"{resampled} (further seeds drawn from these)"
