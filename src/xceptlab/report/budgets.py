"""Compare the budgets of a claim's arms, such as epochs, steps and parameters, since unequal ones
might explain the difference; and how fast the arms trained.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from xceptlab.config.schema import RunConfig
from xceptlab.runs.record import Record
from xceptlab.study.choice import ArmRecords, Records, done_records
from xceptlab.study.contrasts import pairs_of
from xceptlab.study.expansion import UNMATCHED, Expansion
from xceptlab.study.verdict import Verdict

BUDGET_KEYS = {
    "train.epochs",
    "train.batch_size",
    "data.train_images",
    "data.validation",
    "data.size",
    "model.width",
    "model.middle_blocks",
}
"""Keys of the configuration that set a budget. Arms that differ in nothing else compare the budget
itself.
"""
SPEED = 0.25
"""Relative difference of images per second beyond which it is mentioned; smaller ones occur by
themselves.
"""
SHORTEST = 5.0
"""Seconds of training below which images per second depend on a run's start rather than on its
steps, so that they are not compared.
"""


def excess(value: float, baseline: float | None, tolerance: float = UNMATCHED) -> str:
    """Return the relative excess of a value over a baseline, as text such as ``-4.3%``; empty where
    the baseline is None or 0, or the two differ by no more than ``tolerance``, a share such as 0.01
    of the baseline.
    """
    if not baseline:
        return ""
    difference = value - baseline
    # 101 is 1% more than 100, and to a computer a little more than that.
    allowed = tolerance * abs(baseline) * (1 + 1e-9)
    if abs(difference) <= allowed:
        return ""
    return f"{100 * difference / baseline:+.1f}%"


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """Text on how the budgets of a claim's arms differ. Each field has a sentence for each of the
    claim's pairs of arms of which there is something to say, and is empty if there is none.
    """

    unmatched: str = ""
    """Budgets and numbers of processes that differ beside what is compared, and may explain a
    difference of the scores as well.
    """
    declared: str = ""
    """Budgets that differ because they are what the arms are compared in, such as
    ``train.epochs``.
    """
    speed: str = ""
    """How the arms' images per second differ, which changes no result. Only runs of equal seeds
    that were trained at about the same time on the same machine are compared.
    """

    @property
    def sentences(self) -> list[str]:
        """The fields that are not empty, in the order in which they are shown."""
        return [sentence for sentence in (self.unmatched, self.declared, self.speed) if sentence]


def compare_budgets(
    verdicts: list[Verdict], expansion: Expansion, arm_records: ArmRecords, records: Records
) -> dict[str, Budgets]:
    """Return sentences on how the budgets of each claim's arms differ, by the claim's id. There are
    none on a pair of arms before both have a run that is done.

    Args:
        verdicts: Verdicts on the study's claims.
        expansion: The study.
        arm_records: Records of the runs that stand for the arms, by (arm, seed).
        records: Records of all runs, by (trial, seed), which tell what ran at the same time. Where
            keys are tuned, a trial is an arm at one value, and a run of one trial stands for the
            arm; else trials are arms.
    """
    done = done_records(records)
    budgets = {}
    for verdict in verdicts:
        claim = verdict.claim
        pairs = [
            _compare(a, b, expansion, arm_records, done)
            for a, b in pairs_of(claim, expansion.study)
        ]
        budgets[claim.id] = Budgets(
            unmatched=_joined(pair.unmatched for pair in pairs),
            declared=_joined(pair.declared for pair in pairs),
            speed=_joined(pair.speed for pair in pairs),
        )
    return budgets


def _joined(sentences: Iterable[str]) -> str:
    """Return the sentences that are not empty as one text."""
    return " ".join(filter(None, sentences))


def _compare(
    a: str, b: str, expansion: Expansion, arm_records: ArmRecords, done: list[Record]
) -> Budgets:
    """Return how the budgets of arms a and b differ; without sentences before both have a run that
    is done. ``done`` are the records of all the study's runs that are done, which tell what ran at
    the same time.
    """
    runs_a = _runs(a, expansion, arm_records)
    runs_b = _runs(b, expansion, arm_records)
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
        speed=_compare_speeds(a, b, expansion, arm_records, done),
    )


def _sentence(beginning: str, differences: list[str]) -> str:
    """Return one sentence, ``BEGINNING: DIFFERENCE, DIFFERENCE.``; empty without differences."""
    return f"{beginning}: {', '.join(differences)}." if differences else ""


def _runs(arm: str, expansion: Expansion, arm_records: ArmRecords) -> list[Record]:
    """Return the records of an arm's runs that are done, in the order of the seeds, at most one for
    each seed: where keys are tuned, that of the chosen run.
    """
    of_seeds = [arm_records[arm, seed] for seed in expansion.seeds]
    return [record for record in of_seeds if record]


def _unequal_processes(runs_a: Sequence[Record], runs_b: Sequence[Record]) -> list[str]:
    """Return a list with one clause on the numbers of processes with which two arms' runs were
    made; an empty list where these are the same.
    """
    processes_a, processes_b = _processes(runs_a), _processes(runs_b)
    if processes_a == processes_b:
        return []
    return [f"processes {processes_a} against {processes_b}"]


def _processes(runs: Sequence[Record]) -> str:
    """Return the numbers of processes with which runs were made, in words such as ``1 or 2``."""
    sizes = {run.world_size for run in runs}
    return " or ".join(map(str, sorted(sizes)))


def _differ_in_budget_only(a: RunConfig, b: RunConfig) -> bool:
    """Whether two configurations differ, among the keys that can change a result, only in
    ``BUDGET_KEYS`` or not at all.
    """
    science_a, science_b = a.science(), b.science()
    differing = {key for key in science_a if science_a[key] != science_b.get(key)}
    return differing <= BUDGET_KEYS


def _spent(config: RunConfig, runs: list[Record]) -> dict[str, float]:
    """Return an arm's budgets by name, such as ``epochs``, as far as they are known, from its
    configuration and the records of its runs, of which there is at least one.
    """
    recorded_images = max(run.train_images for run in runs)
    images = recorded_images or config.data.images()[0]
    # A run that diverged did not take all the steps that it was given.
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
    """Return by how much the budgets of arm a are above or below those of arm b, in a list of texts
    such as ``epochs +100.0%``.

    Budgets are left out that differ by 1% at most, that follow from others which differ, or that
    are not known of both arms.
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
    """Whether an arm's number of optimizer steps is the number of batches that its images seen
    make, give or take one for each epoch. ``spent`` has the arm's budgets by name; steps or images
    that it lacks count as 0.
    """
    planned = spent.get("images seen", 0) / spent["batch size"]
    return abs(spent.get("optimizer steps", 0) - planned) <= spent["epochs"]


# ---- speed ---------------------------------------------------------------------------------------


def _compare_speeds(
    a: str, b: str, expansion: Expansion, arm_records: ArmRecords, done: list[Record]
) -> str:
    """Return a sentence on how fast arm a trained against arm b: the median ratio of their images
    per second, over the pairs of runs of one seed that were trained at about the same time on the
    same machine. Empty with fewer than 2 such pairs, where these do not agree on the faster arm, or
    where the ratio differs from 1 by no more than ``SPEED``. ``done`` are the records of all the
    study's runs that are done.
    """
    ratios = []
    for seed in expansion.seeds:
        first, second = arm_records[a, seed], arm_records[b, seed]
        if not first or not second or not _made_together(first, second, done):
            continue
        # A run that diverges before the first line of its log has no speed.
        if first.images_per_second and second.images_per_second:
            ratios.append(first.images_per_second / second.images_per_second)
    if len(ratios) < 2:
        return ""
    lowest, highest = min(ratios), max(ratios)
    agree = lowest > 1 or highest < 1
    if not agree:
        return ""
    faster = excess(median(ratios), 1.0, SPEED)
    if not faster:
        return ""
    pairs = f"the median of {len(ratios)} pairs of runs made together, {lowest:.2f} to {highest:.2f} times"
    return f"Speed, {a} against {b}: images/s {faster} ({pairs})."


def _made_together(first: Record, second: Record, done: list[Record]) -> bool:
    """Whether the speeds of two runs can be compared: they ran on the same machine and model of
    device with as many processes, close in time, without a long interruption, beside about as many
    others of the study, and for ``SHORTEST`` seconds at least. Never for a run whose record names
    no machine. ``done`` are the records of all the study's runs that are done.
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
    """Return where a run was trained: name of the machine, model of the device, and number of
    processes.
    """
    return run.host, run.device, run.world_size


def _elapsed(run: Record) -> float:
    """Return the seconds from a run's start to its end by the machine's clock, interruptions
    included; negative where the clock was set back by more than that.
    """
    return run.finished - run.started


def _ran_at_once(run: Record) -> bool:
    """Whether a run took, by the clock, more than 0 s from its start to its end, and at most twice
    its seconds of training plus a minute. Any other run was interrupted for long, or the clock was
    set back while it ran.
    """
    return 0 < _elapsed(run) <= 2 * run.seconds + 60


def _running_beside(run: Record, done: list[Record]) -> float:
    """Return how many of the study's runs, this one among them, ran on its machine while it ran, on
    average over its time. ``done`` are the records of all the study's runs that are done.
    """
    shared = 0.0
    for other in done:
        if other.host == run.host:
            overlap = min(run.finished, other.finished) - max(run.started, other.started)
            shared += max(0.0, overlap)
    return shared / _elapsed(run)
