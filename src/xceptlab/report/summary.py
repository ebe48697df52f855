"""A study's records, gathered: what the tables, the figures, the page and the terminal all show."""

import csv
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xceptlab.records import RunDirectory
from xceptlab.study import Expansion, Registration
from xceptlab.verdict import Records, Verdict, judge_study

UNMATCHED = 0.01
"""Relative difference of budgets beyond which arms that are to match do not."""


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One arm in numbers."""

    name: str
    n: int
    """Runs with a record."""
    diverged: int
    """Of them, runs whose loss was not finite; they have no metrics."""
    mean: float
    """Of the study's main metric over the runs that finished; NaN without one."""
    spread: float
    """Standard deviation over seeds; NaN with fewer than 2."""
    sampling: float
    """Standard error that the finite test set adds to one run's accuracy, in points; NaN for other metrics."""
    parameters: int | None
    macs: int | None
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Learning curves of an arm: at (E,) epochs the values of R runs, (R, E); NaN where a run has none."""

    epochs: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Everything that a report shows."""

    expansion: Expansion
    records: Records
    verdicts: list[Verdict]
    metric: str
    """The first claim's metric, by which the arms are compared."""
    arms: list[ArmRow]
    curve_metric: str
    """val/top1, or train/top1 where nothing is held out."""
    curves: dict[str, Curve]
    warnings: list[str]

    @property
    def done(self) -> int:
        """Runs with a record."""
        return sum(record is not None for record in self.records.values())


def read_records(expansion: Expansion) -> Records:
    """Every run's record, by (arm, seed)."""
    return {key: RunDirectory.of(run.runtime.outputs, run.run_id).record() for key, run in expansion.runs().items()}


def summarise(expansion: Expansion) -> Summary:
    """Read the records and curves of a study and judge its claims."""
    records = read_records(expansion)
    claims = expansion.study.claims
    metric = claims[0].metric if claims else "test/top1"
    held_out = all(config.data.validation > 0 for config in expansion.arms.values())
    curve_metric = "val/top1" if held_out else "train/top1"
    return Summary(
        expansion=expansion,
        records=records,
        verdicts=judge_study(expansion, records),
        metric=metric,
        arms=[_arm(name, expansion, records, metric) for name in expansion.arms],
        curve_metric=curve_metric,
        curves={name: _curve(name, expansion, curve_metric) for name in expansion.arms},
        warnings=_warnings(expansion, records),
    )


def _arm(name: str, expansion: Expansion, records: Records, metric: str) -> ArmRow:
    own = [record for seed in expansion.seeds if (record := records[name, seed])]
    values = np.array([record.metrics[metric] for record in own if metric in record.metrics])
    mean = float(values.mean()) if len(values) else math.nan
    images = max((record.test_images for record in own), default=0)
    in_test = metric.startswith("test/top") and images > 0 and not math.isnan(mean)
    return ArmRow(
        name=name,
        n=len(own),
        diverged=sum(record.status == "diverged" for record in own),
        mean=mean,
        spread=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        sampling=math.sqrt(mean * (100 - mean) / images) if in_test else math.nan,
        parameters=own[0].parameters if own else None,
        macs=own[0].macs if own else None,
        images_per_second=float(np.mean([record.images_per_second for record in own])) if own else math.nan,
    )


def _curve(arm: str, expansion: Expansion, metric: str) -> Curve:
    """Values at the ends of epochs, of every run that has begun."""
    runs = []
    for seed in expansion.seeds:
        run = expansion.run(arm, seed)
        lines = RunDirectory.of(run.runtime.outputs, run.run_id).log()
        runs.append({line["epoch"]: line[metric] for line in lines if metric in line and float(line["epoch"]).is_integer()})
    epochs = sorted(set().union(*runs))
    values = [[run.get(epoch, math.nan) for epoch in epochs] for run in runs if run]
    return Curve(epochs=np.array(epochs), values=np.array(values).reshape(len(values), len(epochs)))


def _warnings(expansion: Expansion, records: Records) -> list[str]:
    """What a reviewer should know before believing the verdicts."""
    done = [record for record in records.values() if record]
    warnings = []
    diverged = [f"{arm} seed {seed}" for (arm, seed), record in records.items() if record and record.status == "diverged"]
    if diverged:
        warnings.append(f"Diverged, scored as guessing unless the claim says otherwise: {', '.join(diverged)}.")
    for what, values in {
        "The runs saw different data": {record.data_fingerprint for record in done},
        "The runs were made by different revisions of the code": {record.git.get("revision", "unknown") for record in done},
        "The runs used different numbers of processes": {record.world_size for record in done},
    }.items():
        if len(values) > 1:
            warnings.append(f"{what}: {', '.join(sorted(map(str, values)))}.")
    if any(record.git.get("dirty") for record in done):
        warnings.append("Some runs were made by code with uncommitted changes.")
    match = next(iter(expansion.arms.values())).model.match
    if match != "none":
        spent = {arm: getattr(record, match) for (arm, _), record in records.items() if record}
        budget = spent.get(next(iter(expansion.arms)))
        off = [
            f"{arm} by {100 * (n / budget - 1):+.1f}%" for arm, n in spent.items() if budget and abs(n / budget - 1) > UNMATCHED
        ]
        if off:
            warnings.append(f"Unmatched in {match}: {', '.join(off)}.")
    registration = Registration.read(expansion)
    if registration:
        warnings += [f"Edited after its registration: {edit.rstrip('.')}." for edit in registration.edits(expansion)]
        older = [record.run_id for record in done if record.finished < registration.time]
        if older:
            warnings.append(
                f"{len(older)} of {len(records)} runs are older than the study's registration, so its claims may know them."
            )
    return warnings


def results_csv(summary: Summary) -> str:
    """One line per run: the raw scores and what made them."""
    metrics = sorted({name for record in summary.records.values() if record for name in record.metrics})
    columns = [
        "parameters",
        "macs",
        "steps",
        "seconds",
        "images_per_second",
        "device",
        "world_size",
        "precision",
        "data_fingerprint",
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["arm", "seed", "run_id", "status", *metrics, *columns, "revision"])
    for (arm, seed), run in summary.expansion.runs().items():
        record = summary.records[arm, seed]
        if record is None:
            writer.writerow([arm, seed, run.run_id, "missing"] + [""] * (len(metrics) + len(columns) + 1))
            continue
        values = [getattr(record, column) for column in columns]
        scores = [record.metrics.get(name, "") for name in metrics]
        writer.writerow([arm, seed, run.run_id, record.status, *scores, *values, record.git.get("revision", "")])
    return buffer.getvalue()
