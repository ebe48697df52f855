"""The figures of a report. Each is one Altair chart: drawn by Vega-Lite in the page, and as SVG beside report.md."""

import contextlib
import functools
import textwrap
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xceptlab.data.cache import user_cache
from xceptlab.files import write_atomically
from xceptlab.report.summary import ArmRow, Curve, EffectRow, Summary
from xceptlab.runs.metrics import decimals, metric_of
from xceptlab.study.verdict import Verdict

if TYPE_CHECKING:
    import altair as alt

    Chart = alt.LayerChart | alt.FacetChart

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#882255")
"""Okabe and Ito's palette, which colour-blind readers can tell apart; dark red in place of its yellow, pale on white."""

DASHES = ((1, 0), (6, 3), (2, 2), (8, 2, 2, 2))
"""Of lines: whole for the arms that use the colours first, dashed for those that use them again."""

TONES = {"supported": "#009E73", "contradicted": "#D55E00", "inconclusive": "#7F8694", "incomplete": "#C98600"}
"""One colour per outcome."""

HOLDS = TONES["supported"]
"""The colour of the region in which a claim holds."""

INK = "currentColor"
"""The colour of text and axes: that of the text around the figure, whether the page is light, dark or on paper."""

FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"

SVG_FONT = "Arial, Liberation Sans, Helvetica, sans-serif"
"""Fonts of one width, which vl-convert measures, so that a label takes the place that was laid out for it."""

SVG_WIDTH = 480
"""Pixels that the axes of an SVG span."""


# ---- words and numbers ------------------------------------------------------------------------------------------------------


def colour(i: int) -> str:
    """The colour of the i-th arm of a study, in every figure."""
    return COLOURS[i % len(COLOURS)]


def dash(i: int) -> tuple[int, ...]:
    """The dashes of the i-th arm's lines."""
    return DASHES[i // len(COLOURS) % len(DASHES)]


def band(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over runs (E,), (E,), of the finite values; the deviation is 0 where there is one."""
    values = np.where(np.isfinite(curve.values), curve.values, np.nan)
    count = (~np.isnan(values)).sum(axis=0)
    mean = np.nansum(values, axis=0) / np.where(count, count, np.nan)
    deviation = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / np.maximum(count - 1, 1))
    return mean, deviation


def short(name: str, most: int = 32) -> str:
    """An arm's name where there is little room: its beginning and its end."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def wrapped(name: str) -> str:
    """An arm's name as the label of an axis, in lines of 18 characters."""
    return "\n".join(textwrap.wrap(short(name), 18)) or name


def metric_axis(metric: str) -> str:
    """Title of an axis of scores."""
    return with_unit(metric, metric_of(metric).unit)


def with_unit(name: str, unit: str) -> str:
    """A name with its unit in brackets, where it has one."""
    return f"{name} ({unit})" if unit else name


def difference_axis(verdict: Verdict) -> list[str]:
    """Title of an axis of a claim's differences, in lines: what is subtracted from what, and what a positive one means."""
    claim = verdict.claim
    a, b = map(short, claim.sides)
    first, second = (b, a) if claim.lower_is_better else (a, b)
    one_line = len(first + second) <= 32
    difference = [f"{first} − {second}"] if one_line else [first, f"− {second}"]
    measured = with_unit(claim.metric, claim.measure.unit_of_difference)
    if claim.gain:
        return [*difference, claim.gain, f"in {measured}"]
    return [*difference, measured, f"above 0, {short(claim.sides[0], 20)} is better"]


def effect_size(verdict: Verdict) -> str:
    """The estimate with its unit, such as ``+6.60 points``."""
    claim = verdict.claim
    return f"{verdict.estimate:+.{decimals(claim.metric)}f} {claim.measure.unit_of_difference}".rstrip()


def span(verdict: Verdict) -> tuple[float, float, float, float]:
    """What a picture of a claim spans, low and high, and from where to where in it the claim holds."""
    v = verdict
    shown = [0.0, *v.margins, *v.differences.values(), *(x for x in (v.low, v.high) if np.isfinite(x))]
    pad = 0.08 * (max(shown) - min(shown) or 1.0)
    low, high = min(shown) - pad, max(shown) + pad
    return low, high, v.margins[0], high if len(v.margins) == 1 else v.margins[1]


def drawn_interval(verdict: Verdict) -> tuple[float, float]:
    """The interval, whose ends are the picture's where they are infinite."""
    low, high, *_ = span(verdict)
    return max(verdict.low, low), min(verdict.high, high)


def anchor(value: float, low: float, high: float) -> Literal["left", "center", "right"]:
    """How to align words at a value, so that the edges of a picture from low to high do not cut them."""
    place = (value - low) / (high - low)
    return "left" if place < 0.2 else "right" if place > 0.8 else "center"


# ---- charts -----------------------------------------------------------------------------------------------------------------


def verdict_chart(verdict: Verdict) -> "Chart":
    """The claim's interval, and below it each seed's difference; where the claim holds is shaded up to the dashed margin."""
    import altair as alt

    v = verdict
    tone, sign = TONES[v.outcome], f"+.{decimals(v.claim.metric)}f"
    low, high, start, end = span(v)
    estimated = f"{v.claim.statistic}, {100 * v.level:g}%"
    x = alt.X("value:Q").scale(domain=[low, high], nice=False, zero=False).title(difference_axis(v)).axis(tickCount=5)
    y = alt.Y("row:N").scale(domain=[estimated, "seeds"]).title(None).axis(grid=False, domain=False, ticks=False)

    middle = (start + end) / 2
    place = anchor(middle, low, high)
    words = {"value": {"left": low, "center": middle, "right": high}[place], "text": "claim holds"}
    label = _data(words).mark_text(align=place, baseline="bottom", color=INK, size=11)
    layers = [*_margins(v, x), label.encode(x, alt.YValue(-4), alt.Text("text:N"))]
    seeds = [{"row": "seeds", "seed": seed, "value": value} for seed, value in v.differences.items()]
    tooltips = [alt.Tooltip("seed:Q", format="d"), alt.Tooltip("value:Q", format=sign, title="difference")]
    layers.append(_data(*seeds).mark_circle(size=70, color=tone, opacity=0.55).encode(x, y, tooltip=tooltips))
    if v.n > 1:
        start, end = drawn_interval(v)
        interval = {"row": estimated, "value": start, "end": end, "low": f"{v.low:{sign}}", "high": f"{v.high:{sign}}"}
        bar = _data(interval).mark_bar(height=12, cornerRadius=3, color=tone, opacity=0.6)
        layers.append(bar.encode(x, y, x2=alt.X2("end:Q"), tooltip=[alt.Tooltip("low:N"), alt.Tooltip("high:N")]))
    if v.n:
        estimate = {"row": estimated, "value": v.estimate, "text": f"{v.estimate:{sign}}"}
        layers.append(_data(estimate).mark_tick(size=22, thickness=3.5, color=tone).encode(x, y))
        place = anchor(v.estimate, low, high)
        layers.append(
            _data(estimate)
            .mark_text(align=place, dy=20, color=INK, fontWeight="bold", size=13)
            .encode(x, y, text=alt.Text("text:N"))
        )
    return alt.layer(*layers).properties(height=2 * 46)


def curves_chart(summary: Summary, legend: "alt.Legend | None" = None) -> "Chart":
    """Learning curves: the arms' means with a band of one standard deviation, or on demand the single runs.

    The page has a legend of its own, which finds room on a phone and sets ``hidden``, the arms that are not drawn.
    """
    import altair as alt

    arms = [arm for arm, curve in summary.curves.items() if curve.values.size]
    names = {arm: f"{arm} (n = {len(summary.curves[arm].values)})" for arm in arms}
    means, runs = [], []
    table: dict[float, dict[str, str]] = {}
    for arm in arms:
        curve = summary.curves[arm]
        epochs = curve.epochs.tolist()
        mean, deviation = band(curve)
        ends = {"low": _finite(mean - deviation), "high": _finite(mean + deviation)}
        means.append({"arm": arm, "label": names[arm], "epoch": epochs, "mean": _finite(mean), **ends})
        for seed, values in zip(curve.seeds, curve.values, strict=True):
            runs.append({"arm": arm, "label": names[arm], "seed": seed, "epoch": epochs, "value": _finite(values)})
        for epoch, value, spread in zip(epochs, mean, deviation, strict=True):
            if np.isfinite(value):
                table.setdefault(epoch, {"epoch": f"{epoch:g}"})[names[arm]] = f"{value:.2f} ± {spread:.2f}"
    texts = [{"epoch": epoch, "texts": values} for epoch, values in table.items()]

    shown = alt.param(name="shown", value="mean ± sd", bind=alt.binding_radio(options=["mean ± sd", "single runs"], name="show "))
    logarithmic = alt.param(name="logarithmic", value=False, bind=alt.binding_checkbox(name="logarithmic epochs "))
    hidden = alt.param(name="hidden", value=[])
    near = alt.selection_point(name="near", on="pointerover", clear="pointerout", nearest=True, encodings=["x"], empty=False)

    places = [list(summary.curves).index(arm) for arm in arms]
    domain = list(names.values())
    arm_colour = alt.Color("label:N").scale(domain=domain, range=[colour(i) for i in places]).legend(legend)
    arm_dash = alt.StrokeDash("label:N").scale(domain=domain, range=[dash(i) for i in places]).legend(legend)
    power = "logarithmic ? '' + pow(2, datum.value) : datum.label"
    x = alt.X("x:Q").scale(zero=False, nice=False).title("epoch").axis(tickMinStep=1, tickCount=8, labelExpr=power)
    y = alt.Y(type="quantitative").scale(zero=False).title(metric_axis(summary.curve_metric))

    def placed(chart: alt.Chart) -> alt.Chart:
        return chart.transform_calculate(x="logarithmic ? log(datum.epoch) / LN2 : datum.epoch")

    def unfolded(rows: list[dict[str, Any]], *columns: str) -> alt.Chart:
        chart = _data(*rows).transform_filter("indexof(hidden, datum.arm) < 0")
        return placed(chart.transform_flatten(["epoch", *columns]))

    averages = unfolded(means, "mean", "low", "high")
    opacity = 0.2 if len(arms) < 5 else 0.1
    points = alt.OverlayMarkDef(size=30) if len(table) < 30 else False
    bands = averages.transform_filter("shown == 'mean ± sd'").mark_area(opacity=opacity)
    singles = unfolded(runs, "value").transform_filter("shown == 'single runs'").mark_line(strokeWidth=1, opacity=0.5)
    lines = averages.mark_line(strokeWidth=2.5, point=points)
    nearest = alt.ExprRef("isDefined(datum.datum) ? datum.datum.texts : datum.texts")  # of the cell around a rule, or of the rule
    rules = placed(_data(*texts)).mark_rule(color=INK, tooltip=nearest).add_params(near)
    return (
        alt.layer(
            bands.encode(x, y.field("low"), alt.Y2("high:Q"), arm_colour),
            singles.encode(x, y.field("value"), arm_colour, alt.Detail("seed:N")),
            lines.encode(x, y.field("mean"), arm_colour, arm_dash),
            rules.encode(x, opacity=alt.when(near).then(alt.value(0.4)).otherwise(alt.value(0))),
        )
        .add_params(shown, logarithmic, hidden)
        .properties(height=320)
    )


def pairs_chart(verdict: Verdict, arms: Sequence[str]) -> "Chart":
    """Each seed's pair of scores, as a line from arm to arm; ``arms`` are the study's, in the order of their colours."""
    import altair as alt

    claim = verdict.claim
    rows = [
        {"side": wrapped(side), "arm": side, "seed": seed, "score": scores[seed]}
        for side, scores in zip(claim.sides, verdict.scores, strict=True)
        for seed in verdict.differences
    ]
    title = metric_axis(claim.metric)
    x = alt.X("side:N").sort([wrapped(side) for side in claim.sides]).title(None).scale(paddingOuter=0.1)
    y = alt.Y("score:Q").scale(zero=False).title(f"gain, {title}" if claim.gain else title)
    colours = [colour(arms.index(side)) if side in arms else COLOURS[-2] for side in claim.sides]
    arm = alt.Color("arm:N").scale(domain=list(claim.sides), range=colours).legend(None)
    score = alt.Tooltip("score:Q", format=f".{decimals(claim.metric)}f")
    tooltips = [alt.Tooltip("arm:N"), alt.Tooltip("seed:Q", format="d"), score]
    lines = (
        _data(*rows)
        .mark_line(color=INK, opacity=0.35, strokeWidth=1.2)
        .encode(x.axis(labelAngle=0), y, detail=alt.Detail("seed:N"))
    )
    points = _data(*rows).mark_circle(size=80, opacity=0.9).encode(x, y, color=arm, tooltip=tooltips)
    return alt.layer(lines, points).properties(height=230)


def differences_chart(verdict: Verdict) -> "Chart":
    """Each seed's difference, over the interval of their mean or median; where the claim holds is shaded."""
    import altair as alt

    v = verdict
    sign = f"+.{decimals(v.claim.metric)}f"
    low, high, *_ = span(v)
    x = alt.X("seed:O").title("seed").axis(labelAngle=0, labelOverlap=True)
    y = alt.Y(type="quantitative").scale(domain=[low, high], nice=False, zero=False)
    y = y.title(with_unit("difference", v.claim.measure.unit_of_difference))
    layers = _margins(v, y.field("value"))
    if v.n > 1:
        start, end = drawn_interval(v)
        ends = {"low": f"{v.low:{sign}}", "high": f"{v.high:{sign}}"}
        interval = _data({"value": start, "end": end, "estimate": v.estimate} | ends)
        tooltips = [alt.Tooltip("estimate:Q", format=sign, title=v.claim.statistic), alt.Tooltip("low:N"), alt.Tooltip("high:N")]
        region = interval.mark_rect(color=TONES[v.outcome], opacity=0.25)
        layers.append(region.encode(y.field("value"), alt.Y2("end:Q"), tooltip=tooltips))
        layers.append(interval.mark_rule(color=TONES[v.outcome], strokeWidth=2.5).encode(y.field("estimate")))
    rows = [{"seed": seed, "value": value} for seed, value in v.differences.items()]
    tooltips = [alt.Tooltip("seed:Q", format="d"), alt.Tooltip("value:Q", format=sign, title="difference")]
    layers.append(_data(*rows).mark_circle(size=80, color=INK, opacity=0.7).encode(x, y.field("value"), tooltip=tooltips))
    return alt.layer(*layers).properties(height=230)


def costs_chart(arms: Sequence[ArmRow], metric: str, cost: Literal["parameters", "macs"]) -> "Chart":
    """A metric against parameters or multiply-accumulates; a bar is one standard deviation over seeds."""
    import altair as alt

    rows = []
    for i, row in enumerate(arms):
        value = getattr(row, cost)
        if value is not None and np.isfinite(row.mean):
            spread = row.spread if np.isfinite(row.spread) else 0.0
            ends = {"low": row.mean - spread, "high": row.mean + spread}
            rows.append({"arm": row.name, "cost": value, "mean": row.mean, "colour": colour(i), **ends})
    known = [row["cost"] for row in rows] or [0, 1]
    pad = max(0.1 * (max(known) - min(known)), 0.02 * max(known))  # where all spend the same, there is a range, too
    title = {"parameters": "parameters", "macs": "MACs"}[cost]
    x = alt.X("cost:Q").scale(domain=[min(known) - pad, max(known) + pad], nice=False, zero=False)
    x = x.title(title).axis(tickCount=4, format=".4~s")
    y = alt.Y(type="quantitative").scale(zero=False).title(metric_axis(metric))
    arm = alt.Color("colour:N").scale(None)
    tooltips = [alt.Tooltip("arm:N"), alt.Tooltip("mean:Q", format=f".{decimals(metric)}f", title=metric)]
    tooltips.append(alt.Tooltip("cost:Q", format=",", title=title))
    bars = _data(*rows).mark_rule(strokeWidth=1.5).encode(x, y.field("low"), y2=alt.Y2("high:Q"), color=arm)
    points = _data(*rows).mark_circle(size=130, opacity=1).encode(x, y.field("mean"), color=arm, tooltip=tooltips)
    return alt.layer(bars, points).properties(height=230)


def effects_chart(effects: Sequence[EffectRow], metric: str) -> "Chart":
    """Main effects and interactions, one under the other, each with its name above its interval."""
    import altair as alt

    keys = ("name", "estimate", "low", "high")
    rows = [{key: getattr(row, key) for key in keys} | {"words": row.name.replace(" × ", " ×\n")} for row in effects]
    lines = max((row["words"].count("\n") + 1 for row in rows), default=1)
    x = (
        alt.X(type="quantitative")
        .scale(zero=True)
        .title(with_unit(f"effect on {metric}", metric_of(metric).unit_of_difference))
        .axis(tickCount=5)
    )
    y = alt.Y("name:N").sort([row.name for row in effects]).title(None).axis(None)
    sign = f"+.{decimals(metric)}f"
    tooltips = [alt.Tooltip("name:N"), *(alt.Tooltip(f"{key}:Q", format=sign) for key in ("estimate", "low", "high"))]
    zero = _data({}).mark_rule(color=INK, opacity=0.6).encode(alt.XDatum(0))
    names = (
        _data(*rows)
        .mark_text(align="left", baseline="bottom", color=INK, dy=-3, size=12)
        .encode(y, alt.XValue(0), text=alt.Text("words:N"))
    )
    bars = _data(*rows).mark_bar(height=12, cornerRadius=3, yOffset=10, color=COLOURS[0], opacity=0.6)
    points = _data(*rows).mark_tick(size=20, thickness=3.5, yOffset=10, color=COLOURS[0])
    layers = [
        zero,
        bars.encode(x.field("low"), y, x2=alt.X2("high:Q"), tooltip=tooltips),
        points.encode(x.field("estimate"), y, tooltip=tooltips),
        names,
    ]
    return alt.layer(*layers).properties(height=len(rows) * (34 + 14 * lines))


def _margins(verdict: Verdict, differences: "alt.X | alt.Y") -> list[Any]:
    """The layers below a claim's differences: the region where it holds, its margins and no difference."""
    import altair as alt

    *_, low, high = span(verdict)
    region = _data({"value": low, "end": high}).mark_rect(color=HOLDS, opacity=0.13)
    zero = _data({"value": 0.0}).mark_rule(color=INK, opacity=0.6)
    margins = _data(*({"value": margin} for margin in verdict.margins)).mark_rule(color=HOLDS, strokeDash=[5, 4], strokeWidth=1.5)
    end = alt.X2("end:Q") if isinstance(differences, alt.X) else alt.Y2("end:Q")
    return [region.encode(differences, end), zero.encode(differences), margins.encode(differences)]


def _data(*rows: dict[str, Any]) -> "alt.Chart":
    """A chart of these rows."""
    import altair as alt

    return alt.Chart(alt.InlineData(values=list(rows)))


def _finite(values: np.ndarray) -> list[float | None]:
    """The values as JSON has them: rounded to what a picture can show, and null where one is not finite."""
    return [round(value, 4) if np.isfinite(value) else None for value in values.tolist()]


# ---- the page and the SVG ---------------------------------------------------------------------------------------------------


def page(chart: Any) -> dict[str, Any]:
    """The specification of a chart as wide as its place in the page."""
    fit = {"type": "fit-x", "contains": "padding"}
    return chart.to_dict(validate=False) | {
        "width": "container",
        "autosize": fit,
        "background": "transparent",
        "config": _looks(FONT),
    }


def curves_svg(summary: Summary) -> bytes:
    """The learning curves, for report.md."""
    import altair as alt

    longest = max(map(len, summary.curves), default=0)
    columns = max(1, SVG_WIDTH // (7 * longest + 90))
    legend = alt.Legend(orient="top", title=None, columns=columns, labelLimit=SVG_WIDTH - 40, columnPadding=16, symbolOpacity=1)
    return _svg(curves_chart(summary, legend).properties(width=SVG_WIDTH))


def differences_svg(verdicts: Sequence[Verdict]) -> bytes:
    """Every claim's interval, one under the other, for report.md."""
    import altair as alt

    charts = []
    for verdict in verdicts:
        title = alt.Title(f"{short(verdict.claim.id, 60)}: {verdict.outcome}", anchor="start", fontSize=13, offset=16, color=INK)
        charts.append(verdict_chart(verdict).properties(width=SVG_WIDTH, title=title))
    nothing = _data({}).mark_text(text="The study has no claims.", color=INK)
    return _svg(alt.vconcat(*charts or [nothing], spacing=24))


def _svg(chart: Any) -> bytes:
    """A chart on white, as it stands in a repository."""
    import vl_convert

    specification = chart.to_dict(validate=False) | {"background": "white", "padding": 8, "config": _looks(SVG_FONT)}
    return vl_convert.vegalite_to_svg(specification).encode()


def _looks(font: str) -> dict[str, Any]:
    """Vega-Lite's configuration of what all figures share."""
    text = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    lines = {
        "gridColor": INK,
        "gridOpacity": 0.12,
        "domainColor": INK,
        "domainOpacity": 0.4,
        "tickColor": INK,
        "tickOpacity": 0.4,
    }
    legend = {"labelColor": INK, "labelFontSize": 12}
    return {"font": font, "lineBreak": "\n", "view": {"stroke": None}, "axis": text | lines, "legend": legend}


@functools.cache
def script() -> str:
    """Vega, Vega-Lite and Vega-Embed, to stand in the page itself: it must open from disk without a network.

    Bundling them takes seconds, so the bundle is kept in the user's cache where it can be.
    """
    import vl_convert

    try:
        file = user_cache() / f"vega-{version('vl-convert-python')}.js"
    except RuntimeError:  # the user has no home
        return vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub lacks the default
    if file.is_file():
        return file.read_text("utf-8")
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    with contextlib.suppress(OSError):  # a full disk
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, bundle.encode())
    return bundle
