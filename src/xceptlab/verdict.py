"""Claims and scores to verdicts: design section 6."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from xceptlab import stats
from xceptlab.records import Record
from xceptlab.stats import Array
from xceptlab.study import Claim, Expansion, Seeds, Study, decimals

Scores = Mapping[str, Mapping[str, Mapping[int, float]]]
"""``scores[metric][arm][seed]``: accuracies in percent, losses in nats."""

Records = Mapping[tuple[str, int], Record | None]
"""Records, or None where a run has none yet, by (arm, seed)."""

Outcome = Literal["supported", "contradicted", "inconclusive", "incomplete"]

NOTHING: Mapping[str, Sequence[int]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A claim's paired scores."""

    differences: dict[int, float]
    """By seed, in the order of the seeds."""
    a: dict[int, float]
    b: dict[int, float]

    @property
    def values(self) -> Array:
        """The differences (n,)."""
        return np.array(list(self.differences.values()), dtype=np.float64)

    @property
    def correlation(self) -> float:
        return stats.correlation(*(np.array([scores[seed] for seed in self.differences]) for scores in (self.a, self.b)))

    def upto(self, n: int) -> "Pairs":
        """Of the seeds below n."""
        return Pairs(**{f.name: {s: x for s, x in getattr(self, f.name).items() if s < n} for f in dataclasses.fields(self)})


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
    """The effect beyond the margin (superior) or the margin (equivalent) that this n would have found with 80% power, at the
    level that Holm leaves the claim."""
    correlation: float
    """Pearson's, between the two arms over the seeds: what the pairing gained."""
    differences: dict[int, float]
    """Per seed."""
    scores: tuple[dict[int, float], dict[int, float]]
    """Of the arms a and b, per seed."""
    missing: tuple[int, ...]
    """Seeds that only one of the arms has."""
    most: int | None = None
    """Seeds at most, where seeds are added until the claims are decided; the interval is then the repeated one."""
    summary: str = ""
    """One sentence in plain words."""

    @property
    def decided(self) -> bool:
        return self.outcome in ("supported", "contradicted")

    @property
    def margins(self) -> tuple[float, ...]:
        """The differences that the interval is held against."""
        return (self.claim.margin,) if self.claim.kind == "superior" else (-self.claim.margin, self.claim.margin)

    @property
    def power(self) -> str:
        """What the pairing gained and what this n could have found, in words; empty where nothing was tested."""
        if math.isnan(self.detectable):
            return ""
        smallest = f"{self.detectable:.{decimals(self.claim.metric)}f}"
        found = (
            f"equivalence within {smallest}" if self.claim.kind == "equivalent" else f"an effect of {smallest} beyond the margin"
        )
        gained = "" if math.isnan(self.correlation) else f"Pairing correlation {self.correlation:.2f}; "
        return f"{gained}{self.n} pairs would have found {found} with 80% power."


def judge(claims: Sequence[Claim], scores: Scores, *, alpha: float = 0.05, seeds: Seeds | None = None) -> list[Verdict]:
    """Judge the claims together: the chance of any false ``supported``, and of any false ``contradicted``, is at most alpha.

    Args:
        claims: The claims of one study.
        scores: Per metric, arm and seed; a pair counts where both arms of the contrast have the seed.
        alpha: Familywise error rate.
        seeds: Where seeds are added until the claims are decided: when they are looked at. A claim's verdict is that of the first
            look that decides it, whatever comes later; it is ``incomplete`` while the next look's seeds have no scores.

    Raises:
        ValueError: A score that is not a finite number, an arm without scores, or two claims of one id.
    """
    if len({claim.id for claim in claims}) < len(claims):
        raise ValueError(f"claims {', '.join(claim.id for claim in claims)}: each must have an id of its own")
    return _judge(claims, [_pairs(claim, scores) for claim in claims], alpha, seeds, NOTHING)


def judge_study(expansion: Expansion, records: Records) -> list[Verdict]:
    """The verdicts of a study from its records by (arm, seed); ``incomplete`` while a run that a claim needs has none."""
    study = expansion.study
    pairs = [_pairs(claim, scores(claim, expansion, records)) for claim in study.claims]
    if isinstance(study.seeds, Seeds):
        return _judge(study.claims, pairs, study.alpha, study.seeds, NOTHING)
    lacking = {
        claim.id: [seed for seed in expansion.seeds if seed not in own.differences]
        for claim, own in zip(study.claims, pairs, strict=True)
    }
    return _judge(study.claims, pairs, study.alpha, None, lacking)


def grown(expansion: Expansion, read: Callable[[Expansion], Records]) -> Expansion:
    """The study with as many blocks of seeds as its claims need, by the records there are; a fixed list stays as it is."""
    seeds = expansion.study.seeds
    while isinstance(seeds, Seeds) and expansion.look + 1 < len(seeds.looks):
        records = read(expansion)
        undecided = any(not verdict.decided for verdict in judge_study(expansion, records))
        if None in records.values() or not undecided:
            break
        expansion = replace(expansion, look=expansion.look + 1)
    return expansion


def _judge(
    claims: Sequence[Claim], pairs: Sequence[Pairs], alpha: float, seeds: Seeds | None, lacking: Mapping[str, Sequence[int]]
) -> list[Verdict]:
    """``lacking``: by claim the seeds of a fixed list that it has no pair of; such a claim is incomplete."""
    if seeds is None:
        return [verdict for verdict, _ in _look(claims, pairs, alpha, lacking)]
    boundary = stats.Boundary(seeds.start, seeds.step, seeds.max)
    now: list[tuple[Verdict, Array]] = []
    for n in seeds.looks:
        frozen = {verdict.claim.id: (verdict, p) for verdict, p in now if verdict.decided}
        so_far = [own.upto(n) for own in pairs]
        lacking = {
            claim.id: [seed for seed in range(n) if seed not in own.differences]
            for claim, own in zip(claims, so_far, strict=True)
            if claim.id not in frozen
        }
        now = _look(claims, so_far, alpha, lacking, boundary, frozen)
        if any(lacking.values()):
            break
    return [verdict for verdict, _ in now]


def _look(
    claims: Sequence[Claim],
    pairs: Sequence[Pairs],
    alpha: float,
    lacking: Mapping[str, Sequence[int]],
    boundary: stats.Boundary | None = None,
    frozen: Mapping[str, tuple[Verdict, Array]] = MappingProxyType({}),
) -> list[tuple[Verdict, Array]]:
    """The verdicts at one look, each with its p-values before Holm's adjustment, that the claim holds and that its opposite does.

    Holm's family is all the claims of the study: one that cannot be tested yet counts with p = 1, so that a verdict never flips
    to inconclusive when the other claims' runs arrive. Sequentially each p-value accounts for all looks (``stats.Boundary``),
    so that p-values of different looks, those of frozen verdicts among them, may stand in one family: each is at least the
    smallest that the claim would reach at any look, and that is a valid one.
    """
    p = np.ones((len(claims), 2))
    tested = [
        not lacking.get(c.id) and len(own.values) >= 3 and np.ptp(own.values) > 0 for c, own in zip(claims, pairs, strict=True)
    ]
    for i, (claim, own) in enumerate(zip(claims, pairs, strict=True)):
        if claim.id in frozen:
            p[i] = frozen[claim.id][1]
        elif tested[i]:
            p[i] = stats.p_values(own.values, claim.kind, claim.margin, *([boundary.chance] if boundary else []))
    adjusted = stats.holm(p.T).T
    now = []
    for i, (claim, own) in enumerate(zip(claims, pairs, strict=True)):
        if claim.id in frozen:
            now.append(frozen[claim.id])
            continue
        levels = [stats.holm_level(side, i, alpha) for side in p.T]
        nominal = [boundary.nominal(level) for level in (alpha, *levels)] if boundary else [alpha, *levels]
        d = own.values
        outcome: Outcome = (
            "supported" if adjusted[i, 0] <= alpha else "contradicted" if adjusted[i, 1] <= alpha else "inconclusive"
        )
        low, high = stats.interval(d, 1 - 2 * nominal[0]) if len(d) > 1 else (math.nan, math.nan)
        verdict = Verdict(
            claim=claim,
            outcome="incomplete" if lacking.get(claim.id) else outcome,
            estimate=float(d.mean()) if len(d) else math.nan,
            low=float(low),
            high=float(high),
            level=1 - 2 * alpha,
            n=len(d),
            p_adjusted=float(adjusted[i, 1 if outcome == "contradicted" else 0]) if tested[i] else math.nan,
            detectable=stats.detectable(float(d.std(ddof=1)), len(d), claim.kind, nominal[1]) if tested[i] else math.nan,
            correlation=own.correlation,
            differences=own.differences,
            scores=(own.a, own.b),
            missing=tuple(sorted(set(own.a) ^ set(own.b))),
            most=boundary.most if boundary else None,
        )
        if lacking.get(claim.id):
            summary = f"Not judged yet: seeds {_listed(lacking[claim.id])} are not trained in both arms."
            if boundary and lacking[claim.id][0] >= boundary.start:
                summary = f"Not decided yet: seeds {_listed(lacking[claim.id])} come next, {boundary.most} seeds in all at most."
        else:
            summary = _summary(verdict, withheld=outcome == "inconclusive" and min(p[i]) <= alpha, levels=nominal[1:])
        now.append((replace(verdict, summary=summary), p[i]))
    return now


def scores(claim: Claim, expansion: Expansion, records: Records) -> Scores:
    """The scores of a claim's arms. A diverged run scores what the claim declares, by default what guessing would."""
    table: dict[str, dict[int, float]] = {arm: {} for arm in claim.contrast}
    for arm, row in table.items():
        for seed in expansion.seeds:
            record = records[arm, seed]
            if record is None:
                continue
            if record.status == "diverged":
                row[seed] = guessing(claim.metric, expansion.arms[arm].data.classes) if claim.diverged is None else claim.diverged
            elif claim.metric in record.metrics:
                row[seed] = record.metrics[claim.metric]
            else:
                raise ValueError(f"claim {claim.id!r}: the run {record.run_id} has no {claim.metric} (data.validation is 0?)")
    return {claim.metric: table}


def guessing(metric: str, classes: int) -> float:
    """The score of uniform guessing: percent, or nats for the loss."""
    return {"top1": 100 / classes, "top5": 100 * min(5, classes) / classes, "loss": math.log(classes)}[metric.split("/")[1]]


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
    differences = {s: sign * (a[s] - b[s]) for s in seeds}
    if seeds and np.ptp(list(differences.values())) <= 1e-6 * max(abs(x[s]) for x in (a, b) for s in seeds):
        differences = dict.fromkeys(seeds, differences[seeds[0]])  # equal but for the rounding of 32-bit scores
    return Pairs(differences=differences, a=dict(a), b=dict(b))


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _summary(v: Verdict, *, withheld: bool, levels: Sequence[float]) -> str:
    """The verdict in one sentence. ``levels``: those at which the claim and its opposite are tested, of one look's p-value."""
    a, b = v.claim.contrast
    unit = "" if v.claim.lower_is_better else " points"
    places = decimals(v.claim.metric)
    values = np.array(list(v.differences.values()))
    if v.n < 3:
        more = f"; {_more_seeds(v, values, levels)}" if v.n > 1 and np.ptp(values) > 0 else ""
        pairs, seeds = ("pair" if v.n == 1 else "pairs"), ("1 more seed is" if v.n == 2 else f"{3 - v.n} more seeds are")
        return f"Inconclusive: {v.n} {pairs} of runs cannot be judged; at least {seeds} needed{more}{_apart(v)}."
    if np.ptp(values) == 0:
        value = -values[0] if v.claim.lower_is_better else values[0]
        same = f"{a} - {b} is {value:+.{places}f}{unit} for every seed"
        return f"Inconclusive: {same}, and without spread there is nothing to test{_apart(v)}."
    repeated, most = ("", "") if v.most is None else ("repeated ", f" of at most {v.most}")
    amount = f"{a} is {abs(v.estimate):.{places}f}{unit} {'better' if v.estimate >= 0 else 'worse'} than {b} in {v.claim.metric}"
    amount += f" ({repeated}{100 * v.level:g}% interval {v.low:+.{places}f} to {v.high:+.{places}f}, {v.n}{most} seeds"
    amount += f", adjusted p = {v.p_adjusted:.2g}){_apart(v)}"
    margin = f"{v.claim.margin:g}{unit if v.claim.margin != 1 else unit.removesuffix('s')}"
    if v.claim.kind == "superior":
        said = {"supported": f"more than the margin of {margin}", "contradicted": f"not better by the margin of {margin}"}
    else:
        said = {"supported": f"equal within {margin}", "contradicted": f"apart by more than {margin}"}
    if v.outcome in said:
        return f"{v.outcome.capitalize()}: {amount}, {said[v.outcome]}."
    if withheld:
        amount += "; by itself it would be decided, but not beside the other claims (Holm)"
    spent = "; the seeds that were planned are used up" if v.n == v.most else ""
    return f"Inconclusive: {amount}{spent}; {_more_seeds(v, values, levels)}."


def _apart(v: Verdict) -> str:
    return f"; seeds {_listed(v.missing)} are in one arm only and not used" if v.missing else ""


def _more_seeds(v: Verdict, values: Array, levels: Sequence[float]) -> str:
    """How many pairs would probably decide the claim if the observed mean and spread were the true ones."""
    beyond = v.claim.margin - abs(v.estimate) if v.claim.kind == "equivalent" else v.estimate - v.claim.margin
    if beyond == 0:
        return "the estimate lies on the margin, so that no number of seeds would decide it"
    level = levels[0] if beyond > 0 else levels[1] / (2 if v.claim.kind == "equivalent" else 1)
    tested = v.claim.kind if beyond > 0 else "superior"  # the opposite is one test
    need = max(stats.pairs_needed(abs(beyond), float(values.std(ddof=1)), tested, level), v.n + 1, 3)
    if need > stats.MOST_PAIRS - 1:
        return f"at this mean and spread more than {stats.MOST_PAIRS - 1} seeds would be needed to decide it"
    return f"at this mean and spread about {need} seeds would decide it, {need - v.n} more (80% power)"


def forecast(v: Verdict, study: Study) -> str:
    """From the pairs there are, a pilot's perhaps: how many seeds will decide the claim, in words; empty with fewer than 2."""
    values = np.array(list(v.differences.values()))
    if v.decided or len(values) < 2 or np.ptp(values) == 0:
        return ""
    level, n = study.alpha / len(study.claims), len(values)
    spread = float(values.std(ddof=1))
    most_spread = stats.upper_spread(spread, n)
    places = decimals(v.claim.metric)
    words = f"{n} pairs have mean {v.estimate:+.{places}f}, standard deviation {spread:.{places}f} "
    words += f"(80% sure: at most {most_spread:.{places}f})"
    if isinstance(study.seeds, Seeds):
        looks = study.seeds.looks
        boundary = stats.Boundary(study.seeds.start, study.seeds.step, study.seeds.max)
        chance, seeds = stats.sequential_power(v.estimate, spread, v.claim.kind, v.claim.margin, looks, boundary, level)
        worst, late = stats.sequential_power(v.estimate, most_spread, v.claim.kind, v.claim.margin, looks, boundary, level)
        most = f"{worst:.0%} and {late:.1f} at the largest spread"
        return f"{words}; {chance:.0%} chance to be decided by {looks[-1]} seeds, {seeds:.1f} seeds on average ({most})."
    return f"{words}; {_more_seeds(v, values, (level, level))}."
