"""A study in the terminal: what it would run, and what its records say."""

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xceptlab.report.caveats import excess
from xceptlab.report.summary import Summary
from xceptlab.report.write import amount, arm_cells, arm_header, effect_cells
from xceptlab.study.definition import Seeds
from xceptlab.study.estimands import LEAST_PAIRS
from xceptlab.study.expansion import Expansion
from xceptlab.study.verdict import Verdict, judge_study
from xceptlab.study.wording import forecast

if TYPE_CHECKING:
    from xceptlab.models.cost import Row

COLOURS = {"supported": "green", "contradicted": "red", "inconclusive": "yellow", "incomplete": "yellow"}


def show_plan(expansion: Expansion, networks: "Mapping[str, list[Row]]") -> None:
    """How the arms differ, what the claims still need, and how much there is to train.

    Args:
        expansion: The study.
        networks: Each arm's module tree.
    """
    from xceptlab.models.cost import changes  # loads torch, which `report` does without

    records = expansion.records()
    console = Console(markup=False)
    console.print(Text.assemble((expansion.study.question, "bold"), f"  ({expansion.name})"))
    console.print(f"Data: {expansion.data()}.", highlight=False)
    baseline, first = next(iter(networks.items()))
    view = Table(title=f"Each arm against the baseline, {baseline}", title_justify="left")
    for name in ("arm", "differs in", "parameters", "MACs", "runs done"):
        view.add_column(name, overflow="fold")
    for arm, tree in networks.items():
        keys = "\n".join(f"{key}: {before} -> {after}" for key, (before, after) in expansion.differences(arm).items())
        done = sum(records[arm, seed] is not None for seed in expansion.seeds)
        what = expansion.arms[arm].model.match
        if what != "none" and excess(getattr(tree[0], what), getattr(first[0], what)):
            keys += "\n(unmatched)"
        costs = amount(tree[0].parameters, first[0].parameters), amount(tree[0].macs, first[0].macs)
        view.add_row(arm, keys or "(the baseline)", *costs, f"{done} of {len(expansion.seeds)}")
    console.print(view)
    for arm, tree in networks.items():
        if lines := changes(first, tree):
            shown = lines[:6] + ([f"and {len(lines) - 6} more"] if len(lines) > 6 else [])
            console.print(f"Modules of {arm}:", *shown, sep="\n  ", highlight=False)
    verdicts = judge_study(expansion, records)
    for verdict in verdicts:
        claim = verdict.claim
        a, b = claim.sides
        of = f"{claim.gain}: " if claim.gain else ""
        said = f"Claim {claim.id}: {of}{a} {claim.kind} to {b} in {claim.metric}, margin {claim.margin:g}"
        needs = forecast(verdict, expansion.study)
        if not needs and verdict.outcome != "incomplete":
            needs = verdict.summary
        cautions = [f"  Warning: {why}." for why in verdict.warnings]
        console.print(said, *([f"  {needs}"] if needs else []), *cautions, sep="\n", highlight=False)
    missing = [run.run_id for key, run in expansion.runs().items() if records[key] is None]
    seeds, more = expansion.study.seeds, ""
    if isinstance(seeds, Seeds) and len(expansion.seeds) < seeds.max and not all(verdict.settled for verdict in verdicts):
        wanted = "decided" if seeds.futility is None else "decided or given up"
        more = f"; then {seeds.step} more seeds at a time until every claim is {wanted}, {seeds.max} at most"
    console.print(f"{len(missing)} of {len(records)} runs to train{more}.")
    if nothing := expansion.nothing_found():
        console.print(f"{nothing}.", soft_wrap=True, highlight=False)
    if expansion.first_look:
        console.print(f"This is {expansion.first_look}.")
    if len(expansion.seeds) < LEAST_PAIRS:
        console.print(f"Warning: with {len(expansion.seeds)} of at least {LEAST_PAIRS} seeds no claim can be judged.")


def show_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Verdicts on scores from elsewhere, with what is to be said against them."""
    console = Console(highlight=False)
    for v in verdicts:
        _show_verdict(console, v)
        for warning in v.warnings:
            console.print(Text(f"  Warning: {warning}.", style="yellow"))


def _show_verdict(console: Console, v: Verdict) -> None:
    claim = ": ".join(filter(None, (v.claim.id, v.claim.statement)))
    console.print(Text.assemble((v.outcome.upper(), f"bold {COLOURS[v.outcome]}"), f"  {claim}"))
    console.print(Text(f"  {v.summary} {v.evidence}"))


def show_summary(summary: Summary) -> None:
    """The verdicts and the arms."""
    console = Console(highlight=False)
    console.print(Text(summary.expansion.study.question, style="bold"))
    console.print(Text(f"Data: {summary.expansion.data()}.", style="dim"))
    view = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    header = arm_header(summary.metric)
    fits = [name != "test se" for name in header]  # which a sentence tells; 80 characters have no room for it
    view.add_column("arm", overflow="fold", min_width=10)
    for name in [*compress(header, fits)][1:]:
        view.add_column(name, justify="right", no_wrap=True)
    for row in summary.arms:
        view.add_row(*map(Text, compress(arm_cells(row, row, summary.metric), fits)))
    console.print(view)
    for v in summary.verdicts:
        _show_verdict(console, v)
        notes = summary.budgets[v.claim.id].sentences
        notes += [str(summary.sampling[v.claim.id])] if v.claim.id in summary.sampling else []
        console.print(*(Text(f"  {note}", style="dim") for note in notes), sep="\n", end="\n" if notes else "")
    if summary.effects:
        level = 100 * (1 - summary.expansion.study.alpha)
        console.print(
            Text(f"Effects on {summary.metric}, averaged over the other factors, {level:g}% intervals, p by Holm:", style="bold")
        )
    for effect in summary.effects:
        name, estimate, low, high, p = effect_cells(effect, summary.metric)
        console.print(Text(f"{estimate:>8} ({low} to {high}), p = {p}  {name}"))
    for warning in summary.warnings:
        console.print(Text(f"Warning: {warning}", style="yellow"))
    console.print(Text(f"Report: {summary.expansion.directory() / 'report.html'}"), soft_wrap=True)
