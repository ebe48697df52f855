"""What a claim asks of paired differences, their mean or their median over seeds, and how each of the two is tested.

The mean is tested by t-tests: powerful, and valid while the differences are near normal. The median is tested by counting signs:
valid for any distribution, also where runs collapse or diverge, and blind to how large a difference is.
"""

import bisect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import optimize, stats

from xceptlab.errors import Refused
from xceptlab.runs.metrics import split_of
from xceptlab.study import images, signs, statistics
from xceptlab.study.definition import Claim, Seeds, Study
from xceptlab.study.statistics import MOST_PAIRS, Array, Kind

LEAST_PAIRS = 3
"""Fewer pairs are judged by no test."""


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
        """p that the claim holds and p that its opposite does (2,), valid beside the other analyses of a sequential study."""

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
    def outlook(self, d: Array, level: float) -> str:
        """What the differences, n >= 2, say about the seeds that are still to come, at the study's ``level``."""


def estimand(claim: Claim, seeds: Sequence[int] | Seeds, image_variance: float | None = None) -> Estimand:
    """The estimand that a claim declares; of seeds and images where the variance that images add is given (``scope: images``)."""
    if image_variance is not None:
        return MeanOverImages(claim, seeds, image_variance)
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
        if smallest_p > estimand(claim, seeds).nominal(level):
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

    def estimate(self, d: Array) -> float:
        return float(d.mean())

    def interval(self, d: Array, alpha: float) -> tuple[float, float]:
        low, high = statistics.interval(d, 1 - 2 * self.nominal(alpha))
        return float(low), float(high)

    def p_values(self, d: Array) -> Array:
        if self.boundary is None:
            return statistics.p_values(d, self.claim.kind, self.claim.margin)
        return statistics.p_values(d, self.claim.kind, self.claim.margin, self.boundary.chance)

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
        detectable = statistics.detectable(_spread(d), len(d), self.claim.kind, level)
        smallest = f"{detectable:.{self.claim.decimals}f}"
        if self.claim.kind == "equivalent":
            found = f"equivalence within {smallest}"
        else:
            found = f"an effect of {smallest} beyond the margin"
        return f"{len(d)} pairs would have found {found} with 80% power."

    def more_seeds(self, d: Array, levels: Sequence[float]) -> str:
        """How many pairs would probably decide the claim if the observed mean and spread were the true ones."""
        margin, n, mean = self.claim.margin, len(d), self.estimate(d)
        equivalent = self.claim.kind == "equivalent"
        beyond = margin - abs(mean) if equivalent else mean - margin  # above 0 the claim would be shown, below 0 its opposite
        if beyond == 0:
            return "the estimate lies on the margin, so that no number of seeds would decide it"
        kind: Kind
        if beyond > 0:
            kind, level = self.claim.kind, levels[0]
        elif equivalent:
            kind, level = "superior", levels[1] / 2  # either of two outer tests shows the opposite
        else:
            kind, level = "superior", levels[1]
        need = self._pairs_needed(abs(beyond), _spread(d), kind, level)
        need = max(need, n + 1, LEAST_PAIRS)
        if need >= MOST_PAIRS:
            return self._too_many()
        return f"at this mean and spread about {need} seeds would decide it, {need - n} more (80% power)"

    def _pairs_needed(self, distance: float, spread: float, kind: Kind, level: float) -> int:
        return statistics.pairs_needed(distance, spread, kind, level)

    def _too_many(self) -> str:
        return f"at this mean and spread more than {MOST_PAIRS - 1} seeds would be needed to decide it"

    def describe(self, d: Array) -> str:
        places = self.claim.decimals
        spread = _spread(d)
        sure = f"80% sure: at most {statistics.upper_spread(spread, len(d)):.{places}f}"
        return f"{len(d)} pairs have mean {self.estimate(d):+.{places}f}, standard deviation {spread:.{places}f} ({sure})"

    def prospect(self, d: Array, level: float) -> tuple[float, float]:
        return self._prospect(d, _spread(d), level)

    def _prospect(self, d: Array, spread: float, level: float) -> tuple[float, float]:
        """The chance to be decided and the seeds on average, if ``spread`` were the true standard deviation."""
        assert self.boundary is not None
        assert isinstance(self.seeds, Seeds)
        return statistics.sequential_power(
            mean=self.estimate(d),
            spread=spread,
            kind=self.claim.kind,
            margin=self.claim.margin,
            analyses=self.seeds.analyses,
            boundary=self.boundary,
            level=level,
            observed=d,
        )

    def outlook(self, d: Array, level: float) -> str:
        if not isinstance(self.seeds, Seeds):
            return self.more_seeds(d, (level, level))
        chance, seeds = self.prospect(d, level)
        largest_spread = statistics.upper_spread(_spread(d), len(d))
        worst_chance, worst_seeds = self._prospect(d, largest_spread, level)
        worst = f"{worst_chance:.0%} and {worst_seeds:.1f} at the largest spread"
        return f"{chance:.0%} chance to be decided by {self.seeds.max} seeds, {seeds:.1f} seeds on average ({worst})"


def _spread(d: Array) -> float:
    """The standard deviation of differences (n,), n >= 2."""
    return float(d.std(ddof=1))


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

    def interval(self, d: Array, alpha: float) -> tuple[float, float]:
        low, high = images.interval(d, self.image_variance, 1 - 2 * alpha)
        return float(low), float(high)

    def p_values(self, d: Array) -> Array:
        return images.p_values(d, self.image_variance, self.claim.kind, self.claim.margin)

    def untestable(self, d: Array) -> str:
        if math.isnan(self.image_variance):
            kept = f"fewer than 2 pairs of runs have kept their {self.claim.metric} image by image"
            return f"{kept}, so that nothing is known of other images (scope: images)"
        return super().untestable(d)

    def power(self, d: Array, level: float) -> str:
        error, freedom = (float(value) for value in images.error(d, self.image_variance))
        critical = stats.t.ppf(1 - level, freedom)
        each = statistics.power_of_each(self.claim.kind)
        errors = optimize.brentq(lambda x: stats.nct.sf(critical, freedom, x) - each, 0.0, critical + 50.0)
        smallest = f"{errors * error:.{self.claim.decimals}f}"
        found = f"an effect of {smallest} beyond the margin"
        if self.claim.kind == "equivalent":
            found = f"equivalence within {smallest}"
        return f"{len(d)} pairs on so many images would have found {found} with 80% power."

    def _pairs_needed(self, distance: float, spread: float, kind: Kind, level: float) -> int:
        each, sizes = statistics.power_of_each(kind), range(2, MOST_PAIRS)

        def enough(n: int) -> bool:
            return images.power(distance, spread, n, self.image_variance, level) >= each

        return sizes.start + bisect.bisect_left(sizes, True, key=enough)

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
        return signs.sequential_power(d, self.claim.kind, self.claim.margin, self.boundary, level)

    def outlook(self, d: Array, level: float) -> str:
        if not isinstance(self.seeds, Seeds):
            return self.more_seeds(d, (level, level))
        chance, seeds = self.prospect(d, level)
        resampled = f"{chance:.0%} chance to be decided by {self.seeds.max} seeds, {seeds:.1f} seeds on average"
        return f"{resampled} (further seeds drawn from these)"
