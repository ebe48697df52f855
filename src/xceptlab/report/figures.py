"""The figures, twice: interactive with plotly for the page, and as SVG with matplotlib for the repository."""

import html
import io
import textwrap
from collections.abc import Sequence

import numpy as np

from xceptlab.report.summary import ArmRow, Curve, EffectRow, Summary
from xceptlab.study.metrics import decimals, metric_of
from xceptlab.study.verdict import Verdict

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#882255")
"""Okabe and Ito's palette, which colour-blind readers can tell apart; dark red in place of its yellow, pale on white."""


def colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


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
    """An arm's name as the label of an axis, in lines of 20 characters."""
    return "<br>".join(map(html.escape, textwrap.wrap(short(name), 20)))


def unit(metric: str) -> str:
    return metric_of(metric).unit


TONES = {"supported": "#009E73", "contradicted": "#D55E00", "inconclusive": "#7F8694", "incomplete": "#C98600"}
"""One colour per outcome."""


def axis(verdict: Verdict) -> str:
    """What the differences of a claim are."""
    a, b = map(short, reversed(verdict.claim.sides) if verdict.claim.lower_is_better else verdict.claim.sides)
    line = "<br>" if len(a + b) > 20 else " "
    units = verdict.claim.measure.unit_of_difference
    what = f"{verdict.claim.gain} in {verdict.claim.metric}" if verdict.claim.gain else verdict.claim.metric
    return f"{html.escape(a)}{line}− {html.escape(b)}, {html.escape(what)} ({units})"


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


# ---- plotly: divs for the page; report.html.j2's style gives text and grid their colours ----------------------------------


def verdict_html(verdict: Verdict) -> str:
    """The claim's interval against its margin, small: where it holds is shaded."""
    import plotly.graph_objects as go

    v, figure, tone = verdict, go.Figure(), TONES[verdict.outcome]
    low, high, start, end = span(v)
    figure.add_vrect(x0=start, x1=end, fillcolor="#009E73", opacity=0.12, line_width=0)
    place = ((start + end) / 2 - low) / (high - low)
    anchor = "left" if place < 0.2 else "right" if place > 0.8 else "center"  # a narrow region at an edge would cut the words
    x = {"left": low, "center": (start + end) / 2, "right": high}[anchor]
    words = {"text": "claim holds", "font_size": 11, "showarrow": False}
    figure.add_annotation(x=x, xanchor=anchor, y=1, yref="paper", yanchor="bottom", **words)
    for margin in v.margins:
        figure.add_vline(x=margin, line={"color": "#009E73", "dash": "dash", "width": 1.5})
    figure.add_scatter(
        x=list(v.differences.values()), y=[0.0] * v.n, mode="markers", marker={"color": tone, "size": 7, "opacity": 0.45}
    )
    if v.n > 1:
        figure.add_scatter(x=list(drawn_interval(v)), y=[1, 1], mode="lines", line={"color": tone, "width": 5})
    figure.add_scatter(x=[v.estimate], y=[1], mode="markers", marker={"color": tone, "size": 14})
    figure.update_xaxes(
        range=[low, high], zeroline=True, title={"text": axis(v), "font": {"size": 12}, "standoff": 6}, nticks=6, automargin=True
    )
    figure.update_yaxes(range=[-0.7, 1.8], tickvals=[0, 1], ticktext=["seeds", v.claim.statistic], showgrid=False)
    return _div(figure, 170, static=True)


def curves_html(summary: Summary) -> str:
    """Mean learning curve and band of one standard deviation per arm, and hidden at first the single runs."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for i, (arm, curve) in enumerate(summary.curves.items()):
        if not curve.values.size:
            continue
        mean, deviation = band(curve)
        quiet = {"legendgroup": arm, "showlegend": False, "mode": "lines"}
        edge = {"x": curve.epochs, "line": {"width": 0}, "hoverinfo": "skip", "meta": "band", **quiet}
        figure.add_scatter(y=mean + deviation, **edge)
        figure.add_scatter(
            y=mean - deviation, fill="tonexty", fillcolor=f"{colour(i)}{'30' if len(summary.curves) < 5 else '18'}", **edge
        )
        gap = np.full((len(curve.values), 1), np.nan)  # between the runs, which share a trace
        figure.add_scatter(
            x=np.tile(np.append(curve.epochs, np.nan), len(curve.values)).astype(np.float32),
            y=np.hstack([curve.values, gap]).ravel().astype(np.float32),
            customdata=np.repeat(np.array(curve.seeds), len(curve.epochs) + 1),
            hovertemplate=f"{html.escape(arm)} seed %{{customdata}}: %{{y:.2f}}<extra></extra>",
            line={"color": colour(i), "width": 1},
            opacity=0.5,
            visible=False,
            meta="runs",
            **quiet,
        )
        figure.add_scatter(
            x=curve.epochs,
            y=mean,
            mode="lines+markers" if len(curve.epochs) < 30 else "lines",
            line={"color": colour(i), "width": 2.5},
            name=html.escape(short(arm)),
            legendgroup=arm,
            showlegend=False,
            hovertemplate="%{y:.2f}",
            meta="mean",
        )
    figure.update_layout(
        hovermode="x unified", xaxis_title="epoch", yaxis_title=f"{summary.curve_metric} ({unit(summary.curve_metric)})"
    )
    return _div(figure, 420, id="curves-plot")


def pairs_html(verdict: Verdict) -> str:
    """Each seed's pair of scores, as a line from arm to arm."""
    import plotly.graph_objects as go

    v, figure = verdict, go.Figure()
    first, second = v.scores
    seeds = list(v.differences)
    lines = [value for seed in seeds for value in (first[seed], second[seed], None)]
    figure.add_scatter(
        x=[0, 1, None] * v.n,
        y=lines,
        mode="lines+markers",
        line={"color": "rgba(128,128,128,0.55)", "width": 1.2},
        marker={"color": [COLOURS[0], COLOURS[1], COLOURS[0]] * v.n, "size": 8},
        customdata=np.repeat(seeds, 3),
        hovertemplate=f"seed %{{customdata}}: %{{y:.{decimals(v.claim.metric)}f}}<extra></extra>",
    )
    figure.update_xaxes(ticktext=[wrapped(arm) for arm in v.claim.sides], **_TWO)
    metric = f"{v.claim.metric} ({unit(v.claim.metric)})"
    figure.update_yaxes(title=f"gain, {metric}" if v.claim.gain else metric)
    return _div(figure, 320)


def differences_html(verdict: Verdict) -> str:
    """The differences by seed, their mean or median, and its interval."""
    import plotly.graph_objects as go

    v, figure = verdict, go.Figure()
    places = decimals(v.claim.metric)
    figure.add_scatter(
        x=[0] * v.n,
        y=list(v.differences.values()),
        mode="markers",
        marker={"color": "rgba(128,128,128,0.75)", "size": 8},
        customdata=list(v.differences),
        hovertemplate=f"seed %{{customdata}}: %{{y:+.{places}f}}<extra></extra>",
    )
    if v.n > 1:
        start, end = drawn_interval(v)
        error = {"type": "data", "symmetric": False, "array": [end - v.estimate], "arrayminus": [v.estimate - start]}
        figure.add_scatter(
            x=[1],
            y=[v.estimate],
            mode="markers",
            marker={"color": TONES[v.outcome], "size": 13},
            error_y=error | {"thickness": 3.5, "width": 0, "color": TONES[v.outcome]},
            hovertemplate=f"{v.claim.statistic} %{{y:+.{places}f}}, {v.low:+.{places}f} to {v.high:+.{places}f}<extra></extra>",
        )
    for margin in v.margins:
        figure.add_hline(y=margin, line={"color": "#009E73", "dash": "dash", "width": 1.5})
    figure.update_xaxes(ticktext=["seeds", f"{v.claim.statistic}, {100 * v.level:g}%"], **_TWO)
    figure.update_yaxes(title="difference", zeroline=True, rangemode="tozero")
    return _div(figure, 320)


_TWO = {"range": [-0.4, 1.4], "tickvals": [0, 1], "showgrid": False, "tickangle": 0, "automargin": True}
"""An axis of two places."""


def costs_html(arms: list[ArmRow], metric: str) -> str:
    """A metric against parameters and against multiply-accumulates; a bar is one standard deviation over seeds."""
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.06)
    for i, row in enumerate(arms):
        for column, value in ((1, row.parameters), (2, row.macs)):
            if value is not None and np.isfinite(row.mean):
                figure.add_scatter(
                    x=[value],
                    y=[row.mean],
                    error_y={"type": "data", "array": [row.spread], "thickness": 1.5} if np.isfinite(row.spread) else None,
                    mode="markers",
                    marker={"color": colour(i), "size": 12},
                    hovertemplate=f"{html.escape(row.name)}: %{{y:.{decimals(metric)}f}} at %{{x:,}}<extra></extra>",
                    row=1,
                    col=column,
                )
    for column, title in ((1, "parameters"), (2, "MACs")):
        spent = [row.parameters if column == 1 else row.macs for row in arms]
        known = [value for value in spent if value is not None]
        if known:  # a range of its own, as plotly's is next to nothing where all spend the same
            pad = max(0.1 * (max(known) - min(known)), 0.02 * max(known))
            figure.update_xaxes(range=[min(known) - pad, max(known) + pad], row=1, col=column)
        figure.update_xaxes(title=title, nticks=4, tickformat=".4~s", tickangle=0, row=1, col=column)
    figure.update_yaxes(title=f"{metric} ({unit(metric)})", row=1, col=1)
    return _div(figure, 320)


def effects_html(rows: list[EffectRow], metric: str) -> str:
    """Main effects and interactions, one under the other, each with its name above it and its interval."""
    import plotly.graph_objects as go

    figure = go.Figure()
    estimates = np.array([row.estimate for row in rows])
    reach = np.array([row.high - row.estimate for row in rows])
    figure.add_scatter(
        x=estimates,
        y=list(range(len(rows))),
        mode="markers",
        marker={"color": COLOURS[0], "size": 11},
        error_x={"type": "data", "array": reach, "thickness": 3, "width": 0, "color": COLOURS[0]},
        hovertemplate=f"%{{x:+.{decimals(metric)}f}}<extra></extra>",
    )
    for i, row in enumerate(rows):
        name = html.escape(row.name).replace(" × ", " ×<br>")
        place = {"x": 0, "xref": "paper", "xanchor": "left", "y": i, "yanchor": "bottom", "yshift": 7, "align": "left"}
        figure.add_annotation(text=name, showarrow=False, font_size=12, **place)
    units = metric_of(metric).unit_of_difference
    figure.update_xaxes(title=f"effect on {metric} ({units})", zeroline=True, nticks=6, tickangle=0)
    figure.update_yaxes(range=[len(rows) - 0.6, -0.9], showticklabels=False, showgrid=False)
    return _div(figure, 90 + 58 * len(rows), static=True, left=15)


def _div(figure, height: int, id: str | None = None, static: bool = False, left: int = 60) -> str:  # type: ignore[no-untyped-def]
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": left, "r": 15, "t": 22, "b": 55},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        showlegend=False,  # the page has its own, which finds room on a narrow one
    )
    figure.update_xaxes(zeroline=False, selector=lambda axis: axis.zeroline is None)
    figure.update_yaxes(zeroline=False, selector=lambda axis: axis.zeroline is None)
    config = {"displayModeBar": False, "responsive": True, "staticPlot": static}
    return figure.to_html(full_html=False, include_plotlyjs=False, div_id=id, config=config)


def plotly_script() -> str:
    """plotly.js, to stand in the page itself: it must open from disk without a network."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


# ---- matplotlib: SVG for report.md ----------------------------------------------------------------------------------------


def curves_svg(summary: Summary) -> bytes:
    """As ``curves_html``."""
    figure, axes = _axes(6.4, 4.0)
    for i, (arm, curve) in enumerate(summary.curves.items()):
        if curve.values.size:
            mean, deviation = band(curve)
            axes.plot(curve.epochs, mean, "o-", ms=4, color=colour(i), label=f"{short(arm)} (n = {len(curve.values)})")
            axes.fill_between(
                curve.epochs,
                mean - deviation,
                mean + deviation,
                color=colour(i),
                alpha=0.2 if len(summary.curves) < 5 else 0.1,
                lw=0,
            )
    axes.set(xlabel="epoch", ylabel=f"{summary.curve_metric} ({unit(summary.curve_metric)})")
    if axes.has_data() and len(summary.curves) <= 12:
        figure.legend(frameon=False, loc="outside upper left", ncols=2, fontsize=8)
    return _svg(figure)


def differences_svg(verdicts: Sequence[Verdict]) -> bytes:
    """As ``verdict_html``, for every claim, one under the other."""
    rows = max(1, len(verdicts))
    figure, axes = _axes(6.4, 0.3 + 1.35 * rows, rows)
    for ax, v in zip(np.atleast_1d(axes), verdicts, strict=False):
        low, high, *holds = span(v)
        ax.axvspan(*holds, color="#009E73", alpha=0.12, lw=0)
        for margin in v.margins:
            ax.axvline(margin, ls="--", color="#009E73", lw=1)
        ax.axvline(0, color="#999", lw=0.8)
        ax.plot(list(v.differences.values()), [0] * v.n, "o", color=TONES[v.outcome], alpha=0.5, ms=4)
        if v.n > 1:
            ax.plot(drawn_interval(v), [1, 1], "-", color=TONES[v.outcome], lw=3)
        ax.plot([v.estimate], [1], "o", color=TONES[v.outcome], ms=8)
        ax.set(xlim=(low, high), ylim=(-0.7, 1.7), yticks=[0, 1], yticklabels=["seeds", v.claim.statistic])
        title = f"{short(v.claim.id, 60)}: {v.outcome}".replace("$", r"\$")
        ax.set_title(title, loc="left", fontsize=10, fontweight="bold")
    if not verdicts:
        axes.set_axis_off()
    return _svg(figure)


def _axes(width: float, height: float, rows: int = 1):  # type: ignore[no-untyped-def]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows)
    for ax in np.atleast_1d(axes):
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure) -> bytes:  # type: ignore[no-untyped-def]
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "xceptlab", "svg.fonttype": "none"}):  # equal figures, equal bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
