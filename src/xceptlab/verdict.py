"""Claims and scores to verdicts: design section 6."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from xceptlab import stats
from xceptlab.records import Record
from xceptlab.stats import Array
from xceptlab.study import Claim, Expansion, Seeds, Study, decimals

Scores = Mapping[str, Mapping[int, float]]
"""``scores[arm][seed]`` of a claim's metric: accuracies in percent, losses in nats."""

Records = Mapping[tuple[str, int], Record | None]
"""Records, or None where a run has none yet, by (arm, seed)."""

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
    p_adjusted: float = math.nan
    """Holm-adjusted p-value: of the opposite where that is shown, or would be but for the other claims, else of the claim; NaN
    where nothing was tested."""
    detectable: float = math.nan
    """The effect beyond the margin (superior) or the margin (equivalent) that this n would have found with 80% power, at the
    level that Holm leaves the claim."""
    correlation: float
    """Pearson's, between the two arms over the seeds: what the pairing gained."""
    differences: dict[int, float]
    """Per seed."""
    scores: tuple[dict[int, float], dict[int, float]]
    """Of the arms a and b, per seed."""
    most: int | None = None
    """Seeds at most, where seeds are added until the claims are decided; the interval is then the repeated one."""
    summary: str = ""
    """One sentence in plain words; a second one where the verdict means nothing."""
    warnings: tuple[str, ...] = ()
    """Why the verdict may mean less than it says, a clause each."""

    @property
    def values(self) -> Array:
        """The differences (n,)."""
        return np.array(list(self.differences.values()), dtype=np.float64)

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


def judge(claims: Sequence[Claim], scores: Sequence[Scores], seeds: Sequence[int] | Seeds, alpha: float = 0.05) -> list[Verdict]:
    """Judge the claims together: the chance of any false ``supported``, and of any false ``contradicted``, is at most alpha.

    Args:
        claims: The claims of one study.
        scores: Of each claim's arms, as far as they are known.
        seeds: Those that are planned: a claim is ``incomplete`` while one of its arms lacks one. Where seeds are added until the
            claims are decided, when they are looked at: a claim's verdict is that of the first look that decides it, whatever
            comes later; it is ``incomplete`` while the next look's seeds have no scores.
        alpha: Familywise error rate.

    Raises:
        ValueError: A score that is not a finite number.
    """
    boundary = stats.Boundary(seeds.start, seeds.step, seeds.max) if isinstance(seeds, Seeds) else None
    now: list[tuple[Verdict, Array]] = []
    for look in [range(n) for n in seeds.looks] if isinstance(seeds, Seeds) else [seeds]:
        now = _look(claims, scores, look, alpha, boundary, {i: one for i, one in enumerate(now) if one[0].decided})
        if any(verdict.outcome == "incomplete" for verdict, _ in now):
            break
    return [replace(verdict, warnings=_unit_warnings(verdict)) for verdict, _ in now]


def judge_study(expansion: Expansion, records: Records) -> list[Verdict]:
    """The verdicts of a study from its records by (arm, seed); ``incomplete`` while a run that a claim needs has none."""
    study = expansion.study
    tables = [scores(claim, expansion, records) for claim in study.claims]
    verdicts = judge(study.claims, tables, study.seeds, study.alpha)
    return [_with_warnings(verdict, expansion, records) for verdict in verdicts]


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


def _look(
    claims: Sequence[Claim],
    scores: Sequence[Scores],
    seeds: Sequence[int],
    alpha: float,
    boundary: stats.Boundary | None,
    frozen: Mapping[int, tuple[Verdict, Array]],
) -> list[tuple[Verdict, Array]]:
    """The verdicts on these seeds, each with its p-values before Holm's adjustment: of the claim and of its opposite.

    Holm's family is all the claims of the study: one that cannot be tested yet counts with p = 1, so that a verdict never flips
    to inconclusive when the other claims' runs arrive. Sequentially each p-value accounts for all looks (``stats.Boundary``),
    so that p-values of different looks, those of frozen verdicts among them, may stand in one family: each is at least the
    smallest that the claim would reach at any look, and that is a valid one.
    """
    now = [_paired(claim, own, seeds, alpha, boundary) for claim, own in zip(claims, scores, strict=True)]
    tested = {i for i, v in enumerate(now) if v.n == len(seeds) >= 3 and np.ptp(v.values) > 0}
    p = np.ones((len(claims), 2))
    for i, v in enumerate(now):
        if i in frozen:
            now[i], p[i] = frozen[i]
        elif i in tested:
            p[i] = stats.p_values(v.values, v.claim.kind, v.claim.margin, *([boundary.chance] if boundary else []))
    adjusted = stats.holm(p.T).T
    for i, v in enumerate(now):
        if i in frozen:
            continue
        if v.n < len(seeds):
            now[i] = replace(v, summary=_waiting(v, seeds, boundary))
            continue
        levels = [stats.holm_level(side, i, alpha) for side in p.T]
        levels = [boundary.nominal(level) for level in levels] if boundary else levels
        outcome: Outcome = (
            "supported" if adjusted[i, 0] <= alpha else "contradicted" if adjusted[i, 1] <= alpha else "inconclusive"
        )
        v = replace(v, outcome=outcome)
        alone: Outcome = "supported" if p[i, 0] <= alpha else "contradicted" if p[i, 1] <= alpha else "inconclusive"
        if i in tested:
            p_adjusted = float(adjusted[i, 1 if alone == "contradicted" else 0])
            detectable = stats.detectable(float(v.values.std(ddof=1)), v.n, v.claim.kind, levels[0])
            v = replace(v, p_adjusted=p_adjusted, detectable=detectable)
        now[i] = replace(v, summary=_summary(v, alone=alone, p_alone=float(min(p[i])), levels=levels))
    return list(zip(now, p, strict=True))


def _paired(claim: Claim, scores: Scores, seeds: Sequence[int], alpha: float, boundary: stats.Boundary | None) -> Verdict:
    """What is known of a claim before it is tested."""
    a, b = ({seed: scores[arm][seed] for seed in sorted(seeds) if seed in scores[arm]} for arm in claim.contrast)
    for arm, values in zip(claim.contrast, (a, b), strict=True):
        for seed, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"claim {claim.id!r}: the score of arm {arm!r}, seed {seed} is {value}, not a finite number")
    both = [seed for seed in a if seed in b]
    sign = -1 if claim.lower_is_better else 1
    d = np.array([sign * (a[seed] - b[seed]) for seed in both], dtype=np.float64)
    if len(d) and np.ptp(d) <= 1e-6 * max(abs(x[seed]) for x in (a, b) for seed in both):
        d[:] = d[0]  # equal but for the rounding of 32-bit scores
    level = boundary.nominal(alpha) if boundary else alpha
    low, high = stats.interval(d, 1 - 2 * level) if len(d) > 1 else (math.nan, math.nan)
    return Verdict(
        claim=claim,
        outcome="incomplete",
        estimate=float(d.mean()) if len(d) else math.nan,
        low=float(low),
        high=float(high),
        level=1 - 2 * alpha,
        n=len(d),
        correlation=stats.correlation(*(np.array([x[seed] for seed in both]) for x in (a, b))),
        differences=dict(zip(both, d.tolist(), strict=True)),
        scores=(a, b),
        most=boundary.most if boundary else None,
    )


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
    return table


def guessing(metric: str, classes: int) -> float:
    """The score of uniform guessing: percent, or nats for the loss."""
    return {"top1": 100 / classes, "top5": 100 * min(5, classes) / classes, "loss": math.log(classes)}[metric.split("/")[1]]


def _unit_warnings(v: Verdict) -> tuple[str, ...]:
    """Accuracies that look like fractions."""
    values = [value for arm in v.scores for value in arm.values()]
    if v.claim.lower_is_better or not values or not all(0 <= value <= 1 for value in values):
        return ()
    return ("all scores lie between 0 and 1; accuracies are in percent, 0 to 100, and margins in percentage points",)


def _with_warnings(v: Verdict, expansion: Expansion, records: Records) -> Verdict:
    """The verdict with what the number of images and the arms' runs say against it."""
    split = v.claim.metric.split("/")[0]
    arms = [_Accuracy.of(arm, split, expansion, records) for arm in v.claim.contrast]
    warnings = list(v.warnings)
    images = min(arm.images for arm in arms)
    if not v.claim.lower_is_better and 0 < v.claim.margin < (100 / images if images else 0):
        one = f"one image more or less of {images:,} is {100 / images:.2g} points"
        warnings.append(f"the margin of {v.claim.margin:g} is less than a single image: {one}")
    if not all(arm.at_chance for arm in arms):
        return replace(v, warnings=tuple(warnings))
    found = " and ".join(f"{arm.mean:.2f}%" for arm in arms)
    chance = " and ".join(dict.fromkeys(f"{arm.chance:.2f}%" for arm in arms))
    neither = f"both arms are at chance: {found} in {split}/top1, which is not more than guessing ({chance}) explains"
    summary = f"{v.summary} Both arms are at chance, so this says nothing about what they differ in."
    return replace(v, summary=summary, warnings=(neither, *warnings))


@dataclass(frozen=True, kw_only=True)
class _Accuracy:
    """How well an arm tells the classes of a split apart."""

    mean: float
    """Top-1 in percent over the runs that finished; of runs that all diverged what guessing scores; NaN without runs."""
    chance: float
    """Percent that guessing scores, or always answering with the most frequent class."""
    images: int
    """Of the split; 0 where neither a record nor the configuration tells."""

    @classmethod
    def of(cls, arm: str, split: str, expansion: Expansion, records: Records) -> "_Accuracy":
        metric, data = f"{split}/top1", expansion.arms[arm].data
        done = [record for seed in expansion.seeds if (record := records[arm, seed])]
        chance = max([guessing(metric, data.classes), *(record.constant.get(metric, 0.0) for record in done)])
        accuracies = [record.metrics[metric] for record in done if metric in record.metrics]
        accuracies = accuracies or [chance] * len(done)
        _, *planned = data.images()
        recorded = [(record.validation_images, record.test_images) for record in done]
        of_split = ("val", "test").index(split)
        images = max((counts[of_split] for counts in recorded), default=0) or planned[of_split]
        return cls(mean=statistics.fmean(accuracies) if accuracies else math.nan, chance=chance, images=images)

    @property
    def at_chance(self) -> bool:
        return stats.at_chance(self.mean, self.chance, self.images)


def _waiting(v: Verdict, seeds: Sequence[int], boundary: stats.Boundary | None) -> str:
    """Which seeds a claim waits for."""
    lacking = [seed for seed in seeds if seed not in v.differences]
    listed = ", ".join(map(str, lacking))
    if boundary and lacking[0] >= boundary.start:
        return f"Not decided yet: seeds {listed} come next, {boundary.most} seeds in all at most."
    return f"Not judged yet: seeds {listed} are not trained in both arms."


def _summary(v: Verdict, *, alone: Outcome, p_alone: float, levels: Sequence[float]) -> str:
    """The verdict in one sentence.

    Args:
        v: The verdict.
        alone: What it would be if the claim were the only one of the study.
        p_alone: The p-value of that, before Holm's adjustment.
        levels: Those at which the claim and its opposite are tested, of one look's p-value.
    """
    a, b = v.claim.contrast
    unit = "" if v.claim.lower_is_better else " points"
    places = decimals(v.claim.metric)
    if v.n < 3:
        more = f"; {_more_seeds(v, levels)}" if v.n > 1 and np.ptp(v.values) > 0 else ""
        pairs, missing = ("pair" if v.n == 1 else "pairs"), ("1 more seed is" if v.n == 2 else f"{3 - v.n} more seeds are")
        return f"Inconclusive: {v.n} {pairs} of runs cannot be judged; at least {missing} needed{more}."
    if np.ptp(v.values) == 0:
        value = -v.values[0] if v.claim.lower_is_better else v.values[0]
        same = f"{a} - {b} is {value:+.{places}f}{unit} for every seed"
        return f"Inconclusive: {same}, and without spread there is nothing to test."
    repeated, most = ("", "") if v.most is None else ("repeated ", f" of at most {v.most}")
    amount = f"{a} is {abs(v.estimate):.{places}f}{unit} {'better' if v.estimate >= 0 else 'worse'} than {b} in {v.claim.metric}"
    amount += f" ({repeated}{100 * v.level:g}% interval {v.low:+.{places}f} to {v.high:+.{places}f}, {v.n}{most} seeds"
    amount += f", adjusted p = {v.p_adjusted:.2g})"
    margin = f"{v.claim.margin:g}{unit if v.claim.margin != 1 else unit.removesuffix('s')}"
    if v.claim.kind == "superior":
        said = {"supported": f"more than the margin of {margin}", "contradicted": f"not better by the margin of {margin}"}
    else:
        said = {"supported": f"equal within {margin}", "contradicted": f"apart by more than {margin}"}
    if v.outcome in said:
        return f"{v.outcome.capitalize()}: {amount}, {said[v.outcome]}."
    if alone != "inconclusive":
        amount += f"; by itself it would be {alone} (p = {p_alone:.2g}), but not beside the other claims (Holm)"
    spent = "; the seeds that were planned are used up" if v.n == v.most else ""
    return f"Inconclusive: {amount}{spent}; {_more_seeds(v, levels)}."


def _more_seeds(v: Verdict, levels: Sequence[float]) -> str:
    """How many pairs would probably decide the claim if the observed mean and spread were the true ones."""
    beyond = v.claim.margin - abs(v.estimate) if v.claim.kind == "equivalent" else v.estimate - v.claim.margin
    if beyond == 0:
        return "the estimate lies on the margin, so that no number of seeds would decide it"
    level = levels[0] if beyond > 0 else levels[1] / (2 if v.claim.kind == "equivalent" else 1)
    tested = v.claim.kind if beyond > 0 else "superior"  # the opposite is one test
    need = max(stats.pairs_needed(abs(beyond), float(v.values.std(ddof=1)), tested, level), v.n + 1, 3)
    if need > stats.MOST_PAIRS - 1:
        return f"at this mean and spread more than {stats.MOST_PAIRS - 1} seeds would be needed to decide it"
    return f"at this mean and spread about {need} seeds would decide it, {need - v.n} more (80% power)"


def forecast(v: Verdict, study: Study) -> str:
    """From the pairs there are, a pilot's perhaps: how many seeds will decide the claim, in words; empty with fewer than 2."""
    if v.decided or v.n < 2 or np.ptp(v.values) == 0:
        return ""
    level = study.alpha / len(study.claims)
    spread = float(v.values.std(ddof=1))
    most_spread = stats.upper_spread(spread, v.n)
    places = decimals(v.claim.metric)
    words = f"{v.n} pairs have mean {v.estimate:+.{places}f}, standard deviation {spread:.{places}f} "
    words += f"(80% sure: at most {most_spread:.{places}f})"
    if v.outcome == "inconclusive":  # judged, with all that were planned
        return f"{words}; all {v.n} planned seeds are used: {_more_seeds(v, (level, level))}."
    if isinstance(study.seeds, Seeds):
        looks = study.seeds.looks
        boundary = stats.Boundary(study.seeds.start, study.seeds.step, study.seeds.max)
        plan = v.claim.kind, v.claim.margin, looks, boundary, level, v.values
        chance, seeds = stats.sequential_power(v.estimate, spread, *plan)
        worst, late = stats.sequential_power(v.estimate, most_spread, *plan)
        most = f"{worst:.0%} and {late:.1f} at the largest spread"
        return f"{words}; {chance:.0%} chance to be decided by {looks[-1]} seeds, {seeds:.1f} seeds on average ({most})."
    return f"{words}; {_more_seeds(v, (level, level))}."
