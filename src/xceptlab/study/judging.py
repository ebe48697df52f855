"""Judge claims by scores: ``judge`` for scores of any origin, ``judge_study`` for those of a study.

docs/statistics.md says what the verdicts mean. ``_outcome`` is the rule by which a verdict is
decided; ``_conclude`` applies it to p-values that Holm's method has corrected over all claims.
"""

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
from xceptlab.study.score_differences import all_alike, differences_of
from xceptlab.study.statistics import Array
from xceptlab.study.verdict import Outcome, Verdict

LARGEST_SCORE = 1e70
"""Largest absolute value of a score that is accepted, so that sums of fourth powers, of which degrees
of freedom are made, remain finite."""


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """The verdict on a claim as it stands at one analysis, with the p-values that it rests on."""

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
        scores: The scores of each claim's two sides, as far as they are known.
        seeds: The planned seeds: a claim is ``incomplete`` while one of its sides lacks the score
            of one. Where seeds are added until the claims are decided, a claim's verdict is that of
            the first analysis that decides it or, with a ``futility``, gives it up, whatever comes
            later; it is ``incomplete`` while the seeds of its next analysis have no scores.
        alpha: Familywise error rate.
        image_variances: For verdicts that are to hold for other images, too, what the sample of
            images adds to the variance of each claim's mean difference, by the claim's id; NaN if
            not known. A claim that is left out is judged on the images that were scored.

    Returns:
        The verdict on each claim, in the order of the claims.

    Raises:
        Refused: A score is not a finite number, or its size is above ``LARGEST_SCORE``.
    """
    analyses = _seeds_of_analyses(seeds)
    estimands = []
    for claim, known in zip(claims, scores, strict=True):
        _, paired_scores = _pairs(claim, known, analyses[-1])
        image_variance = image_variances.get(claim.id)
        estimands.append(estimand_of(claim, seeds, paired_scores, image_variance))
    drafts, latest_seeds = _run_analyses(estimands, scores, analyses, alpha)
    verdicts = []
    for draft, estimand, known in zip(drafts, estimands, scores, strict=True):
        since = _since_decided(draft.verdict, estimand, known, latest_seeds, alpha)
        sentences = (draft.verdict.stopping, since)
        stopping = " ".join(filter(None, sentences))
        warnings = verdict_warnings.of_margin(draft.verdict)
        verdicts.append(replace(draft.verdict, warnings=warnings, stopping=stopping))
    return verdicts


def judge_study(expansion: Expansion, records: Records) -> list[Verdict]:
    """Judge the claims of a study by the records of its runs.

    A verdict is ``incomplete`` while a run that its claim needs has no record. Where keys are
    tuned, every arm is judged, seed by seed, by the run at the value that validates best.

    Args:
        expansion: The study.
        records: The records of all its runs, as ``Expansion.records`` returns them.

    Returns:
        The verdict on each claim, in the order of the claims, with its warnings.

    Raises:
        Refused: A record lacks a score that a claim or the choice of tuned values needs, or has one
            that is not finite or too large; or, with ``scope: images``, a run's file does not hold
            the values of its images.
    """
    study = expansion.study
    of_arms = arm_records(expansion, records)
    scores = [scores_of_runs(claim, expansion, of_arms) for claim in study.claims]
    image_variances = {}
    if study.scope == "images":
        directories = arm_directories(expansion, records)
        for claim in study.claims:
            variance = images.variance_of(claim, study, directories, expansion.seeds)
            image_variances[claim.id] = variance
    warned = []
    for verdict in judge(study.claims, scores, study.seeds, study.alpha, image_variances):
        if study.tune:
            verdict = replace(verdict, summary=f"{verdict.summary} {study.tune.described}")
        warned.append(verdict_warnings.with_warnings(verdict, expansion, of_arms))
    return warned


# ---- the analyses --------------------------------------------------------------------------------


def _seeds_of_analyses(seeds: Sequence[int] | Seeds) -> list[Sequence[int]]:
    """Return the seeds that each analysis of a study uses, from the first analysis to the last.

    A study with a list of seeds has one analysis, which uses them all. Where seeds are added until
    the claims are decided, each analysis uses all seeds so far, from 0 on.
    """
    if isinstance(seeds, Seeds):
        return [range(n) for n in seeds.analyses]
    return [seeds]


def _run_analyses(
    estimands: Sequence[Estimand],
    scores: Sequence[Scores],
    analyses: Sequence[Sequence[int]],
    alpha: float,
) -> tuple[list[_Draft], Sequence[int]]:
    """Make the analyses in turn, until one settles the last open claim or lacks scores.

    Args:
        estimands: The estimand of each claim.
        scores: The scores of each claim's two sides.
        analyses: The seeds of each analysis.
        alpha: Familywise error rate.

    Returns:
        The verdict on each claim with its p-values, and the seeds of the last analysis made. Where
        further analyses are to come, a claim that is not settled is ``incomplete``.
    """
    settled: dict[int, _Draft] = {}
    for seeds in analyses:
        drafts = _one_analysis(estimands, scores, seeds, alpha, settled)
        settled = {i: draft for i, draft in enumerate(drafts) if draft.verdict.settled}
        lacks_scores = any(draft.verdict.outcome == "incomplete" for draft in drafts)
        if lacks_scores or len(settled) == len(drafts):
            break
    later = analyses[analyses.index(seeds) + 1 :]
    if later:
        drafts = [_waiting(*one, later[0]) for one in zip(drafts, estimands, strict=True)]
    return drafts, seeds


def _waiting(draft: _Draft, estimand: Estimand, seeds: Sequence[int]) -> _Draft:
    """Return the draft of a claim that waits for its next analysis: one that is inconclusive and
    not given up becomes ``incomplete``. Any other draft is returned as it is.

    Args:
        draft: The draft at the analysis that was made.
        estimand: The claim's estimand.
        seeds: The seeds of the next analysis.
    """
    verdict = draft.verdict
    if verdict.outcome != "inconclusive" or verdict.settled:
        return draft
    waits = replace(
        verdict,
        outcome="incomplete",
        summary=wording.waiting(verdict, seeds, estimand),
        tested=False,
        p_adjusted=math.nan,
        pairing_and_power="",
    )
    return replace(draft, verdict=waits)


def _one_analysis(
    estimands: Sequence[Estimand],
    scores: Sequence[Scores],
    seeds: Sequence[int],
    alpha: float,
    settled: Mapping[int, _Draft],
) -> list[_Draft]:
    """Judge every claim by the scores of these seeds, at one of the analyses of a study.

    Verdicts that are settled (decided or given up at an earlier analysis) stay as they are. Holm's
    correction is over all claims of the study. A claim that cannot be tested yet counts in it with
    p = 1, so that no verdict changes for the worse when its scores arrive. In a sequential study
    the p-values of a claim are adjusted for its repeated tests (``Estimand.adjust``), which makes
    the smallest one over all analyses valid; that of any single analysis is no smaller, and so is
    valid, too. P-values from different analyses can therefore be corrected together.

    Args:
        estimands: The estimand of each claim.
        scores: The scores of each claim's two sides.
        seeds: The seeds of this analysis, those of earlier analyses among them.
        alpha: Familywise error rate.
        settled: The settled verdicts of earlier analyses, by the claim's index; empty at the first.

    Returns:
        The verdict on each claim with its p-values, in the order of the claims.
    """
    open_claims = [i for i in range(len(estimands)) if i not in settled]
    drafts = dict(settled)
    for i in open_claims:
        drafts[i] = _test_alone(estimands[i], scores[i], seeds, alpha)
    p = np.array([drafts[i].p for i in range(len(estimands))])  # (claims, 2)
    for i in open_claims:
        draft = drafts[i]
        if draft.verdict.n < len(seeds):
            summary = wording.waiting(draft.verdict, seeds, estimands[i])
            verdict = replace(draft.verdict, summary=summary)
        else:
            verdict = _conclude(draft.verdict, estimands[i], p, i, alpha)
        drafts[i] = replace(draft, verdict=verdict)
    return [drafts[i] for i in range(len(estimands))]


def _since_decided(
    verdict: Verdict, estimand: Estimand, scores: Scores, seeds: Sequence[int], alpha: float
) -> str:
    """Return a sentence on the estimate with the seeds that came after a claim was decided, because
    other claims asked for them; empty where none came, and for a claim that is not decided.

    Args:
        verdict: The verdict on the claim.
        estimand: The claim's estimand.
        scores: The scores of the claim's two sides.
        seeds: The seeds of the last analysis that was made.
        alpha: Familywise error rate.
    """
    if not verdict.decided:
        return ""
    with_all_seeds = _untested_verdict(estimand, scores, seeds, alpha)
    return wording.since(verdict, with_all_seeds)


# ---- one claim: its pairs and its p-values -------------------------------------------------------


def _test_alone(estimand: Estimand, scores: Scores, seeds: Sequence[int], alpha: float) -> _Draft:
    """Test a claim regardless of the other claims, on the scores of these seeds, and return its
    draft.

    It is tested if both sides have a score of every seed, the pairs are ``MIN_PAIRS`` or more, and
    their differences can be tested. The draft of a claim that is not has p-values of 1.

    Raises:
        Refused: A score is not a finite number, or its size is above ``LARGEST_SCORE``.
    """
    verdict = _untested_verdict(estimand, scores, seeds, alpha)
    is_complete = verdict.n == len(seeds)
    enough = verdict.n >= MIN_PAIRS
    if is_complete and enough and not estimand.untestable(verdict.values):
        tested = replace(verdict, tested=True)
        p = estimand.p_values(verdict.values)
        return _Draft(verdict=tested, p=p)
    return _Draft(verdict=verdict, p=np.ones(2))


def _untested_verdict(
    estimand: Estimand, scores: Scores, seeds: Sequence[int], alpha: float
) -> Verdict:
    """Return the untested verdict on a claim: its paired differences, estimate and confidence
    interval, with the outcome ``incomplete`` and without words.

    Raises:
        Refused: A score is not a finite number, or its size is above ``LARGEST_SCORE``.
    """
    claim = estimand.claim
    a, b = (_known(scores[side], seeds) for side in claim.sides)
    _refuse_infinite(claim, a, b)
    paired_seeds, paired_scores = _pairs(claim, scores, seeds)
    differences = _differences(claim, paired_scores)
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
        variance_left=statistics.variance_left(*paired_scores),
        differences=dict(zip(paired_seeds, differences.tolist(), strict=True)),
        scores=(a, b),
        max_seeds=estimand.seeds.max if isinstance(estimand.seeds, Seeds) else None,
        image_variance=estimand.image_variance if isinstance(estimand, MeanOverImages) else None,
    )


def _refuse_infinite(claim: Claim, a: Mapping[int, float], b: Mapping[int, float]) -> None:
    """Refuse a score by seed of either side, a or b, that is not a finite number or whose size
    is above ``LARGEST_SCORE``.
    """
    for side, by_seed in zip(claim.sides, (a, b), strict=True):
        for seed, score in by_seed.items():
            if abs(score) <= LARGEST_SCORE:
                continue
            of_run = f"the score of arm {side!r}, seed {seed}"
            fault = "too large to compute with" if math.isfinite(score) else "not a finite number"
            raise Refused(f"claim {claim.id!r}: {of_run} is {score:g}, {fault}")


def _known(scores: Mapping[int, float], seeds: Iterable[int]) -> dict[int, float]:
    """Return the scores of these seeds as far as they are known, by rising seed."""
    known = {}
    for seed in sorted(seeds):
        if seed in scores:
            known[seed] = scores[seed]
    return known


def _pairs(claim: Claim, scores: Scores, seeds: Iterable[int]) -> tuple[list[int], Array]:
    """Return the seeds (n,), rising, of which both sides of a claim have a score, and these scores
    (2, n), those of side a first.
    """
    a, b = (_known(scores[side], seeds) for side in claim.sides)
    both = [seed for seed in a if seed in b]
    paired_a = [a[seed] for seed in both]
    paired_b = [b[seed] for seed in both]
    return both, np.array([paired_a, paired_b], dtype=np.float64)


def _differences(claim: Claim, scores: Array) -> Array:
    """Return the paired differences (n,) of both sides' scores (2, n), above 0 where a is better.

    They are made equal where only the rounding of 32-bit scores tells them apart.
    """
    differences = differences_of(claim, scores)
    if len(differences) and all_alike(scores):
        differences[:] = differences[0]
    return differences


# ---- one claim: its conclusion -------------------------------------------------------------------


def _conclude(verdict: Verdict, estimand: Estimand, p: Array, i: int, alpha: float) -> Verdict:
    """Return the verdict on a claim with its outcome and its words, by Holm's correction over all
    claims of the study.

    Args:
        verdict: The claim's verdict so far, tested or not.
        estimand: The claim's estimand.
        p: The p-values of every claim and of its opposite, (claims, 2), before the correction.
        i: The claim's index.
        alpha: Familywise error rate.
    """
    adjusted = statistics.holm(p.T).T[i]  # (2,)
    levels = [statistics.holm_level(p[:, side], i, alpha) for side in (0, 1)]
    # The claim can be decided by either of its two tests, so that its chance to be decided, and the
    # bias of stopping, are simulated at the easier level.
    easier_level = max(levels)
    outcome = _outcome(adjusted, alpha)
    unadjusted_outcome = _outcome(p[i], alpha)
    p_adjusted = math.nan
    if verdict.tested:
        adjusted_for, adjusted_against = adjusted
        is_against = unadjusted_outcome == "contradicted"
        p_adjusted = float(adjusted_against if is_against else adjusted_for)
    chance_when_given_up = None
    if verdict.tested and outcome == "inconclusive":
        chance_when_given_up = _chance_if_futile(estimand, verdict.values, easier_level)
    without_words = replace(
        verdict, outcome=outcome, p_adjusted=p_adjusted, chance_when_given_up=chance_when_given_up
    )
    nominal_levels = [estimand.nominal(level) for level in levels]
    summary = wording.summary(
        without_words,
        estimand,
        unadjusted_outcome=unadjusted_outcome,
        unadjusted_p=float(min(p[i])),
        nominal_levels=nominal_levels,
    )
    return replace(
        without_words,
        pairing_and_power=wording.pairing_and_power(without_words, estimand, nominal_levels[0]),
        stopping=wording.stopping(without_words, estimand, easier_level),
        summary=summary,
    )


def _outcome(p: Array, alpha: float) -> Outcome:
    """Return what the p-values (2,) of a claim and of its opposite decide at level alpha.

    ``simulated_judging.decided`` is the same rule for many studies at once.
    """
    if p[0] <= alpha:
        return "supported"
    if p[1] <= alpha:
        return "contradicted"
    return "inconclusive"


def _chance_if_futile(estimand: Estimand, differences: Array, level: float) -> float | None:
    """Return the chance that an undecided claim is decided by the last analysis, if that is below
    the study's ``futility``; else None. Also None at the last analysis, and in a study that gives
    no claim up.

    The levels of the tests do not count on claims being given up. So a claim may also be continued,
    and giving up can only make false verdicts rarer (Lan, Simon & Halperin 1982; Lachin 2005).

    Args:
        estimand: The claim's estimand.
        differences: Its paired differences (n,), n >= 2.
        level: The level of all analyses together.
    """
    seeds = estimand.seeds
    if not isinstance(seeds, Seeds) or seeds.futility is None:
        return None
    if len(differences) >= seeds.max:
        return None
    chance, _ = estimand.conditional_power(differences, level)
    return chance if chance < seeds.futility else None
