"""What all figures share: colours, fonts, names that fit, and the titles of axes."""

import textwrap
from typing import Any

import altair as alt

from xceptlab.runs.metrics import decimals, metric_of

Chart = alt.LayerChart | alt.FacetChart

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#882255")
"""Okabe and Ito's palette, which colour-blind readers can tell apart; dark red in place of its
yellow, pale on white.
"""

GREY = COLOURS[6]
"""Colour of whatever is no arm of the study, such as the sides of a claim on an effect."""

DASHES = ((1, 0), (6, 3), (2, 2), (8, 2, 2, 2))
"""Dash patterns of lines: solid for the arms that use the colours first, dashed for those that use
them again.
"""

TONES = {
    "supported": "#009E73",
    "contradicted": "#D55E00",
    "inconclusive": "#7F8694",
    "incomplete": "#C98600",
}
"""Colour of each outcome of a claim."""

HOLDS = TONES["supported"]
"""The colour of the region in which a claim holds."""

INK = "currentColor"
"""The colour of text and axes: that of the text around the figure, whether the page is light, dark
or on paper.
"""


def colour(i: int) -> str:
    """The colour of the i-th arm of a study, in every figure."""
    return COLOURS[i % len(COLOURS)]


def dash(i: int) -> tuple[int, ...]:
    """The dash pattern of the i-th arm's lines."""
    return DASHES[i // len(COLOURS) % len(DASHES)]


def short(name: str, most: int = 32) -> str:
    """Shorten a name, where there is little room, to its beginning and its end."""
    if len(name) <= most:
        return name
    beginning = name[: most // 2]
    end = name[-(most // 2 - 1) :]
    return f"{beginning}…{end}"


def wrapped(name: str) -> str:
    """An arm's name as the label of an axis, in lines of 18 characters."""
    lines = textwrap.wrap(short(name), 18)
    return "\n".join(lines) or name


def with_unit(name: str, unit: str) -> str:
    """A name with its unit in brackets, where it has one."""
    return f"{name} ({unit})" if unit else name


def metric_axis(metric: str) -> str:
    """Title of an axis of scores."""
    return with_unit(metric, metric_of(metric).unit)


def score_format(metric: str) -> str:
    """The number format of a metric's scores, as d3 and Python write it."""
    return f".{decimals(metric)}f"


def difference_format(metric: str) -> str:
    """The number format of differences of a metric, which have a sign."""
    return f"+.{decimals(metric)}f"


def chart_of(*rows: dict[str, Any]) -> alt.Chart:
    """A chart whose data are these rows."""
    return alt.Chart(alt.InlineData(values=list(rows)))


def vega_config(font: str) -> dict[str, Any]:
    """Vega-Lite configuration that all figures share."""
    text = {
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    lines = {
        "gridColor": INK,
        "gridOpacity": 0.12,
        "domainColor": INK,
        "domainOpacity": 0.4,
        "tickColor": INK,
        "tickOpacity": 0.4,
    }
    return {
        "font": font,
        "lineBreak": "\n",
        "view": {"stroke": None},
        "axis": text | lines,
        "legend": {"labelColor": INK, "labelFontSize": 12},
    }
