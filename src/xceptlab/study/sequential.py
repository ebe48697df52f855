"""Seeds until decided: add seeds to a study while the records of its runs leave claims undecided,
and only to the arms of these claims.
"""

from collections.abc import Sequence
from dataclasses import replace

from xceptlab.errors import Refused
from xceptlab.runs.directory import RunDirectory
from xceptlab.study.claims import Claim
from xceptlab.study.contrasts import arms_of
from xceptlab.study.definition import Seeds
from xceptlab.study.expansion import Expansion
from xceptlab.study.judging import judge_study


def with_needed_seeds(expansion: Expansion) -> Expansion:
    """Return the study with as many seeds as its claims need, by the records of its runs.

    Seeds are added, up to ``Seeds.max``, while all runs so far have finished and leave a claim
    neither decided nor given up; none are added where a record cannot be read. A study with a list
    of seeds stays as it is.

    Raises:
        Refused: A record lacks a score by which claims are judged or tuned values chosen, or has
            one that is not finite or too large to compute with; or, with ``scope: images``, a run's
            file does not hold the values of its images.
    """
    seeds = expansion.study.seeds
    if not isinstance(seeds, Seeds):
        return expansion
    while expansion.interim_analysis + 1 < len(seeds.analyses):
        try:
            records = expansion.records()
        except Refused:
            # Whoever needs the record that cannot be read will say so.
            break
        if None in records.values():
            break
        verdicts = judge_study(expansion, records)
        undecided = [verdict.claim for verdict in verdicts if not verdict.settled]
        if not undecided:
            break
        expansion = _with_more_seeds(expansion, undecided)
    return expansion


def _with_more_seeds(expansion: Expansion, undecided: Sequence[Claim]) -> Expansion:
    """Return the study at its next analysis, with further seeds for the arms of undecided claims
    only.
    """
    wanted: set[str] = set()
    for claim in undecided:
        wanted.update(arms_of(claim, expansion.study))
    stopped = dict(expansion.seeds_by_stopped_arm)
    for arm in expansion.arms:
        if arm not in wanted and arm not in stopped:
            stopped[arm] = _seeds_done(arm, expansion)
    return replace(
        expansion, interim_analysis=expansion.interim_analysis + 1, seeds_by_stopped_arm=stopped
    )


def _seeds_done(arm: str, expansion: Expansion) -> int:
    """Return the number of seeds, counted from seed 0, with which all runs of an arm have finished.

    It is at least that of the study so far, whose runs have all finished. It is larger where an
    earlier version of xceptlab has trained the arm beyond them.
    """
    seeds = expansion.study.seeds
    assert isinstance(seeds, Seeds)
    n = len(expansion.seeds)
    while n < seeds.max:
        runs = [expansion.run(trial, n) for trial in expansion.trials_of(arm)]
        directories = [RunDirectory.of(run.runtime.outputs, run.run_id) for run in runs]
        if not all((directory.path / "record.json").is_file() for directory in directories):
            break
        n += 1
    return n
