"""The network as a table in the terminal."""

import dataclasses
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from xceptlab.config.schema import RunConfig
from xceptlab.models.cost import Row, changes, cost, table


def describe(config: RunConfig, depth: int) -> None:
    """Print every module by flow, ``depth`` levels deep, and what regular convolutions would cost in place of separable ones."""
    rows = _table(config)
    view = Table(title=_input(config), title_justify="left")
    for column in ("module", "kind"):
        view.add_column(column)
    for column in ("output", "parameters", "MACs", "regular: parameters", "MACs"):
        view.add_column(column, justify="right")
    for row in rows[1:]:
        level = row.name.count(".")
        if level == 0:
            view.add_section()
        if level < depth or row.regular:
            regular = [f"{amount:,}" for amount in row.regular or ()]
            shape = "x".join(map(str, row.shape))
            above = min(level, depth)
            name = "  " * above + ".".join(row.name.split(".")[above:])
            view.add_row(name, row.kind, shape, f"{row.parameters:,}", f"{row.macs:,}", *regular)
    view.add_section()
    view.add_row("total", rows[0].kind, "", f"{rows[0].parameters:,}", f"{rows[0].macs:,}")
    console = _console()
    console.print(view)
    if any(row.regular for row in rows) and config.model.segments == "all":
        model = dataclasses.replace(config.model, convolution="regular")
        parameters, macs = cost(model, config.data.classes, config.data.size)
        console.print(
            f"With regular convolutions in place of the separable ones: {parameters:,} parameters "
            f"({parameters / rows[0].parameters:.2f} times as many), {macs:,} MACs ({macs / rows[0].macs:.2f} times)."
        )


def compare(a: RunConfig, b: RunConfig, names: Sequence[str]) -> None:
    """Print two networks side by side, flow by flow, and how their module trees differ."""
    one, two = _table(a), _table(b)
    view = Table(title=f"{_input(a)}; {_input(b)}" if _input(a) != _input(b) else _input(a), title_justify="left")
    view.add_column("part")
    for what in ("parameters", "MACs"):
        for name in names:
            view.add_column(f"{what}\n{name}", justify="right", overflow="fold")
        view.add_column(f"{what}\nratio", justify="right")
    parts = [{row.name: row for row in rows if "." not in row.name} for rows in (one, two)]
    tops = [*dict.fromkeys([*list(parts[0])[1:], *list(parts[1])[1:]])]
    for name in tops:
        view.add_row(name, *_pair(parts[0].get(name), parts[1].get(name)))
    view.add_section()
    view.add_row("total", *_pair(one[0], two[0]))
    console = _console()
    console.print(view)
    for line in changes(one, two):
        console.print("  " + line, markup=False)


def _console() -> Console:
    """Wide enough that no number is cut; a narrower terminal wraps the lines."""
    return Console(highlight=False, width=max(Console().width, 132))


def _pair(a: Row | None, b: Row | None) -> list[str]:
    cells = []
    for what in ("parameters", "macs"):
        amounts = [getattr(row, what) if row else 0 for row in (a, b)]
        cells += [f"{amount:,}" for amount in amounts] + [f"{amounts[1] / amounts[0]:.3f}" if amounts[0] else ""]
    return cells


def _table(config: RunConfig) -> list[Row]:
    return table(config.model, config.data.classes, config.data.size)


def _input(config: RunConfig) -> str:
    return f"One image of {config.data.size}x{config.data.size}, {config.data.classes} classes"
