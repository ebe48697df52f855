"""Fill the templates of reports with values; text is made safe for Markdown, HTML and LaTeX."""

import functools
import html
from typing import Any

import jinja2

import xceptlab
from xceptlab.report import figures
from xceptlab.report.summary import Summary
from xceptlab.report.tables import EFFECT_HEADER, LEGEND, arm_cells, arm_header, effect_cells
from xceptlab.report.trained import recipe, shared_science
from xceptlab.report.tuned import Rows
from xceptlab.runs.metrics import decimals
from xceptlab.study.wording import evidence

TEX = {
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "−": "$-$",
    "–": "--",
}
"""What LaTeX needs in place of a character that is a command to it, or that its fonts lack."""


def render(template: str, **values: Any) -> str:
    """Return the text of a template of this package, such as ``report.md.j2``, filled with the
    values by name, and with the module ``figures`` and the ``version`` of xceptlab. In HTML all
    values are escaped that the template does not mark as safe.
    """
    environment = _environment(autoescape=template.endswith(".html.j2"))
    return environment.get_template(template).render(
        figures=figures, version=xceptlab.__version__, **values
    )


@functools.cache
def _environment(autoescape: bool) -> jinja2.Environment:
    """Return the Jinja environment that reads the templates, which escapes values for HTML if
    ``autoescape``. Each of the two is made once per process, and so compiles a template once.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xceptlab", "report"),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Arms are shown in the study's order, which sorted keys would lose.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters["cell"] = _markdown_cell
    environment.filters["tex"] = _tex
    environment.filters["evidence"] = evidence
    return environment


def study_values(summary: Summary) -> dict[str, Any]:
    """Return the values with which the templates of a study's report are filled, by name."""
    expansion = summary.expansion
    return {
        "s": summary,
        "study": expansion.study,
        "legend": LEGEND,
        "header": arm_header(summary.metric),
        "rows": [arm_cells(row, summary.arms[0], summary.metric) for row in summary.arms],
        "paired": [verdict for verdict in summary.verdicts if verdict.n],
        "effect_header": EFFECT_HEADER,
        "effect_rows": [effect_cells(effect, summary.metric) for effect in summary.effects],
        "tuning_tables": _tuning_tables(summary),
        "decimals": decimals,
        "curves_text": _curves_in_words(summary),
        "reproduce": _commands(summary),
        "differences": {arm: expansion.differences(arm) for arm in expansion.arms},
        "notes": _notes(summary),
        "recipe": recipe(expansion, summary.arm_records),
        "shared": shared_science(expansion),
    }


def _notes(summary: Summary) -> list[str]:
    """Return the notes of a report: sentences on budgets and speeds that differ, then the
    warnings.
    """
    notes = []
    for budgets in summary.budgets.values():
        notes += budgets.sentences
    return notes + summary.warnings


def _tuning_tables(summary: Summary) -> list[tuple[str, Rows]]:
    """Return pairs of title and table on what tuning chose and found; empty where a study tunes
    nothing.
    """
    study = summary.expansion.study
    if summary.tuned is None or study.tune is None:
        return []
    keys = " and ".join(study.tune.keys)
    level = 100 * (1 - 2 * study.alpha)
    by_value = f"{summary.metric} by {keys}: mean ± standard deviation over seeds (and for how many it was chosen)"
    fixed = f"Claims with all arms at the same {keys}: {level:g}% intervals, p unadjusted; not claimed beforehand, no verdicts"
    return [
        (f"Chosen {keys}", summary.tuned.chosen),
        (by_value, summary.tuned.by_value),
        (fixed, summary.tuned.contrasts),
    ]


def _curves_in_words(summary: Summary) -> str:
    """Return a text for readers who do not see the learning curves: a sentence for each arm with
    the last value of its mean curve. Arms without a curve are left out.
    """
    sentences = []
    for arm, curve in summary.curves.items():
        if curve.values.size:
            mean, _ = figures.band(curve)
            sentences.append(f"{arm} ends at {mean[-1]:.2f}.")
    return " ".join(sentences)


def _commands(summary: Summary) -> str:
    """Return the commands that make the study again, a line each: a checkout of every revision of
    the code that made a run, the installation, and the study's own command.
    """
    revisions = set()
    for record in summary.records.values():
        if record and "revision" in record.git:
            revisions.add(record.git["revision"])
    checkouts = [f"git checkout {revision}" for revision in sorted(revisions)]
    return "\n".join([*checkouts, "make setup", summary.expansion.command])


def _markdown_cell(text: Any) -> str:
    """Escape text for a cell of a Markdown table, so that it stays in the cell and has no HTML."""
    return html.escape(str(text), quote=False).replace("|", "\\|").replace("\n", " ")


def _tex(text: Any) -> str:
    """Escape text so that LaTeX sets it as it is written, in one line."""
    written = "".join(TEX.get(character, character) for character in str(text))
    return " ".join(written.split())
