"""CSV files of scores that any tool made: a row per run, or a row per run and metric."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xceptlab.errors import Refused
from xceptlab.files import read
from xceptlab.text import number, whole_number


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as a CSV file has it."""

    columns: list[str]
    rows: list[dict[str, str]]
    """The text of each row, by column."""


ScoreTable = dict[str, dict[int, float]]
"""``table[arm][seed]`` of one metric; NaN where the file has no finite number."""

OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""Characters that stand between columns in files that are not comma-separated, and their names."""


def read_table(file: Path) -> Table:
    """Read a CSV file with a header.

    Raises:
        Refused: It is none.
    """
    try:
        reader = csv.DictReader(io.StringIO(read(str(file)), newline=""))
        return Table(columns=list(reader.fieldnames or ()), rows=list(reader))
    except csv.Error as error:
        raise Refused(f"{file}: no CSV ({error})") from None


def scores_of(
    table: Table, origin: str, metric: str, arm_column: str, seed_column: str
) -> ScoreTable:
    """The scores of a metric, from a table with a column of its name, or with the columns
    ``metric`` and ``value``.

    Args:
        table: One row per run, or per run and metric.
        origin: Where they come from, for errors.
        metric: The metric's name.
        arm_column: Name of the column that tells the arms apart.
        seed_column: Name of the column of seeds, which are whole numbers and pair the arms' runs.

    Raises:
        Refused: A column is missing or stands there twice, a row is not whole, a seed is no whole
            number, or a run stands there twice.
    """
    row_per_metric = {"metric", "value"} <= set(table.columns)
    value_column = "value" if row_per_metric else metric
    _check_header(table.columns, arm_column, seed_column, value_column, origin)
    if not table.rows:
        raise Refused(f"{origin}: holds no row of scores, only a header")
    by_arm: ScoreTable = {}
    for row_number, row in enumerate(table.rows, start=2):  # the header is row 1
        place = f"{origin}: row {row_number}"
        if None in row or None in row.values():
            raise Refused(f"{place} is not whole; it must have {len(table.columns)} columns")
        if row_per_metric and row["metric"] != metric:
            continue
        arm = row[arm_column]
        _refuse_similar_arm(arm, by_arm, place)
        seed = _seed(row[seed_column], f"{place}: {seed_column}")
        scores = by_arm.setdefault(arm, {})
        if seed in scores:
            raise Refused(f"{place}: arm {arm!r}, seed {seed} stands there twice")
        scores[seed] = _score(row[value_column], f"{place}: {value_column}")
    if not by_arm:
        raise Refused(f"{origin}: there is no row of the metric {metric!r}")
    return by_arm


def _check_header(
    columns: Sequence[str], arm_column: str, seed_column: str, value_column: str, origin: str
) -> None:
    """Refuse a header without a column that is needed, or one in which the column of values is that
    of the arms or seeds.
    """
    _check_columns(columns, (arm_column, seed_column, value_column), origin)
    for column, holds in ((arm_column, "arms"), (seed_column, "seeds")):
        if value_column == column:
            raise Refused(
                f"{origin}: {value_column!r} is no metric; it is the column of the {holds}"
            )


def _check_columns(columns: Sequence[str], needed: Iterable[str], origin: str) -> None:
    """Refuse a header that lacks a column, or that has it twice, as nothing says which one is
    meant.
    """
    if not columns:
        raise Refused(f"{origin}: is empty; it must have a header and a row per run")
    for column in needed:
        if columns.count(column) > 1:
            raise Refused(
                f"{origin}: the column {column!r} stands there {columns.count(column)} times"
            )
        if column in columns:
            continue
        separators = [
            separator
            for separator in OTHER_SEPARATORS
            if len(columns) == 1 and separator in columns[0]
        ]
        hint = (
            f"; the columns must be separated by commas, not by {OTHER_SEPARATORS[separators[0]]}"
            if separators
            else ""
        )
        there = ", ".join(map(quoted_if_blank, columns))
        raise Refused(f"{origin}: there is no column {column!r}; there are {there}{hint}")


def quoted_if_blank(name: str) -> str:
    """A name as a message shows it: in quotes if it is empty or has blanks at an end, which one
    would not see.
    """
    return name if name and name == name.strip() else repr(name)


def _refuse_similar_arm(arm: str, by_arm: ScoreTable, place: str) -> None:
    """Refuse an arm whose name differs in blanks alone from that of an arm which is known already."""
    for other in by_arm:
        if other != arm and other.strip() == arm.strip():
            raise Refused(
                f"{place}: the arms {arm!r} and {other!r} differ in blanks alone; give one arm one name"
            )


def _seed(text: str, place: str) -> int:
    """The whole number that a text stands for."""
    try:
        return whole_number(text)
    except ValueError:
        raise Refused(f"{place} {text!r} is no whole number") from None


def _score(text: str, place: str) -> float:
    """The number that a text stands for; NaN for no text."""
    if not text.strip():
        return math.nan
    try:
        return number(text)
    except ValueError:
        raise Refused(f"{place} {text!r} is no number") from None
