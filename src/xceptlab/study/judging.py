"""Claims and scores to verdicts; docs/statistics.md says what they mean."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from xceptlab.errors import Refused
from xceptlab.runs.directory import RunDirectory
from xceptlab.study import images, statistics, warnings, wording
from xceptlab.study.choice import Records, arm_directories, arm_records
from xceptlab.study.definition import Claim, Seeds
from xceptlab.study.estimands import LEAST_PAIRS, Estimand, MeanOverImages, estimand
from xceptlab.study.expansion import Expansion
from xceptlab.study.run_scores import Scores, scores_of_runs
from xceptlab.study.statistics import Array

ROUNDING = 1e-6
"""The part of the largest score up to which differences count as equal: what the rounding of 32-bit scores may make of them."""

Outcome = Literal["supported", "contradicted", "inconclusive", "incomplete"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Verdict:
    """What the scores say of a claim. Differences are a - b, or b - a for the loss: above 0, a is the better arm."""

    claim: Claim
    outcome: Outcome
    estimate: float
    """The claim's statistic of the paired differences, their mean or median; NaN without pairs."""
    low: float
    high: float
    """The ends of the estimate's interval, which belongs to the claim's tests: NaN with fewer than 2 pairs, infinite where few
    pairs bound no median."""
    level: float
    """The interval's level, 1 - 2 alpha."""
    n: int
    """Complete pairs."""
    p_adjusted: float = math.nan
    """Holm-adjusted p-value: of the opposite where that is shown, or would be but for the other claims, else of the claim; NaN
    where nothing was tested."""
    power: str = ""
    """What the pairing gained, and what this n would have found with 80% power at the level that Holm leaves the claim, in words;
    empty where nothing was tested."""
    variance_left: tuple[float, float, float]
    """What pairing leaves of the variance of a difference, var(a - b) / (var a + var b), with its 95% interval; NaN where the
    scores do not tell."""
    differences: dict[int, float]
    """By seed."""
    scores: tuple[dict[int, float], dict[int, float]]
    """Those of the arms a and b, by seed."""
    diverged: tuple[tuple[str, int], ...] = ()
    """Of scores from elsewhere the runs, by (arm, seed), that have no finite score and count as the claim declares."""
    tested: bool = False
    """Whether there were pairs to test."""
    most: int | None = None
    """Seeds at most, where seeds are added until the claims are decided; the interval is then the repeated one."""
    image_variance: float | None = None
    """What other images would add to the variance of the estimate, where the verdict is to hold for them; NaN if not known."""
    stopping: str = ""
    """Of a claim that was decided before the most seeds, what that means for the estimate, in words."""
    given_up: float | None = None
    """The chance to be decided by the most seeds, where it is below the study's ``futility``, so that no more are asked for."""
    summary: str = ""
    """One sentence in plain words; a second one where the verdict means nothing."""
    warnings: tuple[str, ...] = ()
    """Why the verdict may mean less than it says, a clause each."""

    def __repr__(self) -> str:
        judged = f", {self.estimate:+.{self.claim.decimals}f} from {self.n} pairs" if self.n else ""
        return f"<Verdict {self.claim.id}: {self.outcome}{judged}>"

    def __str__(self) -> str:
        return f"{self.outcome.upper()}  {self.claim.id}: {self.summary}"

    @property
    def values(self) -> Array:
        """The differences (n,)."""
        return np.array(list(self.differences.values()), dtype=np.float64)

    @property
    def arms(self) -> Array:
        """The scores of the arms a and b that form pairs, (2, n)."""
        a, b = self.scores
        return np.array([[scores[seed] for seed in self.differences] for scores in (a, b)], dtype=np.float64)

    @property
    def decided(self) -> bool:
        return self.outcome in ("supported", "contradicted")

    @property
    def settled(self) -> bool:
        """Whether the claim asks for no more seeds."""
        return self.decided or self.given_up is not None

    @property
    def evidence(self) -> str:
        """What is shown beside the verdict: in how many seeds it holds, what the pairing gained, what could have been found."""
        return " ".join(filter(None, (wording.sign_count(self), self.power, self.stopping)))


# ---- judging ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """A verdict and the p-values that it rests on."""

    verdict: Verdict
    p: Array
    """Of the claim and of its opposite (2,), before Holm's adjustment; 1 where nothing was tested."""


def judge(
    claims: Sequence[Claim],
    scores: Sequence[Scores],
    seeds: Sequence[int] | Seeds,
    alpha: float = 0.05,
    image_variances: Mapping[str, float] = {},
) -> list[Verdict]:
    """Judge the claims together: the chance of any false ``supported``, and of any false ``contradicted``, is at most alpha.

    Args:
        claims: The claims of one study.
        scores: Of each claim's arms, as far as they are known.
        seeds: Those that are planned: a claim is ``incomplete`` while one of its arms lacks one. Where seeds are added until the
            claims are decided, when they are analysed: a claim's verdict is that of the first analysis that decides it or, where
            the seeds have a ``futility``, finds it futile, whatever comes later; it is ``incomplete`` while the next analysis's
            seeds have no scores.
        alpha: Familywise error rate.
        image_variances: By claim, where its verdict is to hold for other images, too, what they add to the variance of its mean.

    Raises:
        Refused: A score that is not a finite number.
    """
    analyses = [range(n) for n in seeds.analyses] if isinstance(seeds, Seeds) else [seeds]
    estimands = []
    for claim, known in zip(claims, scores, strict=True):
        arms = _arms(claim, known, analyses[-1])
        estimands.append(estimand(claim, seeds, arms, image_variances.get(claim.id)))
    tested: list[_Tested] = []
    for seeds_so_far in analyses:
        settled = {i: one for i, one in enumerate(tested) if one.verdict.settled}
        tested = _analysed(estimands, scores, seeds_so_far, alpha, settled)
        incomplete = any(one.verdict.outcome == "incomplete" for one in tested)
        if incomplete or all(one.verdict.settled for one in tested):
            break
    verdicts = []
    for i, one in enumerate(tested):
        latest = _paired(estimands[i], scores[i], seeds_so_far, alpha)
        stopping = " ".join(filter(None, (one.verdict.stopping, wording.since(one.verdict, latest))))
        verdicts.append(replace(one.verdict, warnings=warnings.of_units(one.verdict), stopping=stopping))
    return verdicts


def judge_study(expansion: Expansion, records: Records) -> list[Verdict]:
    """The verdicts of a study from the records of its runs; ``incomplete`` while a run that a claim needs has none.

    Where keys are tuned, every arm is judged, seed by seed, by the run at the value that validates best.
    """
    study = expansion.study
    of_arms = arm_records(expansion, records)
    tables = [scores_of_runs(claim, expansion, of_arms) for claim in study.claims]
    of_images = {}
    if study.scope == "images":
        directories = arm_directories(expansion, records)
        of_images = {claim.id: images.variance_of(claim, study, directories, expansion.seeds) for claim in study.claims}
    verdicts = judge(study.claims, tables, study.seeds, study.alpha, of_images)
    if study.tune:
        verdicts = [replace(verdict, summary=f"{verdict.summary} {study.tune.described}") for verdict in verdicts]
    return [warnings.with_warnings(verdict, expansion, of_arms) for verdict in verdicts]


def with_needed_seeds(expansion: Expansion) -> Expansion:
    """The study with as many blocks of seeds as its claims need, by the records there are; a fixed list stays as it is."""
    seeds = expansion.study.seeds
    if not isinstance(seeds, Seeds):
        return expansion
    while expansion.interim_analysis + 1 < len(seeds.analyses):
        try:
            records = expansion.records()
        except Refused:  # a record cannot be read, which whoever needs it says
            break
        undecided = [verdict.claim for verdict in judge_study(expansion, records) if not verdict.settled]
        if None in records.values() or not undecided:
            break
        expansion = _with_more_seeds(expansion, undecided)
    return expansion


def _with_more_seeds(expansion: Expansion, undecided: Sequence[Claim]) -> Expansion:
    """The study at its next analysis, for which only the arms of the claims that are still undecided have further seeds."""
    wanted = {arm for claim in undecided for arm in expansion.study.arms_of(claim)}
    ended = dict(expansion.ended)
    for arm in expansion.arms:
        if arm not in wanted and arm not in ended:
            ended[arm] = _seeds_done(arm, expansion)
    return replace(expansion, interim_analysis=expansion.interim_analysis + 1, ended=ended)


def _seeds_done(arm: str, expansion: Expansion) -> int:
    """How many seeds an arm has all runs of: those of the study so far, and what an earlier version has trained beyond them."""
    seeds = expansion.study.seeds
    assert isinstance(seeds, Seeds)
    n = len(expansion.seeds)
    while n < seeds.max:
        runs = [expansion.run(trial, n) for trial in expansion.trials_of(arm)]
        records = [RunDirectory.of(run.runtime.outputs, run.run_id).path / "record.json" for run in runs]
        if not all(file.is_file() for file in records):
            break
        n += 1
    return n


def _analysed(
    estimands: Sequence[Estimand],
    scores: Sequence[Scores],
    seeds: Sequence[int],
    alpha: float,
    settled: Mapping[int, _Tested],
) -> list[_Tested]:
    """The verdicts of one analysis, on these seeds; those that an earlier one has ``settled``, by the claim's index, stay.

    Holm's family is all the claims of the study: one that cannot be tested yet counts with p = 1, so that a verdict never flips
    to inconclusive when the other claims' runs arrive. In a sequential study each p-value accounts for all analyses
    (``Estimand``), so that p-values of different analyses, those of settled verdicts among them, may stand in one family: each is
    at least the smallest that the claim would reach at any analysis, and that is a valid one.
    """
    tested = []
    for i, asked in enumerate(estimands):
        tested.append(settled[i] if i in settled else _tested(asked, scores[i], seeds, alpha))
    p = np.ones((len(tested), 2))
    for i, one in enumerate(tested):
        p[i] = one.p
    concluded = []
    for i, one in enumerate(tested):
        if i in settled:
            concluded.append(one)
            continue
        if one.verdict.n < len(seeds):
            verdict = replace(one.verdict, summary=wording.waiting(one.verdict, seeds, estimands[i]))
        else:
            verdict = _concluded(one.verdict, estimands[i], p, i, alpha)
        concluded.append(replace(one, verdict=verdict))
    return concluded


def _tested(asked: Estimand, scores: Scores, seeds: Sequence[int], alpha: float) -> _Tested:
    """A claim's differences and, where every seed has one and they can be tested, its p-values."""
    verdict = _paired(asked, scores, seeds, alpha)
    complete = verdict.n == len(seeds)
    if complete and verdict.n >= LEAST_PAIRS and not asked.untestable(verdict.values):
        return _Tested(verdict=replace(verdict, tested=True), p=asked.p_values(verdict.values))
    return _Tested(verdict=verdict, p=np.ones(2))


def _paired(asked: Estimand, scores: Scores, seeds: Sequence[int], alpha: float) -> Verdict:
    """What is known of a claim before it is tested."""
    claim = asked.claim
    a, b = (_known(scores[side], seeds) for side in claim.sides)
    for side, values in zip(claim.sides, (a, b), strict=True):
        for seed, value in values.items():
            if not math.isfinite(value):
                raise Refused(f"claim {claim.id!r}: the score of arm {side!r}, seed {seed} is {value}, not a finite number")
    arms = _arms(claim, scores, seeds)
    differences = _differences(arms[0], arms[1], claim.lower_is_better)
    n = len(differences)
    low, high = asked.interval(differences, alpha) if n > 1 else (math.nan, math.nan)
    both = [seed for seed in a if seed in b]
    return Verdict(
        claim=claim,
        outcome="incomplete",
        estimate=asked.estimate(differences) if n else math.nan,
        low=low,
        high=high,
        level=1 - 2 * alpha,
        n=n,
        variance_left=statistics.variance_left(arms[0], arms[1]),
        differences=dict(zip(both, differences.tolist(), strict=True)),
        scores=(a, b),
        most=asked.seeds.max if isinstance(asked.seeds, Seeds) else None,
        image_variance=asked.image_variance if isinstance(asked, MeanOverImages) else None,
    )


def _known(scores: Mapping[int, float], seeds: Iterable[int]) -> dict[int, float]:
    """The scores that there are of these seeds, in the order of the seeds."""
    return {seed: scores[seed] for seed in sorted(seeds) if seed in scores}


def _arms(claim: Claim, scores: Scores, seeds: Iterable[int]) -> Array:
    """The scores of a claim's two sides that form pairs, (2, n), in the order of the seeds."""
    a, b = (_known(scores[side], seeds) for side in claim.sides)
    both = [seed for seed in a if seed in b]
    return np.array([[a[seed] for seed in both], [b[seed] for seed in both]], dtype=np.float64)


def _differences(scores_a: Array, scores_b: Array, lower_is_better: bool) -> Array:
    """Paired differences (n,) of scores (n,) and (n,), above 0 where a is better.

    They are made equal where only the rounding of 32-bit scores tells them apart (``ROUNDING``).
    """
    sign = -1 if lower_is_better else 1
    differences = sign * (scores_a - scores_b)
    if len(differences):
        largest = max(np.abs(scores_a).max(), np.abs(scores_b).max())
        if np.ptp(differences) <= ROUNDING * largest:
            differences[:] = differences[0]
    return differences


def _concluded(verdict: Verdict, asked: Estimand, p: Array, i: int, alpha: float) -> Verdict:
    """The verdict on claim i of the p-values (claims, 2) of the whole study."""
    adjusted = statistics.holm(p.T).T[i]  # (2,)
    holm_levels = [statistics.holm_level(p[:, side], i, alpha) for side in (0, 1)]
    levels = [asked.nominal(level) for level in holm_levels]
    alone = _outcome(p[i], alpha)
    verdict = replace(verdict, outcome=_outcome(adjusted, alpha))
    if verdict.tested:
        p_adjusted = adjusted[1] if alone == "contradicted" else adjusted[0]
        power = wording.power(verdict, asked, levels[0])
        given_up = _futile(verdict, asked, max(holm_levels))
        verdict = replace(verdict, p_adjusted=float(p_adjusted), power=power, given_up=given_up)
    if verdict.decided and verdict.most is not None and verdict.n < verdict.most:
        verdict = replace(verdict, stopping=asked.stopping(verdict.values, max(holm_levels)))
    summary = wording.summary(verdict, asked, alone=alone, p_alone=float(min(p[i])), levels=levels)
    return replace(verdict, summary=summary)


def _outcome(p: Array, alpha: float) -> Outcome:
    """What p-values (2,), of a claim and of its opposite, decide at level alpha."""
    if p[0] <= alpha:
        return "supported"
    if p[1] <= alpha:
        return "contradicted"
    return "inconclusive"


def _futile(verdict: Verdict, asked: Estimand, level: float) -> float | None:
    """The chance of an undecided claim to be decided by the last analysis, where it is below the study's ``futility``.

    Levels count on no giving up, so that it does not bind, and can only make false verdicts rarer (Lan, Simon & Halperin 1982;
    Lachin 2005).
    """
    seeds = asked.seeds
    if not isinstance(seeds, Seeds) or seeds.futility is None:
        return None
    if verdict.decided or verdict.n >= seeds.max:
        return None
    chance, _ = asked.prospect(verdict.values, level)
    return chance if chance < seeds.futility else None
