"""Draw the learning curves of a study's arms."""

from typing import Any

import altair as alt
import numpy as np

from xceptlab.report.figures.style import INK, Chart, chart_of, colour, dash, metric_axis
from xceptlab.report.summary import Curve, Summary

MEANS, RUNS = "mean ± sd", "single runs"
"""The two views of the learning curves between which a reader chooses."""

PLACE_OF_EPOCH = "logarithmic ? log(datum.epoch) / LN2 : datum.epoch"
"""Vega expression for the place of an epoch on its axis, which a reader may make logarithmic."""

LABEL_OF_EPOCH = "logarithmic ? '' + pow(2, datum.value) : datum.label"
"""Vega expression for the label at a tick of the axis of epochs."""

TEXTS_AT_EPOCH = "isDefined(datum.datum) ? datum.datum.texts : datum.texts"
"""Vega expression for the texts of all arms' values at the epoch of a vertical rule. It is
evaluated for the rule's data, or for the cell of the chart around it, which holds them in
``datum``.
"""


def band(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean (E,) and standard deviation (E,) over runs at each of E epochs, of the finite
    values. The mean is NaN where there is none; the deviation is 0 where there are fewer than 2.
    """
    is_finite = np.isfinite(curve.values)
    values = np.where(is_finite, curve.values, np.nan)  # (runs, E)
    count = is_finite.sum(axis=0)  # (E,)
    count_or_nan = np.where(count, count, np.nan)
    mean = np.nansum(values, axis=0) / count_or_nan
    squares = (values - mean) ** 2
    degrees_of_freedom = np.maximum(count - 1, 1)
    variance = np.nansum(squares, axis=0) / degrees_of_freedom
    return mean, np.sqrt(variance)


def curves_chart(summary: Summary, legend: alt.Legend | None = None) -> Chart:
    """Draw learning curves: the arms' means, each with a band of one standard deviation to either
    side or, if the reader of the page chooses so, with the single runs in place of the band.

    Args:
        summary: What the report shows, with the learning curves of every arm.
        legend: The legend; None to draw none, as for the page. The page has a legend of its own,
            which sets the chart's parameter ``hidden``, a list of the arms that are not drawn.
    """
    curves = {}
    labels = {}
    colours = []
    dashes = []
    mean_rows = []
    run_rows = []
    # An arm without a curve keeps its place, so that the others have the same colours without it.
    for place, (arm, curve) in enumerate(summary.curves.items()):
        if not curve.values.size:
            continue
        label = f"{arm} (n = {len(curve.values)})"
        curves[arm] = curve
        labels[arm] = label
        colours.append(colour(place))
        dashes.append(dash(place))
        mean_rows.append(_mean_row(arm, label, curve))
        run_rows += _run_rows(arm, label, curve)
    text_rows = _text_rows(curves, labels)

    domain = list(labels.values())
    arm_colour = alt.Color("label:N").scale(domain=domain, range=colours).legend(legend)
    arm_dash = alt.StrokeDash("label:N").scale(domain=domain, range=dashes).legend(legend)
    x = alt.X("x:Q").scale(zero=False, nice=False).title("epoch")
    x = x.axis(tickMinStep=1, tickCount=8, labelExpr=LABEL_OF_EPOCH)
    y = alt.Y(type="quantitative").scale(zero=False).title(metric_axis(summary.curve_metric))

    averages = _epochs_unfolded(mean_rows, "mean", "low", "high")
    band_opacity = 0.2 if len(curves) < 5 else 0.1
    bands = (
        averages.transform_filter(f"shown == '{MEANS}'")
        .mark_area(opacity=band_opacity)
        .encode(x, y.field("low"), alt.Y2("high:Q"), arm_colour)
    )
    single_runs = (
        _epochs_unfolded(run_rows, "value")
        .transform_filter(f"shown == '{RUNS}'")
        .mark_line(strokeWidth=1, opacity=0.5)
        .encode(x, y.field("value"), arm_colour, alt.Detail("seed:N"))
    )
    points = alt.OverlayMarkDef(size=30) if len(text_rows) < 30 else False
    lines = averages.mark_line(strokeWidth=2.5, point=points).encode(
        x, y.field("mean"), arm_colour, arm_dash
    )
    layers = [bands, single_runs, lines, _rules(text_rows, x)]
    return alt.layer(*layers).add_params(*_choices()).properties(height=320)


def _choices() -> list[alt.Parameter]:
    """Return the parameters by which a reader of the page changes the curves: ``shown``, one of the
    two views; ``logarithmic``, whether the axis of epochs is; and ``hidden``, a list of arms.
    """
    means_or_runs = alt.binding_radio(options=[MEANS, RUNS], name="show ")
    return [
        alt.param(name="shown", value=MEANS, bind=means_or_runs),
        alt.param(
            name="logarithmic", value=False, bind=alt.binding_checkbox(name="logarithmic epochs ")
        ),
        alt.param(name="hidden", value=[]),
    ]


def _rules(text_rows: list[dict[str, Any]], x: alt.X) -> alt.Chart:
    """Return a layer of vertical rules at the epochs; only the one next to the pointer is shown,
    and tells the values there.

    Args:
        text_rows: A row for each epoch, ``epoch``, with the texts to be told there, ``texts``.
        x: The channel of the epochs' places on their axis.
    """
    near = alt.selection_point(
        name="near",
        on="pointerover",
        clear="pointerout",
        nearest=True,
        encodings=["x"],
        empty=False,
    )
    opacity = alt.when(near).then(alt.value(0.4)).otherwise(alt.value(0))
    return (
        _at_epochs(chart_of(*text_rows))
        .mark_rule(color=INK, tooltip=alt.ExprRef(TEXTS_AT_EPOCH))
        .add_params(near)
        .encode(x, opacity=opacity)
    )


def _at_epochs(chart: alt.Chart) -> alt.Chart:
    """Return a chart with a further field ``x`` in its rows: the place of ``epoch`` on its axis,
    which a reader may make logarithmic.
    """
    return chart.transform_calculate(x=PLACE_OF_EPOCH)


def _epochs_unfolded(rows: list[dict[str, Any]], *columns: str) -> alt.Chart:
    """Return a chart with a row for each epoch, from rows in which ``epoch`` and ``columns`` are
    lists over epochs; arms that the reader has hidden are left out.
    """
    shown = chart_of(*rows).transform_filter("indexof(hidden, datum.arm) < 0")
    return _at_epochs(shown.transform_flatten(["epoch", *columns]))


# ---- the data ------------------------------------------------------------------------------------


def _mean_row(arm: str, label: str, curve: Curve) -> dict[str, Any]:
    """Return a row of the chart's data with an arm's name, the label of its curve, and lists over
    epochs: ``epoch``, ``mean``, and the ends of the band, ``low`` and ``high``.
    """
    mean, deviation = band(curve)
    return {
        "arm": arm,
        "label": label,
        "epoch": curve.epochs.tolist(),
        "mean": _as_json(mean),
        "low": _as_json(mean - deviation),
        "high": _as_json(mean + deviation),
    }


def _run_rows(arm: str, label: str, curve: Curve) -> list[dict[str, Any]]:
    """Return a row of the chart's data for each run of an arm, with its values as a list over
    epochs.
    """
    rows = []
    for seed, values in zip(curve.seeds, curve.values, strict=True):
        row = {
            "arm": arm,
            "label": label,
            "seed": seed,
            "epoch": curve.epochs.tolist(),
            "value": _as_json(values),
        }
        rows.append(row)
    return rows


def _text_rows(curves: dict[str, Curve], labels: dict[str, str]) -> list[dict[str, Any]]:
    """Return a row of the chart's data for each epoch at which an arm has a finite mean. It has the
    number ``epoch``, and ``texts``: the epoch as text, and by the arm's label the mean and standard
    deviation of each arm there.

    Args:
        curves: Learning curves by arm.
        labels: The label of each arm in the figure, by arm.
    """
    texts: dict[float, dict[str, str]] = {}
    for arm, curve in curves.items():
        label = labels[arm]
        mean, deviation = band(curve)
        epochs = curve.epochs.tolist()
        for epoch, value, spread in zip(epochs, mean, deviation, strict=True):
            if not np.isfinite(value):
                continue
            at_epoch = texts.setdefault(epoch, {"epoch": f"{epoch:g}"})
            at_epoch[label] = f"{value:.2f} ± {spread:.2f}"
    rows = []
    for epoch, at_epoch in texts.items():
        rows.append({"epoch": epoch, "texts": at_epoch})
    return rows


def _as_json(values: np.ndarray) -> list[float | None]:
    """Return values (n,) as JSON can hold them: rounded to 4 decimals, which are all that a picture
    can show, and None, which is null, where one is not finite.
    """
    numbers: list[float | None] = []
    for value in values.tolist():
        number = round(value, 4) if np.isfinite(value) else None
        numbers.append(number)
    return numbers
