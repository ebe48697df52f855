"""Write a study's report, report.html, report.md with its figures and results.csv; publish it
beside the study, and send it to W&B.
"""

import csv
import io
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xceptlab.errors import Refused
from xceptlab.files import write_atomically
from xceptlab.report.calibrated import Calibrated
from xceptlab.report.summary import ArmRow, Summary, summarise
from xceptlab.report.tables import arm_cells, arm_header
from xceptlab.runs.record import Record
from xceptlab.study.expansion import Expansion
from xceptlab.study.registration import REGISTERED, remember_files
from xceptlab.study.verdict import Verdict
from xceptlab.text import say, short_name
from xceptlab.training import weights_and_biases

FILES = ("report.md", "results.csv", "curves.svg", "differences.svg")
"""Names of the files of a report that ``publish`` always copies."""
LONGEST_NAME = 200
"""Largest number of characters of the name of a page that compares studies, without its suffix."""


def make_report(expansion: Expansion, latex: bool = False) -> Summary:
    """Judge a study by the records that there are, write its report, and return what it shows.

    Args:
        expansion: The study.
        latex: Whether to write report.tex, too.

    Raises:
        Refused: There is nothing to report, perhaps because the outputs are elsewhere; or a file of
            a run or of the registration is damaged, or does not fit the study.
        OSError: The report cannot be written.
    """
    summary = gather(expansion)
    write_study(summary, latex)
    return summary


def gather(expansion: Expansion, calibrate: bool = False) -> Summary:
    """Judge a study by the records that there are, and return what its report shows; nothing is
    written.

    Args:
        expansion: The study.
        calibrate: Whether to simulate how often such verdicts are wrong, which takes some seconds.

    Raises:
        Refused: There is nothing to report, perhaps because the outputs are elsewhere; there is no
            claim to calibrate; or a file of a run or of the registration is damaged, or does not
            fit the study.
    """
    if nothing := expansion.nothing_found():
        raise Refused(nothing)
    if calibrate and not expansion.study.claims:
        raise Refused(f"--calibrate: {expansion.name} has no claims to calibrate")
    return summarise(expansion, calibrate)


def write_study(summary: Summary, latex: bool = False) -> None:
    """Write a study's report, with report.tex if ``latex``, and add the files that define the study
    to ``files.txt`` in its folder.
    """
    remember_files(summary.expansion)
    write_report(summary, latex)


def write_report(summary: Summary, latex: bool = False) -> Path:
    """Write report.html, report.md with its figures, and results.csv into the study's folder, which
    is made if need be, and return the path of report.html.

    An earlier report with all its runs done is not overwritten if this one lacks some of its runs
    and is not complete itself, as after the data were changed. It is first moved into a folder of
    its own there, ``finished-DATE-TIME``.

    Args:
        summary: What the report shows.
        latex: Whether to write report.tex, too; without it an earlier one is removed.
    """
    # Altair, which draws the figures, takes a while to load.
    from xceptlab.report import figures
    from xceptlab.report.render import render, study_values

    folder = summary.expansion.directory()
    folder.mkdir(parents=True, exist_ok=True)
    _keep_finished(summary, folder)
    values = study_values(summary)
    contents = {
        "results.csv": results_csv(summary).encode(),
        "curves.svg": figures.curves_svg(summary),
        "differences.svg": figures.differences_svg(summary.verdicts),
        "report.md": render("report.md.j2", **values).encode(),
    }
    if latex:
        contents["report.tex"] = render("report.tex.j2", **values).encode()
    contents["report.html"] = render("report.html.j2", **values).encode()
    for name, content in contents.items():
        write_atomically(folder / name, content)
    if not latex:
        # One of an earlier report would show its numbers.
        (folder / "report.tex").unlink(missing_ok=True)
    return folder / "report.html"


def _keep_finished(summary: Summary, folder: Path) -> None:
    """Move the earlier report in ``folder`` into a new folder there, ``finished-DATE-TIME``, if all
    its runs were done and the new report lacks some of them. Tell the user where it is, and why.

    Nothing is moved where all runs of the new report are done, or where there is no earlier report.
    """
    results = folder / "results.csv"
    if summary.done == len(summary.records) or not results.is_file():
        return
    rows = list(csv.DictReader(results.read_text("utf-8", errors="replace").splitlines()))
    if any(row.get("status") == "missing" for row in rows):
        return
    reported = {row.get("run_id") for row in rows}
    done = {run.run_id for key, run in summary.expansion.runs().items() if summary.records[key]}
    if reported <= done:
        return
    kept = folder / time.strftime(
        "finished-%Y-%m-%d-%H%M%S", time.localtime(results.stat().st_mtime)
    )
    kept.mkdir(exist_ok=True)
    for name in (*FILES, "report.html", "report.tex"):
        if (folder / name).exists():
            os.replace(folder / name, kept / name)
    reasons = _why_runs_are_missing(summary.expansion, reported, done)
    say(f"the study's finished report was moved to {kept}: {'; '.join(reasons)}", "Warning")


def _why_runs_are_missing(
    expansion: Expansion, reported: set[str | None], done: set[str]
) -> list[str]:
    """Return clauses on why runs of an earlier report are not done any more: the study has other
    runs now, or their records are gone.

    Args:
        expansion: The study.
        reported: Ids of the runs in the earlier report.
        done: Ids of the runs that have a record now.
    """
    runs = expansion.runs()
    others = reported - {run.run_id for run in runs.values()}
    gone = []
    for key, directory in expansion.directories().items():
        if runs[key].run_id in reported - done:
            gone.append(str(directory.path))
    reasons = []
    if others:
        reasons.append(
            f"{len(others)} of its {len(reported)} runs are not of the study as it is now (put back the data or the study file)"
        )
    if gone:
        reasons.append(
            f"there is no record.json any more in {', '.join(gone)} (put it back, or `xceptlab study` trains again)"
        )
    return reasons


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
"""Fields of a record that are columns of results.csv, after the scores."""


def results_csv(summary: Summary) -> str:
    """Return the text of results.csv: a header, and a line for each run with its scores and what
    made them. A run that is not done has the status ``missing`` and no scores.
    """
    study = summary.expansion.study
    metrics: set[str] = set()
    for record in summary.records.values():
        if record:
            metrics |= record.metrics.keys()
    tuned_keys = list(study.tune.keys) if study.tune else []
    columns = [
        "arm",
        "seed",
        *tuned_keys,
        "run_id",
        "status",
        *sorted(metrics),
        *RECORDED,
        "revision",
        "versions",
    ]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for (name, seed), run in summary.expansion.runs().items():
        trial = summary.expansion.trials[name]
        result = _result(summary.records[name, seed])
        writer.writerow(
            result | trial.values | {"arm": trial.arm, "seed": seed, "run_id": run.run_id}
        )
    return buffer.getvalue()


def _result(record: Record | None) -> dict[str, Any]:
    """Return a record's values by the columns of results.csv, and further ones that have no column;
    for None, the record of a run that is not done, just the status ``missing``.
    """
    if record is None:
        return {"status": "missing"}
    packages = "; ".join(f"{package} {version}" for package, version in record.versions.items())
    return vars(record) | record.metrics | record.git | {"versions": packages}


def write_comparison(summaries: list[Summary]) -> Path:
    """Write one page on one or more studies, whose reports are written already, and return its
    path. It is in ``comparisons/`` in the outputs folder of the first study.
    """
    from xceptlab.report.render import render

    folder = summaries[0].expansion.directory().parents[1] / "comparisons"
    folder.mkdir(parents=True, exist_ok=True)
    studies_with_run: Counter[str] = Counter()
    for summary in summaries:
        studies_with_run.update(run.run_id for run in summary.expansion.runs().values())
    metric = summaries[0].metric
    text = render(
        "compare.html.j2",
        title=f"{len(summaries)} studies compared",
        studies=[(summary, _cells_of_arms(summary)) for summary in summaries],
        header=arm_header,
        arms=_arms_with_metric(summaries, metric),
        metric=metric,
        shared=sum(studies > 1 for studies in studies_with_run.values()),
        runs=len(studies_with_run),
    )
    names = "--".join(summary.expansion.name for summary in summaries)
    file = folder / f"{short_name(names, LONGEST_NAME)}.html"
    write_atomically(file, text.encode())
    return file


def _cells_of_arms(summary: Summary) -> list[list[str]]:
    """Return the cells of a study's table of arms as text, row by row, without the header."""
    baseline = summary.arms[0]
    return [arm_cells(row, baseline, summary.metric) for row in summary.arms]


def _arms_with_metric(summaries: list[Summary], metric: str) -> list[ArmRow]:
    """Return the rows of all arms of those studies that compare their arms by this metric; each is
    named by its study and arm.
    """
    arms = []
    for summary in summaries:
        if summary.metric == metric:
            arms += [
                replace(row, name=f"{summary.expansion.name}: {row.name}") for row in summary.arms
            ]
    return arms


def write_judged(
    file: Path, verdicts: Sequence[Verdict], folder: Path, calibration: Calibrated | None = None
) -> Path:
    """Write report.md and its figure on scores that another tool made, and return the report's
    path.

    Args:
        file: The file of the scores, which the report names.
        verdicts: The verdicts on them.
        folder: Where to write.
        calibration: How often such verdicts are wrong; None where it was not asked for.
    """
    from xceptlab.report import figures
    from xceptlab.report.render import render

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "differences.svg", figures.differences_svg(verdicts))
    text = render("judged.md.j2", file=file.name, verdicts=verdicts, calibrated=calibration)
    write_atomically(folder / "report.md", text.encode())
    return folder / "report.md"


def publish(summary: Summary, folder: Path, latex: bool = False) -> None:
    """Copy a study's report.md, its figures, results.csv and, where there is one, the registration,
    to be committed. Of an earlier publication report.tex and the registration are removed if they
    are not copied anew.

    Args:
        summary: What the report shows, which is written already.
        folder: Where to copy them: the folder of the study file.
        latex: Whether to copy report.tex, too.

    Raises:
        Refused: The study is a first look (``--seeds``); or the folder has files of these names
            that are of another study, as where two study files are in one folder, or of none.
    """
    if summary.expansion.is_first_look:
        raise Refused(
            f"--publish: not allowed with --seeds; this is {summary.expansion.first_look}"
        )
    names = [*FILES]
    if latex:
        names.append("report.tex")
    if (summary.expansion.directory() / REGISTERED).exists():
        names.append(REGISTERED)
    _refuse_files_of_others(folder, names, summary.expansion.name)
    for name in names:
        shutil.copyfile(summary.expansion.directory() / name, folder / name)
    for name in ("report.tex", REGISTERED):
        if name not in names:
            # A file of an earlier publication would not have the present numbers.
            (folder / name).unlink(missing_ok=True)


def _refuse_files_of_others(folder: Path, names: list[str], study: str) -> None:
    """Check that files of these names in a folder, if there are any, are an earlier publication of
    the study, as its report.md there says.

    Raises:
        Refused: There are such files, and they are of another study, or of none.
    """
    there = [name for name in names if (folder / name).exists()]
    publisher = _study_of(folder / "report.md")
    if not there or publisher == study:
        return
    owner = f"belongs to another study, {publisher}" if publisher else "is not of a published study"
    raise Refused(
        f"{folder / there[0]}: {owner}; {study} needs a folder of its own to be published, or remove {', '.join(there)} there"
    )


def _study_of(report: Path) -> str:
    """Return the name of the study that a report.md is on; empty where the file is no report, or is
    not there.
    """
    if not report.is_file():
        return ""
    found = re.search(
        r"^Study `(.+)`: \d+ of \d+ runs done\.$",
        report.read_text("utf-8", errors="replace"),
        re.MULTILINE,
    )
    return found[1] if found else ""


def sync_report(summary: Summary) -> str:
    """Send a study's verdicts and its report, which is written already, to W&B, and return the
    address there. ``weights_and_biases.check_key`` is to be called before.

    Raises:
        Refused: W&B refuses or cannot be reached.
    """
    expansion = summary.expansion
    baseline = next(iter(expansion.arms.values()))
    outcomes: dict[str, Any] = {verdict.claim.id: verdict.outcome for verdict in summary.verdicts}
    return weights_and_biases.sync_study(
        directory=expansion.directory(),
        name=expansion.name,
        project=baseline.runtime.wandb_project,
        question=expansion.study.question,
        verdicts=[_verdict_row(verdict) for verdict in summary.verdicts],
        summary={"runs": summary.done} | outcomes,
    )


def _verdict_row(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as a row of W&B's table of verdicts, by column."""
    return {
        "claim": verdict.claim.id,
        "statement": verdict.claim.statement,
        "verdict": verdict.outcome,
        "statistic": verdict.claim.statistic,
        "pairing": verdict.claim.pairing,
        "estimate": verdict.estimate,
        "low": verdict.low,
        "high": verdict.high,
        "n": verdict.n,
        "p": verdict.p_adjusted,
        "summary": verdict.summary,
    }
