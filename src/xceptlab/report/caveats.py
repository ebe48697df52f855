"""The warnings of a report: what a reader should know before believing its verdicts, and what a
reviewer would ask.

In a study that tunes keys a *trial* is an arm at one of the values, such as ``residual@0.1``; in
any other study the trials are the arms.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from scipy import stats

from xceptlab.data import identity
from xceptlab.report.budgets import excess
from xceptlab.report.registration import registration_warnings, warnings_without_registration
from xceptlab.report.sampling import Sampling
from xceptlab.runs import leases
from xceptlab.runs.record import Record, packages_of
from xceptlab.study import statistics
from xceptlab.study.choice import Records, done_records
from xceptlab.study.expansion import Expansion
from xceptlab.study.tuning_warnings import tuning_warnings
from xceptlab.study.verdict import Verdict

RunKey = tuple[str, int]
"""The trial and the seed of a run or, where it is said, the arm and the seed."""


def warnings(
    expansion: Expansion,
    records: Records,
    logs: Mapping[RunKey, list[dict[str, Any]]],
    reached: Mapping[RunKey, float],
    failures: Mapping[RunKey, str],
    verdicts: list[Verdict],
    sampling: Mapping[str, Sampling],
) -> list[str]:
    """Return the warnings of a report, a sentence or two each; those of a simulation of wrong
    verdicts (``--calibrate``) are not among them.

    Args:
        expansion: The study.
        records: Records of all its runs, by (trial, seed).
        logs: Logs of the runs that stand for the arms, by (arm, seed).
        reached: Epoch that each run without a record has reached, by (trial, seed); without those
            that have not begun.
        failures: Why runs without a record failed, by (trial, seed); only of those that failed.
        verdicts: Verdicts on the study's claims.
        sampling: Sources of the error of each claim's mean difference, by the claim's id, as far as
            they are known.

    Raises:
        Refused: The registration is damaged or another study's; or, where keys are tuned, the
            record of a run that did not diverge has no score by which to choose the value.
    """
    done = done_records(records)
    first_look = [f"This is {expansion.first_look}."] if expansion.first_look else []
    return [
        *warnings_without_registration(expansion, records),
        *first_look,
        *_of_ended_arms(expansion),
        *_of_diverged_runs(records),
        *_of_failed_runs(failures),
        *_of_unfinished_runs(expansion, reached, failures),
        *_of_short_runs(expansion, records),
        *_of_devices(done),
        *_of_libraries(done),
        *_of_origins(done),
        *_of_changed_data(expansion, records),
        *_of_match(expansion, records),
        *_of_verdicts(verdicts, sampling),
        *tuning_warnings(expansion, records),
        *registration_warnings(expansion, records),
        *_of_replaced_images(logs),
    ]


def _of_replaced_images(logs: Mapping[RunKey, list[dict[str, Any]]]) -> list[str]:
    """Return a warning, in a list of one, of runs that were trained on other photographs in place
    of some that could not be decoded; an empty list where no log tells of any.

    ``logs`` has the lines of the log of each run that stands for an arm, by (arm, seed).
    """
    runs = []
    for (arm, seed), log in logs.items():
        replaced = sum(line.get("replaced", 0) for line in log)
        if replaced:
            runs.append(f"{arm} seed {seed} ({replaced:g} times)")
    if not runs:
        return []
    return [
        f"Training images that could not be decoded were replaced by others (data.on_corrupt: skip): {', '.join(runs)}."
    ]


def _sorted_text(values: Iterable[Any]) -> str:
    """Return values as text, in alphabetical order and joined by commas."""
    return ", ".join(sorted(map(str, values)))


# ---- runs that did not end as planned ------------------------------------------------------------


def _of_ended_arms(expansion: Expansion) -> list[str]:
    """Return a list of one warning that names the arms whose training stopped at fewer seeds than
    the study has, because no claim on them was open any more, and says over which seeds the means
    and effects are therefore computed. The list is empty where there are no such arms.
    """
    ended = [f"{arm} after {n}" for arm, n in expansion.ended_arms.items()]
    if not ended:
        return []
    seeds = len(expansion.seeds)
    in_common = len(expansion.seeds_of(expansion.arms))
    return [
        f"No further seeds, as their claims were settled: {', '.join(ended)} (of {seeds}); the means of the arms are over "
        f"different seeds, and effects of factors over the {in_common} that all arms have."
    ]


def _of_diverged_runs(records: Records) -> list[str]:
    """Return a warning, in a list of one, that names the runs whose training loss or final
    evaluation was not finite; an empty list where there are none.
    """
    diverged = []
    for (trial, seed), record in records.items():
        if record and record.status == "diverged":
            diverged.append(f"{trial} seed {seed}")
    if not diverged:
        return []
    return [f"Diverged, scored as guessing unless the claim says otherwise: {', '.join(diverged)}."]


def _of_short_runs(expansion: Expansion, records: Records) -> list[str]:
    """Return warnings that finished runs took fewer optimizer steps than ``train.epochs`` asks for,
    as where a callback ended the training early or accumulated the gradients of several batches.

    Runs that took the same number of steps, of the same number asked for, share a warning. A run
    whose record does not have its number of training images, as in older versions, gets none.
    """
    runs_by_steps: dict[str, list[str]] = {}
    for (trial, seed), record in records.items():
        if record is None or record.status != "finished" or not record.train_images:
            continue
        planned = expansion.trials[trial].config.train.steps(record.train_images)
        if record.steps < planned:
            steps = f"{record.steps:,} of {planned:,}"
            runs_by_steps.setdefault(steps, []).append(f"{trial} seed {seed}")
    return [
        f"Fewer optimizer steps than train.epochs asks for, {steps}, as a callback ended the training or gathered batches: "
        f"{', '.join(runs)}."
        for steps, runs in runs_by_steps.items()
    ]


def _of_failed_runs(failures: Mapping[RunKey, str]) -> list[str]:
    """Return warnings of runs that failed, one for all that failed for the same reason.
    ``failures`` has the reasons by (trial, seed), only of the runs that failed.
    """
    runs_by_reason: dict[str, list[str]] = {}
    for (trial, seed), reason in failures.items():
        in_one_line = " ".join(reason.split()).rstrip(".")
        runs_by_reason.setdefault(in_one_line, []).append(f"{trial} seed {seed}")
    return [f"Failed: {', '.join(runs)}: {reason}." for reason, runs in runs_by_reason.items()]


def _of_unfinished_runs(
    expansion: Expansion, reached: Mapping[RunKey, float], failures: Mapping[RunKey, str]
) -> list[str]:
    """Return warnings of runs that have begun and have no record: one names those that a process
    is training now, another one those that were stopped or crashed. Each is left out where it has
    no run to name. Runs that failed are in neither.

    Args:
        expansion: The study.
        reached: Epoch that each run without a record has reached, by (trial, seed); without those
            that have not begun.
        failures: Why runs failed, by (trial, seed); only of the runs that failed.
    """
    being_trained = []
    stopped = []
    directories = expansion.directories()
    for (trial, seed), epoch in reached.items():
        if (trial, seed) in failures:
            continue
        epochs = expansion.trials[trial].config.train.epochs
        run = f"{trial} seed {seed} (at epoch {epoch:g} of {epochs})"
        if leases.Watch(directories[trial, seed].path).holders():
            being_trained.append(run)
        else:
            stopped.append(run)
    warnings = []
    if being_trained:
        warnings.append(f"Being trained: {', '.join(being_trained)}.")
    if stopped:
        warnings.append(
            f"Begun and not finished, stopped or crashed (log.txt in the run's folder tells): {', '.join(stopped)}."
        )
    return warnings


# ---- what the runs do not have in common ---------------------------------------------------------


def _of_devices(done: list[Record]) -> list[str]:
    """Return a warning, in a list of one, if the runs were made on different models of device, or
    if their records name different arithmetic (``Record.arithmetic``), so that they may round sums
    differently; else an empty list.

    ``done`` are the records of the runs.
    """
    devices = {record.device for record in done}
    arithmetics = {(record.device, record.arithmetic) for record in done if record.arithmetic}
    if len(devices) <= 1 and len(arithmetics) <= 1:
        return []
    described = {", ".join(filter(None, (record.device, record.arithmetic))) for record in done}
    different = "; ".join(sorted(described))
    return [
        f"The runs were made on different devices, on which one and the same run comes to different scores: {different}."
    ]


def _of_libraries(done: list[Record]) -> list[str]:
    """Return a warning for each package, Python among them, of which the runs were made with
    different versions. xceptlab counts only if a run was not made in a checkout of its code.
    """
    packages = packages_of(done)
    # Of code in a checkout the revisions are compared, which say more than the version.
    if all(record.git for record in done):
        packages.discard("xceptlab")
    warnings = []
    for package in sorted(packages):
        versions = {record.versions.get(package, "unknown") for record in done}
        if len(versions) > 1:
            warnings.append(
                f"The runs were made with different versions of {package}: {_sorted_text(versions)}."
            )
    return warnings


def _of_origins(done: list[Record]) -> list[str]:
    """Return a warning for each of these that is so: the runs differ in their data, in the revision
    of the code or in their number of processes, or the code of any had uncommitted changes.
    """
    origins: dict[str, set[Any]] = {
        "The runs saw different data": {record.data_fingerprint for record in done},
        "The runs were made by different revisions of the code": {
            record.git.get("revision", "unknown") for record in done
        },
        "The runs used different numbers of processes": {record.world_size for record in done},
    }
    warnings = []
    for sentence, values in origins.items():
        if len(values) > 1:
            warnings.append(f"{sentence}: {_sorted_text(values)}.")
    if any(record.git.get("dirty") for record in done):
        warnings.append("Some runs were made by code with uncommitted changes.")
    return warnings


def _of_changed_data(expansion: Expansion, records: Records) -> list[str]:
    """Return a warning for each difference of the data that are on this machine now from those that
    the runs were trained on.
    """
    runs_with_records = ((run, records[key]) for key, run in expansion.runs().items())
    changes = identity.changes(runs_with_records)
    return [
        f"The data here are not those that the runs were trained on: {change}."
        for change in changes
    ]


def _of_match(expansion: Expansion, records: Records) -> list[str]:
    """Return a warning, in a list of one, of arms whose parameters or MACs, as their records tell
    them, differ by more than 1% from the first arm's.

    The first arm's ``model.match`` says which of the two should be equal. The list is empty where
    it is ``none``, where no arm differs so, and before a run of the first arm has a record.
    """
    baseline, config = next(iter(expansion.arms.items()))
    budget = config.model.match
    if budget == "none":
        return []
    spent = {}
    for (trial, _), record in records.items():
        if record:
            spent[expansion.trials[trial].arm] = getattr(record, budget)
    unmatched = []
    for arm, amount in spent.items():
        if more := excess(amount, spent.get(baseline)):
            unmatched.append(f"{arm} by {more}")
    if not unmatched:
        return []
    return [f"Unmatched in {budget}: {', '.join(unmatched)}."]


# ---- verdicts ------------------------------------------------------------------------------------


def _of_verdicts(verdicts: list[Verdict], sampling: Mapping[str, Sampling]) -> list[str]:
    """Return the warnings of single verdicts, each with the claim's id.

    They are those that the verdict has; one if the claim is on a mean and the differences are
    skewed, which may mislead the t-test; and one if the verdict is supported or contradicted on
    these test images, and others might turn it by what ``sampling`` tells.

    Args:
        verdicts: Verdicts on the study's claims.
        sampling: Sources of the error of each claim's mean difference, by the claim's id, as far as
            they are known.
    """
    warnings = []
    for verdict in verdicts:
        claim = verdict.claim
        sentences = [f"{why}." for why in verdict.warnings]
        if claim.statistic == "mean" and statistics.skewed(verdict.values):
            sentences.append(
                "the differences are skewed, so that the t-test may err several times as often as alpha; "
                "look at the single seeds (a claim on the median is judged soundly there)."
            )
        # A verdict that has a variance of its images counts the error of the images already.
        for_these_images = verdict.image_variance is None
        if claim.id in sampling and verdict.decided and for_these_images:
            sentences += _of_sampling(verdict, sampling[claim.id])
        warnings += [f"Claim {claim.id}: {sentence}" for sentence in sentences]
    return warnings


def _of_sampling(verdict: Verdict, errors: Sampling) -> list[str]:
    """Return a warning, in a list of one, if other test images might turn a decided verdict: if its
    interval includes a margin once it counts the sampling error of the images. Else the list is
    empty.

    ``errors`` are the standard errors of the verdict's mean difference.
    """
    distance = min(abs(verdict.estimate - margin) for margin in verdict.claim.margins)
    quantile = float(stats.t.ppf((1 + verdict.level) / 2, errors.freedom))
    half_width = errors.both * quantile
    places = verdict.claim.decimals
    if distance >= half_width:
        return []
    return [
        f"{verdict.outcome} on these test images; counting their sampling error too, the interval of "
        f"{verdict.estimate:+.{places}f} ± {half_width:.{places}f} includes the margin."
    ]
