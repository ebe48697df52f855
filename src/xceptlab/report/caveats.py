"""What stands between a study's verdicts and believing them: unequal budgets, few test images, whatever a reviewer would ask."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xceptlab.config.schema import RunConfig
from xceptlab.data import identity
from xceptlab.data.sources import reading
from xceptlab.errors import Refused
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.record import Record
from xceptlab.study import statistics
from xceptlab.study.definition import Seeds, Study
from xceptlab.study.expansion import Expansion
from xceptlab.study.registration import Registration
from xceptlab.study.statistics import Array
from xceptlab.study.verdict import Records, Verdict
from xceptlab.study.wording import named

UNMATCHED = 0.01
"""Relative difference of budgets beyond which arms that are to match do not."""
BUDGET_KEYS = {
    "train.epochs", "train.batch_size", "data.train_images", "data.validation", "data.size", "model.width", "model.middle_blocks",
}  # fmt: skip
"""What sets a budget: arms that differ in nothing else compare the budget itself."""
SPEED = 0.25
"""Relative difference of images per second, which vary by themselves, from which on it is told."""
DRAWS = 1000
"""Draws of the bootstrap."""


def excess(value: float, baseline: float | None, tolerance: float = UNMATCHED) -> str:
    """By how much a budget exceeds another one, such as ``-4.3%``; empty within the tolerance."""
    by = value / baseline - 1 if baseline else 0.0
    return f"{100 * by:+.1f}%" if abs(by) > tolerance else ""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The two sources of a difference's error kept apart, as standard errors in points."""

    seeds: float
    images: float
    both: float
    n: int
    """Seeds."""
    test_images: int

    def __str__(self) -> str:
        apart = f"{self.seeds:.2f} from {self.n} seeds, {self.images:.2f} from {self.test_images:,} test images"
        larger, smaller = ("test images", "seeds") if self.images > self.seeds else ("seeds", "test images")
        limit = f"The {larger} limit the answer: more of them help more than more {smaller}"
        return f"Standard error in points: {apart}, {self.both:.2f} from both. {limit}."


def sampling_errors(
    verdicts: list[Verdict], study: Study, directories: Mapping[tuple[str, int], RunDirectory]
) -> dict[str, Sampling]:
    """Of the claims on the mean test accuracy that are judged; images are drawn once for all of them."""
    wanted = [
        v
        for v in verdicts
        if (v.claim.metric, v.claim.statistic) == ("test/top1", "mean") and v.n > 1 and v.outcome != "incomplete"
    ]
    keys = sorted({(arm, seed) for v in wanted for arm in study.arms_of(v.claim) for seed in v.differences})
    correct = {key: _correct(directories[key].path / "test_correct.npy") for key in keys}
    known = {key: row for key, row in correct.items() if row is not None}
    if not known or len({len(row) for row in known.values()}) > 1:
        return {}
    rng, test_images = np.random.default_rng(0), len(next(iter(known.values())))
    drawn = dict(zip(known, statistics.redrawn(np.stack(list(known.values())), DRAWS, rng).T, strict=True))
    sampling = {}
    for v in wanted:
        if all((arm, seed) in known for arm in study.arms_of(v.claim) for seed in v.differences):
            a, b = (_combined(weights, drawn, list(v.differences)) for weights in study.weights(v.claim))
            differences = a - b
            seeds, images, both = statistics.two_way_errors(v.values, differences, rng)
            sampling[v.claim.id] = Sampling(seeds=seeds, images=images, both=both, n=v.n, test_images=test_images)
    return sampling


def _combined(weights: Mapping[str, float], drawn: Mapping[tuple[str, int], Array], seeds: list[int]) -> Array:
    """One side of a claim on redrawn images, (draws, seeds)."""
    return np.stack([sum(weight * drawn[arm, seed] for arm, weight in weights.items()) for seed in seeds], axis=1)


def _correct(file: Path) -> NDArray[np.uint8] | None:
    """A run's correctness by image; None for a run that has none, such as a diverged one."""
    with suppress(FileNotFoundError), reading(file, "not a run's correctness by image; remove its folder to train the run again"):
        correct = np.load(file)
        if not isinstance(correct, np.ndarray) or correct.ndim != 1 or not len(correct) or not np.isin(correct, (0, 1)).all():
            raise Refused("its values are not 0 and 1, one an image")
        return correct.astype(np.uint8)
    return None


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """How the budgets of a claim's two arms differ: a sentence each, empty where there is nothing to say."""

    unmatched: str = ""
    """What differs beside what is compared, and may explain the difference as well."""
    declared: str = ""
    """What differs because it is what the arms are compared in, such as ``train.epochs``."""
    speed: str = ""
    """Images per second, which change nothing that is learned; only of runs that were made together."""

    @property
    def sentences(self) -> list[str]:
        return [sentence for sentence in (self.unmatched, self.declared, self.speed) if sentence]


def compare_budgets(verdicts: list[Verdict], expansion: Expansion, records: Records) -> dict[str, Budgets]:
    """By claim, how the budgets of its arms differ; nothing is said before both arms have a run."""
    budgets = {}
    for verdict in verdicts:
        pairs = [_compare(a, b, expansion, records) for a, b in expansion.study.pairs_of(verdict.claim)]
        budgets[verdict.claim.id] = Budgets(
            unmatched=" ".join(filter(None, (pair.unmatched for pair in pairs))),
            declared=" ".join(filter(None, (pair.declared for pair in pairs))),
            speed=" ".join(filter(None, (pair.speed for pair in pairs))),
        )
    return budgets


def _compare(a: str, b: str, expansion: Expansion, records: Records) -> Budgets:
    runs_a, runs_b = (_runs(arm, expansion, records) for arm in (a, b))
    if not runs_a or not runs_b:
        return Budgets()
    spent_a, spent_b = (_spent(expansion.arms[arm], runs) for arm, runs in ((a, runs_a), (b, runs_b)))
    budgets = _unequal(spent_a, spent_b)
    processes_a, processes_b = (" or ".join(map(str, sorted({run.world_size for run in runs}))) for runs in (runs_a, runs_b))
    processes = [f"processes {processes_a} against {processes_b}"] if processes_a != processes_b else []
    science_a, science_b = (expansion.arms[arm].science() for arm in (a, b))
    compared = {key for key in science_a if science_a[key] != science_b[key]}
    declared, unmatched = (budgets, processes) if compared <= BUDGET_KEYS else ([], budgets + processes)
    arms = f"{a} against {b}"
    return Budgets(
        unmatched=f"Unmatched budgets, {arms}: {', '.join(unmatched)}." if unmatched else "",
        declared=f"The budget is what is compared, {arms}: {', '.join(declared)}." if declared else "",
        speed=_speed(a, b, expansion, records),
    )


def _runs(arm: str, expansion: Expansion, records: Records) -> list[Record]:
    return [record for seed in expansion.seeds if (record := records[arm, seed])]


def _spent(config: RunConfig, runs: list[Record]) -> dict[str, float]:
    """An arm's budgets by name, as far as they are known; a run that diverged did not take all the steps that it was given."""
    images = max(run.train_images for run in runs) or config.data.images()[0]
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
    """By how much budgets exceed the other arm's, such as ``epochs +100.0%``; what others that are told explain is left out."""
    by = {name: told for name, spent in spent_a.items() if (told := excess(spent, spent_b.get(name)))}
    if by.keys() & {"epochs", "training images"}:
        by.pop("images seen", None)
    explained = all(map(_steps_as_planned, (spent_a, spent_b)))
    if explained and by.keys() & {"epochs", "batch size", "training images", "images seen"}:
        by.pop("optimizer steps", None)
    return [f"{name} {told}" for name, told in by.items()]


def _steps_as_planned(spent: dict[str, float]) -> bool:
    """Whether an arm's steps are those of its images in batches of their size, but for a part of a step in each epoch."""
    planned = spent.get("images seen", 0) / spent["batch size"]
    return abs(spent.get("optimizer steps", 0) - planned) <= spent["epochs"]


def _speed(a: str, b: str, expansion: Expansion, records: Records) -> str:
    """The speed of arm a against b's, from the pairs of runs that were made together; empty with fewer than 2 of them."""
    done = [record for record in records.values() if record]
    ratios = []
    for seed in expansion.seeds:
        first, second = records[a, seed], records[b, seed]
        if first and second and second.images_per_second and _made_together(first, second, done):
            ratios.append(first.images_per_second / second.images_per_second)
    by = excess(median(ratios), 1.0, SPEED) if len(ratios) > 1 else ""
    return f"Speed, {a} against {b}: images/s {by} (the median of {len(ratios)} pairs of runs made together)." if by else ""


def _made_together(first: Record, second: Record, done: list[Record]) -> bool:
    """Whether two runs had the same machine at the same time, beside as many others of the study: else speeds do not compare."""
    if not first.host or any(getattr(first, name) != getattr(second, name) for name in ("host", "device", "world_size")):
        return False
    times = [run.finished - run.started for run in (first, second)]
    for time, run in zip(times, (first, second), strict=True):
        if time <= 0 or time > 2 * run.seconds + 60:  # the clock was set back, or the run was interrupted
            return False
    apart = max(first.started, second.started) - min(first.finished, second.finished)
    return apart <= min(times) and abs(_company(first, done) - _company(second, done)) <= 0.25


def _company(run: Record, done: list[Record]) -> float:
    """How many runs of the study, itself among them, ran on its machine at a time, on average."""
    shared = [min(run.finished, other.finished) - max(run.started, other.started) for other in done if other.host == run.host]
    return sum(time for time in shared if time > 0) / (run.finished - run.started)


def warnings(
    expansion: Expansion,
    records: Records,
    reached: Mapping[tuple[str, int], float],
    failures: Mapping[tuple[str, int], str],
    verdicts: list[Verdict],
    sampling: Mapping[str, Sampling],
) -> list[str]:
    """All that a reviewer should know, a sentence each.

    Args:
        expansion: The study.
        records: Its runs' records.
        reached: The epoch that each run that has begun is at.
        failures: Why runs without a record failed, of those that were given up.
        verdicts: What the records say of the claims.
        sampling: By claim, where its error comes from.
    """
    return [
        *([f"This is {expansion.first_look}."] if expansion.first_look else []),
        *_unfinished(expansion, records, reached, failures),
        *_of_records(expansion, records),
        *_of_verdicts(verdicts, sampling),
        *_of_registration(expansion, records),
    ]


def _unfinished(
    expansion: Expansion,
    records: Records,
    reached: Mapping[tuple[str, int], float],
    failures: Mapping[tuple[str, int], str],
) -> list[str]:
    """Failures are data: what diverged, what failed, and what began and has no record, because it is running or was stopped."""
    diverged = [f"{arm} seed {seed}" for (arm, seed), record in records.items() if record and record.status == "diverged"]
    failed: dict[str, list[str]] = {}
    for (arm, seed), reason in failures.items():
        failed.setdefault(" ".join(reason.split()).rstrip("."), []).append(f"{arm} seed {seed}")
    begun = [
        f"{arm} seed {seed} (at epoch {epoch:g} of {expansion.arms[arm].train.epochs})"
        for (arm, seed), epoch in reached.items()
        if records[arm, seed] is None and (arm, seed) not in failures
    ]
    warnings = []
    if diverged:
        warnings.append(f"Diverged, scored as guessing unless the claim says otherwise: {', '.join(diverged)}.")
    for reason, runs in failed.items():
        warnings.append(f"Failed: {', '.join(runs)}: {reason}.")
    if begun:
        warnings.append(f"Begun and not finished, crashed perhaps (log.txt in the run's folder tells): {', '.join(begun)}.")
    return warnings


def _of_records(expansion: Expansion, records: Records) -> list[str]:
    """In what the runs were not made alike."""
    done = [record for record in records.values() if record]
    warnings = []
    differing: dict[str, set[Any]] = {
        "The runs saw different data": {record.data_fingerprint for record in done},
        "The runs were made by different revisions of the code": {record.git.get("revision", "unknown") for record in done},
        "The runs used different numbers of processes": {record.world_size for record in done},
    }
    for what, values in differing.items():
        if len(values) > 1:
            warnings.append(f"{what}: {', '.join(sorted(map(str, values)))}.")
    if any(record.git.get("dirty") for record in done):
        warnings.append("Some runs were made by code with uncommitted changes.")
    changes = identity.changes((run, records[key]) for key, run in expansion.runs().items())
    warnings += [f"The data here are not those that the runs were trained on: {change}." for change in changes]
    match = next(iter(expansion.arms.values())).model.match
    if match != "none":
        spent = {arm: getattr(record, match) for (arm, _), record in records.items() if record}
        budget = spent.get(next(iter(expansion.arms)))
        if off := [f"{arm} by {by}" for arm, n in spent.items() if (by := excess(n, budget))]:
            warnings.append(f"Unmatched in {match}: {', '.join(off)}.")
    return warnings


def _of_verdicts(verdicts: list[Verdict], sampling: Mapping[str, Sampling]) -> list[str]:
    """Where a verdict stands on less than it seems."""
    warnings = []
    for v in verdicts:
        warnings += [f"Claim {v.claim.id}: {why}." for why in v.warnings]
        if v.claim.statistic == "mean" and statistics.skewed(v.values):
            warnings.append(
                f"Claim {v.claim.id}: the differences are skewed, so that the t-test may err several times as often as alpha; "
                "look at the single seeds (a claim on the median is judged soundly there)."
            )
        if v.decided and v.claim.id in sampling:
            distance = min(abs(v.estimate - margin) for margin in v.margins)
            reach = statistics.reach(sampling[v.claim.id].both, v.n, v.level)
            if distance < reach:
                warnings.append(
                    f"Claim {v.claim.id}: {v.outcome} on these test images; counting their sampling error too, the interval of "
                    f"{v.estimate:+.2f} ± {reach:.2f} includes the margin."
                )
    return warnings


def _older(record: Record, registration: Registration) -> bool:
    """Whether a run began before the study was registered. Clocks, which can be set back, are asked of old records only."""
    if record.registrations is None:
        return record.finished < registration.time
    return registration.digest not in record.registrations


def _of_registration(expansion: Expansion, records: Records) -> list[str]:
    """What was changed, or known, before or after the study was registered."""
    registration = Registration.read(expansion)
    if not registration:
        return []
    warnings = [f"Edited after its registration: {edit.rstrip('.')}." for edit in registration.edits(expansion)]
    done = [record for record in records.values() if record]
    older = [record for record in done if _older(record, registration)]
    if older:
        warnings.append(
            f"{len(older)} of {len(records)} runs are older than the study's registration, so its claims may know them."
        )
    planned = registration.seeds
    known = set(range(Seeds(**planned).max)) if isinstance(planned, dict) else set(planned)
    judged = [record.finished if record else math.inf for (_, seed), record in records.items() if seed in known]
    added = {seed for (_, seed), r in records.items() if r and seed not in known and judged and r.started >= max(judged)}
    if added:
        warnings.append(
            f"{named(sorted(added), 'was', 'were').capitalize()} added by hand after the verdict of the registered seeds: "
            "looking again makes false verdicts likelier than alpha; seeds: {start, step, max, stop: decided} accounts for it."
        )
    return warnings
