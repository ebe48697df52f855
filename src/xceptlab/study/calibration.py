"""How often verdicts are wrong for data like the reader's: many studies of the same design,
simulated and judged.

Their differences are drawn from those that were seen, and moved so that the truth is known: onto
the margin, where every verdict is false, or to the difference that was seen, where one of them is
right. They are judged by the tests that judge a study, with its seeds, its analyses and Holm's
correction over its claims.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xceptlab.runs.metrics import split_of
from xceptlab.study import statistics
from xceptlab.study.choice import Records
from xceptlab.study.definition import Seeds
from xceptlab.study.estimands import MIN_PAIRS, estimand_of
from xceptlab.study.expansion import Expansion
from xceptlab.study.resampling import DifferenceDistribution, Observed, RandomNumbers
from xceptlab.study.run_scores import score_of_divergence
from xceptlab.study.simulated_judging import CONTRADICTED, SUPPORTED, decided, p_values_at
from xceptlab.study.statistics import Array, Booleans, Integers
from xceptlab.study.verdict import Outcome, Verdict
from xceptlab.study.verdict_warnings import failed_runs, images_of_split

STUDIES = 4000
"""Simulated studies for every true difference."""
MAX_ANALYSES = 150_000
"""Simulated analyses for every true difference, of all claims, beyond which fewer studies are
simulated; this takes some 10 s.
"""
SHARES = (0.02, 0.1)
"""Shares of the seeds in which an arm may fail, besides the upper bound of what was seen: rare
failures mislead a mean most.
"""
LOWER_MARGIN, UPPER_MARGIN = 0, -1
"""Indices of a claim's ``margins``, which are the same for a claim with one margin."""

Failing = tuple[str, float] | None
"""An arm and the share of its seeds in which it fails; None where nothing is assumed to fail more
often than was seen.
"""


# ---- rates ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How often simulated studies come to a verdict."""

    share: float
    """The share of the studies that come to it."""
    studies: int
    """The number of simulated studies."""
    failing: Failing = None
    """The arm that fails more often than was seen, where this rate is that of the worst of several
    such cases.
    """

    @property
    def error(self) -> float:
        """One standard error of the simulation."""
        return math.sqrt(self.share * (1 - self.share) / self.studies)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How often a claim is judged wrongly, and rightly, for some distribution of differences."""

    differences: str
    """The distribution of the differences, in words."""
    supported: Rate
    """Rate of false ``supported`` when the true difference is on the margin, the worse one of two
    margins.
    """
    contradicted: Rate
    """Rate of false ``contradicted`` when the true difference is on the margin, the worse one of
    two margins.
    """
    power: Rate | None
    """Rate of the right verdict for the difference that was seen, in the worst case in which that
    verdict is still right; None without such a case."""
    right_verdict: Outcome
    """The verdict that is true if the observed statistic is the true difference."""
    assumed: bool = False
    """Whether the differences are assumed to be worse than what was seen, within what that leaves
    open.
    """


@dataclass(frozen=True, kw_only=True)
class ClaimRates:
    """What the simulation says of a claim."""

    observed: Observed
    rates: tuple[Rates, ...] = ()
    """The claim's rates for each distribution of differences, the one as seen first; empty where
    nothing could be simulated.
    """


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How often verdicts are wrong for data like the reader's."""

    claims: tuple[ClaimRates, ...]
    """The rates of each claim."""
    any_claim: Rates | None
    """How often any claim is judged wrongly where all are on their margins; None with fewer than 2
    simulated claims.
    """
    studies: int
    """The number of studies that were simulated for every true difference."""
    seeds: Sequence[int] | Seeds
    """The seeds of every simulated study: a list, or when they are added."""
    alpha: float
    """The familywise error rate at which the studies are judged."""


def calibrate(
    observed: Sequence[Observed], seeds: Sequence[int] | Seeds, alpha: float, seed: int = 0
) -> Calibration:
    """How often a study's claims are judged wrongly, from simulated studies of the same claims and
    seeds.

    Args:
        observed: What is known of the claims of one study, all of which Holm's correction is over.
        seeds: Those of the study: a list, or when they are added. Giving up (``futility``) is left
            out: it makes every verdict rarer.
        alpha: Familywise error rate.
        seed: The seed of the simulation's random numbers.
    """
    if not isinstance(seeds, Seeds) and len(seeds) < MIN_PAIRS:
        observed = [
            replace(one, why_not=f"fewer than {MIN_PAIRS} seeds are not judged") for one in observed
        ]
    simulation = _Simulation(observed, seeds, alpha, seed)
    return Calibration(
        claims=tuple(_rates_of_claim(simulation, i) for i in range(len(observed))),
        any_claim=simulation.of_any_claim(),
        studies=simulation.studies,
        seeds=seeds,
        alpha=alpha,
    )


def _rates_of_claim(simulation: "_Simulation", i: int) -> ClaimRates:
    """The rates of claim i for differences as they were seen, rounded to whole images, and with
    runs that fail.
    """
    observed = simulation.observed[i]
    if observed.why_not_simulated:
        return ClaimRates(observed=observed)
    as_seen = DifferenceDistribution.as_seen(observed)
    rates = [simulation.rates(i, [(None, as_seen)], "as seen")]
    points = observed.points_per_image
    if points and observed.claim.statistic == "mean":
        rounded = DifferenceDistribution.as_seen(observed, points)
        rates.append(
            simulation.rates(i, [(None, rounded)], f"in whole images ({points:.2g} points)")
        )
    if not observed.why_no_failures:
        rates += _rates_with_failures(simulation, i)
    return ClaimRates(observed=observed, rates=tuple(rates))


def _rates_with_failures(simulation: "_Simulation", i: int) -> list[Rates]:
    """The rates of claim i where runs fail as often as was seen, and those where one of its arms
    fails more often.
    """
    observed = simulation.observed[i]
    a, b = observed.claim.sides
    n = len(observed.differences)
    failures = [int(count) for count in observed.failed.sum(axis=1)]
    seen_a, seen_b = (count / n for count in failures)
    bound_a, bound_b = (statistics.upper_share(count, n) for count in failures)
    rates = []
    if any(failures):
        as_often = DifferenceDistribution.with_failures(observed, (seen_a, seen_b))
        counts = f"failures as seen ({a} {failures[0]}, {b} {failures[1]} of {n})"
        rates.append(simulation.rates(i, [(None, as_often)], counts))
    more_often: list[tuple[Failing, DifferenceDistribution]] = []
    for share in _shares(seen_a, bound_a):
        more_often.append(
            ((a, share), DifferenceDistribution.with_failures(observed, (share, seen_b)))
        )
    for share in _shares(seen_b, bound_b):
        more_often.append(
            ((b, share), DifferenceDistribution.with_failures(observed, (seen_a, share)))
        )
    up_to = f"failures up to their 95% bound ({a} {bound_a:.0%}, {b} {bound_b:.0%})"
    rates.append(simulation.rates(i, more_often, up_to, assumed=True))
    return rates


def _shares(seen: float, bound: float) -> list[float]:
    """The shares of failures that are simulated: those of ``SHARES`` above the one that was seen,
    and the bound of that one.
    """
    return [*(share for share in SHARES if seen < share < bound), bound]


class _Simulation:
    """Simulated studies in which one claim's differences are varied, and judged beside the other
    claims' as they were seen.
    """

    def __init__(
        self, observed: Sequence[Observed], seeds: Sequence[int] | Seeds, alpha: float, seed: int
    ) -> None:
        self.observed = observed
        self._analyses = list(seeds.analyses) if isinstance(seeds, Seeds) else [len(seeds)]
        affordable = MAX_ANALYSES // (len(observed) * len(self._analyses))
        self.studies = min(STUDIES, max(100, affordable // 100 * 100))
        self._alpha = alpha
        self._seeds = seeds
        seen = sorted({one_seed for one in observed for one_seed in one.seeds})
        self._numbers = RandomNumbers.of(
            np.random.default_rng(seed), self.studies, self._analyses[-1], seen
        )
        self._simulated = [i for i, one in enumerate(observed) if not one.why_not_simulated]
        self._as_seen = self._p_of_all()

    def rates(
        self,
        i: int,
        cases: Sequence[tuple[Failing, DifferenceDistribution]],
        differences: str,
        assumed: bool = False,
    ) -> Rates:
        """How often claim i is judged wrongly, and rightly, in the worst of several cases, each
        with the arm that fails in it.
        """
        observed = self.observed[i]
        right_verdict = DifferenceDistribution.as_seen(observed).right_verdict
        supported, contradicted, power = [], [], []
        for failing, distribution in cases:
            for margin in observed.claim.margins:
                outcome = self._outcome(i, distribution, margin)
                supported.append(self._rate(outcome == SUPPORTED, failing))
                contradicted.append(self._rate(outcome == CONTRADICTED, failing))
            if distribution.right_verdict == right_verdict != "inconclusive":
                right = SUPPORTED if right_verdict == "supported" else CONTRADICTED
                power.append(self._rate(self._outcome(i, distribution) == right, failing))
        return Rates(
            differences=differences,
            supported=max(supported, key=_share),
            contradicted=max(contradicted, key=_share),
            power=min(power, key=_share, default=None),
            right_verdict=right_verdict,
            assumed=assumed,
        )

    def of_any_claim(self) -> Rates | None:
        """How often any claim is judged wrongly where all are on their margins, the worse of the
        upper and the lower ones.
        """
        if len(self._simulated) < 2:
            return None
        supported, contradicted = [], []
        for margin in (LOWER_MARGIN, UPPER_MARGIN):
            outcome, _ = decided(self._p_of_all(margin), self._alpha)
            supported.append(self._rate((outcome == SUPPORTED).any(axis=1)))
            contradicted.append(self._rate((outcome == CONTRADICTED).any(axis=1)))
        return Rates(
            differences="as seen",
            supported=max(supported, key=_share),
            contradicted=max(contradicted, key=_share),
            power=None,
            right_verdict="inconclusive",
        )

    def _p_of_all(self, margin: int | None = None) -> Array:
        """The p-values (analyses, studies, claims, 2) of all claims as they were seen, or on the
        margin of this index.

        Those of claims that are not simulated are 1.
        """
        p = np.ones((len(self._analyses), self.studies, len(self.observed), 2))
        for i in self._simulated:
            truth = None if margin is None else self.observed[i].claim.margins[margin]
            p[:, :, i] = self._p(i, DifferenceDistribution.as_seen(self.observed[i]), truth)
        return p

    def _p(self, i: int, distribution: DifferenceDistribution, truth: float | None) -> Array:
        """The p-values (analyses, studies, 2) of claim i, at a true difference ``truth`` or at the
        distribution's own.
        """
        estimand = estimand_of(
            distribution.claim, self._seeds, distribution.draw_scores(self._numbers)
        )
        differences = distribution.draw(self._numbers, truth)
        return p_values_at(
            estimand, differences, self._analyses, self.observed[i].rounding_tolerance
        )

    def _outcome(
        self, i: int, distribution: DifferenceDistribution, truth: float | None = None
    ) -> Integers:
        """The outcomes (studies,) of claim i beside the other claims as they were seen."""
        p = self._as_seen.copy()
        p[:, :, i] = self._p(i, distribution, truth)
        outcome, _ = decided(p, self._alpha)
        return outcome[:, i]

    def _rate(self, hits: Booleans, failing: Failing = None) -> Rate:
        return Rate(share=float(hits.mean()), studies=self.studies, failing=failing)


def _share(rate: Rate) -> float:
    return rate.share


# ---- of studies, and of scores from elsewhere ----------------------------------------------------


def calibrate_study(
    expansion: Expansion, records: Records, verdicts: Sequence[Verdict]
) -> Calibration:
    """The calibration of a study from its verdicts and the records of the runs that stand for the
    arms, by (arm, seed).
    """
    study = expansion.study
    why_not = ""
    if study.scope == "images":
        why_not = "its verdict is for other images, too (scope: images), and no other images can be drawn from these"
    observed = []
    for verdict in verdicts:
        failed_score, points_per_image = math.nan, 0.0
        if verdict.claim.contrast:
            arm, _ = verdict.claim.contrast
            failed_score = score_of_divergence(verdict.claim, expansion.arms[arm].data.classes)
            points_per_image = _points_per_image(verdict, records)
        of_claim = Observed.of(
            verdict,
            failed_runs(verdict, expansion, records),
            failed_score=failed_score,
            points_per_image=points_per_image,
            why_not=why_not,
        )
        observed.append(of_claim)
    return calibrate(observed, study.seeds, study.alpha)


def _points_per_image(verdict: Verdict, records: Records) -> float:
    """The points by which one more image changes an accuracy; 0 for another metric, and where the
    images are not known.
    """
    claim = verdict.claim
    runs = [records[arm, seed] for arm in claim.sides for seed in verdict.differences]
    images = images_of_split(split_of(claim.metric), [record for record in runs if record])
    if not claim.measure.in_percent or not images:
        return 0.0
    return 100 / images


def calibrate_scores(verdicts: Sequence[Verdict], alpha: float) -> Calibration:
    """The calibration of verdicts on scores from elsewhere, with as many seeds as they have in all."""
    seeds: set[int] = set()
    observed = []
    for verdict in verdicts:
        for scores in verdict.scores:
            seeds.update(scores)
        diverged = verdict.claim.diverged
        failed_score = math.nan if diverged is None else diverged
        observed.append(Observed.of(verdict, verdict.diverged, failed_score=failed_score))
    return calibrate(observed, sorted(seeds), alpha)
