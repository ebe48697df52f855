"""Draw the figures of one claim: its interval, its differences by seed, and the pairs of scores
that they are made of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import numpy as np

from xceptlab.report.figures.style import (
    GREY,
    HOLDS,
    INK,
    TONES,
    Chart,
    chart_of,
    colour,
    difference_format,
    score_format,
    short,
    with_unit,
    wrapped,
)
from xceptlab.study.claims import Claim
from xceptlab.study.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Range of an axis of a claim's differences, and the part of it in which the claim holds; all
    in the unit of the metric's differences.
    """

    low: float
    """Lower end of the axis."""
    high: float
    """Upper end of the axis."""
    holds_from: float
    """Lower end of the region in which the claim holds, which is a margin of the claim."""
    holds_to: float
    """Upper end of the region in which the claim holds: the upper margin, or the end of the axis
    for a claim of ``superior``, which has a single margin.
    """

    @classmethod
    def of(cls, verdict: Verdict) -> "Extent":
        """Return the range in which a difference of 0, the margins, every seed's difference and the
        finite ends of the interval can be seen.
        """
        shown = [0.0, *verdict.claim.margins, *verdict.differences.values()]
        for end in (verdict.low, verdict.high):
            if np.isfinite(end):
                shown.append(end)
        width = max(shown) - min(shown)
        padding = 0.08 * (width or 1.0)
        high = max(shown) + padding
        return cls(
            low=min(shown) - padding,
            high=high,
            holds_from=verdict.claim.margins[0],
            holds_to=high if len(verdict.claim.margins) == 1 else verdict.claim.margins[1],
        )

    def interval(self, verdict: Verdict) -> tuple[float, float]:
        """Return the lower and the upper end of the verdict's interval, which must be known, cut
        where it leaves the axis.
        """
        return max(verdict.low, self.low), min(verdict.high, self.high)

    def alignment(self, value: float) -> Literal["left", "center", "right"]:
        """Return how to align words at a value, so that the edges of the picture do not cut them."""
        place = (value - self.low) / (self.high - self.low)
        if place < 0.2:
            return "left"
        if place > 0.8:
            return "right"
        return "center"


def effect_size(verdict: Verdict) -> str:
    """Return the estimate of a verdict that has pairs, with its unit, such as ``+6.60 points``."""
    claim = verdict.claim
    estimate = format(verdict.estimate, difference_format(claim.decimals))
    return f"{estimate} {claim.measure.unit_of_difference}".rstrip()


def verdict_chart(verdict: Verdict) -> Chart:
    """Draw two rows along one axis of differences: in the upper one a claim's estimate with its
    interval, as far as they are known, and in the lower one each seed's difference as a point. The
    region in which the claim holds is shaded, and a dashed line is at each of its margins.
    """
    extent = Extent.of(verdict)
    estimate_row = f"{verdict.claim.statistic}, {100 * verdict.level:g}%"
    x = (
        alt.X("value:Q")
        .scale(domain=[extent.low, extent.high], nice=False, zero=False)
        .title(_title_of_differences(verdict))
        .axis(tickCount=5)
    )
    y = alt.Y("row:N").scale(domain=[estimate_row, "seeds"]).title(None)
    y = y.axis(grid=False, domain=False, ticks=False)
    layers = [
        *_margin_layers(verdict, extent, x),
        _label_of_region(extent, x),
        _seeds_in_a_row(verdict, x, y),
    ]
    if verdict.has_interval:
        layers.append(_interval_bar(verdict, extent, estimate_row, x, y))
    if verdict.n:
        layers += _estimate_layers(verdict, extent, estimate_row, x, y)
    return alt.layer(*layers).properties(height=2 * 46)


def differences_chart(verdict: Verdict) -> Chart:
    """Draw the difference of each seed as a point, over a band for the interval of their mean or
    median if it is known. The region in which the claim holds is shaded.
    """
    extent = Extent.of(verdict)
    x = alt.X("seed:O").title("seed").axis(labelAngle=0, labelOverlap=True)
    y = (
        alt.Y(type="quantitative")
        .scale(domain=[extent.low, extent.high], nice=False, zero=False)
        .title(with_unit("difference", verdict.claim.measure.unit_of_difference))
    )
    layers = _margin_layers(verdict, extent, y.field("value"))
    if verdict.has_interval:
        layers += _interval_across_seeds(verdict, extent, y)
    points = (
        chart_of(*_seed_rows(verdict))
        .mark_circle(size=80, color=INK, opacity=0.7)
        .encode(x, y.field("value"), tooltip=_seed_tooltips(verdict))
    )
    layers.append(points)
    return alt.layer(*layers).properties(height=230)


def pairs_chart(verdict: Verdict, arms: Sequence[str]) -> Chart:
    """Draw each seed's pair of scores as a line from one side of a claim to the other.

    Args:
        verdict: The verdict on the claim.
        arms: Names of the study's arms, in the order of their colours; a side that is none of them
            is grey.
    """
    claim = verdict.claim
    rows = _score_rows(verdict)
    title = with_unit(claim.metric, claim.measure.unit)
    labels = [wrapped(side) for side in _short_sides(claim)]
    x = alt.X("side:N").sort(labels).title(None).scale(paddingOuter=0.1)
    y = alt.Y("score:Q").scale(zero=False).title(f"gain, {title}" if claim.gain else title)
    colours = []
    for side in claim.sides:
        colours.append(colour(arms.index(side)) if side in arms else GREY)
    arm_colour = alt.Color("arm:N").scale(domain=list(claim.sides), range=colours).legend(None)
    tooltips = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("seed:Q", format="d"),
        alt.Tooltip("score:Q", format=score_format(claim.decimals)),
    ]
    lines = (
        chart_of(*rows)
        .mark_line(color=INK, opacity=0.35, strokeWidth=1.2)
        .encode(x.axis(labelAngle=0), y, detail=alt.Detail("seed:N"))
    )
    points = chart_of(*rows).mark_circle(size=80, opacity=0.9)
    points = points.encode(x, y, color=arm_colour, tooltip=tooltips)
    return alt.layer(lines, points).properties(height=230)


# ---- their data ----------------------------------------------------------------------------------


def _seed_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """Return a row of the chart's data for each seed, with its difference."""
    return [{"seed": seed, "value": value} for seed, value in verdict.differences.items()]


def _score_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """Return a row of the chart's data, with the score, for each side of the claim and each seed of
    which both sides have one. In an interaction a side's score is a gain, which is positive where
    the metric gets better.
    """
    claim = verdict.claim
    sign = -1 if claim.gain and claim.measure.lower_is_better else 1
    rows = []
    for side, label, scores in zip(claim.sides, _short_sides(claim), verdict.scores, strict=True):
        of_side = {"side": wrapped(label), "arm": side}
        for seed in verdict.differences:
            rows.append(of_side | {"seed": seed, "score": sign * scores[seed]})
    return rows


def _short_sides(claim: Claim) -> tuple[str, str]:
    """Return the names of a claim's two sides, a and b: shortened, unless they would be the same
    then.
    """
    a, b = claim.sides
    if short(a) == short(b):
        return a, b
    return short(a), short(b)


def _seed_tooltips(verdict: Verdict) -> list[alt.Tooltip]:
    """Return the tooltips of a point for a seed: the seed and its difference."""
    sign = difference_format(verdict.claim.decimals)
    return [
        alt.Tooltip("seed:Q", format="d"),
        alt.Tooltip("value:Q", format=sign, title="difference"),
    ]


def _interval_text(verdict: Verdict) -> dict[str, str]:
    """Return the interval's ends, ``low`` and ``high``, as text, since JSON has no infinity."""
    sign = difference_format(verdict.claim.decimals)
    return {"low": format(verdict.low, sign), "high": format(verdict.high, sign)}


def _title_of_differences(verdict: Verdict) -> list[str]:
    """Return the lines of the title of an axis of differences: which side is subtracted from which,
    in which metric and unit, and which side is better above 0. For an interaction the gain that is
    compared between the two sides stands in place of the last.
    """
    claim = verdict.claim
    a, b = _short_sides(claim)
    # Scores of which the lower is better are subtracted from each other, and gains in them are not.
    is_turned = claim.measure.lower_is_better and not claim.gain
    first, second = (b, a) if is_turned else (a, b)
    if len(first + second) <= 32:
        title = [f"{first} − {second}"]
    else:
        title = [first, f"− {second}"]
    measured = with_unit(claim.metric, claim.measure.unit_of_difference)
    if claim.gain:
        return [*title, claim.gain, f"in {measured}"]
    better = short(a, 20) if short(a, 20) != short(b, 20) else a
    return [*title, measured, f"above 0, {better} is better"]


# ---- their layers --------------------------------------------------------------------------------


def _margin_layers(verdict: Verdict, extent: Extent, differences: alt.X | alt.Y) -> list[Any]:
    """Return the layers that lie under a claim's differences: the region where it holds, a line at
    0, and its margins. ``differences`` is the x or the y channel of the differences, which takes
    them from the field ``value``.
    """
    end = alt.X2("end:Q") if isinstance(differences, alt.X) else alt.Y2("end:Q")
    margin_rows = [{"value": margin} for margin in verdict.claim.margins]
    region = chart_of({"value": extent.holds_from, "end": extent.holds_to}).mark_rect(
        color=HOLDS, opacity=0.13
    )
    zero = chart_of({"value": 0.0}).mark_rule(color=INK, opacity=0.6)
    margins = chart_of(*margin_rows).mark_rule(color=HOLDS, strokeDash=[5, 4], strokeWidth=1.5)
    return [
        region.encode(differences, end),
        zero.encode(differences),
        margins.encode(differences),
    ]


def _label_of_region(extent: Extent, x: alt.X) -> alt.Chart:
    """Return a layer with the words "claim holds" above the picture, over the middle of the region
    where it does or, if that is close to an edge of the picture, at this edge.
    """
    middle = (extent.holds_from + extent.holds_to) / 2
    alignment = extent.alignment(middle)
    value = {"left": extent.low, "center": middle, "right": extent.high}[alignment]
    return (
        chart_of({"value": value, "text": "claim holds"})
        .mark_text(align=alignment, baseline="bottom", color=INK, size=11)
        .encode(x, alt.YValue(-4), alt.Text("text:N"))
    )


def _seeds_in_a_row(verdict: Verdict, x: alt.X, y: alt.Y) -> alt.Chart:
    """Return a layer with each seed's difference as a point, in the row ``seeds``."""
    rows = [{"row": "seeds"} | row for row in _seed_rows(verdict)]
    return (
        chart_of(*rows)
        .mark_circle(size=70, color=TONES[verdict.outcome], opacity=0.55)
        .encode(x, y, tooltip=_seed_tooltips(verdict))
    )


def _interval_bar(verdict: Verdict, extent: Extent, row: str, x: alt.X, y: alt.Y) -> alt.Chart:
    """Return a layer with the interval as a bar in the row named ``row``, cut where it leaves the
    axis.
    """
    start, end = extent.interval(verdict)
    interval = {"row": row, "value": start, "end": end}
    return (
        chart_of(interval | _interval_text(verdict))
        .mark_bar(height=12, cornerRadius=3, color=TONES[verdict.outcome], opacity=0.6)
        .encode(x, y, x2=alt.X2("end:Q"), tooltip=[alt.Tooltip("low:N"), alt.Tooltip("high:N")])
    )


def _estimate_layers(
    verdict: Verdict, extent: Extent, row: str, x: alt.X, y: alt.Y
) -> list[alt.Chart]:
    """Return layers with the estimate as a tick in the row named ``row``, and as a number below
    it.
    """
    text = format(verdict.estimate, difference_format(verdict.claim.decimals))
    estimate = {"row": row, "value": verdict.estimate, "text": text}
    tick = chart_of(estimate).mark_tick(size=22, thickness=3.5, color=TONES[verdict.outcome])
    alignment = extent.alignment(verdict.estimate)
    number = (
        chart_of(estimate)
        .mark_text(align=alignment, dy=20, color=INK, fontWeight="bold", size=13)
        .encode(x, y, text=alt.Text("text:N"))
    )
    return [tick.encode(x, y), number]


def _interval_across_seeds(verdict: Verdict, extent: Extent, y: alt.Y) -> list[alt.Chart]:
    """Return layers with the interval as a band behind all seeds, and the estimate as a line in it."""
    tone = TONES[verdict.outcome]
    start, end = extent.interval(verdict)
    row = {"value": start, "end": end, "estimate": verdict.estimate}
    interval = chart_of(row | _interval_text(verdict))
    sign = difference_format(verdict.claim.decimals)
    tooltips = [
        alt.Tooltip("estimate:Q", format=sign, title=verdict.claim.statistic),
        alt.Tooltip("low:N"),
        alt.Tooltip("high:N"),
    ]
    band = interval.mark_rect(color=tone, opacity=0.25)
    line = interval.mark_rule(color=tone, strokeWidth=2.5)
    return [
        band.encode(y.field("value"), alt.Y2("end:Q"), tooltip=tooltips),
        line.encode(y.field("estimate")),
    ]
