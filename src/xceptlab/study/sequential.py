"""Seeds until decided: how many seeds a study's claims need by the records there are, and which
arms get them.
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
    """The study with as many blocks of seeds as its claims need, by the records there are; a fixed
    list stays as it is.
    """
    seeds = expansion.study.seeds
    if not isinstance(seeds, Seeds):
        return expansion
    while expansion.interim_analysis + 1 < len(seeds.analyses):
        try:
            records = expansion.records()
        except Refused:  # a record cannot be read, which whoever needs it says
            break
        undecided = [
            verdict.claim for verdict in judge_study(expansion, records) if not verdict.settled
        ]
        if None in records.values() or not undecided:
            break
        expansion = _with_more_seeds(expansion, undecided)
    return expansion


def _with_more_seeds(expansion: Expansion, undecided: Sequence[Claim]) -> Expansion:
    """The study at its next analysis, for which only the arms of the claims that are still
    undecided have further seeds.
    """
    wanted = {arm for claim in undecided for arm in arms_of(claim, expansion.study)}
    stopped = dict(expansion.seeds_by_stopped_arm)
    for arm in expansion.arms:
        if arm not in wanted and arm not in stopped:
            stopped[arm] = _seeds_done(arm, expansion)
    return replace(
        expansion, interim_analysis=expansion.interim_analysis + 1, seeds_by_stopped_arm=stopped
    )


def _seeds_done(arm: str, expansion: Expansion) -> int:
    """How many seeds an arm has all runs of: those of the study so far, and what an earlier version
    has trained beyond them.
    """
    seeds = expansion.study.seeds
    assert isinstance(seeds, Seeds)
    n = len(expansion.seeds)
    while n < seeds.max:
        runs = [expansion.run(trial, n) for trial in expansion.trials_of(arm)]
        records = [
            RunDirectory.of(run.runtime.outputs, run.run_id).path / "record.json" for run in runs
        ]
        if not all(file.is_file() for file in records):
            break
        n += 1
    return n
