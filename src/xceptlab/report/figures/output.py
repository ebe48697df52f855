"""Put charts into the page, where a browser draws them, or into SVG files."""

import contextlib
import functools
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import altair as alt

from xceptlab.data.cache import user_cache
from xceptlab.files import write_atomically
from xceptlab.report.figures.claims import verdict_chart
from xceptlab.report.figures.curves import curves_chart
from xceptlab.report.figures.style import INK, chart_of, short, vega_config
from xceptlab.report.summary import Summary
from xceptlab.study.verdict import Verdict

PAGE_FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"
"""Fonts of the figures in the page: those of its text."""

SVG_FONT = "Arial, Liberation Sans, Helvetica, sans-serif"
"""Fonts of the SVG files. A letter is equally wide in all of them, so that a label fits the place
that vl-convert has measured for it, whichever font is installed.
"""

SVG_WIDTH = 480
"""Width of the axes of an SVG file, in pixels."""


def page(chart: Any) -> dict[str, Any]:
    """Return the Vega-Lite specification of an Altair chart for the page, in which it becomes as
    wide as the element that holds it.
    """
    specification = chart.to_dict(validate=False)
    return specification | {
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "background": "transparent",
        "config": vega_config(PAGE_FONT),
    }


def curves_svg(summary: Summary) -> bytes:
    """Draw a study's learning curves as SVG, for report.md."""
    longest_name = max(map(len, summary.curves), default=0)
    columns = SVG_WIDTH // (7 * longest_name + 90)
    legend = alt.Legend(
        orient="top",
        title=None,
        columns=max(1, columns),
        labelLimit=SVG_WIDTH - 40,
        columnPadding=16,
        symbolOpacity=1,
    )
    chart = curves_chart(summary, legend)
    return _svg(chart.properties(width=SVG_WIDTH))


def differences_svg(verdicts: Sequence[Verdict]) -> bytes:
    """Draw the confidence interval of each claim's difference as one SVG, the claims one under the
    other, for report.md; without claims, a text that says so.
    """
    charts: list[Any] = []
    for verdict in verdicts:
        title = alt.Title(
            f"{short(verdict.claim.id, 60)}: {verdict.outcome}",
            anchor="start",
            fontSize=13,
            offset=16,
            color=INK,
        )
        charts.append(verdict_chart(verdict).properties(width=SVG_WIDTH, title=title))
    if not charts:
        charts.append(chart_of({}).mark_text(text="The study has no claims.", color=INK))
    return _svg(alt.vconcat(*charts, spacing=24))


def _svg(chart: Any) -> bytes:
    """Return an Altair chart as SVG on white, so that it can be read on any background."""
    # It starts threads, which a process that only imports this module does without.
    import vl_convert

    specification = chart.to_dict(validate=False)
    specification |= {"background": "white", "padding": 8, "config": vega_config(SVG_FONT)}
    return vl_convert.vegalite_to_svg(specification).encode()


@functools.cache
def script() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, to be put into the page itself, which
    must open from disk without a network.

    Bundling them takes seconds, so that the script is kept in the user's cache, where there is one.
    """
    import vl_convert

    try:
        file = user_cache() / f"vega-{version('vl-convert-python')}.js"
    except RuntimeError:
        # The user has no home, and so no cache. The stub of the function lacks the default.
        return vl_convert.javascript_bundle()  # type: ignore[call-arg]
    if file.is_file():
        return file.read_text("utf-8")
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    # The page is complete also where the disk is full.
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, bundle.encode())
    return bundle
