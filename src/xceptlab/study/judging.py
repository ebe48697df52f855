"""Claims and scores to verdicts; docs/statistics.md says what they mean."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xceptlab.errors import Refused
from xceptlab.study import images, statistics, verdict_warnings, wording
from xceptlab.study.choice import Records, arm_directories, arm_records
from xceptlab.study.claims import Claim
from xceptlab.study.definition import Seeds
from xceptlab.study.estimands import MIN_PAIRS, Estimand, MeanOverImages, estimand_of
from xceptlab.study.expansion import Expansion
from xceptlab.study.run_scores import Scores, scores_of_runs
from xceptlab.study.statistics import Array
from xceptlab.study.verdict import ROUNDING, Outcome, Verdict


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """A verdict and the p-values that it rests on."""

    verdict: Verdict
    p: Array
    """The p-values of the claim and of its opposite (2,), before Holm's adjustment; 1 where nothing
    was tested.
    """


def judge(
    claims: Sequence[Claim],
    scores: Sequence[Scores],
    seeds: Sequence[int] | Seeds,
    alpha: float = 0.05,
    image_variances: Mapping[str, float] = {},
) -> list[Verdict]:
    """Judge the claims together: the chance of any false ``supported``, and of any false
    ``contradicted``, is at most alpha.

    Args:
        claims: The claims of one study.
        scores: Of each claim's arms, as far as they are known.
        seeds: Those that are planned: a claim is ``incomplete`` while one of its arms lacks one.
            Where seeds are added until the claims are decided, when they are analysed: a claim's
            verdict is that of the first analysis that decides it or, where the seeds have a
            ``futility``, finds it futile, whatever comes later; it is ``incomplete`` while the next
            analysis's seeds have no scores.
        alpha: Familywise error rate.
        image_variances: By claim, where its verdict is to hold for other images, too, what they add
            to the variance of its mean.

    Raises:
        Refused: A score that is not a finite number.
    """
    analyses = [range(n) for n in seeds.analyses] if isinstance(seeds, Seeds) else [seeds]
    estimands = []
    for claim, known in zip(claims, scores, strict=True):
        _, arms = _pairs(claim, known, analyses[-1])
        estimands.append(estimand_of(claim, seeds, arms, image_variances.get(claim.id)))
    tested, latest_seeds = _tested_in_turn(estimands, scores, analyses, alpha)
    verdicts = []
    for i, one in enumerate(tested):
        latest = _paired(estimands[i], scores[i], latest_seeds, alpha)
        stopping = " ".join(
            filter(None, (one.verdict.stopping, wording.since(one.verdict, latest)))
        )
        verdicts.append(
            replace(one.verdict, warnings=verdict_warnings.of_units(one.verdict), stopping=stopping)
        )
    return verdicts


def judge_study(expansion: Expansion, records: Records) -> list[Verdict]:
    """The verdicts of a study from the records of its runs; ``incomplete`` while a run that a claim
    needs has none.

    Where keys are tuned, every arm is judged, seed by seed, by the run at the value that validates
    best.
    """
    study = expansion.study
    of_arms = arm_records(expansion, records)
    tables = [scores_of_runs(claim, expansion, of_arms) for claim in study.claims]
    of_images = {}
    if study.scope == "images":
        directories = arm_directories(expansion, records)
        of_images = {
            claim.id: images.variance_of(claim, study, directories, expansion.seeds)
            for claim in study.claims
        }
    verdicts = judge(study.claims, tables, study.seeds, study.alpha, of_images)
    if study.tune:
        verdicts = [
            replace(verdict, summary=f"{verdict.summary} {study.tune.described}")
            for verdict in verdicts
        ]
    return [verdict_warnings.with_warnings(verdict, expansion, of_arms) for verdict in verdicts]


# ---- the analyses --------------------------------------------------------------------------------


def _tested_in_turn(
    estimands: Sequence[Estimand],
    scores: Sequence[Scores],
    analyses: Sequence[Sequence[int]],
    alpha: float,
) -> tuple[list[_Tested], Sequence[int]]:
    """The verdicts after the latest analysis that there is to make, and the seeds of that analysis.

    Analyses are made in turn until one settles the last open claim, or lacks scores.
    """
    tested: list[_Tested] = []
    for seeds in analyses:
        settled = {i: one for i, one in enumerate(tested) if one.verdict.settled}
        tested = _analysed(estimands, scores, seeds, alpha, settled)
        incomplete = any(one.verdict.outcome == "incomplete" for one in tested)
        if incomplete or all(one.verdict.settled for one in tested):
            return tested, seeds
    return tested, analyses[-1]


def _analysed(
    estimands: Sequence[Estimand],
    scores: Sequence[Scores],
    seeds: Sequence[int],
    alpha: float,
    settled: Mapping[int, _Tested],
) -> list[_Tested]:
    """The verdicts of one analysis, on these seeds; those that an earlier one has ``settled``, by
    the claim's index, stay.

    Holm's family is all the claims of the study: one that cannot be tested yet counts with p = 1,
    so that a verdict never flips to inconclusive when the other claims' runs arrive. In a
    sequential study each p-value accounts for all analyses (``Estimand``), so that p-values of
    different analyses, those of settled verdicts among them, may stand in one family: each is at
    least the smallest that the claim would reach at any analysis, and that is a valid one.
    """
    tested = []
    for i, estimand in enumerate(estimands):
        tested.append(settled[i] if i in settled else _tested(estimand, scores[i], seeds, alpha))
    p = np.ones((len(tested), 2))
    for i, one in enumerate(tested):
        p[i] = one.p
    concluded = []
    for i, one in enumerate(tested):
        if i in settled:
            concluded.append(one)
            continue
        if one.verdict.n < len(seeds):
            verdict = replace(
                one.verdict, summary=wording.waiting(one.verdict, seeds, estimands[i])
            )
        else:
            verdict = _concluded(one.verdict, estimands[i], p, i, alpha)
        concluded.append(replace(one, verdict=verdict))
    return concluded


# ---- one claim: its pairs and its p-values -------------------------------------------------------


def _tested(estimand: Estimand, scores: Scores, seeds: Sequence[int], alpha: float) -> _Tested:
    """A claim's differences and, where every seed has one and they can be tested, its p-values."""
    verdict = _paired(estimand, scores, seeds, alpha)
    complete = verdict.n == len(seeds)
    if complete and verdict.n >= MIN_PAIRS and not estimand.untestable(verdict.values):
        return _Tested(verdict=replace(verdict, tested=True), p=estimand.p_values(verdict.values))
    return _Tested(verdict=verdict, p=np.ones(2))


def _paired(estimand: Estimand, scores: Scores, seeds: Sequence[int], alpha: float) -> Verdict:
    """What is known of a claim before it is tested."""
    claim = estimand.claim
    a, b = (_known(scores[side], seeds) for side in claim.sides)
    for side, values in zip(claim.sides, (a, b), strict=True):
        for seed, value in values.items():
            if not math.isfinite(value):
                raise Refused(
                    f"claim {claim.id!r}: the score of arm {side!r}, seed {seed} is {value}, not a finite number"
                )
    paired_seeds, arms = _pairs(claim, scores, seeds)
    differences = _differences(arms[0], arms[1], claim.measure.lower_is_better)
    n = len(differences)
    low, high = estimand.interval(differences, alpha) if n > 1 else (math.nan, math.nan)
    return Verdict(
        claim=claim,
        outcome="incomplete",
        estimate=estimand.estimate(differences) if n else math.nan,
        low=low,
        high=high,
        level=1 - 2 * alpha,
        n=n,
        variance_left=statistics.variance_left(arms[0], arms[1]),
        differences=dict(zip(paired_seeds, differences.tolist(), strict=True)),
        scores=(a, b),
        max_seeds=estimand.seeds.max if isinstance(estimand.seeds, Seeds) else None,
        image_variance=estimand.image_variance if isinstance(estimand, MeanOverImages) else None,
    )


def _known(scores: Mapping[int, float], seeds: Iterable[int]) -> dict[int, float]:
    """The scores that there are of these seeds, in the order of the seeds."""
    return {seed: scores[seed] for seed in sorted(seeds) if seed in scores}


def _pairs(claim: Claim, scores: Scores, seeds: Iterable[int]) -> tuple[list[int], Array]:
    """The seeds that both sides of a claim have a score of, rising (n,), and these scores (2, n)."""
    a, b = (_known(scores[side], seeds) for side in claim.sides)
    both = [seed for seed in a if seed in b]
    return both, np.array(
        [[a[seed] for seed in both], [b[seed] for seed in both]], dtype=np.float64
    )


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


# ---- one claim: its conclusion -------------------------------------------------------------------


def _concluded(verdict: Verdict, estimand: Estimand, p: Array, i: int, alpha: float) -> Verdict:
    """The verdict on claim i from the p-values (claims, 2) of the whole study, in numbers and in
    words.
    """
    adjusted = statistics.holm(p.T).T[i]  # (2,)
    levels = [statistics.holm_level(p[:, side], i, alpha) for side in (0, 1)]
    outcome = _outcome(adjusted, alpha)
    unadjusted_outcome = _outcome(p[i], alpha)
    p_adjusted = math.nan
    if verdict.tested:
        p_adjusted = float(adjusted[1] if unadjusted_outcome == "contradicted" else adjusted[0])
    chance_when_given_up = None
    if verdict.tested and outcome == "inconclusive":
        chance_when_given_up = _chance_if_futile(estimand, verdict.values, max(levels))
    in_numbers = replace(
        verdict, outcome=outcome, p_adjusted=p_adjusted, chance_when_given_up=chance_when_given_up
    )

    nominal_levels = [estimand.nominal(level) for level in levels]
    summary = wording.summary(
        in_numbers,
        estimand,
        unadjusted_outcome=unadjusted_outcome,
        unadjusted_p=float(min(p[i])),
        nominal_levels=nominal_levels,
    )
    return replace(
        in_numbers,
        pairing_and_power=wording.pairing_and_power(in_numbers, estimand, nominal_levels[0]),
        stopping=wording.stopping(in_numbers, estimand, max(levels)),
        summary=summary,
    )


def _outcome(p: Array, alpha: float) -> Outcome:
    """What the p-values (2,) of a claim and of its opposite decide at level alpha.

    ``simulated_judging.decided`` is the same rule for many studies at once.
    """
    if p[0] <= alpha:
        return "supported"
    if p[1] <= alpha:
        return "contradicted"
    return "inconclusive"


def _chance_if_futile(estimand: Estimand, differences: Array, level: float) -> float | None:
    """The chance of an undecided claim to be decided by the last analysis, where it is below the
    study's ``futility``; else None.

    Levels count on no giving up, so that it does not bind, and can only make false verdicts rarer
    (Lan, Simon & Halperin 1982; Lachin 2005).
    """
    seeds = estimand.seeds
    if not isinstance(seeds, Seeds) or seeds.futility is None:
        return None
    if len(differences) >= seeds.max:
        return None
    chance, _ = estimand.conditional_power(differences, level)
    return chance if chance < seeds.futility else None
