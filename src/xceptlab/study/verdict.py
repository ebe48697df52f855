"""Claims and scores to verdicts; docs/statistics.md says what they mean."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

import numpy as np

from xceptlab.errors import Refused
from xceptlab.runs.metrics import ACCURACY, metric_of, split_of
from xceptlab.runs.record import Record
from xceptlab.study import images, statistics, wording
from xceptlab.study.choice import Records, arm_directories, arm_records
from xceptlab.study.definition import Claim, Seeds
from xceptlab.study.estimands import LEAST_PAIRS, Estimand, MeanOverImages, estimand
from xceptlab.study.expansion import Expansion
from xceptlab.study.statistics import Array

Scores = Mapping[str, Mapping[int, float]]
"""``scores[side][seed]`` of a claim's metric, by the names of what it compares: arms, or what makes up an effect.

Accuracies are in percent, losses in nats.
"""

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
    def margins(self) -> tuple[float, ...]:
        """The differences that the interval is compared with."""
        if self.claim.kind == "superior":
            return (self.claim.margin,)
        return (-self.claim.margin, self.claim.margin)

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
        verdicts.append(replace(one.verdict, warnings=_unit_warnings(one.verdict), stopping=stopping))
    return verdicts


def judge_study(expansion: Expansion, records: Records) -> list[Verdict]:
    """The verdicts of a study from the records of its runs; ``incomplete`` while a run that a claim needs has none.

    Where keys are tuned, every arm is judged, seed by seed, by the run at the value that validates best.
    """
    study = expansion.study
    of_arms = arm_records(expansion, records)
    tables = [scores(claim, expansion, of_arms) for claim in study.claims]
    of_images = {}
    if study.scope == "images":
        directories = arm_directories(expansion, records)
        of_images = {claim.id: images.variance_of(claim, study, directories, expansion.seeds) for claim in study.claims}
    verdicts = judge(study.claims, tables, study.seeds, study.alpha, of_images)
    if study.tune:
        verdicts = [replace(verdict, summary=f"{verdict.summary} {study.tune.described}") for verdict in verdicts]
    return [_with_warnings(verdict, expansion, of_arms) for verdict in verdicts]


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
        if arm not in wanted:
            ended.setdefault(arm, len(expansion.seeds))
    return replace(expansion, interim_analysis=expansion.interim_analysis + 1, ended=ended)


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


# ---- scores ----------------------------------------------------------------------------------------------------------------


def scores(claim: Claim, expansion: Expansion, records: Records) -> Scores:
    """The scores of a claim's two sides. A diverged run scores what the claim declares, by default what guessing would."""
    by_arm = {arm: _scores_of_arm(arm, claim, expansion, records) for arm in expansion.study.arms_of(claim)}
    sides = {}
    for side, weights in zip(claim.sides, expansion.study.weights(claim), strict=True):
        sides[side] = _weighted(by_arm, weights, expansion.seeds)
    return sides


def _scores_of_arm(arm: str, claim: Claim, expansion: Expansion, records: Records) -> dict[int, float]:
    """An arm's scores in the claim's metric by seed, as far as there are records."""
    found = {}
    for seed in expansion.seeds:
        record = records[arm, seed]
        if record is None:
            continue
        if record.status == "diverged":
            found[seed] = score_of_divergence(claim, expansion.arms[arm].data.classes)
        elif claim.metric in record.metrics:
            found[seed] = record.metrics[claim.metric]
        else:
            raise Refused(f"claim {claim.id!r}: the run {record.run_id} has no {claim.metric} (data.validation is 0?)")
    return found


def _weighted(by_arm: Scores, weights: Mapping[str, float], seeds: Sequence[int]) -> dict[int, float]:
    """The weighted sum of arms' scores, for every seed that all of them have."""
    complete = [seed for seed in seeds if all(seed in by_arm[arm] for arm in weights)]
    if len(weights) == 1:
        (arm,) = weights
        return {seed: by_arm[arm][seed] for seed in complete}
    sums = {}
    for seed in complete:
        total = sum(weight * by_arm[arm][seed] for arm, weight in weights.items())
        sums[seed] = round(total, 9)  # so that equal scores in all arms leave 0, and not what floating point makes of it
    return sums


def score_of_divergence(claim: Claim, classes: int) -> float:
    """What a diverged run of so many classes scores in a claim: what it declares, or what guessing would."""
    if claim.diverged is not None:
        return claim.diverged
    return claim.measure.guessing(classes)


def has_failed(record: Record, claims: Sequence[Claim]) -> bool:
    """Whether a run diverged, or scored worse than one of the claims declares to be a failure."""
    if record.status == "diverged":
        return True
    measured = [claim for claim in claims if claim.metric in record.metrics]
    return any(claim.fails(record.metrics[claim.metric]) for claim in measured)


# ---- what the scores and the runs say against a verdict ----------------------------------------------------------------------


def _unit_warnings(verdict: Verdict) -> tuple[str, ...]:
    """Warn of accuracies that look like fractions, and where the unit is not known of a margin that looks like percent."""
    claim = verdict.claim
    interaction = len(claim.effect) > 1  # its scores are differences, which may be as small
    values = [*verdict.scores[0].values(), *verdict.scores[1].values()]
    if interaction or not values:
        return ()
    low, high = min(values), max(values)
    if claim.measure.in_percent and low >= 0 and high <= 1:
        return ("all scores lie between 0 and 1; accuracies are in percent, 0 to 100, and margins in percentage points",)
    if not claim.measure.unit and 0 < high - low <= claim.margin:
        whole = f"the whole range of the scores, {low:g} to {high:g}"
        return (f"the margin of {claim.margin:g} is as large as {whole}; it must be in the same unit as they are",)
    return ()


def _with_warnings(verdict: Verdict, expansion: Expansion, records: Records) -> Verdict:
    """The verdict with what the number of images and the arms' runs say against it."""
    split = split_of(verdict.claim.metric)
    arms = [_Accuracy.of(arm, split, expansion, records) for arm in expansion.study.arms_of(verdict.claim)]
    warnings = [
        *verdict.warnings,
        *_of_few_images(verdict.claim, min(arm.images for arm in arms)),
        *failure_warnings(verdict, failed_runs(verdict, expansion, records)),
    ]
    if not all(arm.at_chance for arm in arms):
        return replace(verdict, warnings=tuple(warnings))
    found = " and ".join(f"{arm.mean:.2f}%" for arm in arms)
    chance = " and ".join(dict.fromkeys(f"{arm.chance:.2f}%" for arm in arms))
    all_arms = "both" if len(arms) == 2 else f"all {len(arms)}"
    metric = f"{split}/{ACCURACY}"
    at_chance = f"{all_arms} arms are at chance: {found} in {metric}, which is not more than guessing ({chance}) explains"
    meaningless = f"{all_arms.capitalize()} arms are at chance, so this says nothing about what they differ in."
    if verdict.claim.measure.unit == "nats":  # losses may differ where no arm tells the classes apart
        guessed = "the loss tells how sure they are of answers that are guessed"
        meaningless = f"{all_arms.capitalize()} arms are at chance in {metric}: {guessed}."
    return replace(verdict, summary=f"{verdict.summary} {meaningless}", warnings=(at_chance, *warnings))


def _of_few_images(claim: Claim, images: int) -> list[str]:
    """Warn of a margin that a single image more or less exceeds; the number of images is 0 where it is not known."""
    if not claim.measure.in_percent or not images:
        return []
    single = 100 / images
    if not 0 < claim.margin < single:
        return []
    one = f"one image more or less of {images:,} is {single:.2g} points"
    return [f"the margin of {claim.margin:g} is less than a single image: {one}"]


def failed_runs(verdict: Verdict, expansion: Expansion, records: Records) -> list[tuple[str, int]]:
    """The runs of a study, by (arm, seed), that failed among those that a verdict is of."""
    failed = []
    for arm in expansion.study.arms_of(verdict.claim):
        for seed in verdict.differences:
            record = records[arm, seed]
            if record and has_failed(record, [verdict.claim]):
                failed.append((arm, seed))
    return failed


def failure_warnings(verdict: Verdict, failed: Sequence[tuple[str, int]]) -> list[str]:
    """What failed runs, by (arm, seed), do to a verdict."""
    pairs = len({seed for _, seed in failed if seed in verdict.differences})
    if 2 * pairs > verdict.n:
        return [f"failures decide it: in {pairs} of {verdict.n} seeds a run of these arms failed"]
    if pairs and verdict.claim.statistic == "mean":
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
    """Images of the split; 0 where neither a record nor the configuration tells."""

    @classmethod
    def of(cls, arm: str, split: str, expansion: Expansion, records: Records) -> "_Accuracy":
        metric, data = f"{split}/{ACCURACY}", expansion.arms[arm].data
        done = [record for seed in expansion.seeds if (record := records[arm, seed])]
        chance = metric_of(metric).guessing(data.classes)
        for record in done:
            chance = max(chance, record.majority_class.get(metric, 0.0))
        accuracies = [record.metrics[metric] for record in done if metric in record.metrics]
        if not accuracies:
            accuracies = [chance] * len(done)
        return cls(
            mean=fmean(accuracies) if accuracies else math.nan,
            chance=chance,
            images=images_of_split(split, done) or _planned_images(split, expansion, arm),
        )

    @property
    def at_chance(self) -> bool:
        return statistics.at_chance(self.mean, self.chance, self.images)


def images_of_split(split: str, records: Sequence[Record]) -> int:
    """Images of a split as the records tell, 0 without records."""
    if split == "val":
        return max((record.validation_images for record in records), default=0)
    return max((record.test_images for record in records), default=0)


def _planned_images(split: str, expansion: Expansion, arm: str) -> int:
    """Images of a split as an arm's configuration tells, 0 where only the files do."""
    _, validation, test = expansion.arms[arm].data.images()
    return validation if split == "val" else test
