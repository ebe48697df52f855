"""The figures, twice: interactive with plotly for the page, and as SVG with matplotlib for the repository."""

import io

import numpy as np

from xceptlab.report.summary import Curve, Summary
from xceptlab.verdict import Verdict

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#F0E442")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""


def colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def band(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over runs (E,), (E,); the deviation is 0 where there is one run."""
    count = (~np.isnan(curve.values)).sum(axis=0)
    mean = np.nansum(curve.values, axis=0) / count
    deviation = np.sqrt(np.nansum((curve.values - mean) ** 2, axis=0) / np.maximum(count - 1, 1))
    return mean, deviation


def unit(metric: str) -> str:
    return "nats" if metric.endswith("loss") else "%"


# ---- plotly: divs for the page -------------------------------------------------------------------------------------------


def curves_html(summary: Summary) -> str:
    """Mean learning curve and band of one standard deviation per arm."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for i, (arm, curve) in enumerate(summary.curves.items()):
        if not curve.values.size:
            continue
        mean, deviation = band(curve)
        edge = {
            "x": curve.epochs,
            "mode": "lines",
            "line": {"width": 0},
            "legendgroup": arm,
            "showlegend": False,
            "hoverinfo": "skip",
        }
        figure.add_scatter(y=mean + deviation, **edge)
        figure.add_scatter(y=mean - deviation, fill="tonexty", fillcolor=f"{colour(i)}30", **edge)
        figure.add_scatter(
            x=curve.epochs,
            y=mean,
            mode="lines+markers",
            line={"color": colour(i)},
            name=arm,
            legendgroup=arm,
            hoverinfo="x+y+name",
        )
    figure.update_layout(xaxis_title="epoch", yaxis_title=f"{summary.curve_metric} ({unit(summary.curve_metric)})")
    return _div(figure, 380)


def differences_html(verdict: Verdict) -> str:
    """Paired differences per seed, their mean with its interval, and the margin."""
    import plotly.graph_objects as go

    v, claim = verdict, verdict.claim
    figure = go.Figure()
    low, high = (-claim.margin if claim.kind == "equivalent" else claim.margin), claim.margin
    for margin in {low, high}:
        figure.add_vline(x=margin, line={"color": "#888", "dash": "dash"})
    text = [f"seed {seed}" for seed in v.differences]
    values = list(v.differences.values())
    figure.add_scatter(
        x=values,
        y=["seeds"] * v.n,
        mode="markers",
        text=text,
        name="one seed",
        marker={"color": COLOURS[5], "size": 9, "opacity": 0.8},
    )
    if v.n > 1:
        error = {
            "type": "data",
            "symmetric": False,
            "array": [v.high - v.estimate],
            "arrayminus": [v.estimate - v.low],
            "thickness": 3,
            "width": 8,
        }
        figure.add_scatter(
            x=[v.estimate], y=["mean"], mode="markers", error_x=error, name=f"mean, {100 * v.level:g}% interval",
            marker={"color": COLOURS[0], "size": 12},
        )  # fmt: skip
    a, b = claim.contrast
    sign = f"{b} - {a}" if claim.lower_is_better else f"{a} - {b}"
    figure.update_layout(xaxis_title=f"{sign}, {claim.metric} ({'nats' if claim.lower_is_better else 'points'}); dashed: margin")
    figure.update_xaxes(zeroline=True, zerolinecolor="#bbb", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=["mean", "seeds"], range=[-0.6, 1.6])
    return _div(figure, 220)


def _div(figure, height: int) -> str:  # type: ignore[no-untyped-def]
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "color": "#777"},
        legend={"orientation": "h", "y": 1.15},
    )
    figure.update_xaxes(gridcolor="rgba(128,128,128,0.25)")  # on white and on black
    figure.update_yaxes(gridcolor="rgba(128,128,128,0.25)")
    return figure.to_html(full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True})


def plotly_script() -> str:
    """plotly.js, to stand in the page itself: it must open from disk without a network."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


# ---- matplotlib: SVG for report.md ----------------------------------------------------------------------------------------


def curves_svg(summary: Summary) -> bytes:
    """As ``curves_html``."""
    figure, axes = _axes(6.4, 3.6)
    for i, (arm, curve) in enumerate(summary.curves.items()):
        if curve.values.size:
            mean, deviation = band(curve)
            axes.plot(curve.epochs, mean, "o-", ms=4, color=colour(i), label=f"{arm} (n = {len(curve.values)})")
            axes.fill_between(curve.epochs, mean - deviation, mean + deviation, color=colour(i), alpha=0.2, lw=0)
    axes.set(xlabel="epoch", ylabel=f"{summary.curve_metric} ({unit(summary.curve_metric)})")
    if axes.has_data():
        axes.legend(frameon=False)
    return _svg(figure)


def differences_svg(summary: Summary) -> bytes:
    """Every claim's paired differences, mean, interval and margin, one under the other."""
    figure, axes = _axes(6.4, 0.9 + 0.9 * max(1, len(summary.verdicts)))
    for row, v in enumerate(summary.verdicts):
        low = -v.claim.margin if v.claim.kind == "equivalent" else v.claim.margin
        for margin in {low, v.claim.margin}:
            axes.plot([margin] * 2, [row - 0.4, row + 0.4], "--", color="#888", lw=1)
        axes.plot(list(v.differences.values()), [row - 0.18] * v.n, "o", color=COLOURS[5], alpha=0.8, ms=5)
        if v.n > 1:
            axes.plot([v.low, v.high], [row + 0.12] * 2, "-", color=COLOURS[0], lw=2.5)
            axes.plot([v.estimate], [row + 0.12], "o", color=COLOURS[0], ms=7)
    axes.axvline(0, color="#bbb", lw=1, zorder=0)
    axes.set(
        yticks=range(len(summary.verdicts)),
        yticklabels=[v.claim.id.replace("$", r"\$") for v in summary.verdicts],
        ylim=(len(summary.verdicts) - 0.4, -0.6),
    )
    axes.set_xlabel("difference per seed (light), mean and interval (dark), margin (dashed)")
    return _svg(figure)


def _axes(width: float, height: float):  # type: ignore[no-untyped-def]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure) -> bytes:  # type: ignore[no-untyped-def]
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "xceptlab", "svg.fonttype": "none"}):  # equal figures, equal bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
