"""Choose the run by which an arm is judged where keys are tuned: at every seed the run with the
best validation score.

A trial is an arm at one of the tuned values, such as ``residual@0.1``. ``Expansion`` knows the runs
by (trial, seed); claims are judged on those by (arm, seed), which ``arm_records`` and
``arm_directories`` choose. In a study that tunes nothing a trial is an arm, and the two are the
same.
"""

import math
from collections.abc import Mapping
from typing import NewType

from xceptlab.errors import Refused
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.metrics import metric_of
from xceptlab.runs.record import Record
from xceptlab.study.expansion import Expansion

Records = Mapping[tuple[str, int], Record | None]
"""The records of all runs of a study, by (trial, seed); None where a run has not finished. A trial
is the name of an arm at one of the tuned values or, in a study that tunes nothing, of an arm.
"""
ArmRecords = NewType("ArmRecords", Records)
"""The record of the run by which each arm is judged at each seed, by (arm, seed); None where this
run is not trained, has not finished or is not chosen yet.
"""


def done_records(records: Records) -> list[Record]:
    """Return the records of those runs that are done."""
    return [record for record in records.values() if record]


def chosen(expansion: Expansion, records: Records) -> dict[tuple[str, int], str]:
    """Return the trial by whose run each arm is judged at each seed, by (arm, seed). A trial is the
    name of an arm at one of the tuned values; the one with the best score in ``tune.select`` at
    this seed is chosen. In a study that tunes nothing, an arm's only trial is the arm.

    An arm and seed are left out until all of the arm's trials have finished with this seed. The
    test split has no part in the choice, nor have other arms and seeds. A run that diverged is
    chosen only if all runs of the arm with this seed diverged.

    Raises:
        Refused: Keys are tuned, and the record of a run that did not diverge has no score in
            ``tune.select``.
    """
    found = {}
    for seed in expansion.seeds:
        for arm in expansion.arms:
            best = _best_trial(arm, seed, expansion, records)
            if best is not None:
                found[arm, seed] = best
    return found


def _best_trial(arm: str, seed: int, expansion: Expansion, records: Records) -> str | None:
    """Return the trial by whose run an arm is judged at a seed, which is the name of the arm at one
    of the tuned values: the one with the best score in ``tune.select``, the first of equal ones. In
    a study that tunes nothing it is the arm.

    None until all of the arm's trials have finished with this seed.

    Raises:
        Refused: Keys are tuned, and the record of a run that did not diverge has no score in
            ``tune.select``.
    """
    tune = expansion.study.tune
    scores = {}
    for name in expansion.trials_of(arm):
        record = records.get((name, seed))
        if record is None:
            return None
        # Without tuning an arm has one trial, which needs no score to be the best.
        scores[name] = _selection_score(record, tune.select) if tune else 0.0
    return max(scores, key=lambda name: scores[name])


def arm_records(expansion: Expansion, records: Records) -> ArmRecords:
    """Return the record by which each arm is judged at each seed, by (arm, seed): that of its run
    or, where keys are tuned, of its run with the best score in ``tune.select`` at this seed.

    None until the arm's run, or each of its runs where keys are tuned, has finished with this seed,
    and at seeds with which the arm is not trained, since all claims on it were decided or given up
    before.

    Raises:
        Refused: Keys are tuned, and the record of a run that did not diverge has no score in
            ``tune.select``.
    """
    found: dict[tuple[str, int], Record | None] = dict.fromkeys(_arms_by_seed(expansion))
    for (arm, seed), trial in chosen(expansion, records).items():
        found[arm, seed] = records[trial, seed]
    return ArmRecords(found)


def arm_directories(expansion: Expansion, records: Records) -> dict[tuple[str, int], RunDirectory]:
    """Return the directory of the run by which each arm is judged at each seed, by (arm, seed),
    whether it exists or not.

    Where keys are tuned, that is the arm's run with the best score in ``tune.select`` at this seed;
    an arm and seed are left out until all of the arm's runs with this seed have finished. Seeds
    with which an arm is not trained, since all claims on it were decided or given up before, are
    left out, too.

    Raises:
        Refused: Keys are tuned, and the record of a run that did not diverge has no score in
            ``tune.select``.
    """
    directories = expansion.directories()
    if expansion.study.tune is None:
        return directories
    found = {}
    for (arm, seed), trial in chosen(expansion, records).items():
        found[arm, seed] = directories[trial, seed]
    return found


def records_at(expansion: Expansion, records: Records, number: int) -> ArmRecords:
    """Return the records of every arm at one and the same tuned value, by (arm, seed).

    A record is None where the run has not finished or is not trained. The study must tune keys;
    ``number`` is the value's index in its ``Tune.trial_values``.
    """
    trial_of_arm = _trials_at(expansion, number)
    found = {}
    for arm, seed in _arms_by_seed(expansion):
        found[arm, seed] = records.get((trial_of_arm[arm], seed))
    return ArmRecords(found)


def directories_at(expansion: Expansion, number: int) -> dict[tuple[str, int], RunDirectory]:
    """Return the directory of the run of every arm at one and the same tuned value, by (arm, seed),
    whether it exists or not.

    Seeds with which an arm is not trained, since all claims on it were decided or given up before,
    are left out. The study must tune keys; ``number`` is the value's index in its
    ``Tune.trial_values``.
    """
    directories = expansion.directories()
    found = {}
    for arm, trial in _trials_at(expansion, number).items():
        for seed in expansion.seeds_of([arm]):
            found[arm, seed] = directories[trial, seed]
    return found


def _trials_at(expansion: Expansion, number: int) -> dict[str, str]:
    """Return, by arm, the name of its trial at a tuned value, such as ``residual@0.1``. The value's
    index in ``Tune.trial_values`` is ``number``.
    """
    assert expansion.study.tune
    values = expansion.study.tune.trial_values[number]
    return {trial.arm: name for name, trial in expansion.trials.items() if trial.values == values}


def _arms_by_seed(expansion: Expansion) -> list[tuple[str, int]]:
    """Return every (arm, seed) of the study, seed by seed."""
    pairs = []
    for seed in expansion.seeds:
        for arm in expansion.arms:
            pairs.append((arm, seed))
    return pairs


def _selection_score(record: Record, select: str) -> float:
    """Return a number that is larger for a better run: its score in the metric ``select``, such as
    ``val/top1``, negated where lower is better; minus infinity for a run that diverged.

    Raises:
        Refused: The record has no such score.
    """
    if record.status == "diverged":
        return -math.inf
    if select not in record.metrics:
        raise Refused(f"tune.select: the run {record.run_id} has no {select}")
    score = record.metrics[select]
    return -score if metric_of(select).lower_is_better else score
