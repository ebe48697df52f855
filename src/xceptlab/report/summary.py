"""A study's records, gathered: what the tables, the figures, the page and the terminal all show."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from xceptlab.files import read
from xceptlab.report.caveats import Budgets, Sampling, compare_budgets, sampling_errors, warnings
from xceptlab.runs.directory import RunDirectory
from xceptlab.study import statistics
from xceptlab.study.expansion import Expansion
from xceptlab.study.metrics import metric_of
from xceptlab.study.statistics import Array
from xceptlab.study.verdict import Records, Verdict, has_failed, judge_study, score_of_divergence


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One arm in numbers."""

    name: str
    n: int
    """Runs with a record."""
    diverged: int
    """Of them, runs whose loss was not finite; they have no metrics."""
    failed: int
    """Of them, runs that diverged or scored worse than a claim on this arm declares to be a failure."""
    mean: float
    """Of the study's main metric over all runs, diverged ones scored as in the first claim; NaN without a run."""
    spread: float
    """Standard deviation over seeds; NaN with fewer than 2."""
    sampling: float
    """Standard error that the finite test set adds to the accuracy of a run that finished, in points; NaN for other metrics."""
    parameters: int | None
    macs: int | None
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Learning curves of an arm: at (E,) epochs the values of R runs, (R, E); NaN where a run has none."""

    epochs: Array
    values: Array
    seeds: list[int]
    """Of the runs (R,)."""


@dataclass(frozen=True, kw_only=True)
class EffectRow:
    """An effect of a factorial study in words and numbers."""

    name: str
    """Such as ``model.residual: all → none``."""
    estimate: float
    low: float
    high: float
    p_adjusted: float
    """Of no effect, after Holm's correction over all effects; NaN where every seed has the same effect."""


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
    sampling: dict[str, Sampling]
    """By claim, where the test images' correctness is known."""
    budgets: dict[str, Budgets]
    """By claim, how the budgets of its arms differ."""
    effects: list[EffectRow]
    """Of a grid whose cells all have at least 2 seeds."""
    environment: dict[str, str]
    links: dict[tuple[str, int], str]
    """Where runs are in W&B, as far as they are."""
    warnings: list[str]

    @property
    def done(self) -> int:
        """Runs with a record."""
        return sum(record is not None for record in self.records.values())


def summarise(expansion: Expansion) -> Summary:
    """Read the records and curves of a study and judge its claims."""
    directories = expansion.directories()
    records = {key: directory.record() for key, directory in directories.items()}
    claims = expansion.study.claims
    metric = claims[0].metric if claims else "test/top1"
    held_out = all(config.data.validates for config in expansion.arms.values())
    curve_metric = "val/top1" if held_out else "train/top1"
    curves, reached = _curves(expansion, directories, curve_metric)
    failures = {key: reason for key, directory in directories.items() if not records[key] and (reason := directory.failure())}
    verdicts = judge_study(expansion, records)
    sampling = sampling_errors(verdicts, expansion.study, directories)
    arms = [_arm(name, expansion, records, metric) for name in expansion.arms]
    links = {key: directory.path / "wandb_url" for key, directory in directories.items()}
    return Summary(
        expansion=expansion,
        records=records,
        verdicts=verdicts,
        metric=metric,
        arms=arms,
        curve_metric=curve_metric,
        curves=curves,
        sampling=sampling,
        budgets=compare_budgets(verdicts, expansion, records),
        effects=_effects(expansion, records, metric),
        environment=_environment(records),
        links={key: read(file).strip() for key, file in links.items() if file.is_file()},
        warnings=warnings(expansion, records, reached, failures, verdicts, sampling),
    )


def _arm(name: str, expansion: Expansion, records: Records, metric: str) -> ArmRow:
    own = [record for seed in expansion.seeds if (record := records[name, seed])]
    diverged = sum(record.status == "diverged" for record in own)
    finished = [record.metrics[metric] for record in own if metric in record.metrics]
    values = np.array(finished + diverged * [_score_of_divergence(name, expansion, metric)])
    claims = [claim for claim in expansion.study.claims if name in expansion.study.arms_of(claim)]
    images = max((record.test_images for record in own), default=0)
    accuracy = float(np.mean(finished)) if metric.startswith("test/top") and images and finished else math.nan
    return ArmRow(
        name=name,
        n=len(own),
        diverged=diverged,
        failed=sum(has_failed(record, claims) for record in own),
        mean=float(values.mean()) if len(values) else math.nan,
        spread=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        sampling=math.sqrt(accuracy * (100 - accuracy) / images) if images else math.nan,
        parameters=own[0].parameters if own else None,
        macs=own[0].macs if own else None,
        images_per_second=float(np.mean([record.images_per_second for record in own])) if own else math.nan,
    )


def _score_of_divergence(arm: str, expansion: Expansion, metric: str) -> float:
    """What a diverged run of the arm scores in the study's main metric: as in the first claim."""
    classes, claims = expansion.arms[arm].data.classes, expansion.study.claims
    return score_of_divergence(claims[0], classes) if claims else metric_of(metric).guessing(classes)


def _curves(
    expansion: Expansion, directories: dict[tuple[str, int], RunDirectory], metric: str
) -> tuple[dict[str, Curve], dict[tuple[str, int], float]]:
    """Per arm the values at the ends of epochs, of every run that has begun; and the epoch that each such run has reached."""
    curves, reached = {}, {}
    for arm in expansion.arms:
        runs = {}
        for seed in expansion.seeds:
            lines = directories[arm, seed].log()
            if lines or (directories[arm, seed].path / "config.yaml").exists():
                runs[seed] = {line["epoch"]: line[metric] for line in lines if metric in line and line["epoch"] % 1 == 0}
                reached[arm, seed] = max((line["epoch"] for line in lines), default=0)
        runs = {seed: run for seed, run in runs.items() if run}
        epochs = sorted(set().union(*runs.values()))
        values = [[run.get(epoch, math.nan) for epoch in epochs] for run in runs.values()]
        table = np.array(values, dtype=float).reshape(len(runs), len(epochs))
        curves[arm] = Curve(epochs=np.array(epochs, dtype=float), values=table, seeds=list(runs))
    return curves, reached


def _effects(expansion: Expansion, records: Records, metric: str) -> list[EffectRow]:
    """Main effects and interactions over the seeds that every cell has; a diverged run scores as in the first claim."""
    grid = expansion.study.grid
    complete = [seed for seed in expansion.seeds if all(records[arm, seed] for arm in expansion.arms)]
    if not grid or len(complete) < 2:
        return []
    diverged = {arm: _score_of_divergence(arm, expansion, metric) for arm in expansion.arms}
    scores = [
        [record.metrics.get(metric, diverged[arm]) for arm in expansion.arms if (record := records[arm, seed])]
        for seed in complete
    ]
    shape = [len(levels) for levels in grid.values()]
    factors, levels = list(grid), list(grid.values())

    def name(effect: statistics.Effect) -> str:
        each = [f"{factors[f]}: {levels[f][0]} → {levels[f][i]}" for f, i in zip(effect.factors, effect.levels, strict=True)]
        return " × ".join(each)

    made = statistics.effects(np.array(scores).reshape(len(complete), *shape), 1 - expansion.study.alpha)
    return [EffectRow(name=name(e), estimate=e.estimate, low=e.low, high=e.high, p_adjusted=e.p_adjusted) for e in made]


def _environment(records: Records) -> dict[str, str]:
    """What the runs were made with; several values where they differ."""
    done = [record for record in records.values() if record]
    names = sorted({name for record in done for name in record.versions})
    values: dict[str, list[Any]] = {
        "revision of the code": [
            str(r.git.get("revision", "unknown")) + (" and changes" if r.git.get("dirty") else "") for r in done
        ],
        "device": [r.device for r in done],
        "processes of a run": [r.world_size for r in done],
        "precision": [r.precision for r in done],
        "fingerprint of the data": [r.data_fingerprint for r in done],
        **{name: [r.versions.get(name, "unknown") for r in done] for name in names},
    }
    return {name: ", ".join(sorted({str(value) for value in own})) for name, own in values.items() if own}
