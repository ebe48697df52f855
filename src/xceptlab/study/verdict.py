"""Claims and scores to verdicts: design section 6."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

import numpy as np

from xceptlab.errors import Refused
from xceptlab.runs.record import Record
from xceptlab.study import signs, statistics
from xceptlab.study.definition import Claim, Seeds, Study, decimals, in_percent
from xceptlab.study.estimands import LEAST_PAIRS, Estimand, estimand
from xceptlab.study.expansion import Expansion
from xceptlab.study.statistics import Array

Scores = Mapping[str, Mapping[int, float]]
"""``scores[side][seed]`` of a claim's metric, by the names of what it compares: arms, or what makes up an effect.

Accuracies are in percent, losses in nats.
"""

Records = Mapping[tuple[str, int], Record | None]
"""Records, or None where a run has none yet, by (arm, seed)."""

Outcome = Literal["supported", "contradicted", "inconclusive", "incomplete"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the scores say of a claim. Differences are a - b, or b - a for the loss: above 0, a is the better arm."""

    claim: Claim
    outcome: Outcome
    estimate: float
    """The claim's statistic of the paired differences, their mean or median; NaN without pairs."""
    low: float
    high: float
    """Its interval, which belongs to the claim's tests: NaN with fewer than 2 pairs, infinite where few pairs bound no median."""
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
    correlation: float
    """Pearson's, between the two arms over the seeds: what the pairing gained."""
    differences: dict[int, float]
    """Per seed."""
    scores: tuple[dict[int, float], dict[int, float]]
    """Of the arms a and b, per seed."""
    tested: bool = False
    """Whether there were pairs to test."""
    most: int | None = None
    """Seeds at most, where seeds are added until the claims are decided; the interval is then the repeated one."""
    given_up: float | None = None
    """The chance to be decided by the most seeds, where it is below the study's ``futility``, so that no more are asked for."""
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
    def settled(self) -> bool:
        """Whether the claim asks for no more seeds."""
        return self.decided or self.given_up is not None

    @property
    def margins(self) -> tuple[float, ...]:
        """The differences that the interval is held against."""
        return (self.claim.margin,) if self.claim.kind == "superior" else (-self.claim.margin, self.claim.margin)

    @property
    def evidence(self) -> str:
        """What is shown beside the verdict: in how many seeds it holds, what the pairing gained, what could have been found."""
        return " ".join(filter(None, (self.sign_count, self.power)))

    @property
    def sign_count(self) -> str:
        """In how many seeds the difference speaks for the claim, and how likely chance alone would be to make it so many.

        The p-value is unadjusted, and no verdict; too few seeds for it to be small have none. Empty if untested.
        """
        if not self.tested or self.claim.statistic == "median" or self.most is not None:
            return ""
        d, kind, margin = self.values, self.claim.kind, self.claim.margin
        holds = d > margin if kind == "superior" else abs(d) < margin
        where = "beyond" if kind == "superior" else "within"
        count = f"The difference is {where} the margin in {int(holds.sum())} of {self.n} seeds"
        alpha = (1 - self.level) / 2
        if self.n < signs.fewest(alpha):
            return f"{count}."
        p = signs.p_values(d, kind, margin)[0]
        return f"{count} (sign test p = {p:.2g}, by itself)."


def judge(claims: Sequence[Claim], scores: Sequence[Scores], seeds: Sequence[int] | Seeds, alpha: float = 0.05) -> list[Verdict]:
    """Judge the claims together: the chance of any false ``supported``, and of any false ``contradicted``, is at most alpha.

    Args:
        claims: The claims of one study.
        scores: Of each claim's arms, as far as they are known.
        seeds: Those that are planned: a claim is ``incomplete`` while one of its arms lacks one. Where seeds are added until the
            claims are decided, when they are looked at: a claim's verdict is that of the first look that decides it, whatever
            comes later; it is ``incomplete`` while the next look's seeds have no scores. Where the seeds have a ``futility``, the
            first look at which every claim is decided or futile is the last one.
        alpha: Familywise error rate.

    Raises:
        Refused: A score that is not a finite number.
    """
    asked = [estimand(claim, seeds) for claim in claims]
    now: list[tuple[Verdict, Array]] = []
    for look in [range(n) for n in seeds.looks] if isinstance(seeds, Seeds) else [seeds]:
        now = _look(asked, scores, look, alpha, {i: one for i, one in enumerate(now) if one[0].decided})
        if any(verdict.outcome == "incomplete" for verdict, _ in now) or all(verdict.settled for verdict, _ in now):
            break
    return [replace(verdict, warnings=_unit_warnings(verdict)) for verdict, _ in now]


def judge_study(expansion: Expansion, records: Records) -> list[Verdict]:
    """The verdicts of a study from its records by (arm, seed); ``incomplete`` while a run that a claim needs has none."""
    study = expansion.study
    tables = [scores(claim, expansion, records) for claim in study.claims]
    verdicts = judge(study.claims, tables, study.seeds, study.alpha)
    return [_with_warnings(verdict, expansion, records) for verdict in verdicts]


def with_needed_seeds(expansion: Expansion) -> Expansion:
    """The study with as many blocks of seeds as its claims need, by the records there are; a fixed list stays as it is."""
    seeds = expansion.study.seeds
    while isinstance(seeds, Seeds) and expansion.look + 1 < len(seeds.looks):
        records = expansion.records()
        settled = all(verdict.settled for verdict in judge_study(expansion, records))
        if None in records.values() or settled:
            break
        expansion = replace(expansion, look=expansion.look + 1)
    return expansion


def _look(
    asked: Sequence[Estimand],
    scores: Sequence[Scores],
    seeds: Sequence[int],
    alpha: float,
    frozen: Mapping[int, tuple[Verdict, Array]],
) -> list[tuple[Verdict, Array]]:
    """The verdicts on these seeds, each with its p-values before Holm's adjustment: of the claim and of its opposite.

    Holm's family is all the claims of the study: one that cannot be tested yet counts with p = 1, so that a verdict never flips
    to inconclusive when the other claims' runs arrive. Sequentially each p-value accounts for all looks (``Estimand``), so that
    p-values of different looks, those of frozen verdicts among them, may stand in one family: each is at least the
    smallest that the claim would reach at any look, and that is a valid one.
    """
    now = [_paired(one, table, seeds, alpha) for one, table in zip(asked, scores, strict=True)]
    p = np.ones((len(asked), 2))
    for i, v in enumerate(now):
        if i in frozen:
            now[i], p[i] = frozen[i]
        elif v.n == len(seeds) >= LEAST_PAIRS and not asked[i].untestable(v.values):
            now[i] = replace(v, tested=True)
            p[i] = asked[i].p_values(v.values)
    adjusted = statistics.holm(p.T).T
    for i, v in enumerate(now):
        if i in frozen:
            continue
        if v.n < len(seeds):
            now[i] = replace(v, summary=_waiting(v, seeds, asked[i]))
            continue
        of_holm = [statistics.holm_level(side, i, alpha) for side in p.T]
        levels = [asked[i].nominal(level) for level in of_holm]
        outcome: Outcome = (
            "supported" if adjusted[i, 0] <= alpha else "contradicted" if adjusted[i, 1] <= alpha else "inconclusive"
        )
        v = replace(v, outcome=outcome)
        alone: Outcome = "supported" if p[i, 0] <= alpha else "contradicted" if p[i, 1] <= alpha else "inconclusive"
        if v.tested:
            p_adjusted = float(adjusted[i, 1 if alone == "contradicted" else 0])
            gained = "" if math.isnan(v.correlation) else f"Pairing correlation {v.correlation:.2f}; "
            v = replace(v, p_adjusted=p_adjusted, power=gained + asked[i].power(v.values, levels[0]))
            v = replace(v, given_up=_futile(v, asked[i], max(of_holm)))
        now[i] = replace(v, summary=_summary(v, asked[i], alone=alone, p_alone=float(min(p[i])), levels=levels))
    return list(zip(now, p, strict=True))


def _futile(v: Verdict, asked: Estimand, level: float) -> float | None:
    """The chance of an undecided claim to be decided by the last look, where it is below the study's ``futility``.

    It does not bind: a claim that was given up while other claims needed more seeds is judged on them, too. Levels count on no
    giving up, so that it can only make false verdicts rarer (Lan, Simon & Halperin 1982; Lachin 2005).
    """
    seeds = asked.seeds
    if not isinstance(seeds, Seeds) or seeds.futility is None or v.decided or v.n >= seeds.max:
        return None
    chance, _ = asked.prospect(v.values, level)
    return chance if chance < seeds.futility else None


def _paired(asked: Estimand, scores: Scores, seeds: Sequence[int], alpha: float) -> Verdict:
    """What is known of a claim before it is tested."""
    claim = asked.claim
    a, b = ({seed: scores[arm][seed] for seed in sorted(seeds) if seed in scores[arm]} for arm in claim.sides)
    for arm, values in zip(claim.sides, (a, b), strict=True):
        for seed, value in values.items():
            if not math.isfinite(value):
                raise Refused(f"claim {claim.id!r}: the score of arm {arm!r}, seed {seed} is {value}, not a finite number")
    both = [seed for seed in a if seed in b]
    sign = -1 if claim.lower_is_better else 1
    d = np.array([sign * (a[seed] - b[seed]) for seed in both], dtype=np.float64)
    if len(d) and np.ptp(d) <= 1e-6 * max(abs(x[seed]) for x in (a, b) for seed in both):
        d[:] = d[0]  # equal but for the rounding of 32-bit scores
    low, high = asked.interval(d, alpha) if len(d) > 1 else (math.nan, math.nan)
    return Verdict(
        claim=claim,
        outcome="incomplete",
        estimate=asked.estimate(d) if len(d) else math.nan,
        low=low,
        high=high,
        level=1 - 2 * alpha,
        n=len(d),
        correlation=statistics.correlation(*(np.array([x[seed] for seed in both]) for x in (a, b))),
        differences=dict(zip(both, d.tolist(), strict=True)),
        scores=(a, b),
        most=asked.seeds.max if isinstance(asked.seeds, Seeds) else None,
    )


def scores(claim: Claim, expansion: Expansion, records: Records) -> Scores:
    """The scores of a claim's two sides. A diverged run scores what the claim declares, by default what guessing would."""
    table: dict[str, dict[int, float]] = {arm: {} for arm in expansion.study.arms_of(claim)}
    for arm, row in table.items():
        for seed in expansion.seeds:
            record = records[arm, seed]
            if record is None:
                continue
            if record.status == "diverged":
                row[seed] = score_of_divergence(claim, expansion.arms[arm].data.classes)
            elif claim.metric in record.metrics:
                row[seed] = record.metrics[claim.metric]
            else:
                raise Refused(f"claim {claim.id!r}: the run {record.run_id} has no {claim.metric} (data.validation is 0?)")
    sides = {}
    for side, weights in zip(claim.sides, expansion.study.weights(claim), strict=True):
        seeds = [seed for seed in expansion.seeds if all(seed in table[arm] for arm in weights)]
        if len(weights) == 1:
            (arm,) = weights
            sides[side] = {seed: table[arm][seed] for seed in seeds}
        else:  # rounded, so that equal scores in all arms leave 0, and not what floating point makes of it
            sides[side] = {seed: round(sum(w * table[arm][seed] for arm, w in weights.items()), 9) for seed in seeds}
    return sides


def score_of_divergence(claim: Claim, classes: int) -> float:
    """What a diverged run of so many classes scores in a claim: what it declares, or what guessing would."""
    return guessing(claim.metric, classes) if claim.diverged is None else claim.diverged


def has_failed(record: Record, claims: Sequence[Claim]) -> bool:
    """Whether a run diverged, or scored worse than one of the claims declares to be a failure."""
    if record.status == "diverged":
        return True
    return any(claim.fails(record.metrics[claim.metric]) for claim in claims if claim.metric in record.metrics)


def guessing(metric: str, classes: int) -> float:
    """The score of uniform guessing: percent, or nats for the loss."""
    return {"top1": 100 / classes, "top5": 100 * min(5, classes) / classes, "loss": math.log(classes)}[metric.split("/")[1]]


def _unit_warnings(v: Verdict) -> tuple[str, ...]:
    """Accuracies that look like fractions."""
    values = [value for arm in v.scores for value in arm.values()]
    if not in_percent(v.claim.metric) or len(v.claim.effect) > 1 or not values or not all(0 <= value <= 1 for value in values):
        return ()
    return ("all scores lie between 0 and 1; accuracies are in percent, 0 to 100, and margins in percentage points",)


def _with_warnings(v: Verdict, expansion: Expansion, records: Records) -> Verdict:
    """The verdict with what the number of images and the arms' runs say against it."""
    split = v.claim.metric.split("/")[0]
    arms = [_Accuracy.of(arm, split, expansion, records) for arm in expansion.study.arms_of(v.claim)]
    warnings = list(v.warnings)
    images = min(arm.images for arm in arms)
    if not v.claim.lower_is_better and 0 < v.claim.margin < (100 / images if images else 0):
        one = f"one image more or less of {images:,} is {100 / images:.2g} points"
        warnings.append(f"the margin of {v.claim.margin:g} is less than a single image: {one}")
    warnings += _of_failures(v, expansion, records)
    if not all(arm.at_chance for arm in arms):
        return replace(v, warnings=tuple(warnings))
    found = " and ".join(f"{arm.mean:.2f}%" for arm in arms)
    chance = " and ".join(dict.fromkeys(f"{arm.chance:.2f}%" for arm in arms))
    all_arms = "both" if len(arms) == 2 else f"all {len(arms)}"
    neither = f"{all_arms} arms are at chance: {found} in {split}/top1, which is not more than guessing ({chance}) explains"
    summary = f"{v.summary} {all_arms.capitalize()} arms are at chance, so this says nothing about what they differ in."
    return replace(v, summary=summary, warnings=(neither, *warnings))


def _of_failures(v: Verdict, expansion: Expansion, records: Records) -> list[str]:
    """What failed runs do to a verdict."""
    failed = {
        (arm, seed)
        for arm in expansion.study.arms_of(v.claim)
        for seed in v.differences
        if (record := records[arm, seed]) and has_failed(record, [v.claim])
    }
    pairs = len({seed for _, seed in failed})
    if 2 * pairs > v.n:
        return [f"failures decide it: in {pairs} of {v.n} seeds a run of these arms failed"]
    if pairs and v.claim.statistic == "mean":
        listed = ", ".join(f"{arm} seed {seed}" for arm, seed in sorted(failed))
        return [f"runs failed ({listed}), and no test of a mean is sound there (`statistic: median` is)"]
    return []


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
        chance = max([guessing(metric, data.classes), *(record.majority_class.get(metric, 0.0) for record in done)])
        accuracies = [record.metrics[metric] for record in done if metric in record.metrics]
        accuracies = accuracies or [chance] * len(done)
        _, *planned = data.images()
        recorded = [(record.validation_images, record.test_images) for record in done]
        of_split = ("val", "test").index(split)
        images = max((counts[of_split] for counts in recorded), default=0) or planned[of_split]
        return cls(mean=fmean(accuracies) if accuracies else math.nan, chance=chance, images=images)

    @property
    def at_chance(self) -> bool:
        return statistics.at_chance(self.mean, self.chance, self.images)


def _waiting(v: Verdict, seeds: Sequence[int], asked: Estimand) -> str:
    """Which seeds a claim waits for."""
    lacking = [seed for seed in seeds if seed not in v.differences]
    if isinstance(asked.seeds, Seeds) and lacking[0] >= asked.seeds.start:
        return f"Not decided yet: {named(lacking, 'comes', 'come')} next, {v.most} seeds in all at most."
    return f"Not judged yet: {named(lacking, 'is', 'are')} not trained in {'both' if asked.claim.contrast else 'all'} arms."


def named(seeds: Sequence[int], verb: str, plural: str) -> str:
    """Seeds as the subject of a sentence: ``seed 3 is`` or ``seeds 3, 4 are``."""
    listed = ", ".join(map(str, seeds))
    return f"seed {listed} {verb}" if len(seeds) == 1 else f"seeds {listed} {plural}"


def _summary(v: Verdict, asked: Estimand, *, alone: Outcome, p_alone: float, levels: Sequence[float]) -> str:
    """The verdict in one sentence.

    Args:
        v: The verdict.
        asked: What the claim asks of the differences.
        alone: What it would be if the claim were the only one of the study.
        p_alone: The p-value of that, before Holm's adjustment.
        levels: Those at which the claim and its opposite are tested, of one look's p-value.
    """
    unit = v.claim.unit
    places = decimals(v.claim.metric)
    if v.n < LEAST_PAIRS:
        more = f"; {asked.more_seeds(v.values, levels)}" if v.n > 1 and not asked.untestable(v.values) else ""
        pairs, lacking = "pair" if v.n == 1 else "pairs", LEAST_PAIRS - v.n
        missing = "1 more seed is" if lacking == 1 else f"{lacking} more seeds are"
        return f"Inconclusive: {v.n} {pairs} of runs cannot be judged; at least {missing} needed{more}."
    if why := asked.untestable(v.values):
        return f"Inconclusive: {why}."
    repeated, most = ("", "") if v.most is None else ("repeated ", f" of at most {v.most}")
    amount = _compared(v.claim, f"{abs(v.estimate):.{places}f}{unit}", v.estimate >= 0)
    if v.claim.statistic == "median":
        amount += " in the median"
    interval = f"{repeated}{100 * v.level:g}% interval {v.low:+.{places}f} to {v.high:+.{places}f}"
    if math.isinf(v.low):
        interval = f"no finite {repeated}{100 * v.level:g}% interval"
    amount += f" ({interval}, {v.n}{most} seeds"
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
    if v.given_up is not None:
        spent = f"; given up, with a chance of {v.given_up:.1%} to be decided by {v.most} seeds (futility)"
    return f"Inconclusive: {amount}{spent}; {asked.more_seeds(v.values, levels)}."


def _compared(claim: Claim, amount: str, positive: bool) -> str:
    """The estimate in words, such as ``a is 1.20 points better than b in test/top1``."""
    a, b = claim.sides
    if len(claim.effect) < 2:
        averaged = ", averaged over the other factors" if claim.effect else ""
        return f"{a} is {amount} {'better' if positive else 'worse'} than {b} in {claim.metric}{averaged}"
    return f"{claim.gain} is {amount} {'larger' if positive else 'smaller'} with {a} than with {b} in {claim.metric}"


def forecast(v: Verdict, study: Study) -> str:
    """From the pairs there are, a pilot's perhaps: how many seeds will decide the claim, in words; empty with fewer than 2."""
    asked = estimand(v.claim, study.seeds)
    if v.settled or v.n < 2 or asked.untestable(v.values):
        return ""
    level = study.alpha / len(study.claims)
    if v.outcome == "inconclusive":  # judged, with all that were planned
        outlook = f"all {v.n} planned seeds are used: {asked.more_seeds(v.values, (level, level))}"
    else:
        outlook = asked.outlook(v.values, level)
    return f"{asked.describe(v.values)}; {outlook}."
