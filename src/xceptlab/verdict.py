"""Claims and scores to verdicts: design section 6."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xceptlab import stats
from xceptlab.records import Record
from xceptlab.study import Claim, Expansion

Scores = Mapping[str, Mapping[str, Mapping[int, float]]]
"""``scores[metric][arm][seed]``: accuracies in percent, losses in nats."""

Pairs = tuple[dict[int, float], float, tuple[int, ...]]
"""Differences by seed, the arms' correlation, seeds that only one arm has."""

Outcome = Literal["supported", "contradicted", "inconclusive", "incomplete"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the scores say of a claim. Differences are a - b, or b - a for the loss: above 0, a is the better arm."""

    claim: Claim
    outcome: Outcome
    estimate: float
    """Mean of the paired differences; NaN without pairs."""
    low: float
    high: float
    """The interval of the mean that belongs to the claim's tests; NaN with fewer than 2 pairs."""
    level: float
    """The interval's level, 1 - 2 alpha."""
    n: int
    """Complete pairs."""
    p_adjusted: float
    """Holm-adjusted p-value: of the opposite if contradicted, else of the claim; NaN where nothing was tested."""
    detectable: float
    """The effect beyond the margin (superior) or the margin (equivalent) that this n would have found with 80% power."""
    correlation: float
    """Pearson's, between the two arms over the seeds: what the pairing gained."""
    differences: dict[int, float]
    """Per seed."""
    missing: tuple[int, ...]
    """Seeds that only one of the arms has."""
    summary: str
    """One sentence in plain words."""

    @property
    def power(self) -> str:
        """What the pairing gained and what this n could have found, in words; empty where nothing was tested."""
        if math.isnan(self.detectable):
            return ""
        found = f"an effect of {self.detectable:.2f} beyond the margin"
        if self.claim.kind == "equivalent":
            found = f"equivalence within {self.detectable:.2f}"
        gained = "" if math.isnan(self.correlation) else f"Pairing correlation {self.correlation:.2f}; "
        return f"{gained}{self.n} pairs would have found {found} with 80% power."


def judge(claims: Sequence[Claim], scores: Scores, *, alpha: float = 0.05) -> list[Verdict]:
    """Judge the claims together: the chance of any false ``supported``, and of any false ``contradicted``, is at most alpha.

    Args:
        claims: The claims of one study.
        scores: Per metric, arm and seed; a pair counts where both arms of the contrast have the seed.
        alpha: Familywise error rate.

    Raises:
        ValueError: A score that is not a finite number, or an arm without scores.
    """
    return _judge(claims, [_pairs(claim, scores) for claim in claims], alpha, incomplete=())


def _judge(claims: Sequence[Claim], pairs: Sequence[Pairs], alpha: float, incomplete: Collection[str]) -> list[Verdict]:
    """Holm's family is all the claims of the study: one that cannot be tested yet counts with p = 1, so that a verdict never
    flips to inconclusive when the other claims' runs arrive."""
    testable = [
        claim.id not in incomplete and len(differences) >= 3 and np.ptp(_array(differences)) > 0
        for claim, (differences, *_) in zip(claims, pairs, strict=True)
    ]
    p = np.ones((len(claims), 2))
    for i, claim in enumerate(claims):
        if testable[i]:
            p[i] = stats.p_values(_array(pairs[i][0]), claim.kind, claim.margin)
    adjusted = np.column_stack([stats.holm(p[:, 0]), stats.holm(p[:, 1])])
    verdicts = []
    for i, (claim, (differences, correlation, missing)) in enumerate(zip(claims, pairs, strict=True)):
        d = _array(differences)
        raw_p, adjusted_p = p[i], adjusted[i]
        outcome: Outcome = "supported" if adjusted_p[0] <= alpha else "contradicted" if adjusted_p[1] <= alpha else "inconclusive"
        low, high = stats.interval(d, 1 - 2 * alpha) if len(d) > 1 else (math.nan, math.nan)
        verdict = Verdict(
            claim=claim,
            outcome=outcome,
            estimate=float(d.mean()) if len(d) else math.nan,
            low=low,
            high=high,
            level=1 - 2 * alpha,
            n=len(d),
            p_adjusted=float(adjusted_p[1 if outcome == "contradicted" else 0]) if testable[i] else math.nan,
            detectable=stats.detectable(float(d.std(ddof=1)), len(d), claim.kind, alpha) if testable[i] else math.nan,
            correlation=correlation,
            differences=differences,
            missing=missing,
            summary="",
        )
        verdicts.append(
            replace(verdict, summary=_summary(verdict, withheld=outcome == "inconclusive" and min(raw_p) <= alpha, alpha=alpha))
        )
    return verdicts


def judge_study(expansion: Expansion, records: Mapping[tuple[str, int], Record | None]) -> list[Verdict]:
    """The verdicts of a study from its records by (arm, seed); ``incomplete`` while a run that a claim needs has none."""
    study = expansion.study
    lacking = {
        claim.id: [s for s in study.seeds if any(records[arm, s] is None for arm in claim.contrast)] for claim in study.claims
    }
    pairs = [_pairs(claim, scores(claim, expansion, records)) for claim in study.claims]
    verdicts = _judge(study.claims, pairs, study.alpha, incomplete=[id for id, seeds in lacking.items() if seeds])
    return [
        replace(
            v, outcome="incomplete", summary=f"Not judged yet: seeds {_listed(lacking[v.claim.id])} are not trained in both arms."
        )
        if lacking[v.claim.id]
        else v
        for v in verdicts
    ]


def scores(claim: Claim, expansion: Expansion, records: Mapping[tuple[str, int], Record | None]) -> Scores:
    """The scores of a claim's arms. A diverged run scores what the claim declares, by default what guessing would."""
    table: dict[str, dict[int, float]] = {arm: {} for arm in claim.contrast}
    for arm, row in table.items():
        for seed in expansion.study.seeds:
            record = records[arm, seed]
            if record is None:
                continue
            if record.status == "diverged":
                row[seed] = _guessing(claim, expansion.arms[arm].data.classes) if claim.diverged is None else claim.diverged
            elif claim.metric in record.metrics:
                row[seed] = record.metrics[claim.metric]
            else:
                raise ValueError(f"claim {claim.id!r}: the run {record.run_id} has no {claim.metric} (data.validation is 0?)")
    return {claim.metric: table}


def _guessing(claim: Claim, classes: int) -> float:
    """The score of uniform guessing: percent, or nats for the loss."""
    return {"top1": 100 / classes, "top5": 100 * min(5, classes) / classes, "loss": math.log(classes)}[claim.metric.split("/")[1]]


def _pairs(claim: Claim, scores: Scores) -> Pairs:
    absent = [arm for arm in claim.contrast if arm not in scores.get(claim.metric, {})]
    if absent:
        raise ValueError(f"claim {claim.id!r}: there are no scores of {claim.metric} for the arm {absent[0]!r}")
    a, b = (scores[claim.metric][arm] for arm in claim.contrast)
    for arm, values in zip(claim.contrast, (a, b), strict=True):
        for seed, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"claim {claim.id!r}: the score of arm {arm!r}, seed {seed} is {value}, not a finite number")
    seeds = sorted(set(a) & set(b))
    sign = -1 if claim.lower_is_better else 1
    correlation = stats.correlation(np.array([a[s] for s in seeds]), np.array([b[s] for s in seeds]))
    differences = {s: sign * (a[s] - b[s]) for s in seeds}
    if seeds and np.ptp(_array(differences)) <= 1e-6 * max(abs(x[s]) for x in (a, b) for s in seeds):
        differences = dict.fromkeys(seeds, differences[seeds[0]])  # equal but for the rounding of 32-bit scores
    return differences, correlation, tuple(sorted(set(a) ^ set(b)))


def _array(differences: dict[int, float]) -> NDArray[np.float64]:
    return np.array(list(differences.values()), dtype=np.float64)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _summary(v: Verdict, *, withheld: bool, alpha: float) -> str:
    """The verdict in one sentence."""
    a, b = v.claim.contrast
    unit = "" if v.claim.lower_is_better else " points"
    if v.n < 3:
        return f"Inconclusive: {v.n} pairs are too few to judge; at least {3 - v.n} more seeds are needed."
    values = _array(v.differences)
    if np.ptp(values) == 0:
        value = -values[0] if v.claim.lower_is_better else values[0]
        return f"Inconclusive: {a} - {b} is {value:+.2f}{unit} for every seed, and without spread there is nothing to test."
    amount = f"{a} is {abs(v.estimate):.2f}{unit} {'better' if v.estimate >= 0 else 'worse'} than {b} in {v.claim.metric}"
    amount += f" ({100 * v.level:g}% interval {v.low:+.2f} to {v.high:+.2f}, {v.n} seeds, adjusted p = {v.p_adjusted:.2g})"
    margin = f"{v.claim.margin:g}{unit}"
    if v.claim.kind == "superior":
        said = {"supported": f"more than the margin of {margin}", "contradicted": f"not better by the margin of {margin}"}
    else:
        said = {"supported": f"equal within {margin}", "contradicted": f"apart by more than {margin}"}
    if v.outcome in said:
        return f"{v.outcome.capitalize()}: {amount}, {said[v.outcome]}."
    if withheld:
        return f"Inconclusive: {amount}; by itself it would be decided, but not beside the other claims (Holm)."
    return f"Inconclusive: {amount}; {_more_seeds(v, values, alpha)}."


def _more_seeds(v: Verdict, values: NDArray[np.float64], alpha: float) -> str:
    """How many pairs would probably decide the claim if the observed mean and spread were the true ones."""
    distance = abs(abs(v.estimate) - v.claim.margin) if v.claim.kind == "equivalent" else abs(v.estimate - v.claim.margin)
    if distance == 0:
        return "the estimate lies on the margin, so that no number of seeds would decide it"
    need = stats.pairs_needed(distance, float(values.std(ddof=1)), v.claim.kind, alpha)
    return f"at this mean and spread about {max(need, v.n + 1)} seeds would decide it (80% power)"
