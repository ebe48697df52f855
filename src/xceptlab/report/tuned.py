"""What tuning chose and what it found at each value, as the tables of a report."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from xceptlab.runs.metrics import decimals
from xceptlab.study.choice import Records, chosen, records_at
from xceptlab.study.expansion import Expansion
from xceptlab.study.run_scores import scores_of_runs
from xceptlab.study.tuning import value_name
from xceptlab.study.verdict import Verdict, judge

Rows = list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Tables of text, the first row of each its header."""

    described: str
    """How the arms are tuned, in a sentence."""
    chosen: Rows
    """The value of every arm at every seed."""
    by_value: Rows
    """The scores of every arm at every value: mean, standard deviation over seeds, and how often the value was chosen."""
    contrasts: Rows
    """What every claim compares, with all arms at one and the same value."""


def tuned(expansion: Expansion, records: Records, metric: str, diverged: Mapping[str, float]) -> Tuned | None:
    """The tables of a study that tunes keys; None of another one.

    Args:
        expansion: The study.
        records: Of all its runs.
        metric: By which the arms are compared.
        diverged: By arm, what a run scores in it that diverged.
    """
    tune = expansion.study.tune
    if tune is None:
        return None
    return Tuned(
        described=tune.described,
        chosen=_chosen(expansion, records),
        by_value=_by_value(expansion, records, metric, diverged),
        contrasts=_contrasts(expansion, records),
    )


def _chosen(expansion: Expansion, records: Records) -> Rows:
    choice = chosen(expansion, records)
    rows = [["arm", *(f"seed {seed}" for seed in expansion.seeds)]]
    for arm in expansion.arms:
        names = [choice.get((arm, seed)) for seed in expansion.seeds]
        rows.append([arm, *(value_name(expansion.trials[name].values) if name else "–" for name in names)])
    return rows


def _by_value(expansion: Expansion, records: Records, metric: str, diverged: Mapping[str, float]) -> Rows:
    times, places = Counter(chosen(expansion, records).values()), decimals(metric)
    assert expansion.study.tune
    rows = [["arm", *map(value_name, expansion.study.tune.values())]]
    for arm in expansion.arms:
        row = [arm]
        for name in expansion.trials_of(arm):
            done = [record for seed in expansion.seeds if (record := records.get((name, seed)))]
            values = [record.metrics.get(metric, diverged[arm]) for record in done]
            spread = f" ± {stdev(values):.{places}f}" if len(values) > 1 else ""
            row.append(f"{fmean(values):.{places}f}{spread} ({times[name]}×)" if values else "–")
        rows.append(row)
    return rows


def _contrasts(expansion: Expansion, records: Records) -> Rows:
    rows = [["claim", "value", "difference", "low", "high", "p"]]
    assert expansion.study.tune
    for claim in expansion.study.claims:
        for number, values in enumerate(expansion.study.tune.values()):
            table = scores_of_runs(claim, expansion, records_at(expansion, records, number))
            (verdict,) = judge([claim], [table], expansion.seeds, expansion.study.alpha)
            rows.append([claim.id, value_name(values), *_numbers(verdict)])
    return rows


def _numbers(v: Verdict) -> list[str]:
    """A verdict's estimate, interval and p-value, or a dash for what is not known."""
    places = decimals(v.claim.metric)
    known = [*([v.estimate] if v.n else []), *([v.low, v.high] if v.n > 1 else [])]
    shown = [f"{value:+.{places}f}" for value in known] + ([f"{v.p_adjusted:.2g}"] if v.tested else [])
    return shown + ["–"] * (4 - len(shown))
