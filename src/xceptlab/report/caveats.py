"""What stands between a study's verdicts and believing them: unequal budgets, few test images, whatever a reviewer would ask."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xceptlab import stats
from xceptlab.data import identity
from xceptlab.records import RunDirectory
from xceptlab.study import Expansion, Registration, Seeds
from xceptlab.verdict import Records, Verdict

UNMATCHED = 0.01
"""Relative difference of budgets beyond which arms that are to match do not."""
SPEED = 0.25
"""The same of images per second, which vary by themselves."""
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
        if self.images > self.seeds:
            limit = f"The test images limit the answer: no number of seeds takes the error below {self.images:.2f}"
        else:
            limit = "The seeds limit the answer: more of them help, more test images hardly"
        return f"Standard error in points: {apart}, {self.both:.2f} from both. {limit}."


def sampling_errors(verdicts: list[Verdict], directories: Mapping[tuple[str, int], RunDirectory]) -> dict[str, Sampling]:
    """Of the claims on the test accuracy that are judged; images are drawn once for all of them."""
    wanted = [v for v in verdicts if v.claim.metric == "test/top1" and v.n > 1 and v.outcome != "incomplete"]
    keys = sorted({(arm, seed) for v in wanted for arm in v.claim.contrast for seed in v.differences})
    correct = {key: _correct(directories[key].path / "test_correct.npy") for key in keys}
    known = {key: row for key, row in correct.items() if row is not None}
    if not known or len({len(row) for row in known.values()}) > 1:
        return {}
    rng, test_images = np.random.default_rng(0), len(next(iter(known.values())))
    drawn = dict(zip(known, stats.redrawn(np.stack(list(known.values())), DRAWS, rng).T, strict=True))
    sampling = {}
    for v in wanted:
        a, b = v.claim.contrast
        if all((arm, seed) in known for arm in (a, b) for seed in v.differences):
            differences = np.stack([drawn[a, seed] - drawn[b, seed] for seed in v.differences], axis=1)
            seeds, images, both = stats.two_way_errors(v.values, differences, rng)
            sampling[v.claim.id] = Sampling(seeds=seeds, images=images, both=both, n=v.n, test_images=test_images)
    return sampling


def _correct(file: Path) -> NDArray[np.uint8] | None:
    """A run's correctness by image; None for a run that has none, such as a diverged one."""
    try:
        return np.asarray(np.load(file), dtype=np.uint8)
    except FileNotFoundError:
        return None
    except (ValueError, EOFError):
        raise ValueError(f"{file}: not a run's correctness by image; remove its folder to train the run again") from None


def unmatched_budgets(verdicts: list[Verdict], records: Records) -> dict[str, str]:
    """By claim, in which budgets its arms differ, in words; claims of equal budgets are left out.

    Speeds are medians over an arm's runs, as one of them may have had the machine for itself.
    """
    unmatched = {}
    for v in verdicts:
        a, b = ([r for (name, _), r in records.items() if r and name == arm] for arm in v.claim.contrast)
        if not a or not b:
            continue
        said = []
        for what, tolerance in (("parameters", UNMATCHED), ("macs", UNMATCHED), ("images_per_second", SPEED)):
            mine, other = (statistics.median(getattr(record, what) for record in own) for own in (a, b))
            if by := excess(mine, other, tolerance):
                said.append(f"{what.replace('macs', 'MACs').replace('_per_second', '/s')} {by}")
        sizes = [" or ".join(map(str, sorted({record.world_size for record in own}))) for own in (a, b)]
        if sizes[0] != sizes[1]:
            said.append(f"processes {sizes[0]} against {sizes[1]}")
        if said:
            unmatched[v.claim.id] = f"{v.claim.contrast[0]} against {v.claim.contrast[1]}: {', '.join(said)}"
    return unmatched


def warnings(
    expansion: Expansion,
    records: Records,
    reached: Mapping[tuple[str, int], float],
    verdicts: list[Verdict],
    sampling: Mapping[str, Sampling],
) -> list[str]:
    """All that a reviewer should know, a sentence each. ``reached``: the epoch that each run that has begun is at."""
    return [
        *_unfinished(expansion, records, reached),
        *_of_records(expansion, records),
        *_of_verdicts(verdicts, sampling),
        *_of_registration(expansion, records),
    ]


def _unfinished(expansion: Expansion, records: Records, reached: Mapping[tuple[str, int], float]) -> list[str]:
    """Failures are data: what diverged, and what began and has no record, because it crashed or is still running."""
    diverged = [f"{arm} seed {seed}" for (arm, seed), record in records.items() if record and record.status == "diverged"]
    begun = [
        f"{arm} seed {seed} (at epoch {epoch:g} of {expansion.arms[arm].train.epochs})"
        for (arm, seed), epoch in reached.items()
        if records[arm, seed] is None
    ]
    warnings = []
    if diverged:
        warnings.append(f"Diverged, scored as guessing unless the claim says otherwise: {', '.join(diverged)}.")
    if begun:
        warnings.append(f"Begun and not finished, crashed perhaps (log.txt in the run's folder tells): {', '.join(begun)}.")
    return warnings


def _of_records(expansion: Expansion, records: Records) -> list[str]:
    """In what the runs were not made alike."""
    done = [record for record in records.values() if record]
    warnings = []
    for what, values in {
        "The runs saw different data": {record.data_fingerprint for record in done},
        "The runs were made by different revisions of the code": {record.git.get("revision", "unknown") for record in done},
        "The runs used different numbers of processes": {record.world_size for record in done},
    }.items():
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
        if stats.skewed(v.values):
            warnings.append(
                f"Claim {v.claim.id}: the differences are skewed, so that the t-test may err several times as often as alpha; "
                "look at the single seeds."
            )
        if v.decided and v.claim.id in sampling:
            distance = min(abs(v.estimate - margin) for margin in v.margins)
            reach = stats.reach(sampling[v.claim.id].both, v.n, v.level)
            if distance < reach:
                warnings.append(
                    f"Claim {v.claim.id}: {v.outcome} on these test images; counting their sampling error too, the interval of "
                    f"{v.estimate:+.2f} ± {reach:.2f} holds the margin."
                )
    return warnings


def _of_registration(expansion: Expansion, records: Records) -> list[str]:
    """What was changed, or known, before or after the study was registered."""
    registration = Registration.read(expansion)
    if not registration:
        return []
    warnings = [f"Edited after its registration: {edit.rstrip('.')}." for edit in registration.edits(expansion)]
    done = [record for record in records.values() if record]
    older = [record.run_id for record in done if record.finished < registration.time]
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
            f"Seeds {', '.join(map(str, sorted(added)))} were added by hand after the verdict of the registered seeds: looking "
            "again makes false verdicts likelier than alpha; seeds: {start, step, max, stop: decided} accounts for it."
        )
    return warnings
