"""Gather what a report shows of a study: ``summarise`` reads records and logs once, for the tables,
the figures, the page and the terminal.

In a study that tunes keys a *trial* is an arm at one of the values, such as ``residual@0.1``, and
at every seed the run of one trial, the chosen one, stands for the arm. In any other study the
trials are the arms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xceptlab.files import read
from xceptlab.report import caveats
from xceptlab.report.budgets import Budgets, compare_budgets
from xceptlab.report.calibrated import Calibrated, calibrated
from xceptlab.report.sampling import Sampling, sampling_errors
from xceptlab.report.tuned import Tuned, tuned
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.metrics import ACCURACY, metric_of, split_of
from xceptlab.runs.record import Record, packages_of
from xceptlab.study import choice, statistics
from xceptlab.study.calibration import calibrate_study
from xceptlab.study.choice import ArmRecords, Records
from xceptlab.study.contrasts import arms_of
from xceptlab.study.expansion import Expansion
from xceptlab.study.judging import judge_study
from xceptlab.study.run_scores import has_failed, score_of_divergence
from xceptlab.study.statistics import Array
from xceptlab.study.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One arm of a study in numbers, as a row of the table of arms."""

    name: str
    n: int
    """Number of this arm's runs with a record."""
    diverged: int
    """Number of this arm's recorded runs whose loss or final evaluation was not finite; they have
    no metrics.
    """
    failed: int
    """Number of this arm's recorded runs that diverged or scored worse than a claim on this arm
    declares to be a failure.
    """
    mean: float
    """Mean of the study's main metric over the recorded runs that have it and the diverged ones,
    which score what the first claim declares, or else what guessing does. NaN without any, and
    where a run diverged and its score is not known.
    """
    spread: float
    """Standard deviation over seeds of the scores of which ``mean`` is the mean; NaN where that is,
    and with fewer than 2 scores.
    """
    sampling_error: float
    """Standard error that the finite test set adds to the accuracy of a run that finished, in
    percentage points; NaN if the study's main metric is no accuracy on the test split, and without
    such a run.
    """
    parameters: int | None
    """Number of trainable parameters; None without a run."""
    macs: int | None
    """Multiply-accumulates of one image's forward pass; None without a run."""
    images_per_second: float
    """Mean over the recorded runs of the images that all devices together trained on per second;
    NaN where no run has a speed.
    """


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Learning curves of an arm, of R runs at E epochs."""

    epochs: Array
    """Epochs (E,), ascending, at which any run has a value."""
    values: Array
    """The values (R, E) of one metric of every run at every epoch; NaN where a run has no value."""
    seeds: list[int]
    """Seeds of the R runs."""


@dataclass(frozen=True, kw_only=True)
class EffectRow:
    """An effect of a factorial study in words and numbers, in the unit of the metric's differences."""

    name: str
    """Name of the effect, such as ``model.residual: all → none``."""
    estimate: float
    """Mean of the effect over seeds."""
    low: float
    """Lower end of the confidence interval at level 1 - alpha."""
    high: float
    """Upper end of the confidence interval at level 1 - alpha."""
    p_adjusted: float
    """The p-value of no effect, after Holm's correction over all effects; NaN where every seed has
    the same effect.
    """


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Everything that a report shows."""

    expansion: Expansion
    records: Records
    """Records of all runs, by (trial, seed); None where a run is not done."""
    arm_records: ArmRecords
    """Records of the runs that stand for the arms, by (arm, seed); None where this run is not done,
    not chosen yet, or not to be trained, since the arm's claims were settled with fewer seeds.
    """
    verdicts: list[Verdict]
    """A verdict for each claim, in the study's order."""
    metric: str
    """The study's main metric, by which the arms are compared: the first claim's or, without
    claims, ``test/top1``.
    """
    arms: list[ArmRow]
    """A row for each arm, in the study's order; the first one is the baseline."""
    curve_metric: str
    """Metric of the learning curves: accuracy in validation, or in training if any arm has no
    validation images.
    """
    curves: dict[str, Curve]
    """Learning curves by arm."""
    sampling: dict[str, Sampling]
    """Sources of the error of each claim's mean difference, by the claim's id; only for claims on
    paired means whose runs have kept their values for each test image.
    """
    budgets: dict[str, Budgets]
    """How the budgets of each claim's arms differ, by the claim's id."""
    effects: list[EffectRow]
    """The effects of a factorial study (``grid``); empty in any other one, and before all arms have
    2 seeds in common.
    """
    tuned: Tuned | None
    """What tuning chose and found; None where nothing is tuned."""
    calibrated: Calibrated | None
    """How often verdicts are wrong for data like these; None where it was not asked for."""
    environment: dict[str, str]
    """Devices, code and versions that the runs were made with, by name such as ``device``; several
    values, joined by commas, where runs differ.
    """
    links: dict[tuple[str, int], str]
    """Addresses of those runs that were sent to W&B, by (trial, seed)."""
    warnings: list[str]
    """What a reader should know before believing the verdicts, a sentence or two each."""

    @property
    def done(self) -> int:
        """Number of runs with a record."""
        return sum(record is not None for record in self.records.values())


def summarise(expansion: Expansion, calibrate: bool = False) -> Summary:
    """Return everything that a report shows of a study: read the records and logs of its runs, and
    judge its claims.

    Args:
        expansion: The study.
        calibrate: Whether to simulate how often such verdicts are wrong, which takes some seconds;
            only for a study that has claims.

    Raises:
        Refused: A file of a run or of the registration is damaged, or does not fit the study.
    """
    records = expansion.records()
    arm_records = choice.arm_records(expansion, records)
    directories = expansion.directories()
    arm_directories = choice.arm_directories(expansion, records)
    metric = _main_metric(expansion)
    curve_metric = _curve_metric(expansion)
    logs = _logs(arm_directories)
    verdicts = judge_study(expansion, records)
    sampling = sampling_errors(verdicts, expansion.study, arm_directories)
    reached = _reached(directories, records)
    failures = _failures(directories, records)
    warnings = caveats.warnings(expansion, records, logs, reached, failures, verdicts, sampling)
    calibration = None
    if calibrate:
        calibration = calibrated(calibrate_study(expansion, arm_records, verdicts))
        warnings += calibration.warnings
    scores_if_diverged = {}
    for arm in expansion.arms:
        scores_if_diverged[arm] = _score_of_divergence(arm, expansion, metric)
    return Summary(
        expansion=expansion,
        records=records,
        arm_records=arm_records,
        verdicts=verdicts,
        metric=metric,
        arms=[
            _arm(name, expansion, arm_records, metric, score)
            for name, score in scores_if_diverged.items()
        ],
        curve_metric=curve_metric,
        curves={arm: _curve(arm, expansion.seeds, logs, curve_metric) for arm in expansion.arms},
        sampling=sampling,
        budgets=compare_budgets(verdicts, expansion, arm_records, records),
        effects=_effects(expansion, arm_records, metric, scores_if_diverged),
        tuned=tuned(expansion, records, metric, scores_if_diverged),
        calibrated=calibration,
        environment=_environment(records),
        links=_links(directories),
        warnings=warnings,
    )


def _main_metric(expansion: Expansion) -> str:
    """Return the metric by which the arms are compared: the first claim's or, without claims,
    accuracy on the test split.
    """
    claims = expansion.study.claims
    return claims[0].metric if claims else f"test/{ACCURACY}"


def _curve_metric(expansion: Expansion) -> str:
    """Return the metric of the learning curves: accuracy in validation, or in training if any arm
    has no validation images.
    """
    held_out = all(config.data.has_validation_images for config in expansion.arms.values())
    return f"val/{ACCURACY}" if held_out else f"train/{ACCURACY}"


def _reached(
    directories: dict[tuple[str, int], RunDirectory], records: Records
) -> dict[tuple[str, int], float]:
    """Return the epoch that each run without a record has reached by its log, by (trial, seed); 0
    where nothing is logged yet. Runs that have not begun are left out.
    """
    unfinished = {key: directory for key, directory in directories.items() if not records[key]}
    reached = {}
    for key, log in _logs(unfinished).items():
        reached[key] = max((line["epoch"] for line in log), default=0)
    return reached


def _failures(
    directories: dict[tuple[str, int], RunDirectory], records: Records
) -> dict[tuple[str, int], str]:
    """Return why runs without a record failed, by (trial, seed): what ``failure.txt`` in their
    directories says. Runs without this file are left out.
    """
    failures = {}
    for key, directory in directories.items():
        if records[key]:
            continue
        if reason := directory.failure():
            failures[key] = reason
    return failures


def _links(directories: dict[tuple[str, int], RunDirectory]) -> dict[tuple[str, int], str]:
    """Read the addresses of those runs that were sent to W&B, by (trial, seed)."""
    links = {}
    for key, directory in directories.items():
        file = directory.path / "wandb_url"
        if file.is_file():
            links[key] = read(file).strip()
    return links


def _arm(
    name: str,
    expansion: Expansion,
    arm_records: ArmRecords,
    metric: str,
    score_if_diverged: float,
) -> ArmRow:
    """Summarise the records of one arm, by its name, as its row in the table of arms. A run that
    diverged has ``score_if_diverged`` in ``metric``.
    """
    of_seeds = [arm_records[name, seed] for seed in expansion.seeds]
    done = [record for record in of_seeds if record]
    diverged = sum(record.status == "diverged" for record in done)
    finished = [record.metrics[metric] for record in done if metric in record.metrics]
    values = np.array(finished + diverged * [score_if_diverged])
    # A run that diverges before the first line of its log has no speed.
    speeds = [record.images_per_second for record in done if record.images_per_second]
    claims = [claim for claim in expansion.study.claims if name in arms_of(claim, expansion.study)]
    images = max((record.test_images for record in done), default=0)
    return ArmRow(
        name=name,
        n=len(done),
        diverged=diverged,
        failed=sum(has_failed(record, claims) for record in done),
        mean=float(values.mean()) if len(values) else math.nan,
        spread=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        sampling_error=_sampling_error(metric, finished, images),
        parameters=done[0].parameters if done else None,
        macs=done[0].macs if done else None,
        images_per_second=float(np.mean(speeds)) if speeds else math.nan,
    )


def _sampling_error(metric: str, scores: list[float], images: int) -> float:
    """Compute the binomial standard error, in percentage points, of one run's accuracy on so many
    test images.

    Args:
        metric: The metric of the scores.
        scores: Scores of an arm's runs that finished, whose mean is taken for the accuracy.
        images: Number of test images.

    Returns:
        NaN where the metric is no accuracy on the test split, or where there are no scores or no
        images.
    """
    on_test = split_of(metric) == "test" and metric_of(metric).is_accuracy
    if not on_test or not images or not scores:
        return math.nan
    accuracy = float(np.mean(scores))
    return math.sqrt(accuracy * (100 - accuracy) / images)


def _score_of_divergence(arm: str, expansion: Expansion, metric: str) -> float:
    """Return the score that a diverged run of an arm is given in the study's main metric: the one
    that the first claim declares or else, also without claims, that of guessing; NaN where that is
    not known.
    """
    classes = expansion.arms[arm].data.classes
    claims = expansion.study.claims
    if claims:
        return score_of_divergence(claims[0], classes)
    return metric_of(metric).guessing(classes)


Logs = dict[tuple[str, int], list[dict[str, Any]]]
"""Lines of the log of every run that has begun, by (arm, seed) or (trial, seed)."""


def _logs(directories: dict[tuple[str, int], RunDirectory]) -> Logs:
    """Read the log of each run that has begun, by the same keys as ``directories``. The log of a
    run that has logged nothing yet is an empty list.
    """
    logs = {}
    for key, directory in directories.items():
        lines = directory.log()
        if lines or (directory.path / "config.yaml").exists():
            logs[key] = lines
    return logs


def _curve(arm: str, seeds: Sequence[int], logs: Logs, metric: str) -> Curve:
    """Return the learning curves of an arm: the metric at the ends of epochs, for every run that
    has any value.
    """
    by_seed = {}
    for seed in seeds:
        values_at = _ends_of_epochs(logs.get((arm, seed), []), metric)
        if values_at:
            by_seed[seed] = values_at
    epochs = sorted(set().union(*by_seed.values()))
    values = np.full((len(by_seed), len(epochs)), math.nan)
    for run, values_at in enumerate(by_seed.values()):
        for column, epoch in enumerate(epochs):
            values[run, column] = values_at.get(epoch, math.nan)
    return Curve(epochs=np.array(epochs, dtype=float), values=values, seeds=list(by_seed))


def _ends_of_epochs(lines: list[dict[str, Any]], metric: str) -> dict[float, float]:
    """Return the metric's last value in a log at the end of each completed epoch, by epoch."""
    ends = {}
    for line in lines:
        at_end = line["epoch"] % 1 == 0
        if metric in line and at_end:
            ends[line["epoch"]] = line[metric]
    return ends


def _effects(
    expansion: Expansion,
    arm_records: ArmRecords,
    metric: str,
    scores_if_diverged: Mapping[str, float],
) -> list[EffectRow]:
    """Compute main effects and interactions of the factors on a metric, over the seeds with which
    every arm has a score. ``scores_if_diverged`` has by arm the score of a run that diverged.

    Returns:
        Empty for a study that is not factorial, and where the arms have fewer than 2 seeds in
        common, such as before they have finished or where an arm lacks the metric.
    """
    grid = expansion.study.grid
    complete = []
    for seed in expansion.seeds:
        of_arms = _scores_of_arms(arm_records, seed, metric, scores_if_diverged)
        if of_arms:
            complete.append(of_arms)
    if not grid or len(complete) < 2:
        return []
    shape = [len(levels) for levels in grid.values()]
    by_level = np.array(complete).reshape(len(complete), *shape)
    rows = []
    for effect in statistics.effects(by_level, 1 - expansion.study.alpha):
        row = EffectRow(
            name=_name_of_effect(effect, grid),
            estimate=effect.estimate,
            low=effect.low,
            high=effect.high,
            p_adjusted=effect.p_adjusted,
        )
        rows.append(row)
    return rows


def _scores_of_arms(
    arm_records: ArmRecords, seed: int, metric: str, scores_if_diverged: Mapping[str, float]
) -> list[float]:
    """Return the scores of all arms, in the study's order, in a metric such as ``test/top1`` at one
    seed; an empty list where an arm has none. ``scores_if_diverged`` has by arm, in that order, the
    score of a run that diverged.
    """
    scores = []
    for arm, score_if_diverged in scores_if_diverged.items():
        record = arm_records[arm, seed]
        score = record.score(metric, score_if_diverged) if record else None
        if score is None:
            return []
        scores.append(score)
    return scores


def _name_of_effect(effect: statistics.Effect, grid: dict[str, list[Any]]) -> str:
    """Return the name of an effect: for each factor of it the levels that it compares, such as
    ``model.residual: all → none``. Those of an interaction are joined by a multiplication sign.
    ``grid`` has the levels of each factor.
    """
    factors = list(grid)
    changes = []
    for factor_index, level_index in zip(effect.factors, effect.levels, strict=True):
        factor = factors[factor_index]
        levels = grid[factor]
        changes.append(f"{factor}: {levels[0]} → {levels[level_index]}")
    return " × ".join(changes)


def _environment(records: Records) -> dict[str, str]:
    """Return devices, code and versions that the runs were made with, by name such as ``device``;
    several values, joined by commas, where runs differ. Empty before the first record.
    """
    done = choice.done_records(records)
    packages = sorted(packages_of(done))
    values: dict[str, set[str]] = {}
    for record in done:
        for name, value in _made_with(record, packages).items():
            values.setdefault(name, set()).add(value)
    return {name: ", ".join(sorted(different)) for name, different in values.items()}


def _made_with(record: Record, packages: Sequence[str]) -> dict[str, str]:
    """Return device, code and versions that a run was made with, by name such as ``device`` or that
    of one of the ``packages``; ``unknown`` for what its record does not tell.
    """
    revision = str(record.git.get("revision", "unknown"))
    if record.git.get("dirty"):
        revision += " and changes"
    made_with = {
        "revision of the code": revision,
        "device": record.device,
        "arithmetic": record.arithmetic or "unknown",
        "processes of a run": str(record.world_size),
        "precision": record.precision,
        "fingerprint of the data": record.data_fingerprint,
    }
    for package in packages:
        made_with[package] = record.versions.get(package, "unknown")
    return made_with
