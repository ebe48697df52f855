"""Write the rows of the tables of arms and of effects as text, for the page, Markdown, LaTeX and
the terminal alike.
"""

import math

from xceptlab.report.budgets import excess
from xceptlab.report.summary import ArmRow, EffectRow
from xceptlab.runs.metrics import decimals
from xceptlab.study import statistics

LEGEND = (
    "percentages: against the first arm; failed: runs that diverged or scored worse than a claim's failed score, and what share "
    "of all seeds this may be (95% upper bound); means are over all runs, diverged ones as the first claim scores them; seed sd: "
    "standard deviation over seeds; test se: standard error of one run's accuracy from the finite test set; MACs: "
    "multiply-accumulates per image; img/s: images trained on per second, as fast as the machine was then"
)
"""Explanation of the columns in the table of arms."""

EFFECT_HEADER = ["effect", "estimate", "low", "high", "p (Holm)"]
"""Header of the table of effects, whose rows are ``effect_cells``."""


def arm_header(metric: str) -> list[str]:
    """Return the header of the table of arms, whose rows are ``arm_cells``: the names of its
    columns. The column of means is named by the study's main metric.
    """
    return ["arm", "runs", "failed", metric, "seed sd", "test se", "params", "MACs", "img/s"]


def arm_cells(row: ArmRow, baseline: ArmRow, metric: str) -> list[str]:
    """Return the cells of one arm's row, for the columns that ``arm_header`` names.

    Args:
        row: The arm.
        baseline: The arm against whose costs those of the arm are compared, in percent.
        metric: The study's main metric.
    """
    return [
        row.name,
        _runs(row),
        _failed(row),
        number(row.mean, decimals(metric)),
        number(row.spread, decimals(metric)),
        number(row.sampling_error, 2),
        amount(row.parameters, baseline.parameters),
        amount(row.macs, baseline.macs),
        number(row.images_per_second, 0),
    ]


def _runs(row: ArmRow) -> str:
    """Return the number of an arm's runs with a record, and of those that diverged, if any."""
    if row.diverged:
        return f"{row.n} ({row.diverged} diverged)"
    return f"{row.n}"


def _failed(row: ArmRow) -> str:
    """Return how many of an arm's recorded runs failed, with the one-sided 95% upper confidence
    bound of the probability that a run fails, such as ``1 (≤ 66%)`` for 1 of 5; a dash for an arm
    without recorded runs.

    A run failed if it diverged, or scored worse than a claim on the arm declares to be a failure.
    """
    if not row.n:
        return "–"
    upper_bound = statistics.upper_share(row.failed, row.n)
    return f"{row.failed} (≤ {upper_bound:.0%})"


def effect_cells(row: EffectRow, metric: str) -> list[str]:
    """Return the cells of one effect's row, for the columns that ``EFFECT_HEADER`` names; ``metric``
    is the study's main metric.
    """
    numbers = [f"{value:+.{decimals(metric)}f}" for value in (row.estimate, row.low, row.high)]
    p = "–" if math.isnan(row.p_adjusted) else f"{row.p_adjusted:.2g}"
    return [row.name, *numbers, p]


def number(value: float, digits: int) -> str:
    """Return a number as text with ``digits`` decimals and commas between thousands; a dash for
    NaN.
    """
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"


def amount(value: int | None, baseline: int | None) -> str:
    """Return a count as text with its difference from the baseline's, such as ``22.86 M (-4.3%)``.

    The difference, in percent of the baseline's count, is left out where it is 0, or where the
    baseline's count is 0 or not known (None). Text for a count that is not known is a dash.
    """
    if value is None:
        return "–"
    text = f"{value:.4g}"
    for scale, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= scale:
            text = f"{value / scale:.4g} {letter}"
            break
    difference = excess(value, baseline, tolerance=0)
    return f"{text} ({difference})" if difference else text
