"""Whether the arms of a claim had the same budget, which else might explain their difference, and
how fast they trained.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from xceptlab.config.schema import RunConfig
from xceptlab.runs.record import Record
from xceptlab.study.choice import Records
from xceptlab.study.contrasts import pairs_of
from xceptlab.study.expansion import Expansion
from xceptlab.study.verdict import Verdict

UNMATCHED = 0.01
"""Relative difference of budgets beyond which arms that are to match do not."""
BUDGET_KEYS = {
    "train.epochs",
    "train.batch_size",
    "data.train_images",
    "data.validation",
    "data.size",
    "model.width",
    "model.middle_blocks",
}
"""Keys that set a budget; arms that differ in nothing else compare the budget itself."""
SPEED = 0.25
"""Relative difference of images per second, which vary by themselves, beyond which it is mentioned.
"""
SHORTEST = 5.0
"""Seconds of training below which images per second tell of a run's start rather than of its steps.
"""


def excess(value: float, baseline: float | None, tolerance: float = UNMATCHED) -> str:
    """Relative excess of a value over a baseline, as text such as ``-4.3%``; empty within the
    tolerance.
    """
    if not baseline:
        return ""
    relative = value / baseline - 1
    if abs(relative) <= tolerance:
        return ""
    return f"{100 * relative:+.1f}%"


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """How the budgets of a claim's two arms differ: a sentence each, empty where there is nothing
    to say.
    """

    unmatched: str = ""
    """Sentence on budgets that differ beside what is compared, and may explain the difference as
    well.
    """
    declared: str = ""
    """Sentence on budgets that differ because they are what the arms are compared in, such as
    ``train.epochs``.
    """
    speed: str = ""
    """Sentence on the arms' images per second, which change no result; only for runs that were made
    together.
    """

    @property
    def sentences(self) -> list[str]:
        """The sentences that are not empty."""
        return [sentence for sentence in (self.unmatched, self.declared, self.speed) if sentence]


def compare_budgets(
    verdicts: list[Verdict], expansion: Expansion, records: Records
) -> dict[str, Budgets]:
    """How the budgets of each claim's arms differ, by the claim's id; empty before both arms have a
    run.

    Args:
        verdicts: Verdicts on the study's claims.
        expansion: The study.
        records: Records of all its runs, by (trial, seed), and of those that stand for the arms, by
            (arm, seed).
    """
    budgets = {}
    for verdict in verdicts:
        claim = verdict.claim
        pairs = [_compare(a, b, expansion, records) for a, b in pairs_of(claim, expansion.study)]
        budgets[claim.id] = Budgets(
            unmatched=_joined(pair.unmatched for pair in pairs),
            declared=_joined(pair.declared for pair in pairs),
            speed=_joined(pair.speed for pair in pairs),
        )
    return budgets


def _joined(sentences: Iterable[str]) -> str:
    return " ".join(filter(None, sentences))


def _compare(a: str, b: str, expansion: Expansion, records: Records) -> Budgets:
    """How the budgets of two arms differ."""
    runs_a = _runs(a, expansion, records)
    runs_b = _runs(b, expansion, records)
    if not runs_a or not runs_b:
        return Budgets()
    config_a, config_b = expansion.arms[a], expansion.arms[b]
    budgets = _unequal(_spent(config_a, runs_a), _spent(config_b, runs_b))
    processes = _unequal_processes(runs_a, runs_b)
    if _differ_in_budget_only(config_a, config_b):
        declared, unmatched = budgets, processes
    else:
        declared, unmatched = [], budgets + processes
    arms = f"{a} against {b}"
    return Budgets(
        unmatched=_sentence(f"Unmatched budgets, {arms}", unmatched),
        declared=_sentence(f"The budget is what is compared, {arms}", declared),
        speed=_compare_speeds(a, b, expansion, records),
    )


def _sentence(beginning: str, differences: list[str]) -> str:
    """Join differences into a sentence; empty where there are none."""
    return f"{beginning}: {', '.join(differences)}." if differences else ""


def _runs(arm: str, expansion: Expansion, records: Records) -> list[Record]:
    """The records that an arm has."""
    of_seeds = [records[arm, seed] for seed in expansion.seeds]
    return [record for record in of_seeds if record]


def _unequal_processes(runs_a: Sequence[Record], runs_b: Sequence[Record]) -> list[str]:
    """The numbers of processes of two arms' runs, in words, where they differ; else an empty list."""
    processes_a, processes_b = _processes(runs_a), _processes(runs_b)
    if processes_a == processes_b:
        return []
    return [f"processes {processes_a} against {processes_b}"]


def _processes(runs: Sequence[Record]) -> str:
    """Numbers of processes with which runs were made, in words such as ``1 or 2``."""
    sizes = {run.world_size for run in runs}
    return " or ".join(map(str, sorted(sizes)))


def _differ_in_budget_only(a: RunConfig, b: RunConfig) -> bool:
    science_a, science_b = a.science(), b.science()
    differing = {key for key in science_a if science_a[key] != science_b.get(key)}
    return differing <= BUDGET_KEYS


def _spent(config: RunConfig, runs: list[Record]) -> dict[str, float]:
    """An arm's budgets by name, as far as they are known; a run that diverged did not take all the
    steps that it was given.
    """
    recorded_images = max(run.train_images for run in runs)
    images = recorded_images or config.data.images()[0]
    steps = [run.steps for run in runs if run.status == "finished"]
    spent = {
        "epochs": config.train.epochs,
        "batch size": config.train.batch_size,
        "training images": images,
        "images seen": images * config.train.epochs,
        "optimizer steps": median(steps) if steps else 0,
        "parameters": median(run.parameters for run in runs),
        "MACs": median(run.macs for run in runs),
    }
    return {name: value for name, value in spent.items() if value}


def _unequal(spent_a: dict[str, float], spent_b: dict[str, float]) -> list[str]:
    """How much an arm's budgets exceed the other arm's, such as ``epochs +100.0%``; what follows
    from others is left out.
    """
    unequal = {}
    for name, spent in spent_a.items():
        more = excess(spent, spent_b.get(name))
        if more:
            unequal[name] = more
    if unequal.keys() & {"epochs", "training images"}:
        unequal.pop("images seen", None)
    steps_follow = _steps_as_planned(spent_a) and _steps_as_planned(spent_b)
    if steps_follow and unequal.keys() & {"epochs", "batch size", "training images", "images seen"}:
        unequal.pop("optimizer steps", None)
    return [f"{name} {more}" for name, more in unequal.items()]


def _steps_as_planned(spent: dict[str, float]) -> bool:
    """Whether an arm's steps are those of its images in batches of their size, but for a part of a
    step in each epoch.
    """
    planned = spent.get("images seen", 0) / spent["batch size"]
    return abs(spent.get("optimizer steps", 0) - planned) <= spent["epochs"]


# ---- speed ---------------------------------------------------------------------------------------


def _compare_speeds(a: str, b: str, expansion: Expansion, records: Records) -> str:
    """The speed of arm a against b's, from the pairs of runs that were made together; empty with
    fewer than 2 of them.
    """
    done = _without_repetition(records)
    ratios = []
    for seed in expansion.seeds:
        first, second = records[a, seed], records[b, seed]
        if not first or not second or not second.images_per_second:
            continue
        if _made_together(first, second, done):
            ratios.append(first.images_per_second / second.images_per_second)
    if len(ratios) < 2:
        return ""
    faster = excess(median(ratios), 1.0, SPEED)
    if not faster:
        return ""
    return f"Speed, {a} against {b}: images/s {faster} (the median of {len(ratios)} pairs of runs made together)."


def _without_repetition(records: Records) -> list[Record]:
    """The records, each of them once: a run may be known by its trial and by the arm that it stands
    for.
    """
    by_run_id = {}
    for record in records.values():
        if record:
            by_run_id[record.run_id] = record
    return list(by_run_id.values())


def _made_together(first: Record, second: Record, done: list[Record]) -> bool:
    """Whether two runs had the same machine at the same time, beside as many others of the study:
    else speeds do not compare.
    """
    if min(first.seconds, second.seconds) < SHORTEST:
        return False
    if not first.host or _machine(first) != _machine(second):
        return False
    if not _ran_at_once(first) or not _ran_at_once(second):
        return False
    apart = max(first.started, second.started) - min(first.finished, second.finished)
    if apart > min(_elapsed(first), _elapsed(second)):
        return False
    company = _running_beside(first, done) - _running_beside(second, done)
    return abs(company) <= 0.25


def _machine(run: Record) -> tuple[str, str, int]:
    return run.host, run.device, run.world_size


def _elapsed(run: Record) -> float:
    """Seconds from the run's start to its end, as the clock had them."""
    return run.finished - run.started


def _ran_at_once(run: Record) -> bool:
    """Whether the run was not interrupted, and the clock was not set back while it ran."""
    return 0 < _elapsed(run) <= 2 * run.seconds + 60


def _running_beside(run: Record, done: list[Record]) -> float:
    """How many runs of the study, itself among them, ran on its machine at a time, on average."""
    shared = 0.0
    for other in done:
        if other.host == run.host:
            overlap = min(run.finished, other.finished) - max(run.started, other.started)
            shared += max(0.0, overlap)
    return shared / _elapsed(run)
