"""Print a study in the terminal, what it would train and what its records say, or verdicts on
the scores of another tool.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xceptlab.report.budgets import excess
from xceptlab.report.calibrated import Calibrated
from xceptlab.report.summary import Summary
from xceptlab.report.tables import amount, arm_cells, arm_header, effect_cells
from xceptlab.study.choice import Records
from xceptlab.study.definition import Seeds
from xceptlab.study.estimands import MIN_PAIRS
from xceptlab.study.expansion import Expansion
from xceptlab.study.judging import judge_study
from xceptlab.study.verdict import Verdict
from xceptlab.study.wording import evidence, forecast
from xceptlab.text import counted

if TYPE_CHECKING:
    from xceptlab.models.cost import Row

COLOURS = {
    "supported": "green",
    "contradicted": "red",
    "inconclusive": "yellow",
    "incomplete": "yellow",
}
"""The terminal's colour of each outcome of a claim."""


def show_plan(expansion: Expansion, networks: "Mapping[str, list[Row]]") -> None:
    """Print a study's plan: how the arms differ, what the claims still need, and how much there is
    to train.

    Args:
        expansion: The study.
        networks: By arm the rows of its network's module tree, the first of which is the whole
            network.

    Raises:
        Refused: A run's record, or its file of values by image, is damaged or does not fit the
            study, such as a record without a score that a claim needs.
    """
    # This loads torch, which the other functions here do without.
    from xceptlab.models.cost import changes

    study = expansion.study
    records = expansion.records()
    verdicts = judge_study(expansion, records)
    console = Console(markup=False)
    console.print(Text.assemble((study.question, "bold"), f"  ({expansion.name})"))
    console.print(f"Data: {expansion.data()}.", highlight=False)
    console.print(_table_of_differences(expansion, records, networks))
    baseline = next(iter(networks.values()))
    for arm, tree in networks.items():
        if differing := changes(baseline, tree):
            lines = _at_most(differing, 6)
            console.print(f"Modules of {arm}:", *lines, sep="\n  ", highlight=False)
    for verdict in verdicts:
        lines = _planned_claim(verdict, expansion)
        console.print(*lines, sep="\n", highlight=False)
    if study.tune:
        console.print(f"Tuned: {study.tune.described}", highlight=False)
    console.print(_runs_to_train(expansion, records, verdicts))
    if nothing := expansion.nothing_found():
        console.print(f"{nothing}.", soft_wrap=True, highlight=False)
    if expansion.first_look:
        console.print(f"This is {expansion.first_look}.")
    seeds = len(expansion.seeds)
    if seeds < MIN_PAIRS:
        console.print(
            f"Warning: with {seeds} of at least {MIN_PAIRS} seeds no claim can be judged."
        )


def _runs_to_train(expansion: Expansion, records: Records, verdicts: Sequence[Verdict]) -> str:
    """Return a sentence on how many of the study's runs have no record yet, how the number of runs
    comes about if keys are tuned, and how many seeds may be added.
    """
    missing = sum(record is None for record in records.values())
    size = _size(expansion)
    seeds_to_come = _seeds_to_come(expansion, verdicts)
    return f"{missing} of {len(records)} runs to train{size}{seeds_to_come}."


def _size(expansion: Expansion) -> str:
    """Return how the number of a tuned study's runs comes about, such as
    ``: 2 arms x 5 seeds x 3 values of train.lr``; empty for a study that tunes nothing.

    Where some arms get no more seeds, it is ``: every arm and seed at 3 values of train.lr``.
    """
    tune = expansion.study.tune
    if tune is None:
        return ""
    values = f"{len(tune.trial_values)} values of {' and '.join(tune.keys)}"
    # Arms that were stopped have fewer seeds than others, so that no product tells the number.
    if expansion.seeds_by_stopped_arm:
        return f": every arm and seed at {values}"
    return f": {len(expansion.arms)} arms x {len(expansion.seeds)} seeds x {values}"


def _table_of_differences(
    expansion: Expansion, records: Records, networks: "Mapping[str, list[Row]]"
) -> Table:
    """Return the table of the arms: the keys in which each differs from the baseline, its
    parameters and MACs with their relative differences from the baseline's, and how many of its
    runs are done. ``networks`` has by arm the rows of its network's module tree, the first of which
    is the whole network.
    """
    baseline, baseline_tree = next(iter(networks.items()))
    table = Table(title=f"Each arm against the baseline, {baseline}", title_justify="left")
    for name in ("arm", "differs in", "parameters", "MACs", "runs done"):
        table.add_column(name, overflow="fold")
    # The first row of a tree is the whole network.
    whole_baseline = baseline_tree[0]
    for arm, tree in networks.items():
        whole = tree[0]
        table.add_row(
            arm,
            _differences(arm, expansion, whole, whole_baseline),
            amount(whole.parameters, whole_baseline.parameters),
            amount(whole.macs, whole_baseline.macs),
            _runs_done(arm, expansion, records),
        )
    return table


def _differences(arm: str, expansion: Expansion, network: "Row", baseline: "Row") -> str:
    """Return as text how an arm differs from the baseline: a line for each key in which it does,
    and ``(unmatched)`` if its ``model.match`` asks for as many parameters or MACs and they differ
    by more than 1%. Without any such line the text is ``(the baseline)``.

    Args:
        arm: The arm.
        expansion: The study.
        network: The row of the arm's whole network.
        baseline: The row of the baseline's whole network.
    """
    lines = [
        f"{key}: {before} -> {after}" for key, (before, after) in expansion.differences(arm).items()
    ]
    matched = expansion.arms[arm].model.match
    if matched != "none" and excess(getattr(network, matched), getattr(baseline, matched)):
        lines.append("(unmatched)")
    return "\n".join(lines) or "(the baseline)"


def _runs_done(arm: str, expansion: Expansion, records: Records) -> str:
    """Return how many of an arm's runs have a record, such as ``2 of 3``."""
    runs = [record for (trial, _), record in records.items() if expansion.trials[trial].arm == arm]
    done = sum(record is not None for record in runs)
    return f"{done} of {len(runs)}"


def _at_most(lines: list[str], most: int) -> list[str]:
    """Return the first ``most`` lines, and a further line that says how many more there are, if
    there are more.
    """
    if len(lines) <= most:
        return lines
    return [*lines[:most], f"and {len(lines) - most} more"]


def _planned_claim(verdict: Verdict, expansion: Expansion) -> list[str]:
    """Return lines on a claim for a plan. First stands what is claimed, and last its warnings.
    Between them stands how many seeds would decide it, if it is open and its pairs so far tell;
    else the verdict, unless that is ``incomplete``.
    """
    claim = verdict.claim
    a, b = claim.sides
    gain = f"{claim.gain}: " if claim.gain else ""
    claimed = f"Claim {claim.id}: {gain}{a} {claim.kind} to {b} in {claim.metric}, margin {claim.margin:g}"
    lines = [claimed]
    if outlook := forecast(verdict, expansion.study):
        lines.append(f"  {outlook}")
    elif verdict.outcome != "incomplete":
        lines.append(f"  {verdict.summary}")
    for why in verdict.warnings:
        lines.append(f"  Warning: {why}.")
    return lines


def _seeds_to_come(expansion: Expansion, verdicts: Sequence[Verdict]) -> str:
    """Return a clause on the seeds that may be added to those that the study has come to.

    Empty where the study has a list of seeds or has come to the largest number of them, and where
    every claim is decided or given up.
    """
    seeds = expansion.study.seeds
    if not isinstance(seeds, Seeds) or len(expansion.seeds) == seeds.max:
        return ""
    if all(verdict.settled for verdict in verdicts):
        return ""
    wanted = "decided" if seeds.futility is None else "decided or given up"
    step = counted(seeds.step, "more seed")
    return f"; then {step} at a time until every claim is {wanted}, {seeds.max} at most"


def show_verdicts(verdicts: Sequence[Verdict], calibrated: Calibrated | None = None) -> None:
    """Print verdicts on scores that another tool made, their warnings and, unless ``calibrated`` is
    None, how often such verdicts are wrong.
    """
    console = Console(highlight=False)
    for verdict in verdicts:
        _show_verdict(console, verdict)
        for warning in verdict.warnings:
            console.print(Text(f"  Warning: {warning}.", style="yellow"))
    if calibrated:
        _show_calibrated(console, calibrated)
        _show_warnings(console, calibrated.warnings)


def _show_warnings(console: Console, warnings: Sequence[str]) -> None:
    """Print each warning in a line."""
    for warning in warnings:
        console.print(Text(f"Warning: {warning}", style="yellow"))


def _show_calibrated(console: Console, calibrated: Calibrated) -> None:
    """Print how often verdicts are wrong: a table of error rates, a sentence on each claim, and
    what was simulated. The warnings are not printed.
    """
    header, *rows = calibrated.table
    table = Table(
        title="How often such verdicts are wrong",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    for sentence in calibrated.sentences:
        console.print(Text(f"  {sentence}"))
    console.print(Text(f"  {calibrated.described}", style="dim"))


def _show_verdict(console: Console, verdict: Verdict) -> None:
    """Print a verdict: its outcome, the claim, its summary, and sentences of evidence, such as in
    how many seeds the claim holds. Its warnings are not printed.
    """
    claim = verdict.claim
    named = ": ".join(filter(None, (claim.id, claim.statement)))
    tone = COLOURS[verdict.outcome]
    console.print(Text.assemble((verdict.outcome.upper(), f"bold {tone}"), f"  {named}"))
    console.print(Text(f"  {verdict.summary} {evidence(verdict)}"))


def show_summary(summary: Summary, written: bool = True) -> None:
    """Print a study's arms, verdicts, effects, rates of wrong verdicts and warnings, as far as
    there are any, and where its report is.

    Args:
        summary: What there is to show.
        written: Whether the report could be written; its path is printed only then.
    """
    console = Console(highlight=False)
    console.print(Text(summary.expansion.study.question, style="bold"))
    console.print(Text(f"Data: {summary.expansion.data()}.", style="dim"))
    console.print(_table_of_arms(summary))
    for verdict in summary.verdicts:
        _show_verdict(console, verdict)
        for note in _notes(verdict, summary):
            console.print(Text(f"  {note}", style="dim"))
    if summary.effects:
        _show_effects(console, summary)
    if summary.calibrated:
        _show_calibrated(console, summary.calibrated)
    _show_warnings(console, summary.warnings)
    if written:
        page = summary.expansion.directory() / "report.html"
        console.print(Text(f"Report: {page}"), soft_wrap=True)


def _show_effects(console: Console, summary: Summary) -> None:
    """Print the effects of a factorial study, a line each."""
    level = 100 * (1 - summary.expansion.study.alpha)
    title = f"Effects on {summary.metric}, averaged over the other factors, {level:g}% intervals, p by Holm:"
    console.print(Text(title, style="bold"))
    for effect in summary.effects:
        name, estimate, low, high, p = effect_cells(effect, summary.metric)
        console.print(Text(f"{estimate:>8} ({low} to {high}), p = {p}  {name}"))


def _table_of_arms(summary: Summary) -> Table:
    """Return a table of the arms that fits into a terminal of 80 characters: that of the report
    without its column ``test se``, and without the costs' differences from the baseline's.
    """
    header = arm_header(summary.metric)
    # There is no room for this column, and a sentence below each verdict tells the same.
    left_out = header.index("test se")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold", min_width=10)
    for column, name in enumerate(header):
        if column not in (0, left_out):
            table.add_column(name, justify="right", no_wrap=True)
    for row in summary.arms:
        cells = arm_cells(row, row, summary.metric)
        del cells[left_out]
        table.add_row(*map(Text, cells))
    return table


def _notes(verdict: Verdict, summary: Summary) -> list[str]:
    """Return sentences to print below a verdict: in which budgets (epochs, images, steps,
    parameters and the like), numbers of processes and speeds the claim's arms differ, if they do;
    and, if it is known, how much of the standard error of the mean difference comes from the seeds
    and how much from the test images.
    """
    claim = verdict.claim.id
    notes = summary.budgets[claim].sentences
    if sampling := summary.sampling.get(claim):
        notes.append(str(sampling))
    return notes
