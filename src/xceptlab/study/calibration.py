"""Simulate how often verdicts are wrong for data like those that were judged (``--calibrate``).

Many studies of the same design are simulated and judged. Their differences are drawn from those
that were seen, so that the truth is known: they are either shifted onto the margin, where both
``supported`` and ``contradicted`` are false, or left where they are, where one of the two is right
unless that is on the margin, too. They are judged by the tests that judge a study, with its seeds,
its analyses and Holm's correction over its claims.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from xceptlab.runs.metrics import split_of
from xceptlab.study import statistics
from xceptlab.study.choice import ArmRecords
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
"""The largest number of studies that are simulated for every true difference."""
MAX_ANALYSES = 150_000
"""The number of analyses, over all simulated studies and claims, up to which ``STUDIES`` studies
are simulated for every true difference. Where they would be more, fewer studies are simulated, but
at least 100. So many analyses take some 10 s.
"""
SHARES = (0.02, 0.1)
"""Shares of the seeds in which an arm is assumed to fail, besides the upper confidence bound of the
share that was seen. They are small, since rare failures mislead a mean most.
"""
LOWER_MARGIN, UPPER_MARGIN = 0, -1
"""Indices of the lower and the upper one of ``Claim.margins``; of one margin both are that one."""

Failing = tuple[str, float] | None
"""An arm and the share of its seeds in which it is assumed to fail; None where no arm is assumed to
fail more often than was seen.
"""


# ---- rates ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How often simulated studies come to some verdict."""

    share: float
    """The share of the studies that come to the verdict, 0 to 1."""
    studies: int
    """The number of simulated studies."""
    failing: Failing = None
    """The assumption that gave this rate, where it is the worst of several: which arm fails, and in
    which share of its seeds. None where no arm is assumed to fail more often than was seen.
    """

    @property
    def error(self) -> float:
        """The standard error of ``share``, which comes from simulating finitely many studies."""
        return math.sqrt(self.share * (1 - self.share) / self.studies)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How often a claim, or any of a study's claims, is judged wrongly, and how often rightly, for
    some distribution of differences.
    """

    differences: str
    """The distribution of the differences, in words, such as ``as seen``."""
    supported: Rate
    """Rate of false ``supported`` where the true difference is on the margin: the highest one over
    the margins and over the assumptions about failures.
    """
    contradicted: Rate
    """Rate of false ``contradicted`` where the true difference is on the margin: the highest one
    over the margins and over the assumptions about failures.
    """
    power: Rate | None
    """Rate of the right verdict where the differences are not shifted. Of several assumptions about
    failures it is the lowest rate among those under which that verdict is still right. None where
    there is no such assumption, where the right verdict is ``inconclusive``, and for the rates over
    all claims."""
    right_verdict: Outcome
    """The verdict that is right if the true difference is the one that was seen; ``inconclusive``
    if that lies on the margin, and for the rates over all claims.
    """
    assumed: bool = False
    """Whether more failures are assumed than were seen, up to their upper confidence bound."""


@dataclass(frozen=True, kw_only=True)
class ClaimRates:
    """The rates of wrong and right verdicts on one claim."""

    observed: Observed
    """What was seen of the claim, from which the studies were simulated."""
    rates: tuple[Rates, ...] = ()
    """The claim's rates for each distribution of differences, first for the differences as they
    were seen; empty where nothing could be simulated.
    """


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How often verdicts are wrong for data like those of a study."""

    claims: tuple[ClaimRates, ...]
    """The rates of each claim of the study, in its order."""
    any_claim: Rates | None
    """How often any claim is judged wrongly where the true differences of all claims are on their
    margins; None with fewer than 2 simulated claims.
    """
    studies: int
    """The number of studies that were simulated for every true difference."""
    seeds: Sequence[int] | Seeds
    """The seeds of every simulated study: a list, or seeds that are added until decided."""
    alpha: float
    """The familywise error rate at which the studies are judged."""


def calibrate(
    observed: Sequence[Observed], seeds: Sequence[int] | Seeds, alpha: float, seed: int = 0
) -> Calibration:
    """Simulate studies of the same claims and seeds, and count how often their claims are judged
    wrongly, and rightly.

    Nothing is simulated for a list of fewer than ``MIN_PAIRS`` (3) seeds, with which no claim is
    judged.

    Args:
        observed: What is known of the claims of one study, of which there is at least one; Holm's
            correction is over all of them.
        seeds: The seeds of the study. Giving up (``futility``) is left out of the simulation: it
            makes every verdict rarer.
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
    """Simulate how often claim i is judged wrongly, and rightly, for three kinds of differences: as
    they were seen, rounded to whole images, and with runs that fail.

    A kind is left out where it does not apply or cannot be simulated.
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
    """Simulate how often claim i is judged wrongly, and rightly, where runs of its two arms fail.

    Returns:
        If any run failed, the rates where runs fail as often as was seen. Then the rates where one
        arm fails more often, up to the 95% confidence bound of its share of failures: each rate is
        the worst one over several shares of either arm.
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
    """Return the shares of failing seeds to simulate: those of ``SHARES`` between the share that
    was seen and its upper confidence bound, and this bound.
    """
    return [*(share for share in SHARES if seen < share < bound), bound]


class _Simulation:
    """Simulated studies of one design.

    ``rates`` varies one claim's differences at a time, and judges the claim beside the study's
    other claims, whose differences are drawn as they were seen. ``of_any_claim`` shifts the
    differences of all claims at once.

    Args:
        observed: What is known of the study's claims, of which there is at least one.
        seeds: The seeds of every simulated study.
        alpha: Familywise error rate.
        seed: The seed of the simulation's random numbers.
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
        seen: set[int] = set()
        for one in observed:
            seen.update(one.seeds)
        self._numbers = RandomNumbers.of(
            np.random.default_rng(seed), self.studies, self._analyses[-1], sorted(seen)
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
        """Simulate how often claim i is judged wrongly, and rightly. Of several cases each rate is
        that of the case in which it is worst: the highest rate of a wrong verdict, and the lowest
        one of the right verdict.

        Args:
            i: The claim's index.
            cases: One or more cases: the arm that is assumed to fail more often than was seen, with
                the share of its seeds, or None, and the distribution of the differences.
            differences: What the cases are, in words.
            assumed: Whether they assume more failures than were seen.
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
            supported=max(supported, key=attrgetter("share")),
            contradicted=max(contradicted, key=attrgetter("share")),
            power=min(power, key=attrgetter("share"), default=None),
            right_verdict=right_verdict,
            assumed=assumed,
        )

    def of_any_claim(self) -> Rates | None:
        """Simulate how often any claim is judged wrongly where the true differences of all claims
        are on their margins: all on the lower or all on the upper ones, whichever is worse.

        Return None with fewer than 2 claims that can be simulated.
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
            supported=max(supported, key=attrgetter("share")),
            contradicted=max(contradicted, key=attrgetter("share")),
            power=None,
            right_verdict="inconclusive",
        )

    def _p_of_all(self, margin: int | None = None) -> Array:
        """Simulate the p-values (analyses, studies, claims, 2) of all claims and of their
        opposites; 1 for claims that cannot be simulated.

        Args:
            margin: The index in ``Claim.margins`` of the true difference of every claim; None for
                the difference that was seen.
        """
        p = np.ones((len(self._analyses), self.studies, len(self.observed), 2))
        for i in self._simulated:
            truth = None if margin is None else self.observed[i].claim.margins[margin]
            p[:, :, i] = self._p(i, DifferenceDistribution.as_seen(self.observed[i]), truth)
        return p

    def _p(self, i: int, distribution: DifferenceDistribution, truth: float | None) -> Array:
        """Simulate the p-values of claim i and of its opposite, (analyses, studies, 2).

        The true difference is ``truth`` or, where that is None, the distribution's own.
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
        """Simulate the outcomes (studies,) of claim i: ``SUPPORTED``, ``CONTRADICTED`` or, for
        neither, 0. It is judged together with the other claims, whose differences are drawn as they
        were seen.

        The true difference is ``truth`` or, where that is None, the distribution's own.
        """
        p = self._as_seen.copy()
        p[:, :, i] = self._p(i, distribution, truth)
        outcome, _ = decided(p, self._alpha)
        return outcome[:, i]

    def _rate(self, hits: Booleans, failing: Failing = None) -> Rate:
        """Return the rate of ``hits`` (studies,) among the simulated studies, with the assumption
        about failures under which they were simulated.
        """
        return Rate(share=float(hits.mean()), studies=self.studies, failing=failing)


# ---- of studies, and of scores from elsewhere ----------------------------------------------------


def calibrate_study(
    expansion: Expansion, records: ArmRecords, verdicts: Sequence[Verdict]
) -> Calibration:
    """Simulate how often verdicts on a study's claims are wrong, for data like those of its runs.

    With ``scope: images`` no claim is simulated.

    Args:
        expansion: The study, which has at least one claim.
        records: The records of the runs that stand for the arms, by (arm, seed).
        verdicts: The verdict on each claim.
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


def _points_per_image(verdict: Verdict, records: ArmRecords) -> float:
    """Return the percentage points by which one more correct image changes an accuracy that the
    verdict compares between two arms; 0 for another metric, and where the number of images is not
    known.
    """
    claim = verdict.claim
    done = []
    for arm in claim.sides:
        for seed in verdict.differences:
            record = records[arm, seed]
            if record:
                done.append(record)
    images = images_of_split(split_of(claim.metric), done)
    if not claim.measure.is_accuracy or not images:
        return 0.0
    return 100 / images


def calibrate_scores(verdicts: Sequence[Verdict], alpha: float) -> Calibration:
    """Simulate how often verdicts on scores that another tool made are wrong, in studies with all
    the seeds for which any of the compared arms has a score.

    Args:
        verdicts: The verdicts, at least one, made together.
        alpha: Familywise error rate.
    """
    seeds: set[int] = set()
    observed = []
    for verdict in verdicts:
        for scores in verdict.scores:
            seeds.update(scores)
        diverged = verdict.claim.diverged
        failed_score = math.nan if diverged is None else diverged
        observed.append(Observed.of(verdict, verdict.diverged, failed_score=failed_score))
    return calibrate(observed, sorted(seeds), alpha)
