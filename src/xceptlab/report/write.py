"""Write a study's report: report.html, report.md with its figures, and results.csv."""

import csv
import functools
import html
import io
import math
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2

import xceptlab
from xceptlab.errors import Refused
from xceptlab.files import write_atomically
from xceptlab.report import figures
from xceptlab.report.calibrated import Calibrated
from xceptlab.report.caveats import excess
from xceptlab.report.summary import ArmRow, EffectRow, Summary, summarise
from xceptlab.report.trained import recipe, shared_science
from xceptlab.report.tuned import Rows
from xceptlab.runs.metrics import decimals
from xceptlab.study import statistics
from xceptlab.study.expansion import Expansion
from xceptlab.study.registration import REGISTERED, remember_files
from xceptlab.study.verdict import Verdict
from xceptlab.text import say
from xceptlab.training import weights_and_biases

FILES = ("report.md", "results.csv", "curves.svg", "differences.svg")
"""What ``publish`` copies."""


def make_report(expansion: Expansion, latex: bool = False) -> Summary:
    """Judge the records there are of a study and write its report.

    Raises:
        Refused: There is nothing to report, perhaps because the outputs are elsewhere.
    """
    summary = gather(expansion)
    write_study(summary, latex)
    return summary


def gather(expansion: Expansion, calibrate: bool = False) -> Summary:
    """Judge the records there are of a study, and write nothing; ``calibrate`` simulates how often that is wrong.

    Raises:
        Refused: There is nothing to report, perhaps because the outputs are elsewhere, or nothing to calibrate.
    """
    if nothing := expansion.nothing_found():
        raise Refused(nothing)
    if calibrate and not expansion.study.claims:
        raise Refused(f"--calibrate: {expansion.name} has no claims to calibrate")
    return summarise(expansion, calibrate)


def write_study(summary: Summary, latex: bool = False) -> None:
    """Write a study's report, and note which files the study is made of."""
    remember_files(summary.expansion)
    write_report(summary, latex)


def write_report(summary: Summary, latex: bool = False) -> Path:
    """Write the report into the study's folder, report.tex with ``latex``; returns the path of report.html.

    A finished report is not lost to one that lacks its runs, as when the data were changed: it is moved into a folder beside.
    """
    folder = summary.expansion.directory()
    folder.mkdir(parents=True, exist_ok=True)
    _keep_finished(summary, folder)
    values = _values(summary)
    contents = {
        "results.csv": results_csv(summary).encode(),
        "curves.svg": figures.curves_svg(summary),
        "differences.svg": figures.differences_svg(summary.verdicts),
        "report.md": _render("report.md.j2", **values).encode(),
        **({"report.tex": _render("report.tex.j2", **values).encode()} if latex else {}),
        "report.html": _render("report.html.j2", **values).encode(),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return folder / "report.html"


def _keep_finished(summary: Summary, folder: Path) -> None:
    """Move a finished report away from an unfinished one that lacks some of its runs, and say where to."""
    results = folder / "results.csv"
    if summary.done == len(summary.records) or not results.is_file():
        return
    rows = list(csv.DictReader(results.read_text("utf-8", errors="replace").splitlines()))
    reported = {row.get("run_id") for row in rows}
    runs = summary.expansion.runs()
    done = {run.run_id for key, run in runs.items() if summary.records[key]}
    finished = all(row.get("status") != "missing" for row in rows)
    if reported <= done or not finished:
        return
    kept = folder / time.strftime("finished-%Y-%m-%d-%H%M%S", time.localtime(results.stat().st_mtime))
    kept.mkdir(exist_ok=True)
    for name in (*FILES, "report.html", "report.tex"):
        if (folder / name).exists():
            os.replace(folder / name, kept / name)
    others = reported - {run.run_id for run in runs.values()}
    gone = [
        str(directory.path) for key, directory in summary.expansion.directories().items() if runs[key].run_id in reported - done
    ]
    reasons = []
    if others:
        reasons.append(
            f"{len(others)} of its {len(reported)} runs are not of the study as it is now (put back the data or the study file)"
        )
    if gone:
        reasons.append(f"there is no record.json any more in {', '.join(gone)} (put it back, or `xceptlab study` trains again)")
    say(f"the study's finished report was moved to {kept}: {'; '.join(reasons)}", "Warning")


RECORDED = (
    "parameters",
    "macs",
    "steps",
    "seconds",
    "images_per_second",
    "device",
    "arithmetic",
    "world_size",
    "precision",
    "data_fingerprint",
)
"""The fields of a record that results.csv has after the scores."""


def results_csv(summary: Summary) -> str:
    """One line per run: the raw scores and what made them."""
    metrics = sorted({name for record in summary.records.values() if record for name in record.metrics})
    tuned = list(summary.expansion.study.tune.keys) if summary.expansion.study.tune else []
    columns = ["arm", "seed", *tuned, "run_id", "status", *metrics, *RECORDED, "revision", "versions"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for (name, seed), run in summary.expansion.runs().items():
        trial, record = summary.expansion.trials[name], summary.records[name, seed]
        made: dict[str, Any] = {"status": "missing"}
        if record:
            packages = "; ".join(f"{package} {version}" for package, version in record.versions.items())
            made = vars(record) | record.metrics | record.git | {"versions": packages}
        writer.writerow(made | trial.values | {"arm": trial.arm, "seed": seed, "run_id": run.run_id})
    return buffer.getvalue()


def write_comparison(summaries: list[Summary]) -> Path:
    """Write one page on several studies, each of which has its report; returns its path."""
    folder = summaries[0].expansion.directory().parents[1] / "comparisons"
    folder.mkdir(parents=True, exist_ok=True)
    runs = Counter(run.run_id for summary in summaries for run in summary.expansion.runs().values())
    metric = summaries[0].metric
    arms = []
    for s in summaries:
        if s.metric == metric:
            arms += [replace(row, name=f"{s.expansion.name}: {row.name}") for row in s.arms]
    text = _render(
        "compare.html.j2",
        title=f"{len(summaries)} studies compared",
        studies=[(s, [arm_cells(row, s.arms[0], s.metric) for row in s.arms]) for s in summaries],
        header=arm_header,
        arms=arms,
        metric=metric,
        shared=sum(n > 1 for n in runs.values()),
        runs=len(runs),
    )
    file = folder / f"{'--'.join(s.expansion.name for s in summaries)[:200]}.html"
    write_atomically(file, text.encode())
    return file


def write_judged(file: Path, verdicts: Sequence[Verdict], folder: Path, calibration: Calibrated | None = None) -> Path:
    """Write report.md and its figure, of verdicts on the scores of a file, into a folder; returns the report's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "differences.svg", figures.differences_svg(verdicts))
    text = _render("judged.md.j2", file=file.name, verdicts=verdicts, decimals=decimals, calibrated=calibration)
    write_atomically(folder / "report.md", text.encode())
    return folder / "report.md"


def publish(summary: Summary, folder: Path, latex: bool = False) -> None:
    """Copy report.md, its figures, results.csv and the registration beside the study file, to be committed; report.tex, too, with
    ``latex``.

    Raises:
        Refused: There are such files of another study, as where two study files are in one folder.
    """
    if summary.expansion.planned:
        raise Refused(f"--publish: not allowed with --seeds; this is {summary.expansion.first_look}")
    names = [*FILES]
    if latex:
        names.append("report.tex")
    if (summary.expansion.directory() / REGISTERED).exists():
        names.append(REGISTERED)
    there = [name for name in names if (folder / name).exists()]
    publisher = _study_of(folder / "report.md")
    if there and publisher != summary.expansion.name:
        owner = f"belongs to another study, {publisher}" if publisher else "is not of a published study"
        raise Refused(
            f"{folder / there[0]}: {owner}; {summary.expansion.name} needs a folder of its own to be published, or remove "
            f"{', '.join(there)} there"
        )
    for name in names:
        shutil.copyfile(summary.expansion.directory() / name, folder / name)
    for name in {"report.tex", REGISTERED} - {*names}:
        (folder / name).unlink(missing_ok=True)  # of an earlier publication, whose numbers these are not


def _study_of(report: Path) -> str:
    """The name of the study that a report.md is of; empty where it is none."""
    if not report.is_file():
        return ""
    found = re.search(r"^Study `(.+)`: \d+ of \d+ runs done\.$", report.read_text("utf-8", errors="replace"), re.MULTILINE)
    return found[1] if found else ""


def sync_report(summary: Summary) -> str:
    """Send the verdicts and the report, which is written already, to W&B; returns the address there.

    Raises:
        Refused: W&B refuses or cannot be reached.
    """
    study, config = summary.expansion.study, next(iter(summary.expansion.arms.values()))
    verdicts = [
        {"claim": v.claim.id, "statement": v.claim.statement, "verdict": v.outcome, "estimate": v.estimate, "low": v.low,
         "high": v.high, "n": v.n, "p": v.p_adjusted, "summary": v.summary}
        for v in summary.verdicts
    ]  # fmt: skip
    shown = {v.claim.id: v.outcome for v in summary.verdicts} | {"runs": summary.done}
    name, project = summary.expansion.name, config.runtime.wandb_project
    return weights_and_biases.sync_study(summary.expansion.directory(), name, project, study.question, verdicts, shown)


def arm_cells(row: ArmRow, baseline: ArmRow, metric: str) -> list[str]:
    """One arm as text, for every table: see ``arm_header``."""
    runs = f"{row.n} ({row.diverged} diverged)" if row.diverged else f"{row.n}"
    failed = f"{row.failed} (≤ {statistics.upper_share(row.failed, row.n):.0%})" if row.n else "–"
    return [
        row.name,
        runs,
        failed,
        number(row.mean, decimals(metric)),
        number(row.spread, decimals(metric)),
        number(row.sampling, 2),
        amount(row.parameters, baseline.parameters),
        amount(row.macs, baseline.macs),
        number(row.images_per_second, 0),
    ]


def arm_header(metric: str) -> list[str]:
    """The columns of ``arm_cells``."""
    return ["arm", "runs", "failed", metric, "seed sd", "test se", "params", "MACs", "img/s"]


EFFECT_HEADER = ["effect", "estimate", "low", "high", "p (Holm)"]
"""The columns of ``effect_cells``."""


def effect_cells(row: EffectRow, metric: str) -> list[str]:
    """One effect as text, for every table: see ``EFFECT_HEADER``."""
    numbers = [f"{value:+.{decimals(metric)}f}" for value in (row.estimate, row.low, row.high)]
    p = "–" if math.isnan(row.p_adjusted) else f"{row.p_adjusted:.2g}"
    return [row.name, *numbers, p]


LEGEND = (
    "percentages: against the first arm; failed: runs that diverged or scored worse than a claim's failed score, and what share "
    "of all seeds this may be (95% upper bound); means are over all runs, diverged ones as the first claim scores them; seed sd: "
    "standard deviation over seeds; test se: standard error of one run's accuracy from the finite test set; MACs: "
    "multiply-accumulates per image; img/s: images trained on per second, as fast as the machine was then"
)


def number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"


def amount(value: int | None, baseline: int | None) -> str:
    """Such as ``22.86 M (-4.3%)``, the difference from the baseline's."""
    if value is None:
        return "–"
    text = f"{value:.4g}"
    for scale, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= scale:
            text = f"{value / scale:.4g} {letter}"
            break
    difference = excess(value, baseline, tolerance=0)
    return f"{text} ({difference})" if difference else text


def _render(template: str, **values: Any) -> str:
    environment = _environment(autoescape=template.endswith(".html.j2"))
    return environment.get_template(template).render(figures=figures, version=xceptlab.__version__, **values)


@functools.cache
def _environment(autoescape: bool) -> jinja2.Environment:
    """Where templates are read and, once a process, compiled."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xceptlab", "report"),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # arms are shown in the study's order
    environment.filters |= {"cell": _markdown_cell, "tex": _tex}
    return environment


def _values(summary: Summary) -> dict[str, Any]:
    """What the templates of a study's report are filled with."""
    return {
        "s": summary,
        "study": summary.expansion.study,
        "legend": LEGEND,
        "header": arm_header(summary.metric),
        "rows": [arm_cells(row, summary.arms[0], summary.metric) for row in summary.arms],
        "paired": [v for v in summary.verdicts if v.n],
        "effect_header": EFFECT_HEADER,
        "effect_rows": [effect_cells(effect, summary.metric) for effect in summary.effects],
        "tuning_tables": _tuning_tables(summary),
        "decimals": decimals,
        "curves_text": _ends(summary),
        "reproduce": _reproduce(summary),
        "differences": {arm: summary.expansion.differences(arm) for arm in summary.expansion.arms},
        "notes": [s for budgets in summary.budgets.values() for s in budgets.sentences] + summary.warnings,
        "recipe": recipe(summary.expansion, summary.arm_records),
        "shared": shared_science(summary.expansion),
    }


def _tuning_tables(summary: Summary) -> list[tuple[str, Rows]]:
    """What tuning chose and found, each table with its title."""
    if summary.tuned is None:
        return []
    keys = " and ".join(summary.expansion.study.tune.keys if summary.expansion.study.tune else [])
    level = 100 * (1 - 2 * summary.expansion.study.alpha)
    fixed = f"Claims with all arms at the same {keys}: {level:g}% intervals, p unadjusted; not claimed beforehand, no verdicts"
    return [
        (f"Chosen {keys}", summary.tuned.chosen),
        (
            f"{summary.metric} by {keys}: mean ± standard deviation over seeds (and for how many it was chosen)",
            summary.tuned.by_value,
        ),
        (fixed, summary.tuned.contrasts),
    ]


def _tex(text: Any) -> str:
    """Text that LaTeX sets as it is written."""
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "→": r"$\rightarrow$",
        "×": r"$\times$",
        "±": r"$\pm$",
        "≤": r"$\leq$",
        "−": "$-$",
        "–": "--",
    }
    return " ".join("".join(special.get(c, c) for c in str(text)).split())


def _ends(summary: Summary) -> str:
    """The curves in words."""
    ends = {arm: figures.band(curve)[0][-1] for arm, curve in summary.curves.items() if curve.values.size}
    return " ".join(f"{arm} ends at {value:.2f}." for arm, value in ends.items())


def _reproduce(summary: Summary) -> str:
    """The commands that made the study."""
    revisions = {record.git["revision"] for record in summary.records.values() if record and "revision" in record.git}
    return "\n".join([*(f"git checkout {revision}" for revision in sorted(revisions)), "make setup", summary.expansion.command])


def _markdown_cell(text: Any) -> str:
    """Text that stays in its table cell and brings no HTML."""
    return html.escape(str(text), quote=False).replace("|", "\\|").replace("\n", " ")
