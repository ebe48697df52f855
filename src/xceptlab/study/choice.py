"""The runs that stand for an arm where keys are tuned: at every seed the one whose value validates best.

``Expansion`` knows the runs by (trial, seed): ``residual@0.1``, 0. ``arm_records`` and ``arm_directories`` go from there to those
by (arm, seed), on which claims are judged. In a study that tunes nothing a trial is an arm, and the two are the same.
"""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xceptlab.errors import Refused
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.metrics import metric_of
from xceptlab.runs.record import Record
from xceptlab.study.expansion import Expansion

Records = Mapping[tuple[str, int], Record | None]
"""Records, or None where a run has none yet: of all runs by (trial, seed), or of those that stand for the arms by (arm, seed)."""

APART = 2.0
"""Standard errors by which two validation accuracies must differ for a validation set to tell them apart."""


def chosen(expansion: Expansion, records: Records) -> dict[tuple[str, int], str]:
    """By (arm, seed) the name of the trial whose run stands for the arm; left out while one of its trials has no record.

    The test split has no part in it, nor have other arms and seeds. A run that diverged is chosen only where all of them did.
    """
    found = {}
    for seed in expansion.seeds:
        for arm in expansion.arms:
            best = _best_trial(arm, seed, expansion, records)
            if best is not None:
                found[arm, seed] = best
    return found


def _best_trial(arm: str, seed: int, expansion: Expansion, records: Records) -> str | None:
    """The trial of an arm that validates best at a seed, of equal ones the first; None while one of them has no record."""
    tune = expansion.study.tune
    scores = {}
    for name in expansion.trials_of(arm):
        record = records.get((name, seed))
        if record is None:
            return None
        scores[name] = _selection_score(record, tune.select) if tune else 0.0
    return max(scores, key=lambda name: scores[name])


def arm_records(expansion: Expansion, records: Records) -> Records:
    """The records that stand for the arms, by (arm, seed); None where there is none, or none is asked for."""
    found: dict[tuple[str, int], Record | None] = dict.fromkeys(_arms_by_seed(expansion))
    for (arm, seed), trial in chosen(expansion, records).items():
        found[arm, seed] = records[trial, seed]
    return found


def arm_directories(expansion: Expansion, records: Records) -> dict[tuple[str, int], RunDirectory]:
    """The directories of the runs that stand for the arms, by (arm, seed), as far as they are known."""
    directories = expansion.directories()
    if expansion.study.tune is None:
        return directories
    choice = chosen(expansion, records)
    return {(arm, seed): directories[trial, seed] for (arm, seed), trial in choice.items()}


def records_at(expansion: Expansion, records: Records, number: int) -> Records:
    """The records of the arms at one fixed value, the same in all of them, by (arm, seed)."""
    assert expansion.study.tune
    values = expansion.study.tune.values()[number]
    names = {trial.arm: name for name, trial in expansion.trials.items() if trial.values == values}
    return {(arm, seed): records.get((names[arm], seed)) for arm, seed in _arms_by_seed(expansion)}


def _arms_by_seed(expansion: Expansion) -> list[tuple[str, int]]:
    """Every (arm, seed), seed by seed."""
    return [(arm, seed) for seed in expansion.seeds for arm in expansion.arms]


def _selection_score(record: Record, select: str) -> float:
    """What the choice maximises."""
    if record.status == "diverged":
        return -math.inf
    if select not in record.metrics:
        raise Refused(f"tune.select: the run {record.run_id} has no {select}")
    score = record.metrics[select]
    return -score if metric_of(select).lower_is_better else score


def refuse_untunable(expansion: Expansion, file: Path) -> None:
    """Refuse values that a configuration does not allow, that are one science, or that nothing is there to choose by.

    Raises:
        Refused: One line that names the study file.
    """
    tune = expansion.study.tune
    if tune is None:
        return
    try:
        trials = expansion.trials
    except Refused as error:
        raise Refused(f"{file}: tune.keys: {error}") from None
    seen: dict[str, str] = {}
    for name, trial in trials.items():
        if trial.config.run_id in seen:
            raise Refused(f"{file}: tune.keys: {seen[trial.config.run_id]} and {name} are the same science")
        seen[trial.config.run_id] = name
    for arm, config in expansion.arms.items():
        if not config.data.has_validation_images:
            raise Refused(f"{file}: tune.select: {tune.select} needs data.validation, which is 0 in arm {arm!r}")
        if tune.select.endswith("top5") and config.data.classes <= 5:
            raise Refused(f"{file}: tune.select: {tune.select} is always 100% with {config.data.classes} classes; select top1")


def tuning_warnings(expansion: Expansion, records: Records) -> list[str]:
    """Where the values that were tried, or the images to choose by, were too few, a sentence each."""
    if expansion.study.tune is None:
        return []
    return [*_at_the_edge(expansion, records), *_indistinct(expansion, records)]


def _at_the_edge(expansion: Expansion, records: Records) -> list[str]:
    """Arms whose best value lies at an end of those that were tried in more than half of the seeds."""
    assert expansion.study.tune
    choice = chosen(expansion, records)
    values = expansion.study.tune.values()
    warnings = []
    for arm in expansion.arms:
        trials = [expansion.trials[name] for (chooser, _), name in choice.items() if chooser == arm]
        for key in expansion.study.tune.keys:
            tried = [each[key] for each in values]
            if not all(map(_is_number, tried)):
                continue  # of names there is no end
            if len(set(tried)) < 3:
                continue  # of two values either is at an end
            best = [trial.values[key] for trial in trials]
            beyond = {min(tried), max(tried)} - {0}  # of what cannot be below 0 nothing lies beyond
            ends = Counter(value for value in best if value in beyond)
            if 2 * ends.total() > len(best):
                where = " and ".join(f"{value} in {count}" for value, count in sorted(ends.items()))
                warnings.append(
                    f"Tuning: the best {key} of {arm} is at the edge of the values that were tried ({where} of "
                    f"{len(best)} seeds); a better one may lie beyond."
                )
    return warnings


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _indistinct(expansion: Expansion, records: Records) -> list[str]:
    """Whether chance chooses, since there are too few images to tell the best value from the next one.

    The standard error is that of a difference of two independent binomial shares. Both values are validated on the same images,
    whose correctness is not kept one by one; where they err on the same ones the true error is smaller, so that this warns rather
    too often than too seldom.
    """
    assert expansion.study.tune
    select = expansion.study.tune.select
    if select.endswith("loss"):
        return []  # whose standard error is not known
    warnings = []
    for arm, config in expansion.arms.items():
        close, judged, largest, images = 0, 0, 0.0, 0
        for seed in expansion.seeds:
            tried = [records.get((name, seed)) for name in expansion.trials_of(arm)]
            done = [record for record in tried if record and record.status == "finished"]
            if len(done) < 2:
                continue
            best, second = sorted((record.metrics[select] for record in done), reverse=True)[:2]
            images = done[0].validation_images or config.data.images()[1]
            if not images:
                continue  # their number is not known
            error = math.sqrt((best * (100 - best) + second * (100 - second)) / images)
            largest = max(largest, error)
            judged += 1
            close += best - second <= APART * error
        if 2 * close > judged:
            warnings.append(
                f"Tuning: {images:,} validation images cannot tell the two best values of {arm} apart in {close} of {judged} "
                f"seeds (not by {APART:g} standard errors, of up to {largest:.2g} points); chance chooses between them, which "
                "adds to the spread over seeds."
            )
    return warnings
