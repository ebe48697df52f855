"""A study's records, gathered: what the tables, the figures, the page and the terminal all show."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xceptlab import stats
from xceptlab.records import RunDirectory
from xceptlab.stats import Array
from xceptlab.study import Expansion, Registration, Seeds
from xceptlab.verdict import Records, Verdict, guessing, judge_study

UNMATCHED = 0.01
"""Relative difference of budgets beyond which arms that are to match do not."""
SPEED = 0.25
"""The same of images per second, which vary by themselves."""
DRAWS = 1000
"""Draws of the bootstrap."""


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

    epochs: Array
    values: Array
    seeds: list[int]
    """Of the runs (R,)."""


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


@dataclass(frozen=True, kw_only=True)
class EffectRow:
    """An effect of a factorial study in words and numbers."""

    name: str
    """Such as ``model.residual: all → none``."""
    estimate: float
    low: float
    high: float


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
    unmatched: dict[str, str]
    """By claim, in which budgets its arms differ, in words; claims of equal budgets are left out."""
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


def read_records(expansion: Expansion) -> Records:
    """Every run's record, by (arm, seed)."""
    return {key: directory.record() for key, directory in _directories(expansion).items()}


def _directories(expansion: Expansion) -> dict[tuple[str, int], RunDirectory]:
    return {key: RunDirectory.of(run.runtime.outputs, run.run_id) for key, run in expansion.runs().items()}


def summarise(expansion: Expansion) -> Summary:
    """Read the records and curves of a study and judge its claims."""
    directories = _directories(expansion)
    records = {key: directory.record() for key, directory in directories.items()}
    claims = expansion.study.claims
    metric = claims[0].metric if claims else "test/top1"
    held_out = all(config.data.validation > 0 for config in expansion.arms.values())
    curve_metric = "val/top1" if held_out else "train/top1"
    curves, reached = _curves(expansion, directories, curve_metric)
    verdicts = judge_study(expansion, records)
    sampling = _sampling(verdicts, directories)
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
        unmatched=_unmatched(verdicts, records),
        effects=_effects(expansion, records, metric),
        environment=_environment(records),
        links={key: file.read_text().strip() for key, file in links.items() if file.is_file()},
        warnings=[
            *_unfinished(expansion, records, reached),
            *_of_records(expansion, records),
            *_of_verdicts(verdicts, sampling),
            *_of_registration(expansion, records),
        ],
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


def _sampling(verdicts: list[Verdict], directories: dict[tuple[str, int], RunDirectory]) -> dict[str, Sampling]:
    """Of the claims on the test accuracy that are judged; images are drawn once for all of them."""
    wanted = [v for v in verdicts if v.claim.metric == "test/top1" and v.n > 1 and v.outcome != "incomplete"]
    keys = sorted({(arm, seed) for v in wanted for arm in v.claim.contrast for seed in v.differences})
    correct = {key: _correct(directories[key].path / "test_correct.npy") for key in keys}
    known = {key: row for key, row in correct.items() if row is not None}
    if not known or len({len(row) for row in known.values()}) > 1:
        return {}
    rng = np.random.default_rng(0)
    drawn = dict(zip(known, stats.redrawn(np.stack(list(known.values())), DRAWS, rng).T, strict=True))
    sampling = {}
    for v in wanted:
        a, b = v.claim.contrast
        if all((arm, seed) in known for arm in (a, b) for seed in v.differences):
            differences = np.stack([drawn[a, seed] - drawn[b, seed] for seed in v.differences], axis=1)
            seeds, images, both = stats.two_way_errors(v.values, differences, rng)
            sampling[v.claim.id] = Sampling(
                seeds=seeds, images=images, both=both, n=v.n, test_images=len(known[a, min(v.differences)])
            )
    return sampling


def _correct(file: Path) -> NDArray[np.uint8] | None:
    """A run's correctness by image; None for a run that has none, such as a diverged one."""
    try:
        return np.asarray(np.load(file), dtype=np.uint8)
    except FileNotFoundError:
        return None
    except (ValueError, EOFError):
        raise ValueError(f"{file}: not a run's correctness by image; remove its folder to train the run again") from None


def _unmatched(verdicts: list[Verdict], records: Records) -> dict[str, str]:
    """Speeds are those of each arm's fastest run: what else runs on a machine only slows runs down."""
    unmatched = {}
    for v in verdicts:
        a, b = ([r for (name, _), r in records.items() if r and name == arm] for arm in v.claim.contrast)
        if not a or not b:
            continue
        said = []
        for what, tolerance in (("parameters", UNMATCHED), ("macs", UNMATCHED), ("images_per_second", SPEED)):
            mine, other = (max(getattr(record, what) for record in own) for own in (a, b))
            if other and abs(mine / other - 1) > tolerance:
                name = what.replace("macs", "MACs").replace("_per_second", "/s")
                said.append(f"{name} {100 * (mine / other - 1):+.1f}%")
        sizes = [" or ".join(map(str, sorted({record.world_size for record in own}))) for own in (a, b)]
        if sizes[0] != sizes[1]:
            said.append(f"processes {sizes[0]} against {sizes[1]}")
        if said:
            unmatched[v.claim.id] = f"{v.claim.contrast[0]} against {v.claim.contrast[1]}: {', '.join(said)}"
    return unmatched


def _effects(expansion: Expansion, records: Records, metric: str) -> list[EffectRow]:
    """Main effects and interactions over the seeds that every cell has; a diverged run scores as in the first claim."""
    grid = expansion.study.grid
    complete = [seed for seed in expansion.seeds if all(records[arm, seed] for arm in expansion.arms)]
    if not grid or len(complete) < 2:
        return []
    declared = expansion.study.claims[0].diverged if expansion.study.claims else None
    guess = guessing(metric, next(iter(expansion.arms.values())).data.classes) if declared is None else declared
    scores = [
        [record.metrics.get(metric, guess) for arm in expansion.arms if (record := records[arm, seed])] for seed in complete
    ]
    shape = [len(levels) for levels in grid.values()]
    factors, levels = list(grid), list(grid.values())

    def name(effect: stats.Effect) -> str:
        each = [f"{factors[f]}: {levels[f][0]} → {levels[f][i]}" for f, i in zip(effect.factors, effect.levels, strict=True)]
        return " × ".join(each)

    made = stats.effects(np.array(scores).reshape(len(complete), *shape), 1 - expansion.study.alpha)
    return [EffectRow(name=name(e), estimate=e.estimate, low=e.low, high=e.high) for e in made]


def _environment(records: Records) -> dict[str, str]:
    """What the runs were made with; several values where they differ."""
    done = [record for record in records.values() if record]
    names = sorted({name for record in done for name in record.versions})
    values = {
        "revision of the code": [r.git.get("revision", "unknown") + (" and changes" if r.git.get("dirty") else "") for r in done],
        "device": [r.device for r in done],
        "processes of a run": [r.world_size for r in done],
        "precision": [r.precision for r in done],
        "fingerprint of the data": [r.data_fingerprint for r in done],
        **{name: [r.versions.get(name, "unknown") for r in done] for name in names},
    }
    return {name: ", ".join(sorted({str(value) for value in own})) for name, own in values.items() if own}


def _unfinished(expansion: Expansion, records: Records, reached: dict[tuple[str, int], float]) -> list[str]:
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
    """What a reviewer should know of the runs before believing the verdicts."""
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
    match = next(iter(expansion.arms.values())).model.match
    if match != "none":
        spent = {arm: getattr(record, match) for (arm, _), record in records.items() if record}
        budget = spent.get(next(iter(expansion.arms)))
        off = [
            f"{arm} by {100 * (n / budget - 1):+.1f}%" for arm, n in spent.items() if budget and abs(n / budget - 1) > UNMATCHED
        ]
        if off:
            warnings.append(f"Unmatched in {match}: {', '.join(off)}.")
    return warnings


def _of_verdicts(verdicts: list[Verdict], sampling: dict[str, Sampling]) -> list[str]:
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
