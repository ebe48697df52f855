"""Printing networks as tables in the terminal: one with all its modules, or two side by side."""

import dataclasses
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from xceptlab.config.schema import RunConfig
from xceptlab.models.cost import Row, changes, cost, table


def describe(config: RunConfig, depth: int) -> None:
    """Print a table of a network's modules with their costs.

    Args:
        config: The run whose network it is.
        depth: Number of levels of modules to print. Separable convolutions are printed however deep
            they are, with what regular convolutions would cost in their place.
    """
    rows = _table(config)
    whole = rows[0]
    view = Table(title=_input(config), title_justify="left")
    for column in ("module", "kind"):
        view.add_column(column)
    for column in ("output", "parameters", "MACs", "regular: parameters", "MACs"):
        view.add_column(column, justify="right")
    names = {row.name for row in rows}
    for row in rows[1:]:
        parent, _, _ = row.name.rpartition(".")
        level = row.name.count(".")
        if level == 0:
            view.add_section()
        # A ModuleList has no output and so no row, below which its children could be indented.
        can_be_indented = level == 0 or parent in names
        deepest_indent = depth if can_be_indented else 0
        if level < depth or row.regular:
            view.add_row(*_cells(row, deepest_indent))
    view.add_section()
    view.add_row("total", whole.kind, "", f"{whole.parameters:,}", f"{whole.macs:,}")
    console = _console()
    console.print(view)
    if any(row.regular for row in rows) and config.model.segments == "all":
        regular = dataclasses.replace(config.model, convolution="regular")
        parameters, macs = cost(regular, config.data.classes, config.data.size)
        console.print(
            f"With regular convolutions in place of the separable ones: {parameters:,} parameters "
            f"({parameters / whole.parameters:.2f} times as many), {macs:,} MACs ({macs / whole.macs:.2f} times)."
        )


def _cells(row: Row, deepest_indent: int) -> list[str]:
    """Format a module's row of the table.

    Each parent of the module indents its name by a step, ``deepest_indent`` steps at most. Further
    parents stay in the name, as in ``units.0.separable``.
    """
    parts = row.name.split(".")
    indent = min(len(parts) - 1, deepest_indent)
    name = "  " * indent + ".".join(parts[indent:])
    shape = "x".join(map(str, row.shape))
    cells = [name, row.kind, shape, f"{row.parameters:,}", f"{row.macs:,}"]
    if row.regular:
        cells += [f"{amount:,}" for amount in row.regular]
    return cells


def compare(a: RunConfig, b: RunConfig, names: Sequence[str]) -> None:
    """Print the costs of two networks side by side, by topmost module, and how their module trees
    differ.

    Args:
        a: The run of the first network.
        b: The run of the second network.
        names: Names of the two networks, for the table's columns.
    """
    rows_a = _table(a)
    rows_b = _table(b)
    inputs = dict.fromkeys([_input(a), _input(b)])
    view = Table(title="; ".join(inputs), title_justify="left")
    view.add_column("part")
    for amount in ("parameters", "MACs"):
        for name in names:
            view.add_column(f"{amount}\n{name}", justify="right", overflow="fold")
        view.add_column(f"{amount}\nratio", justify="right")
    flows_a = _flows(rows_a)
    flows_b = _flows(rows_b)
    for flow in dict.fromkeys([*flows_a, *flows_b]):
        view.add_row(flow, *_side_by_side(flows_a.get(flow), flows_b.get(flow)))
    view.add_section()
    view.add_row("total", *_side_by_side(rows_a[0], rows_b[0]))
    console = _console()
    console.print(view)
    for line in changes(rows_a, rows_b):
        console.print("  " + line, markup=False)


def _flows(rows: list[Row]) -> dict[str, Row]:
    """Return the rows of the topmost modules by name; the first row, the whole network, is none of
    them.
    """
    return {row.name: row for row in rows[1:] if "." not in row.name}


def _side_by_side(a: Row | None, b: Row | None) -> list[str]:
    """Format parameters of a and b with their ratio, then their MACs likewise: six cells. A network
    without this part has None, and costs nothing there.
    """
    parameters_a, macs_a = (a.parameters, a.macs) if a else (0, 0)
    parameters_b, macs_b = (b.parameters, b.macs) if b else (0, 0)
    return [*_amounts_and_ratio(parameters_a, parameters_b), *_amounts_and_ratio(macs_a, macs_b)]


def _amounts_and_ratio(a: int, b: int) -> list[str]:
    """Format a, b and their ratio b / a, which is empty where a is 0."""
    ratio = f"{b / a:.3f}" if a else ""
    return [f"{a:,}", f"{b:,}", ratio]


def _console() -> Console:
    """Make a console that is at least 132 columns wide, so that no number is cut; a narrower
    terminal wraps the lines.
    """
    return Console(highlight=False, width=max(Console().width, 132))


def _table(config: RunConfig) -> list[Row]:
    """Return the rows of a run's network; the first one is the whole network."""
    return table(config.model, config.data.classes, config.data.size)


def _input(config: RunConfig) -> str:
    """Say in words what the costs are for, as the title of a table."""
    return f"One image of {config.data.size}x{config.data.size}, {config.data.classes} classes"
