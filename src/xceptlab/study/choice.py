"""The runs that stand for an arm where keys are tuned: at every seed the one whose value validates
best.

``Expansion`` knows the runs by (trial, seed): ``residual@0.1``, 0. ``arm_records`` and
``arm_directories`` go from there to those by (arm, seed), on which claims are judged. In a study
that tunes nothing a trial is an arm, and the two are the same.
"""

import math
from collections.abc import Mapping

from xceptlab.errors import Refused
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.metrics import metric_of
from xceptlab.runs.record import Record
from xceptlab.study.expansion import Expansion

Records = Mapping[tuple[str, int], Record | None]
"""Records, or None where a run has none yet: of all runs by (trial, seed), or of those that stand
for the arms by (arm, seed).
"""


def chosen(expansion: Expansion, records: Records) -> dict[tuple[str, int], str]:
    """The name of the trial whose run stands for an arm, by (arm, seed); left out while one of the
    arm's trials has no record.

    The test split has no part in it, nor have other arms and seeds. A run that diverged is chosen
    only where all of them did.
    """
    found = {}
    for seed in expansion.seeds:
        for arm in expansion.arms:
            best = _best_trial(arm, seed, expansion, records)
            if best is not None:
                found[arm, seed] = best
    return found


def _best_trial(arm: str, seed: int, expansion: Expansion, records: Records) -> str | None:
    """The trial of an arm that validates best at a seed, of equal ones the first; None while one of
    them has no record.
    """
    tune = expansion.study.tune
    scores = {}
    for name in expansion.trials_of(arm):
        record = records.get((name, seed))
        if record is None:
            return None
        scores[name] = _selection_score(record, tune.select) if tune else 0.0
    return max(scores, key=lambda name: scores[name])


def arm_records(expansion: Expansion, records: Records) -> Records:
    """The records that stand for the arms, by (arm, seed); None where there is none, or none is
    asked for.
    """
    found: dict[tuple[str, int], Record | None] = dict.fromkeys(_arms_by_seed(expansion))
    for (arm, seed), trial in chosen(expansion, records).items():
        found[arm, seed] = records[trial, seed]
    return found


def arm_directories(expansion: Expansion, records: Records) -> dict[tuple[str, int], RunDirectory]:
    """The directories of the runs that stand for the arms, by (arm, seed), as far as they are
    known.
    """
    directories = expansion.directories()
    if expansion.study.tune is None:
        return directories
    choice = chosen(expansion, records)
    return {(arm, seed): directories[trial, seed] for (arm, seed), trial in choice.items()}


def records_at(expansion: Expansion, records: Records, number: int) -> Records:
    """The records of the arms at one fixed value, the same in all of them, by (arm, seed)."""
    assert expansion.study.tune
    values = expansion.study.tune.trial_values[number]
    names = {trial.arm: name for name, trial in expansion.trials.items() if trial.values == values}
    return {(arm, seed): records.get((names[arm], seed)) for arm, seed in _arms_by_seed(expansion)}


def _arms_by_seed(expansion: Expansion) -> list[tuple[str, int]]:
    """Every (arm, seed), seed by seed."""
    return [(arm, seed) for seed in expansion.seeds for arm in expansion.arms]


def _selection_score(record: Record, select: str) -> float:
    """The value of a run that the choice maximises; minus infinity for one that diverged."""
    if record.status == "diverged":
        return -math.inf
    if select not in record.metrics:
        raise Refused(f"tune.select: the run {record.run_id} has no {select}")
    score = record.metrics[select]
    return -score if metric_of(select).lower_is_better else score
