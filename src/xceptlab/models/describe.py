"""The network as a table in the terminal."""

import dataclasses
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from xceptlab.config.schema import RunConfig
from xceptlab.models.cost import Row, changes, cost, table


def describe(config: RunConfig, depth: int) -> None:
    """Print every module by flow, ``depth`` levels deep, and what regular convolutions would cost
    in place of separable ones.
    """
    rows = _table(config)
    whole = rows[0]
    view = Table(title=_input(config), title_justify="left")
    for column in ("module", "kind"):
        view.add_column(column)
    for column in ("output", "parameters", "MACs", "regular: parameters", "MACs"):
        view.add_column(column, justify="right")
    # a ModuleList has no output of its own: what is in it has its whole name
    shown = {"", *(row.name for row in rows)}
    for row in rows[1:]:
        level = row.name.count(".")
        if level == 0:
            view.add_section()
        if level < depth or row.regular:
            view.add_row(*_cells(row, depth if row.name.rpartition(".")[0] in shown else 0))
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


def _cells(row: Row, depth: int) -> list[str]:
    """A module's line in the table; its name is indented by its level, and has a dot for each level
    deeper than ``depth``.
    """
    parts = row.name.split(".")
    indent = min(len(parts) - 1, depth)
    name = "  " * indent + ".".join(parts[indent:])
    cells = [name, row.kind, "x".join(map(str, row.shape)), f"{row.parameters:,}", f"{row.macs:,}"]
    if row.regular:
        cells += [f"{amount:,}" for amount in row.regular]
    return cells


def compare(a: RunConfig, b: RunConfig, names: Sequence[str]) -> None:
    """Print two networks side by side, flow by flow, and how their module trees differ."""
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
    """The topmost modules by name, without the network itself, which is the first row."""
    return {row.name: row for row in rows[1:] if "." not in row.name}


def _side_by_side(a: Row | None, b: Row | None) -> list[str]:
    """The cells of both networks' parameters with their ratio, then of their MACs; a part that one
    lacks costs nothing there.
    """
    parameters_a, macs_a = (a.parameters, a.macs) if a else (0, 0)
    parameters_b, macs_b = (b.parameters, b.macs) if b else (0, 0)
    return [*_amounts_and_ratio(parameters_a, parameters_b), *_amounts_and_ratio(macs_a, macs_b)]


def _amounts_and_ratio(a: int, b: int) -> list[str]:
    ratio = f"{b / a:.3f}" if a else ""
    return [f"{a:,}", f"{b:,}", ratio]


def _console() -> Console:
    """Make a console wide enough that no number is cut; a narrower terminal wraps the lines."""
    return Console(highlight=False, width=max(Console().width, 132))


def _table(config: RunConfig) -> list[Row]:
    return table(config.model, config.data.classes, config.data.size)


def _input(config: RunConfig) -> str:
    return f"One image of {config.data.size}x{config.data.size}, {config.data.classes} classes"
