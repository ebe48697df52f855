"""Printing networks as tables in the terminal: one with all its modules, or two side by side."""

import dataclasses
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from xceptlab.config.schema import RunConfig
from xceptlab.models.cost import Row, changes, cost, table


def describe(config: RunConfig, depth: int) -> None:
    """Print a table of a network's modules with their costs for one image: trainable parameters and
    multiply-accumulates (MACs).

    Args:
        config: The run whose network it is.
        depth: Number of levels of modules to print. Separable convolutions are printed however deep
            they are, with what regular convolutions would cost in their place.

    Raises:
        Refused: The network cannot be built or does not fit the images or the classes, or the code
            of a user's component in it raises an error.
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
        is_printed = level < depth or row.regular
        if is_printed:
            view.add_row(*_cells(row, deepest_indent))
    view.add_section()
    view.add_row("total", whole.kind, "", f"{whole.parameters:,}", f"{whole.macs:,}")
    console = _console()
    console.print(view)
    has_separable = any(row.regular for row in rows)
    if has_separable and config.model.segments == "all":
        console.print(_with_regular_convolutions(config, whole))


def _with_regular_convolutions(config: RunConfig, whole: Row) -> str:
    """Return a sentence on what the network would cost with regular convolutions in place of the
    separable ones; ``whole`` is the row of the network as it is.
    """
    regular = dataclasses.replace(config.model, convolution="regular")
    parameters, macs = cost(regular, config.data.classes, config.data.size)
    times_parameters = parameters / whole.parameters
    times_macs = macs / whole.macs
    return (
        "With regular convolutions in place of the separable ones: "
        f"{parameters:,} parameters ({times_parameters:.2f} times as many), "
        f"{macs:,} MACs ({times_macs:.2f} times)."
    )


def _cells(row: Row, deepest_indent: int) -> list[str]:
    """Return the cells of a module's row of the table: its name, its kind, its output's shape, its
    parameters and its MACs; for a separable convolution also the parameters and the MACs of a
    regular one.

    Each parent of the module indents its name by a step, ``deepest_indent`` steps at most. Further
    parents stay in the name, as in ``units.0.separable``.
    """
    parts = row.name.split(".")
    parents = len(parts) - 1
    steps = min(parents, deepest_indent)
    indent = "  " * steps
    name = ".".join(parts[steps:])
    cells = [
        indent + name,
        row.kind,
        "x".join(map(str, row.shape)),
        f"{row.parameters:,}",
        f"{row.macs:,}",
    ]
    if row.regular:
        regular_parameters, regular_macs = row.regular
        cells.append(f"{regular_parameters:,}")
        cells.append(f"{regular_macs:,}")
    return cells


def compare(a: RunConfig, b: RunConfig, names: Sequence[str]) -> None:
    """Print the costs of two networks for one image side by side, by topmost module and with the
    ratios b / a, and then how their module trees differ.

    Args:
        a: The run of the first network.
        b: The run of the second network.
        names: Names of the two networks, for the table's columns.

    Raises:
        Refused: A network cannot be built or does not fit the images or the classes, or the code of
            a user's component in it raises an error.
    """
    rows_a = _table(a)
    rows_b = _table(b)
    distinct_inputs = dict.fromkeys([_input(a), _input(b)])
    title = "; ".join(distinct_inputs)
    view = Table(title=title, title_justify="left")
    view.add_column("part")
    for amount in ("parameters", "MACs"):
        for name in names:
            view.add_column(f"{amount}\n{name}", justify="right", overflow="fold")
        view.add_column(f"{amount}\nratio", justify="right")
    flows_a = _flows(rows_a)
    flows_b = _flows(rows_b)
    all_flows = dict.fromkeys([*flows_a, *flows_b])
    for flow in all_flows:
        cells = _side_by_side(flows_a.get(flow), flows_b.get(flow))
        view.add_row(flow, *cells)
    view.add_section()
    whole_a = rows_a[0]
    whole_b = rows_b[0]
    view.add_row("total", *_side_by_side(whole_a, whole_b))
    console = _console()
    console.print(view)
    for line in changes(rows_a, rows_b):
        console.print("  " + line, markup=False)


def _flows(rows: list[Row]) -> dict[str, Row]:
    """Return the rows of the topmost modules, such as ``entry``, by name; the first row, the whole
    network, is none of them.
    """
    topmost = {}
    for row in rows[1:]:
        is_topmost = "." not in row.name
        if is_topmost:
            topmost[row.name] = row
    return topmost


def _side_by_side(a: Row | None, b: Row | None) -> list[str]:
    """Format the parameters of a part of networks a and b with their ratio b / a, then its MACs
    likewise: six cells. A network without this part has None, and costs nothing there.
    """
    parameters_a, macs_a = _cost_of(a)
    parameters_b, macs_b = _cost_of(b)
    cells = _amounts_and_ratio(parameters_a, parameters_b)
    cells += _amounts_and_ratio(macs_a, macs_b)
    return cells


def _cost_of(row: Row | None) -> tuple[int, int]:
    """Return the parameters and the MACs of a module; 0 and 0 where there is no module."""
    if row is None:
        return 0, 0
    return row.parameters, row.macs


def _amounts_and_ratio(a: int, b: int) -> list[str]:
    """Format a, b and their ratio b / a, which is empty where a is 0."""
    ratio = f"{b / a:.3f}" if a else ""
    return [f"{a:,}", f"{b:,}", ratio]


def _console() -> Console:
    """Make a console that is at least 132 columns wide, so that no number is cut; a narrower
    terminal wraps the lines.
    """
    width_of_terminal = Console().width
    width = max(width_of_terminal, 132)
    return Console(highlight=False, width=width)


def _table(config: RunConfig) -> list[Row]:
    """Return the rows of a run's network; the first one is the whole network."""
    return table(config.model, config.data.classes, config.data.size)


def _input(config: RunConfig) -> str:
    """Return the title of a table of costs: the size of the image, and the number of classes."""
    side = config.data.size
    return f"One image of {side}x{side}, {config.data.classes} classes"
