"""What stands between a study's verdicts and believing them: unequal budgets, few test images, whatever a reviewer would ask."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from scipy import stats

from xceptlab.config.schema import RunConfig
from xceptlab.data import identity
from xceptlab.runs import leases
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.metrics import decimals, metric_of
from xceptlab.runs.record import Record
from xceptlab.study import statistics
from xceptlab.study.choice import Records, tuning_warnings
from xceptlab.study.definition import Seeds, Study
from xceptlab.study.expansion import Expansion
from xceptlab.study.images import by_image, error, image_variance
from xceptlab.study.registration import Registration
from xceptlab.study.verdict import Verdict
from xceptlab.study.wording import named
from xceptlab.text import counted

UNMATCHED = 0.01
"""Relative difference of budgets beyond which arms that are to match do not."""
BUDGET_KEYS = {
    "train.epochs", "train.batch_size", "data.train_images", "data.validation", "data.size", "model.width", "model.middle_blocks",
}  # fmt: skip
"""What sets a budget: arms that differ in nothing else compare the budget itself."""
SPEED = 0.25
"""Relative difference of images per second, which vary by themselves, beyond which it is mentioned."""
SHORTEST = 5.0
"""Seconds of training below which images per second tell of a run's start rather than of its steps."""


def excess(value: float, baseline: float | None, tolerance: float = UNMATCHED) -> str:
    """By how much a budget exceeds another one, such as ``-4.3%``; empty within the tolerance."""
    if not baseline:
        return ""
    relative = value / baseline - 1
    if abs(relative) <= tolerance:
        return ""
    return f"{100 * relative:+.1f}%"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The two sources of a mean difference's error kept apart, as standard errors in the metric's unit."""

    seeds: float
    """Of other seeds on these test images."""
    images: float
    """Of other images alone, which no number of seeds takes the error below."""
    both: float
    freedom: float
    """Degrees of freedom of ``both``."""
    n: int
    """Seeds."""
    test_images: int
    metric: str

    def __str__(self) -> str:
        seeds, images, both = (f"{error:.{decimals(self.metric)}f}" for error in (self.seeds, self.images, self.both))
        unit = metric_of(self.metric).unit_of_difference
        apart = f"{seeds} from {self.n} seeds, {images} from {self.test_images:,} test images"
        limit = "the test images limit the answer" if self.images > self.seeds else "the seeds limit the answer"
        floor = f"No number of seeds takes it below {images}; {limit}" if float(images) else "The images add nothing"
        return f"Standard error in {unit}: {apart}, {both} from both. {floor}."


def sampling_errors(
    verdicts: list[Verdict], study: Study, directories: Mapping[tuple[str, int], RunDirectory]
) -> dict[str, Sampling]:
    """Of the claims on a mean of pairs that are judged, and whose runs have all kept their values image by image.

    Args:
        verdicts: Of the study's claims.
        study: The study.
        directories: Of the runs that stand for the arms, by (arm, seed).
    """
    sampling = {}
    for v in verdicts:
        paired_mean = v.claim.statistic == "mean" and v.claim.pairing == "seed"
        if not paired_mean or v.n < 2 or v.outcome == "incomplete":
            continue
        kept = by_image(v.claim, study, directories, list(v.differences))
        if len(kept) < v.n:
            continue
        differences = np.stack(list(kept.values()))
        added = image_variance(differences)
        spread = float(v.values.std(ddof=1))
        both, freedom = error(spread, v.n, added)
        sampling[v.claim.id] = Sampling(
            seeds=spread / math.sqrt(v.n),
            images=math.sqrt(added),
            both=float(both),
            freedom=float(freedom),
            n=v.n,
            test_images=differences.shape[1],
            metric=v.claim.metric,
        )
    return sampling


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
    """By claim, how the budgets of its arms differ; nothing is said before both arms have a run.

    Args:
        verdicts: Of the study's claims.
        expansion: The study.
        records: Of all its runs, and by (arm, seed) of those that stand for the arms.
    """
    budgets = {}
    for verdict in verdicts:
        pairs = [_compare(a, b, expansion, records) for a, b in expansion.study.pairs_of(verdict.claim)]
        budgets[verdict.claim.id] = Budgets(
            unmatched=_joined(pair.unmatched for pair in pairs),
            declared=_joined(pair.declared for pair in pairs),
            speed=_joined(pair.speed for pair in pairs),
        )
    return budgets


def _joined(sentences: Iterable[str]) -> str:
    return " ".join(filter(None, sentences))


def _compare(a: str, b: str, expansion: Expansion, records: Records) -> Budgets:
    """How the budgets of two arms differ."""
    runs_a, runs_b = _runs(a, expansion, records), _runs(b, expansion, records)
    if not runs_a or not runs_b:
        return Budgets()
    budgets = _unequal(_spent(expansion.arms[a], runs_a), _spent(expansion.arms[b], runs_b))
    processes = []
    processes_a, processes_b = _processes(runs_a), _processes(runs_b)
    if processes_a != processes_b:
        processes.append(f"processes {processes_a} against {processes_b}")
    if _differ_in_budget_only(expansion.arms[a], expansion.arms[b]):
        declared, unmatched = budgets, processes
    else:
        declared, unmatched = [], budgets + processes
    arms = f"{a} against {b}"
    return Budgets(
        unmatched=f"Unmatched budgets, {arms}: {', '.join(unmatched)}." if unmatched else "",
        declared=f"The budget is what is compared, {arms}: {', '.join(declared)}." if declared else "",
        speed=_speed(a, b, expansion, records),
    )


def _runs(arm: str, expansion: Expansion, records: Records) -> list[Record]:
    """The records that an arm has."""
    return [record for seed in expansion.seeds if (record := records[arm, seed])]


def _processes(runs: Sequence[Record]) -> str:
    """With how many processes the runs were made, such as ``1 or 2``."""
    return " or ".join(map(str, sorted({run.world_size for run in runs})))


def _differ_in_budget_only(a: RunConfig, b: RunConfig) -> bool:
    science_a, science_b = a.science(), b.science()
    differing = {key for key in science_a if science_a[key] != science_b.get(key)}
    return differing <= BUDGET_KEYS


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
    """By how much budgets exceed the other arm's, such as ``epochs +100.0%``; what follows from others is left out."""
    unequal = {}
    for name, spent in spent_a.items():
        if more := excess(spent, spent_b.get(name)):
            unequal[name] = more
    if unequal.keys() & {"epochs", "training images"}:
        unequal.pop("images seen", None)
    steps_follow = _steps_as_planned(spent_a) and _steps_as_planned(spent_b)
    if steps_follow and unequal.keys() & {"epochs", "batch size", "training images", "images seen"}:
        unequal.pop("optimizer steps", None)
    return [f"{name} {more}" for name, more in unequal.items()]


def _steps_as_planned(spent: dict[str, float]) -> bool:
    """Whether an arm's steps are those of its images in batches of their size, but for a part of a step in each epoch."""
    planned = spent.get("images seen", 0) / spent["batch size"]
    return abs(spent.get("optimizer steps", 0) - planned) <= spent["epochs"]


def _speed(a: str, b: str, expansion: Expansion, records: Records) -> str:
    """The speed of arm a against b's, from the pairs of runs that were made together; empty with fewer than 2 of them."""
    done = list({record.run_id: record for record in records.values() if record}.values())
    ratios = []
    for seed in expansion.seeds:
        first, second = records[a, seed], records[b, seed]
        if first and second and second.images_per_second and _made_together(first, second, done):
            ratios.append(first.images_per_second / second.images_per_second)
    if len(ratios) < 2:
        return ""
    faster = excess(median(ratios), 1.0, SPEED)
    if not faster:
        return ""
    return f"Speed, {a} against {b}: images/s {faster} (the median of {len(ratios)} pairs of runs made together)."


def _made_together(first: Record, second: Record, done: list[Record]) -> bool:
    """Whether two runs had the same machine at the same time, beside as many others of the study: else speeds do not compare."""
    if min(first.seconds, second.seconds) < SHORTEST:
        return False
    machines = [(run.host, run.device, run.world_size) for run in (first, second)]
    if not first.host or machines[0] != machines[1]:
        return False
    times = [run.finished - run.started for run in (first, second)]
    for time, run in zip(times, (first, second), strict=True):
        if time <= 0 or time > 2 * run.seconds + 60:  # the clock was set back, or the run was interrupted
            return False
    apart = max(first.started, second.started) - min(first.finished, second.finished)
    if apart > min(times):
        return False
    return abs(_running_beside(first, done) - _running_beside(second, done)) <= 0.25


def _running_beside(run: Record, done: list[Record]) -> float:
    """How many runs of the study, itself among them, ran on its machine at a time, on average."""
    shared = 0.0
    for other in done:
        if other.host == run.host:
            shared += max(0.0, min(run.finished, other.finished) - max(run.started, other.started))
    return shared / (run.finished - run.started)


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
    first_look = [f"This is {expansion.first_look}."] if expansion.first_look else []
    return [
        *_unregistered(expansion, records),
        *first_look,
        *_unfinished(expansion, records, reached, failures),
        *_of_records(expansion, records),
        *_of_verdicts(verdicts, sampling),
        *tuning_warnings(expansion, records),
        *_of_registration(expansion, records),
    ]


def _unfinished(
    expansion: Expansion,
    records: Records,
    reached: Mapping[tuple[str, int], float],
    failures: Mapping[tuple[str, int], str],
) -> list[str]:
    """Warn of runs that diverged, that failed, and that began and have no record, because they are running or were stopped."""
    diverged = [f"{arm} seed {seed}" for (arm, seed), record in records.items() if record and record.status == "diverged"]
    failed: dict[str, list[str]] = {}
    for (arm, seed), reason in failures.items():
        in_one_line = " ".join(reason.split()).rstrip(".")
        failed.setdefault(in_one_line, []).append(f"{arm} seed {seed}")
    trained_now: list[str] = []
    stopped: list[str] = []
    directories = expansion.directories()
    for (arm, seed), epoch in reached.items():
        if records[arm, seed] is None and (arm, seed) not in failures:
            run = f"{arm} seed {seed} (at epoch {epoch:g} of {expansion.trials[arm].config.train.epochs})"
            holders = leases.Watch(directories[arm, seed].path).holders()
            (trained_now if holders else stopped).append(run)
    warnings = []
    if diverged:
        warnings.append(f"Diverged, scored as guessing unless the claim says otherwise: {', '.join(diverged)}.")
    for reason, runs in failed.items():
        warnings.append(f"Failed: {', '.join(runs)}: {reason}.")
    if trained_now:
        warnings.append(f"Being trained: {', '.join(trained_now)}.")
    if stopped:
        warnings.append(f"Begun and not finished, stopped or crashed (log.txt in the run's folder tells): {', '.join(stopped)}.")
    return warnings


def _of_records(expansion: Expansion, records: Records) -> list[str]:
    """Warn of what the runs do not have in common."""
    done = [record for record in records.values() if record]
    warnings = _of_machines(done)
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
    return warnings + _of_match(expansion, records)


def _of_machines(done: list[Record]) -> list[str]:
    """Warn of runs that were made on devices, or with libraries, that round differently."""
    warnings = []
    devices = {f"{record.device}, {record.arithmetic}".removesuffix(", ") for record in done}
    known = {(record.device, record.arithmetic) for record in done if record.arithmetic}
    if len(known) > 1 or len({record.device for record in done}) > 1:
        warnings.append(
            f"The runs were made on different devices, on which one and the same run comes to different scores: "
            f"{'; '.join(sorted(devices))}."
        )
    packages = {package for record in done for package in record.versions}
    if all(record.git for record in done):
        packages.discard("xceptlab")  # whose revision is compared
    for package in sorted(packages):
        versions = {record.versions.get(package, "unknown") for record in done}
        if len(versions) > 1:
            warnings.append(f"The runs were made with different versions of {package}: {', '.join(sorted(versions))}.")
    return warnings


def _of_match(expansion: Expansion, records: Records) -> list[str]:
    """Warn of arms whose budget is not that of the first arm, though ``model.match`` asks for it."""
    baseline, config = next(iter(expansion.arms.items()))
    budget = config.model.match
    if budget == "none":
        return []
    spent = {expansion.trials[name].arm: getattr(record, budget) for (name, _), record in records.items() if record}
    unmatched = []
    for arm, amount in spent.items():
        if more := excess(amount, spent.get(baseline)):
            unmatched.append(f"{arm} by {more}")
    if not unmatched:
        return []
    return [f"Unmatched in {budget}: {', '.join(unmatched)}."]


def _of_verdicts(verdicts: list[Verdict], sampling: Mapping[str, Sampling]) -> list[str]:
    """Warn where a verdict stands on less than it seems."""
    warnings = []
    for v in verdicts:
        warnings += [f"Claim {v.claim.id}: {why}." for why in v.warnings]
        if v.claim.statistic == "mean" and statistics.skewed(v.values):
            warnings.append(
                f"Claim {v.claim.id}: the differences are skewed, so that the t-test may err several times as often as alpha; "
                "look at the single seeds (a claim on the median is judged soundly there)."
            )
        if v.decided and v.claim.id in sampling and v.image_variance is None:
            distance = min(abs(v.estimate - margin) for margin in v.margins)
            errors = sampling[v.claim.id]
            half_width = errors.both * float(stats.t.ppf((1 + v.level) / 2, errors.freedom))
            if distance < half_width:
                warnings.append(
                    f"Claim {v.claim.id}: {v.outcome} on these test images; counting their sampling error too, the interval of "
                    f"{v.estimate:+.2f} ± {half_width:.2f} includes the margin."
                )
    return warnings


def _older(record: Record, registration: Registration) -> bool:
    """Whether a run began before the study was registered; only records of older versions are compared by clocks, which err."""
    if record.registrations is None:
        return record.finished < registration.time
    return registration.digest not in record.registrations


def _unregistered(expansion: Expansion, records: Records) -> list[str]:
    """Warn where nothing tells that the claims stood before the runs."""
    if not any(records.values()) or Registration.read(expansion):
        return []
    return [
        "There is no registration of this study: nothing tells that its claims were made before its runs. `xceptlab study` "
        "writes registered.yaml before the first run; it was removed, or the study was never started."
    ]


def _of_registration(expansion: Expansion, records: Records) -> list[str]:
    """Warn of edits after the registration, of runs from before it, and of seeds added after the verdict."""
    registration = Registration.read(expansion)
    if not registration:
        return []
    warnings = [f"Edited after its registration: {edit.rstrip('.')}." for edit in registration.edits(expansion)]
    done = [record for record in records.values() if record]
    older = [record for record in done if _older(record, registration)]
    if older:
        are = "is" if len(older) == 1 else "are"
        warnings.append(
            f"{len(older)} of {counted(len(records), 'run')} {are} older than the study's registration, "
            "so its claims may know them."
        )
    if added := _added_by_hand(registration, records):
        warnings.append(
            f"{named(added, 'was', 'were').capitalize()} added by hand after the verdict of the registered seeds: "
            "looking again makes false verdicts likelier than alpha; seeds: {start, step, max, stop: decided} accounts for it."
        )
    return warnings


def _added_by_hand(registration: Registration, records: Records) -> list[int]:
    """Seeds that were not registered and whose runs began when those of all registered seeds had ended, in order."""
    planned = registration.seeds
    registered = range(Seeds(**planned).max) if isinstance(planned, dict) else planned
    ends = []
    for (_, seed), record in records.items():
        if seed in registered:
            ends.append(record.finished if record else math.inf)
    if not ends:
        return []
    added = set()
    for (_, seed), record in records.items():
        if record and seed not in registered and record.started >= max(ends):
            added.add(seed)
    return sorted(added)
