"""The figures that compare arms: scores against costs, and the effects of a factorial study."""

from collections.abc import Sequence
from typing import Any, Literal

import altair as alt
import numpy as np

from xceptlab.report.figures.style import (
    COLOURS,
    INK,
    Chart,
    chart_of,
    colour,
    difference_format,
    metric_axis,
    score_format,
    shape,
    with_unit,
)
from xceptlab.report.summary import ArmRow, EffectRow
from xceptlab.runs.metrics import decimals, metric_of

LINE = 14
"""Height of a line of text, in pixels."""
Cost = Literal["parameters", "macs"]
"""A cost of a network: its trainable parameters, or the multiply-accumulates of one image."""


def costs_chart(arms: Sequence[ArmRow], metric: str, cost: Cost) -> Chart:
    """Draw the arms' mean scores in a metric against parameters or multiply-accumulates: a point
    for each arm whose mean and cost are known, with a bar of one standard deviation over seeds to
    either side if that is known.

    ``metric`` is the study's main one, in which the rows in ``arms`` have their means.
    """
    rows = _cost_rows(arms, cost)
    title = {"parameters": "parameters", "macs": "MACs"}[cost]
    x = (
        alt.X("cost:Q")
        .scale(domain=_domain_of_costs(rows), nice=False, zero=False)
        .title(title)
        .axis(tickCount=4, format=".4~s")
    )
    y = alt.Y(type="quantitative").scale(zero=False).title(metric_axis(metric))
    arm_colour = alt.Color("colour:N").scale(None)
    arm_shape = alt.Shape("shape:N").scale(None)
    tooltips = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("mean:Q", format=score_format(decimals(metric)), title=metric),
        alt.Tooltip("cost:Q", format=",", title=title),
    ]
    bars = chart_of(*rows).mark_rule(strokeWidth=1.5)
    points = chart_of(*rows).mark_point(size=130, opacity=1, filled=True)
    layers = [
        bars.encode(x, y.field("low"), y2=alt.Y2("high:Q"), color=arm_colour),
        points.encode(x, y.field("mean"), color=arm_colour, shape=arm_shape, tooltip=tooltips),
    ]
    return alt.layer(*layers).properties(height=230)


def _cost_rows(arms: Sequence[ArmRow], cost: Cost) -> list[dict[str, Any]]:
    """Return a row of the chart's data for each arm whose cost and mean are known: its name, its
    cost, its mean, the ends of its bar, and its colour and shape. The bar has no length where the
    standard deviation is not known.
    """
    rows = []
    for i, arm in enumerate(arms):
        spent = getattr(arm, cost)
        if spent is None or not np.isfinite(arm.mean):
            continue
        spread = arm.spread if np.isfinite(arm.spread) else 0.0
        row = {
            "arm": arm.name,
            "cost": spent,
            "mean": arm.mean,
            "colour": colour(i),
            "shape": shape(i),
            "low": arm.mean - spread,
            "high": arm.mean + spread,
        }
        rows.append(row)
    return rows


def _domain_of_costs(rows: list[dict[str, Any]]) -> list[float]:
    """Return the lower and the upper end of the axis of costs.

    The range of the arms' costs is widened at both ends by a tenth of it, and by 2% of the highest
    cost at least, so that the ends differ even where all arms cost the same. Without rows it is 0
    to 1, widened likewise.
    """
    costs = [row["cost"] for row in rows] or [0, 1]
    low, high = min(costs), max(costs)
    padding = max(0.1 * (high - low), 0.02 * high)
    return [low - padding, high + padding]


def effects_chart(effects: Sequence[EffectRow], metric: str) -> Chart:
    """Draw main effects and interactions on a metric, one under the other, each with its name above
    its interval.
    """
    rows = [_effect_row(effect) for effect in effects]
    height = 34 + LINE * max((row["lines"] for row in rows), default=1)
    x = (
        alt.X(type="quantitative")
        .scale(zero=True)
        .title(with_unit(f"effect on {metric}", metric_of(metric).unit_of_difference))
        .axis(tickCount=5)
    )
    y = alt.Y("name:N").sort([effect.name for effect in effects]).title(None).axis(None)
    sign = difference_format(decimals(metric))
    tooltips = [
        alt.Tooltip("name:N"),
        alt.Tooltip("estimate:Q", format=sign),
        alt.Tooltip("low:Q", format=sign),
        alt.Tooltip("high:Q", format=sign),
    ]
    zero = chart_of({}).mark_rule(color=INK, opacity=0.6).encode(alt.XDatum(0))
    bars = (
        chart_of(*rows)
        .mark_bar(height=12, cornerRadius=3, yOffset=10, color=COLOURS[0], opacity=0.6)
        .encode(x.field("low"), y, x2=alt.X2("high:Q"), tooltip=tooltips)
    )
    ticks = (
        chart_of(*rows)
        .mark_tick(size=20, thickness=3.5, yOffset=10, color=COLOURS[0])
        .encode(x.field("estimate"), y, tooltip=tooltips)
    )
    # Vega puts the first line of a text there, and the others below it.
    above_the_bar = alt.ExprRef(f"-3 - {LINE} * (datum.lines - 1)")
    names = (
        chart_of(*rows)
        .mark_text(align="left", baseline="bottom", color=INK, dy=above_the_bar, size=12)
        .encode(y, alt.XValue(0), text=alt.Text("words:N"))
    )
    return alt.layer(zero, bars, ticks, names).properties(height=len(rows) * height)


def _effect_row(effect: EffectRow) -> dict[str, Any]:
    """Return the row of an effect in the chart's data, with its name in lines, one for each factor
    of an interaction, and the number of these lines.
    """
    words = effect.name.replace(" × ", " ×\n")
    return {
        "name": effect.name,
        "estimate": effect.estimate,
        "low": effect.low,
        "high": effect.high,
        "words": words,
        "lines": words.count("\n") + 1,
    }
