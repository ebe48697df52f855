"""The figures of a report. Each is an Altair chart, which Vega-Lite draws in the page. The learning
curves and the claims' intervals are drawn as SVG files, too, for report.md.

- ``claims``: a claim's interval, its differences by seed, and the pairs of scores behind them
- ``curves``: the learning curves of all arms
- ``arms``: scores against costs, and the effects of a factorial study
- ``style``: what all figures share: colours, fonts, titles of axes
- ``output``: a chart as a part of the page, or as SVG
"""

from xceptlab.report.figures.arms import costs_chart, effects_chart
from xceptlab.report.figures.claims import (
    differences_chart,
    effect_size,
    pairs_chart,
    verdict_chart,
)
from xceptlab.report.figures.curves import band, curves_chart
from xceptlab.report.figures.output import curves_svg, differences_svg, page, script
from xceptlab.report.figures.style import TONES, colour, shape

__all__ = [
    "TONES",
    "band",
    "colour",
    "costs_chart",
    "curves_chart",
    "curves_svg",
    "differences_chart",
    "differences_svg",
    "effect_size",
    "effects_chart",
    "page",
    "pairs_chart",
    "script",
    "shape",
    "verdict_chart",
]
