"""What all figures share: colours, fonts, names that fit, and the titles of axes."""

import textwrap
from typing import Any

import altair as alt

from xceptlab.runs.metrics import metric_of

Chart = alt.LayerChart | alt.FacetChart
"""What the functions that draw a figure return."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#882255")
"""Colours of the arms: Okabe and Ito's palette, which colour-blind readers can tell apart, with a
dark red in place of its yellow, which is pale on white.
"""

GREY = COLOURS[6]
"""Colour of whatever is no arm of the study, such as the sides of a claim on an effect; in a study
of 7 arms or more it is also an arm's.
"""

DASHES = ((1, 0), (6, 3), (2, 2), (8, 2, 2, 2))
"""Dash patterns of the arms' lines, as lengths of dash and gap: solid for the first arms, which
have a colour each, and dashed for those that have the same colours again.
"""

SHAPES = ("circle", "square", "triangle-up", "diamond")
"""Shapes of the arms' points, by Vega's names: circles for the first arms, which have a colour
each, and the next shape whenever the colours begin again. The page's style sheet has a class for
each.
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
"""The colour of text and axes, by CSS: that of the text around the figure, so that it fits to a
light page, a dark one and paper.
"""


def colour(i: int) -> str:
    """Return the colour of a study's i-th arm, from 0, in every figure."""
    return COLOURS[i % len(COLOURS)]


def dash(i: int) -> tuple[int, ...]:
    """Return the dash pattern of the lines of a study's i-th arm, from 0."""
    return DASHES[i // len(COLOURS) % len(DASHES)]


def shape(i: int) -> str:
    """Return the shape, by Vega's name, of the marks of a study's i-th arm, from 0: of its points
    in a figure and of its symbol in a legend.
    """
    return SHAPES[i // len(COLOURS) % len(SHAPES)]


def short(name: str, most: int = 32) -> str:
    """Shorten a name to at most ``most`` characters: its beginning, an ellipsis and its end. A name
    that is short enough is returned as it is.
    """
    if len(name) <= most:
        return name
    beginning = name[: most // 2]
    end = name[-(most // 2 - 1) :]
    return f"{beginning}…{end}"


def wrapped(name: str) -> str:
    """Return the name of an arm, or of another side of a claim, as the label of an axis: in lines of
    at most 18 characters.
    """
    lines = textwrap.wrap(name, 18)
    return "\n".join(lines) or name


def with_unit(name: str, unit: str) -> str:
    """Return a name with a unit in brackets; just the name where ``unit`` is empty."""
    return f"{name} ({unit})" if unit else name


def metric_axis(metric: str) -> str:
    """Return the title of an axis of scores: the metric with its unit."""
    return with_unit(metric, metric_of(metric).unit)


def score_format(decimals: int) -> str:
    """Return the format of scores with so many decimals, such as ``.2f``, in the notation that d3
    and Python share.
    """
    return f".{decimals}f"


def difference_format(decimals: int) -> str:
    """Return the format of differences, always with a sign and with so many decimals, such as
    ``+.2f``, in the notation that d3 and Python share.
    """
    return f"+.{decimals}f"


def chart_of(*rows: dict[str, Any]) -> alt.Chart:
    """Return a chart without marks whose data are these rows."""
    return alt.Chart(alt.InlineData(values=list(rows)))


def vega_config(font: str) -> dict[str, Any]:
    """Return the Vega-Lite configuration that all figures share, with this font."""
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
