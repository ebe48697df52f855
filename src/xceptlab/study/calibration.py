"""How often verdicts are wrong for data like the reader's: many studies of the same design, simulated and judged.

Their differences are drawn from those that were seen, and moved so that the truth is known: onto the margin, where every verdict
is false, or to the difference that was seen, where one of them is right. They are judged by the tests that judge a study, with
its seeds, its analyses and Holm's correction over its claims.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xceptlab.runs.metrics import split_of
from xceptlab.study import statistics
from xceptlab.study.choice import Records
from xceptlab.study.definition import Claim, Seeds
from xceptlab.study.estimands import LEAST_PAIRS, Estimand, Mean, UnpairedMean, estimand
from xceptlab.study.expansion import Expansion
from xceptlab.study.judging import ROUNDING, Outcome, Verdict
from xceptlab.study.run_scores import score_of_divergence
from xceptlab.study.statistics import Array
from xceptlab.study.warnings import failed_runs, images_of_split
from xceptlab.text import counted

STUDIES = 4000
"""Simulated studies for every true difference."""
MOST_ANALYSES = 150_000
"""Simulated analyses for every true difference, of all claims, beyond which fewer studies are simulated; this takes some 10 s."""
SHARES = (0.02, 0.1)
"""Of the seeds in which an arm may fail, besides the upper bound of what was seen: rare failures mislead a mean the most."""

SUPPORTED, CONTRADICTED = 1, -1

Integers = NDArray[np.int_]
Booleans = NDArray[np.bool_]
Failing = tuple[str, float] | None
"""An arm and the share of its seeds in which it fails; None where nothing is assumed to fail more often than was seen."""


# ---- judging many studies at once -------------------------------------------------------------------------------------------


def p_values_at(asked: Estimand, differences: Array, analyses: Sequence[int], equal: float = 0.0) -> Array:
    """The p-values of a claim and of its opposite at every analysis, (analyses, ..., 2), of differences (..., n).

    They are 1 where an analysis has nothing to test: too few pairs, or no spread for a test of a mean to go by, none above
    ``equal``.
    """
    p = np.ones((len(analyses), *differences.shape[:-1], 2))
    for number, n in enumerate(analyses):
        if n < LEAST_PAIRS:
            continue
        so_far = differences[..., :n]
        with np.errstate(divide="ignore", invalid="ignore"):
            tested = asked.p_values(so_far)
        p[number] = np.where(_testable(asked, so_far, equal)[..., None], tested, 1.0)
    return p


def _testable(asked: Estimand, differences: Array, equal: float) -> Booleans:
    """Whether differences (..., n) have what the test needs, as ``Estimand.untestable`` says of a single study's: (...)."""
    if isinstance(asked, UnpairedMean):
        return asked.spread(differences) > equal
    if isinstance(asked, Mean):
        return np.ptp(differences, axis=-1) > equal
    return np.full(differences.shape[:-1], True)


def decided(p: Array, alpha: float) -> tuple[Integers, Integers]:
    """What simulated studies decide, as ``verdict.judge`` does: a claim's verdict is that of the first analysis that has one.

    Args:
        p: Of every claim and its opposite, before Holm's adjustment, (analyses, studies, claims, 2).
        alpha: Familywise error rate.

    Returns:
        By study and claim (studies, claims) the outcome, ``SUPPORTED``, ``CONTRADICTED`` or 0, and the index of the analysis that
        it is from.
    """
    outcome = np.zeros(p.shape[1:3], dtype=np.int_)
    at = np.full(p.shape[1:3], len(p) - 1)
    current = p[0]
    for number, fresh in enumerate(p):
        is_open = outcome == 0
        current = np.where(is_open[..., None], fresh, current)
        supported = is_open & (statistics.holm(current[..., 0]) <= alpha)
        contradicted = is_open & ~supported & (statistics.holm(current[..., 1]) <= alpha)
        outcome[supported] = SUPPORTED
        outcome[contradicted] = CONTRADICTED
        at[supported | contradicted] = number
    return outcome, at


# ---- differences like the reader's ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What is known of a claim, from which studies like it are drawn."""

    claim: Claim
    scores: Array
    """Of its two sides, a and b, by pair (2, n)."""
    seeds: tuple[int, ...]
    """Of the pairs (n,), by which those of other claims are the same."""
    failed: Booleans
    """Which of the runs failed (2, n)."""
    failed_score: float = math.nan
    """What a failed run scores; NaN where that is not known."""
    image: float = 0.0
    """By how many points one test image more changes an accuracy; 0 where that is not known."""
    why_not: str = ""
    """Why nothing can be simulated for the claim, whatever its differences are; else empty."""

    @classmethod
    def of(cls, verdict: Verdict, failed: Sequence[tuple[str, int]], **known: Any) -> "Observed":
        """What a verdict knows, with its failed runs by (arm, seed), and other fields as they are ``known``."""
        fails = [[(arm, seed) in failed for seed in verdict.differences] for arm in verdict.claim.sides]
        failed_runs = np.array(fails, dtype=bool)
        return cls(claim=verdict.claim, scores=verdict.arms, seeds=tuple(verdict.differences), failed=failed_runs, **known)

    @property
    def differences(self) -> Array:
        """Of the pairs (n,), above 0 where a is better."""
        return _differences(self.claim, self.scores)

    @property
    def equal(self) -> float:
        """How far apart differences may be that count as equal."""
        return ROUNDING * float(np.abs(self.scores).max(initial=0.0))

    @property
    def why_not_simulated(self) -> str:
        """Why no studies like it can be simulated, in words; empty where they can."""
        n = len(self.differences)
        if self.why_not:
            return self.why_not
        if n < 2:
            return f"{counted(n, 'pair')} of runs cannot tell how differences vary"
        if np.ptp(self.differences) <= self.equal:
            return f"all {n} differences are the same, from which nothing can be learned about others"
        return ""

    @property
    def why_no_failures(self) -> str:
        """Why no failures can be simulated, in words; empty where they can."""
        if self.claim.contrast is None:
            return "an effect is one of several arms"
        if math.isnan(self.failed_score):
            return "nothing says what a failed run scores (`diverged:` does)"
        if (~self.failed.any(axis=0)).sum() < 2:
            return "fewer than 2 pairs are without a failed run"
        return ""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random numbers from 0 to 1, (studies, seeds) each, which all simulations share: they differ in what is asked alone."""

    seeds: Integers
    """Which of the seeds that were seen a simulated one repeats, of all claims alike."""
    pair: Array
    """Which of a claim's pairs it repeats where the claim has none of that seed."""
    fails_a: Array
    """Below what share of failures the first arm fails."""
    fails_b: Array
    tie: Array
    """To which side a difference goes that lies between two."""

    @classmethod
    def of(cls, rng: np.random.Generator, studies: int, n: int, seeds: Sequence[int]) -> "Draws":
        """Those of so many studies of n seeds each, by the ``seeds`` that were seen."""
        drawn = rng.choice(np.array(seeds or [0]), (studies, n))
        return cls(seeds=drawn, **{name: rng.random((studies, n)) for name in ("pair", "fails_a", "fails_b", "tie")})


@dataclass(frozen=True, kw_only=True)
class Source:
    """A distribution from which simulated differences are drawn."""

    claim: Claim
    scores: Array
    """Of the two sides, by what fails, neither, a, b or both, and by pair (2, 4, n); (2, 1, n) where nothing does."""
    seeds: tuple[int, ...]
    """Of the pairs (n,)."""
    shares: tuple[float, float] = (0.0, 0.0)
    """Of the seeds in which a and b fail, independently."""
    image: float = 0.0
    """Differences are rounded to multiples of this, at random up or down so that the mean stays; not where it is 0."""

    @classmethod
    def as_seen(cls, observed: Observed, image: float = 0.0) -> "Source":
        """The pairs that were seen, their differences rounded to multiples of ``image`` where that is not 0."""
        return cls(claim=observed.claim, scores=observed.scores[:, None], seeds=observed.seeds, image=image)

    @classmethod
    def with_failures(cls, observed: Observed, shares: tuple[float, float]) -> "Source":
        """The pairs of which no run failed, with failures in these shares of the seeds of a and of b."""
        sound = ~observed.failed.any(axis=0)
        a, b = observed.scores[:, sound]
        seeds = tuple(np.array(observed.seeds)[sound].tolist())
        fallen = np.full(len(a), observed.failed_score)
        scores = [[a, fallen, a, fallen], [b, b, fallen, fallen]]
        return cls(claim=observed.claim, scores=np.array(scores), seeds=seeds, shares=shares)

    @property
    def values(self) -> Array:
        """The differences that there are (4, n) or (1, n)."""
        return _differences(self.claim, self.scores)

    @property
    def weights(self) -> Array:
        """The chance of each value (4, n) or (1, n)."""
        kinds, n = self.values.shape
        a, b = self.shares
        chances = np.array([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b])
        return np.repeat(chances[:kinds, None] / n, n, axis=1)

    @property
    def statistic(self) -> float:
        """The claim's, the mean or median of the distribution: the true difference."""
        if self.claim.statistic == "mean":
            return float((self.values * self.weights).sum())
        return _median(self.values.ravel(), self.weights.ravel())

    @property
    def right_verdict(self) -> Outcome:
        """That on the true difference; inconclusive where it lies on the margin."""
        inside = self.statistic - self.claim.margin
        if self.claim.kind == "equivalent":
            inside = self.claim.margin - abs(self.statistic)
        if inside == 0:
            return "inconclusive"
        return "supported" if inside > 0 else "contradicted"

    def draw_scores(self, draws: Draws) -> Array:
        """The scores of both sides (2, studies, seeds)."""
        pair = (draws.pair * len(self.seeds)).astype(np.int_)
        for place, seed in enumerate(self.seeds):
            pair[draws.seeds == seed] = place
        fails = (draws.fails_a < self.shares[0]) + 2 * (draws.fails_b < self.shares[1])
        return self.scores[:, fails, pair]

    def draw(self, draws: Draws, truth: float | None = None) -> Array:
        """Differences (studies, seeds); all moved alike so that the true difference is ``truth``, unless that is None."""
        differences = _differences(self.claim, self.draw_scores(draws))
        if truth is not None:
            differences = self._moved(differences, truth, draws)
        if self.image:
            images = np.floor(differences / self.image + draws.tie)
            return np.round(images * self.image, 9)
        return differences

    def _moved(self, differences: Array, truth: float, draws: Draws) -> Array:
        """Drawn differences (studies, seeds), moved so that the true difference is ``truth``.

        Values that are the median are put next to it, as often above as makes half of all differences be so: a real difference is
        never exactly the median of all that are possible.
        """
        moved = differences + (truth - self.statistic)
        if self.claim.statistic == "mean":
            return moved
        above = self.weights[self.values > self.statistic].sum()
        tied = self.weights[self.values == self.statistic].sum()
        upwards = draws.tie * tied < 0.5 - above
        next_to = 1e-9 * np.ptp(self.values)
        beside = truth + np.where(upwards, next_to, -next_to)
        return np.where(differences == self.statistic, beside, moved)


def _differences(claim: Claim, scores: Array) -> Array:
    """The differences (...) of scores of both sides (2, ...), above 0 where a is better."""
    a, b = scores
    return b - a if claim.lower_is_better else a - b


def _median(values: Array, weights: Array) -> float:
    """The median of a distribution on values (n,) of these weights (n,), which sum to 1."""
    order = np.argsort(values)
    order = order[weights[order] > 0]
    up_to = np.cumsum(weights[order])
    middle = int(np.searchsorted(up_to, 0.5 - 1e-9))
    if up_to[middle] > 0.5 + 1e-9:
        return float(values[order[middle]])
    return float(values[order[middle : middle + 2]].mean())


# ---- rates -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How often simulated studies come to a verdict."""

    share: float
    studies: int
    failing: Failing = None
    """Where this is the worst of several cases, which one."""

    @property
    def error(self) -> float:
        """One standard error of the simulation."""
        return math.sqrt(self.share * (1 - self.share) / self.studies)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How often a claim is judged wrongly, and rightly, for some distribution of differences."""

    differences: str
    """Which, in words."""
    supported: Rate
    """Falsely, at a true difference on the margin; of two margins on the worse one."""
    contradicted: Rate
    """Falsely, at the same."""
    power: Rate | None
    """Rightly, for the difference that was seen, in the worst case in which the same verdict is right; None without a case."""
    right_verdict: Outcome
    """That on the difference that was seen."""
    assumed: bool = False
    """Whether the differences are worse than what was seen, within what that leaves open."""


@dataclass(frozen=True, kw_only=True)
class ClaimRates:
    """What the simulation says of a claim."""

    observed: Observed
    rates: tuple[Rates, ...] = ()
    """By distribution of the differences, those that were seen first; empty where nothing could be simulated."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How often verdicts are wrong for data like the reader's."""

    claims: tuple[ClaimRates, ...]
    any_claim: Rates | None
    """How often any claim is judged wrongly where all are on their margins; None of fewer than 2 simulated claims."""
    studies: int
    """Simulated for every true difference."""
    seeds: Sequence[int] | Seeds
    """The design."""
    alpha: float


def calibrate(observed: Sequence[Observed], seeds: Sequence[int] | Seeds, alpha: float, seed: int = 0) -> Calibration:
    """Simulate studies like one, with all its claims.

    Args:
        observed: What is known of the claims of one study, all of which Holm's correction is over.
        seeds: Those of the study: a list, or when they are added. Giving up (``futility``) is left out: it makes every verdict
            rarer.
        alpha: Familywise error rate.
        seed: Of the simulation.
    """
    if not isinstance(seeds, Seeds) and len(seeds) < LEAST_PAIRS:
        observed = [replace(one, why_not=f"fewer than {LEAST_PAIRS} seeds are not judged") for one in observed]
    simulation = _Simulation(observed, seeds, alpha, seed)
    return Calibration(
        claims=tuple(_rates_of_claim(simulation, i) for i in range(len(observed))),
        any_claim=simulation.of_any_claim(),
        studies=simulation.studies,
        seeds=seeds,
        alpha=alpha,
    )


def _rates_of_claim(simulation: "_Simulation", i: int) -> ClaimRates:
    """The rates of claim i for differences as they were seen, rounded to whole images, and with runs that fail."""
    observed = simulation.observed[i]
    if observed.why_not_simulated:
        return ClaimRates(observed=observed)
    rates = [simulation.rates(i, [(None, Source.as_seen(observed))], "as seen")]
    if observed.image and observed.claim.statistic == "mean":
        rounded = Source.as_seen(observed, image=observed.image)
        rates.append(simulation.rates(i, [(None, rounded)], f"in whole images ({observed.image:.2g} points)"))
    if not observed.why_no_failures:
        rates += _rates_with_failures(simulation, i)
    return ClaimRates(observed=observed, rates=tuple(rates))


def _rates_with_failures(simulation: "_Simulation", i: int) -> list[Rates]:
    """The rates of claim i where runs fail as often as was seen, and where one of its arms fails more often."""
    observed = simulation.observed[i]
    a, b = observed.claim.sides
    n = len(observed.differences)
    failures = [int(count) for count in observed.failed.sum(axis=1)]
    seen_a, seen_b = (count / n for count in failures)
    bound_a, bound_b = (statistics.upper_share(count, n) for count in failures)
    rates = []
    if any(failures):
        as_often = Source.with_failures(observed, (seen_a, seen_b))
        rates.append(simulation.rates(i, [(None, as_often)], f"failures as seen ({a} {failures[0]}, {b} {failures[1]} of {n})"))
    more_often: list[tuple[Failing, Source]] = []
    for share in _shares(seen_a, bound_a):
        more_often.append(((a, share), Source.with_failures(observed, (share, seen_b))))
    for share in _shares(seen_b, bound_b):
        more_often.append(((b, share), Source.with_failures(observed, (seen_a, share))))
    up_to = f"failures up to their 95% bound ({a} {bound_a:.0%}, {b} {bound_b:.0%})"
    rates.append(simulation.rates(i, more_often, up_to, assumed=True))
    return rates


def _shares(seen: float, bound: float) -> list[float]:
    """The shares of failures that are simulated above the one that was seen, up to its bound."""
    return [*(share for share in SHARES if seen < share < bound), bound]


class _Simulation:
    """Studies like one: a claim's differences are drawn and judged beside those of the others, which are as they were seen."""

    def __init__(self, observed: Sequence[Observed], seeds: Sequence[int] | Seeds, alpha: float, seed: int) -> None:
        self.observed = observed
        self._analyses = list(seeds.analyses) if isinstance(seeds, Seeds) else [len(seeds)]
        at_most = MOST_ANALYSES // (len(observed) * len(self._analyses))
        self.studies = min(STUDIES, max(100, at_most // 100 * 100))
        self._alpha = alpha
        self._seeds = seeds
        seen = sorted({one_seed for one in observed for one_seed in one.seeds})
        self._draws = Draws.of(np.random.default_rng(seed), self.studies, self._analyses[-1], seen)
        self._simulated = [i for i, one in enumerate(observed) if not one.why_not_simulated]
        self._as_seen = self._p_of_all()

    def rates(self, i: int, sources: Sequence[tuple[Failing, Source]], differences: str, assumed: bool = False) -> Rates:
        """How often claim i is judged wrongly, and rightly, in the worst of several cases, each with what fails in it."""
        observed = self.observed[i]
        right_verdict = Source.as_seen(observed).right_verdict
        supported, contradicted, power = [], [], []
        for failing, source in sources:
            for margin in observed.claim.margins:
                outcome = self._outcome(i, source, margin)
                supported.append(self._rate(outcome == SUPPORTED, failing))
                contradicted.append(self._rate(outcome == CONTRADICTED, failing))
            if source.right_verdict == right_verdict != "inconclusive":
                right = SUPPORTED if right_verdict == "supported" else CONTRADICTED
                power.append(self._rate(self._outcome(i, source) == right, failing))
        return Rates(
            differences=differences,
            supported=max(supported, key=_share),
            contradicted=max(contradicted, key=_share),
            power=min(power, key=_share, default=None),
            right_verdict=right_verdict,
            assumed=assumed,
        )

    def of_any_claim(self) -> Rates | None:
        """How often any claim is judged wrongly where all are on their margins, the worse of the upper and the lower ones."""
        if len(self._simulated) < 2:
            return None
        supported, contradicted = [], []
        for which in (0, -1):
            outcome, _ = decided(self._p_of_all(which), self._alpha)
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
        """The p-values (analyses, studies, claims, 2) of claims as they were seen, or on one of their margins, by its index.

        Those of claims that are not simulated are 1.
        """
        p = np.ones((len(self._analyses), self.studies, len(self.observed), 2))
        for i in self._simulated:
            truth = None if margin is None else self.observed[i].claim.margins[margin]
            p[:, :, i] = self._p(i, Source.as_seen(self.observed[i]), truth)
        return p

    def _p(self, i: int, source: Source, truth: float | None) -> Array:
        """The p-values (analyses, studies, 2) of claim i, at a true difference or at the source's own."""
        asked = estimand(source.claim, self._seeds, source.draw_scores(self._draws))
        return p_values_at(asked, source.draw(self._draws, truth), self._analyses, self.observed[i].equal)

    def _outcome(self, i: int, source: Source, truth: float | None = None) -> Integers:
        """The outcomes (studies,) of claim i beside the others as they were seen."""
        p = self._as_seen.copy()
        p[:, :, i] = self._p(i, source, truth)
        outcome, _ = decided(p, self._alpha)
        return outcome[:, i]

    def _rate(self, hits: Booleans, failing: Failing = None) -> Rate:
        return Rate(share=float(hits.mean()), studies=self.studies, failing=failing)


def _share(rate: Rate) -> float:
    return rate.share


# ---- of studies, and of scores from elsewhere -------------------------------------------------------------------------------


def calibrate_study(expansion: Expansion, records: Records, verdicts: Sequence[Verdict]) -> Calibration:
    """The calibration of a study from its verdicts and the records of the runs that stand for the arms, by (arm, seed)."""
    study = expansion.study
    why_not = ""
    if study.scope == "images":
        why_not = "its verdict is for other images, too (scope: images), and no other images can be drawn from these"
    observed = []
    for verdict in verdicts:
        known: dict[str, Any] = {"why_not": why_not}
        if verdict.claim.contrast:
            arm, _ = verdict.claim.contrast
            known["failed_score"] = score_of_divergence(verdict.claim, expansion.arms[arm].data.classes)
            known["image"] = _points_of_an_image(verdict, records)
        observed.append(Observed.of(verdict, failed_runs(verdict, expansion, records), **known))
    return calibrate(observed, study.seeds, study.alpha)


def _points_of_an_image(verdict: Verdict, records: Records) -> float:
    """By how many points one image more changes an accuracy; 0 of other metrics, and where the images are not known."""
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
