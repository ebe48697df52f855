"""Write a study's report: report.html, report.md with its figures, and results.csv."""

import html
import math
import shutil
from pathlib import Path
from typing import Any

import jinja2

import xceptlab
from xceptlab.records import write_atomically
from xceptlab.report import figures
from xceptlab.report.summary import ArmRow, Summary, results_csv

FILES = ("report.md", "results.csv", "curves.svg", "differences.svg")
"""What ``publish`` copies."""


def write_report(summary: Summary) -> Path:
    """Write the report into the study's folder; returns the path of report.html."""
    folder = summary.expansion.directory()
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "results.csv": results_csv(summary).encode(),
        "curves.svg": figures.curves_svg(summary),
        "differences.svg": figures.differences_svg(summary),
        "report.md": _render("report.md.j2", summary).encode(),
        "report.html": _render("report.html.j2", summary).encode(),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return folder / "report.html"


def publish(summary: Summary, folder: Path) -> None:
    """Copy report.md, its figures and results.csv beside the study file, to be committed."""
    for name in FILES:
        shutil.copyfile(summary.expansion.directory() / name, folder / name)


def arm_cells(row: ArmRow, baseline: ArmRow, metric: str) -> list[str]:
    """One arm as text, for every table: see ``arm_header``."""
    runs = f"{row.n}" + (f" ({row.diverged} diverged)" if row.diverged else "")
    return [
        row.name,
        runs,
        number(row.mean, 3 if metric.endswith("loss") else 2),
        number(row.spread, 3 if metric.endswith("loss") else 2),
        number(row.sampling, 2),
        amount(row.parameters, baseline.parameters),
        amount(row.macs, baseline.macs),
        number(row.images_per_second, 0),
    ]


def arm_header(metric: str) -> list[str]:
    """The columns of ``arm_cells``."""
    return ["arm", "runs", metric, "seed sd", "test se", "params", "MACs", "img/s"]


LEGEND = (
    "seed sd: standard deviation over seeds; test se: standard error of one run's accuracy from the finite test set; "
    "means are of the runs that finished; MACs: multiply-accumulates per image"
)


def number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"


def amount(value: int | None, baseline: int | None) -> str:
    """Such as ``22.86 M (-4.3%)``, the difference from the baseline's."""
    if value is None:
        return "–"
    scale, letter = next(
        ((10**power, letter) for power, letter in ((9, " G"), (6, " M"), (3, " k")) if value >= 10**power), (1, "")
    )
    difference = f" ({100 * (value / baseline - 1):+.1f}%)" if baseline and value != baseline else ""
    return f"{value / scale:.4g}{letter}{difference}"


def _render(template: str, summary: Summary) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xceptlab", "report"),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _markdown_cell
    return environment.get_template(template).render(
        s=summary,
        study=summary.expansion.study,
        figures=figures,
        legend=LEGEND,
        header=arm_header(summary.metric),
        rows=[arm_cells(row, summary.arms[0], summary.metric) for row in summary.arms],
        differences={arm: summary.expansion.differences(arm) for arm in summary.expansion.arms},
        version=xceptlab.__version__,
    )


def _markdown_cell(text: Any) -> str:
    """Text that stays in its table cell and brings no HTML."""
    return html.escape(str(text), quote=False).replace("|", "\\|").replace("\n", " ")
