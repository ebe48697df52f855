"""Warn where a verdict may mean less than it says, by its scores, its images and its runs; each
warning is a clause.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from xceptlab.config.schema import DataConfig
from xceptlab.runs.metrics import ACCURACY, metric_of, split_of
from xceptlab.runs.record import Record
from xceptlab.study import statistics
from xceptlab.study.choice import ArmRecords
from xceptlab.study.claims import Claim
from xceptlab.study.contrasts import arms_of, weights
from xceptlab.study.expansion import Expansion
from xceptlab.study.run_scores import has_failed, score_of_divergence
from xceptlab.study.verdict import Verdict
from xceptlab.text import counted


def of_fractions(verdict: Verdict) -> tuple[str, ...]:
    """Return a warning, in a tuple of one, if all scores of both sides are from 0 to 1 though the
    metric is in percent, so that they may be fractions; else empty. It is for another tool's
    scores: those of runs are always in percent.
    """
    values = [*verdict.scores[0].values(), *verdict.scores[1].values()]
    is_percent = verdict.claim.measure.in_percent
    if values and is_percent and min(values) >= 0 and max(values) <= 1:
        return (
            "all scores lie between 0 and 1; accuracies are in percent, 0 to 100, and margins in percentage points",
        )
    return ()


def of_margin(verdict: Verdict) -> tuple[str, ...]:
    """Return a warning, in a tuple of one, if the margin is at least as large as the whole range of
    the scores: it may be in another unit than they are, such as percent. Else empty.

    Empty also where the metric's unit is known, where all scores are equal, and for an interaction.
    """
    claim = verdict.claim
    # The scores of an interaction are differences, which may well be as small.
    is_interaction = len(claim.effect) > 1
    values = [*verdict.scores[0].values(), *verdict.scores[1].values()]
    if is_interaction or not values:
        return ()
    low, high = min(values), max(values)
    if not claim.measure.unit and 0 < high - low <= claim.margin:
        whole = f"the whole range of the scores, {low:g} to {high:g}"
        return (
            f"the margin of {claim.margin:g} is as large as {whole}; it must be in the same unit as they are",
        )
    return ()


IMAGES_OF_SPLIT = {
    "test": ("name", "content", "test_images"),
    "val": ("name", "content", "validation", "validation_seed", "train_images"),
}
"""By split the fields of ``DataConfig`` that decide which images it has. Where ``validation`` is 0,
those after it change nothing, as the data set then has a part of its own for validation.
"""


def of_other_images(claim: Claim, expansion: Expansion) -> tuple[str, ...]:
    """Return a warning if the arms of a claim are scored on different images, as where they differ
    in ``data.test_images``: a difference then need not be one of the networks. Else empty.
    """
    data = {arm: expansion.arms[arm].data for arm in arms_of(claim, expansion.study)}
    split = split_of(claim.metric)
    fields = IMAGES_OF_SPLIT[split]
    if split == "val" and not any(one.validation for one in data.values()):
        fields = fields[: fields.index("validation")]
    differences = []
    for field in fields:
        values = {arm: _chosen_images(one, field) for arm, one in data.items()}
        if _sides_differ(values, claim, expansion):
            of_arms = ", ".join(f"{value} in {arm}" for arm, value in values.items())
            differences.append(f"data.{field} is {of_arms}")
    if not differences:
        return ()
    return (f"its arms are scored on different images: {'; '.join(differences)}",)


def _chosen_images(data: DataConfig, field: str) -> Any:
    """Return the value of a field of ``IMAGES_OF_SPLIT``; for a number of images that is 0, which
    asks for all of them, how many these are, if that is known.
    """
    train, held_out, test = data.images()
    known = {"train_images": train + held_out, "test_images": test}
    return known.get(field) or getattr(data, field)


def _sides_differ(values: Mapping[str, Any], claim: Claim, expansion: Expansion) -> bool:
    """Whether the two sides of a claim differ in a value that each arm has, given by arm. The two
    sides of an effect do not if each value has the same weight in both.
    """
    weight_by_value = []
    for side in weights(claim, expansion.study):
        total: defaultdict[Any, float] = defaultdict(float)
        for arm, weight in side.items():
            total[values[arm]] += abs(weight)
        weight_by_value.append({value: round(weight, 9) for value, weight in total.items()})
    return weight_by_value[0] != weight_by_value[1]


def of_trained_weights(claim: Claim, expansion: Expansion) -> tuple[str, ...]:
    """Return a warning if the arms of a claim start from different weights, of which some were
    trained before (``model.weights``). Else empty.
    """
    models = {arm: expansion.arms[arm].model for arm in arms_of(claim, expansion.study)}
    digests = {arm: model.weights_digest for arm, model in models.items()}
    if not _sides_differ(digests, claim, expansion):
        return ()
    trained = [arm for arm, model in models.items() if model.weights]
    verb = "starts" if len(trained) == 1 else "start"
    return (
        f"{' and '.join(trained)} {verb} from weights whose own training no budget here counts; "
        "the verdict is on these weights, not on pretraining as such",
    )


def with_warnings(verdict: Verdict, expansion: Expansion, records: ArmRecords) -> Verdict:
    """Return the verdict with further warnings: of arms that are scored on different images, or start
    from different trained weights, of too few images for the margin, of failed runs, and, if each
    arm of the claim is at chance or diverged, of that. The summary says the latter, too, and how
    many runs of each arm diverged.

    Args:
        verdict: The verdict.
        expansion: The study.
        records: The records of the runs that stand for the arms, by (arm, seed).
    """
    split = split_of(verdict.claim.metric)
    arms = [
        _Accuracy.of(arm, split, expansion, records)
        for arm in arms_of(verdict.claim, expansion.study)
    ]
    warnings = [
        *verdict.warnings,
        *of_other_images(verdict.claim, expansion),
        *of_trained_weights(verdict.claim, expansion),
        *_of_few_images(verdict.claim, min(arm.images for arm in arms)),
        *of_failures(verdict, failed_runs(verdict, expansion, records)),
    ]
    summary = " ".join([verdict.summary, *_of_diverged_runs(verdict, expansion, records)])
    if not all(arm.at_chance for arm in arms):
        return replace(verdict, summary=summary, warnings=tuple(warnings))
    found = " and ".join(arm.described for arm in arms)
    chance = " and ".join(dict.fromkeys(f"{arm.chance:.2f}%" for arm in arms))
    all_arms = "both" if len(arms) == 2 else f"all {len(arms)}"
    have_scores = all(arm.finished for arm in arms)
    state = (
        f"{all_arms} arms are at chance"
        if have_scores
        else f"{all_arms} arms are at chance or diverged"
    )
    metric = f"{split}/{ACCURACY}"
    at_chance = f"{state}: {found} in {metric}, which is not more than guessing ({chance}) explains"
    # Losses may truly differ where no arm tells the classes apart.
    if verdict.claim.measure.unit == "nats" and have_scores:
        meaning = f" in {metric}: the loss tells how sure they are of answers that are guessed."
    else:
        meaning = ", so this says nothing about what they differ in."
    meaningless = state[0].upper() + state[1:] + meaning
    return replace(verdict, summary=f"{summary} {meaningless}", warnings=(at_chance, *warnings))


def _of_diverged_runs(verdict: Verdict, expansion: Expansion, records: ArmRecords) -> list[str]:
    """Return a sentence for each arm of the claim of which runs diverged, at the seeds of the
    verdict's pairs: how many, and the score that each counts as.
    """
    sentences = []
    for arm in arms_of(verdict.claim, expansion.study):
        of_seeds = [records[arm, seed] for seed in verdict.differences]
        diverged = sum(record is not None and record.status == "diverged" for record in of_seeds)
        if diverged:
            score = score_of_divergence(verdict.claim, expansion.arms[arm].data.classes)
            sentences.append(
                f"{diverged} of {counted(len(of_seeds), 'run')} of {arm} diverged; each counts as {score:.4g}."
            )
    return sentences


def _of_few_images(claim: Claim, images: int) -> list[str]:
    """Return a warning of a margin above 0 that is smaller than what a single image changes in an
    accuracy; empty for any other margin or metric, and where the number of images is not known (0).
    """
    if not claim.measure.is_accuracy or not images:
        return []
    single = 100 / images
    if not 0 < claim.margin < single:
        return []
    one = f"one image more or less of {images:,} is {single:.2g} points"
    return [f"the margin of {claim.margin:g} is less than a single image: {one}"]


def failed_runs(
    verdict: Verdict, expansion: Expansion, records: ArmRecords
) -> list[tuple[str, int]]:
    """Return the failed runs, each as (arm, seed), among those that a verdict rests on: the runs of
    the claim's arms at the seeds of ``verdict.differences``.

    A run has failed if it diverged, or if its score is worse than the claim's ``failed``.

    Args:
        verdict: The verdict on the claim.
        expansion: The study.
        records: The records of the runs that stand for the arms, by (arm, seed).
    """
    failed = []
    for arm in arms_of(verdict.claim, expansion.study):
        for seed in verdict.differences:
            record = records[arm, seed]
            if record and has_failed(record, [verdict.claim]):
                failed.append((arm, seed))
    return failed


def of_failures(verdict: Verdict, failed: Sequence[tuple[str, int]]) -> list[str]:
    """Return a warning, in a list of one, if failed runs are in more than half of a verdict's pairs,
    and so decide it, or if the claim is on a mean and they are in any pair, which makes its test
    unsound; an empty list otherwise.

    Args:
        verdict: The verdict.
        failed: The failed runs of the claim's arms, each as (arm, seed).
    """
    pairs = len({seed for _, seed in failed if seed in verdict.differences})
    if 2 * pairs > verdict.n:
        return [f"failures decide it: in {pairs} of {verdict.n} seeds a run of these arms failed"]
    if pairs and verdict.claim.statistic == "mean":
        listed = ", ".join(f"{arm} seed {seed}" for arm, seed in sorted(failed))
        return [
            f"runs failed ({listed}), and no test of a mean is sound there (`statistic: median` is)"
        ]
    return []


@dataclass(frozen=True, kw_only=True)
class _Accuracy:
    """How well an arm tells the classes apart on the images of a split."""

    mean: float
    """Mean top-1 accuracy in percent over the runs that finished; ``chance`` where all runs
    diverged; NaN without runs.
    """
    runs: int
    """The number of runs that are done."""
    finished: int
    """The number of runs that are done and did not diverge."""
    chance: float
    """Top-1 accuracy in percent of guessing, or of always answering with the most frequent class,
    whichever is higher.
    """
    images: int
    """The number of images of the split; 0 where neither a record nor the configuration tells."""

    @classmethod
    def of(cls, arm: str, split: str, expansion: Expansion, records: ArmRecords) -> "_Accuracy":
        """Return the accuracy of an arm, given by name, on the images of a split (``val`` or
        ``test``), from its runs that have a record.
        """
        metric = f"{split}/{ACCURACY}"
        of_all_seeds = [records[arm, seed] for seed in expansion.seeds]
        done = [record for record in of_all_seeds if record]
        chance = metric_of(metric).guessing(expansion.arms[arm].data.classes)
        for record in done:
            chance = max(chance, record.majority_class.get(metric, 0.0))
        accuracies = [record.metrics[metric] for record in done if metric in record.metrics]
        if accuracies:
            mean = fmean(accuracies)
        elif done:
            mean = fmean([chance] * len(done))
        else:
            mean = math.nan
        images = images_of_split(split, done) or _planned_images(split, expansion, arm)
        return cls(
            mean=mean, runs=len(done), finished=len(accuracies), chance=chance, images=images
        )

    @property
    def described(self) -> str:
        """The accuracy in words, with the number of runs that have one, if some diverged; ``none``
        where all did.
        """
        if not self.finished:
            return f"none, as {counted(self.runs, 'run')} diverged,"
        if self.finished < self.runs:
            return f"{self.mean:.2f}% ({self.finished} of {self.runs} runs, the others diverged)"
        return f"{self.mean:.2f}%"

    @property
    def at_chance(self) -> bool:
        """Whether this accuracy is not significantly above ``chance``, by a one-sided binomial test
        at 1% on ``images`` images; without a number of images, whether it is not above ``chance``
        at all. False without runs.
        """
        return statistics.at_chance(self.mean, self.chance, self.images)


def images_of_split(split: str, records: Sequence[Record]) -> int:
    """Return the number of images of a split, ``val`` or the test split, from the records of runs:
    the largest that any of them has; 0 where none tells it.
    """
    if split == "val":
        return max((record.validation_images for record in records), default=0)
    return max((record.test_images for record in records), default=0)


def _planned_images(split: str, expansion: Expansion, arm: str) -> int:
    """Return the number of images of a split, ``val`` or the test split, from an arm's
    configuration; 0 where only the data's files tell it, and for validation images of the data
    set's own.
    """
    _, validation, test = expansion.arms[arm].data.images()
    return validation if split == "val" else test
