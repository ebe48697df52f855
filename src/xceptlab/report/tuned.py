"""Make the tables of a study that tunes keys: which values were chosen, and the scores at each.

A *trial* is an arm at one of the values, such as ``residual@0.1``.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from xceptlab.runs.metrics import decimals
from xceptlab.study import images
from xceptlab.study.choice import Records, chosen, directories_at, records_at
from xceptlab.study.contrasts import arms_of
from xceptlab.study.expansion import Expansion
from xceptlab.study.judging import judge
from xceptlab.study.run_scores import scores_of_runs
from xceptlab.study.tuning import value_name
from xceptlab.study.verdict import Verdict

Rows = list[list[str]]
"""A table as a list of rows, each a list of cells of text."""

UNKNOWN = "–"
"""Text of a cell where there is no value yet."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What tuning chose and found, as tables of text; the first row of each is its header."""

    described: str
    """A sentence on how the arms are tuned."""
    chosen: Rows
    """Table of the value that was chosen for every arm at every seed."""
    by_value: Rows
    """Table of each arm's scores at each value: mean, standard deviation over seeds, and how often
    the value was chosen.
    """
    contrasts: Rows
    """Table with a row for every claim at each tuned value, with which all arms are compared: the
    difference, its interval, the unadjusted p-value, and what the verdict would be if the claim
    were the study's only one.
    """


def tuned(
    expansion: Expansion, records: Records, metric: str, scores_if_diverged: Mapping[str, float]
) -> Tuned | None:
    """Make the tables of a study that tunes keys; None for any other study.

    Args:
        expansion: The study.
        records: Records of all its runs, by (trial, seed).
        metric: The metric by which the arms are compared.
        scores_if_diverged: Score that a diverged run is given in this metric, by arm.

    Raises:
        Refused: A record lacks a score that a claim or the choice of values needs, or has one that
            is not finite or too large; or, with ``scope: images``, a run's file does not hold the
            values of its images.
    """
    tune = expansion.study.tune
    if tune is None:
        return None
    return Tuned(
        described=tune.described,
        chosen=_chosen(expansion, records),
        by_value=_by_value(expansion, records, metric, scores_if_diverged),
        contrasts=_contrasts(expansion, records),
    )


def _chosen(expansion: Expansion, records: Records) -> Rows:
    """Return the table of chosen values: a row for each arm, a column for each seed, and a dash
    where the choice is not known yet.
    """
    choice = chosen(expansion, records)
    header = ["arm"]
    for seed in expansion.seeds:
        header.append(f"seed {seed}")
    rows = [header]
    for arm in expansion.arms:
        row = [arm]
        for seed in expansion.seeds:
            trial = choice.get((arm, seed))
            row.append(value_name(expansion.trials[trial].values) if trial else UNKNOWN)
        rows.append(row)
    return rows


def _by_value(
    expansion: Expansion, records: Records, metric: str, scores_if_diverged: Mapping[str, float]
) -> Rows:
    """Return the table of scores in ``metric``, with a row for each arm and a column for each tuned
    value: their mean, their standard deviation over seeds, and at how many seeds the value was
    chosen. ``scores_if_diverged`` has by arm the score of a run that diverged.
    """
    tune = expansion.study.tune
    assert tune
    times_chosen = Counter(chosen(expansion, records).values())
    rows = [["arm", *map(value_name, tune.trial_values)]]
    for arm in expansion.arms:
        row = [arm]
        for trial in expansion.trials_of(arm):
            scores = _scores_of_trial(trial, expansion, records, metric, scores_if_diverged[arm])
            row.append(_cell_of_scores(scores, decimals(metric), times_chosen[trial]))
        rows.append(row)
    return rows


def _scores_of_trial(
    trial: str, expansion: Expansion, records: Records, metric: str, score_if_diverged: float
) -> list[float]:
    """Return a trial's scores in a metric, in the order of the seeds, of those runs that have a
    record with one; a diverged run scores ``score_if_diverged``.
    """
    scores = []
    for seed in expansion.seeds:
        record = records.get((trial, seed))
        score = record.score(metric, score_if_diverged) if record else None
        if score is not None:
            scores.append(score)
    return scores


def _cell_of_scores(scores: list[float], places: int, times_chosen: int) -> str:
    """Return the text of a cell, with so many decimal ``places``: the mean of scores, their
    standard deviation with 2 scores or more, and at how many seeds the value was chosen; a dash
    without scores.
    """
    if not scores:
        return UNKNOWN
    cell = f"{fmean(scores):.{places}f}"
    if len(scores) > 1:
        cell += f" ± {stdev(scores):.{places}f}"
    return f"{cell} ({times_chosen}×)"


def _contrasts(expansion: Expansion, records: Records) -> Rows:
    """Return the table with a row for every claim at each tuned value, with which all arms are
    compared: the difference, its interval, the p-value, and what the verdict would be if the claim
    were the study's only one.
    """
    study = expansion.study
    assert study.tune
    rows = [["claim", "value", "difference", "low", "high", "p", "by itself"]]
    for claim in study.claims:
        seeds = expansion.seeds_of(arms_of(claim, study))
        for number, values in enumerate(study.tune.trial_values):
            scores = scores_of_runs(claim, expansion, records_at(expansion, records, number))
            image_variances = {}
            if study.scope == "images":
                directories = directories_at(expansion, number)
                variance = images.variance_of(claim, study, directories, seeds)
                image_variances[claim.id] = variance
            (verdict,) = judge([claim], [scores], seeds, study.alpha, image_variances)
            rows.append([claim.id, value_name(values), *_numbers(verdict), verdict.outcome])
    return rows


def _numbers(verdict: Verdict) -> list[str]:
    """Return four cells: a verdict's estimate, the ends of its interval and its p-value, with a
    dash for each that is not known yet.
    """
    known = []
    if verdict.n:
        known.append(verdict.estimate)
    if verdict.has_interval:
        known += [verdict.low, verdict.high]
    places = verdict.claim.decimals
    cells = [f"{value:+.{places}f}" for value in known]
    if verdict.tested:
        cells.append(f"{verdict.p_adjusted:.2g}")
    missing = 4 - len(cells)
    return cells + missing * [UNKNOWN]
