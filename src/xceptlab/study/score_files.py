"""Read CSV files of scores that any tool made: a row per run, or a row per run and metric."""

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
    """A table of text, as a CSV file holds it."""

    columns: list[str]
    """The names in the header, in order; a name may stand there twice."""
    rows: list[dict[str, str]]
    """The text of each row, by column."""
    numbers: Sequence[int]
    """The number of each row, for errors: the header is row 1, and blank lines count. A row of
    several lines has the number of its last one.
    """


ScoreTable = dict[str, dict[int, float]]
"""The scores of one metric, ``table[arm][seed]``; a run without a finite score has NaN or an
infinity.
"""

OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""Characters that separate columns in files that are not comma-separated, with their names."""


def read_table(file: Path) -> Table:
    """Read a CSV file with a header.

    A row with fewer cells than the header has None in the columns that it lacks, one with more has
    the others in a list under the key None; ``scores_of`` refuses both. An empty file gives a
    table without columns and rows.

    Raises:
        OSError: The file cannot be read.
        Refused: It is not UTF-8, or not CSV.
    """
    rows = []
    numbers = []
    try:
        reader = csv.DictReader(io.StringIO(read(str(file)), newline=""))
        for row in reader:
            rows.append(row)
            numbers.append(reader.line_num)
        return Table(columns=list(reader.fieldnames or ()), rows=rows, numbers=numbers)
    except csv.Error as error:
        raise Refused(f"{file}: no CSV ({error})") from None


def scores_of(
    table: Table, origin: str, metric: str, arm_column: str, seed_column: str
) -> ScoreTable:
    """Read the scores of a metric from a table, by arm and seed; an empty cell is a score of NaN.

    Args:
        table: A row per run and metric, if there are the columns ``metric`` and ``value``; else a
            row per run, with a column of the metric's name.
        origin: Where the table comes from, for errors.
        metric: The metric's name.
        arm_column: Name of the column that tells the arms apart.
        seed_column: Name of the column of seeds, which are whole numbers and pair the arms' runs.

    Raises:
        Refused: The table has no header or no row of the metric; a needed column is missing, stands
            there twice, or is named for two of arms, seeds and scores; there is a column of the
            metric's name beside ``metric`` and ``value``; a row has fewer or more
            cells than the header; a seed is no whole number, or a score no number; a run stands
            there twice; or two arms' names differ only in blanks at their ends.
    """
    row_per_metric = {"metric", "value"} <= set(table.columns)
    value_column = "value" if row_per_metric else metric
    if row_per_metric:
        _check_columns(table.columns, ("metric",), origin)
        if metric in table.columns and metric not in ("metric", "value"):
            raise Refused(
                f"{origin}: has the columns metric and value, and a column {metric!r}, too; remove those that are not meant"
            )
    _check_header(table.columns, arm_column, seed_column, value_column, origin)
    if not table.rows:
        raise Refused(f"{origin}: holds no row of scores, only a header")
    by_arm: ScoreTable = {}
    for row_number, row in zip(table.numbers, table.rows, strict=True):
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
    """Refuse a header that is empty, or that lacks the column of arms, of seeds or of scores or has
    it twice, and names that make one column serve as two of these.
    """
    _check_columns(columns, (arm_column, seed_column, value_column), origin)
    if arm_column == seed_column:
        raise Refused(
            f"{origin}: {arm_column!r} cannot be the column of both the arms and the seeds"
        )
    for column, holds in ((arm_column, "arms"), (seed_column, "seeds")):
        if value_column == column:
            raise Refused(
                f"{origin}: {value_column!r} is no metric; it is the column of the {holds}"
            )


def _check_columns(columns: Sequence[str], needed: Iterable[str], origin: str) -> None:
    """Refuse an empty header, and one that lacks a ``needed`` column or has it twice, since nothing
    says which of the two is meant.
    """
    if not columns:
        raise Refused(
            f"{origin}: has no header; its first line must be one, with a row per run below"
        )
    for column in needed:
        if columns.count(column) > 1:
            raise Refused(
                f"{origin}: the column {column!r} stands there {columns.count(column)} times"
            )
        if column in columns:
            continue
        there = ", ".join(map(quoted_if_blank, columns))
        hint = _separator_hint(columns)
        raise Refused(f"{origin}: there is no column {column!r}; there are {there}{hint}")


def _separator_hint(columns: Sequence[str]) -> str:
    """Return a clause, for an error, that columns must be separated by commas, where the only
    column of a header holds another separator; empty for any other header.
    """
    if len(columns) > 1:
        return ""
    for separator, name in OTHER_SEPARATORS.items():
        if separator in columns[0]:
            return f"; the columns must be separated by commas, not by {name}"
    return ""


def quoted_if_blank(name: str) -> str:
    """Return a name as a message shows it: in quotes if it is empty or has blanks at an end, which
    nobody would see, else as it is.
    """
    return name if name and name == name.strip() else repr(name)


def _refuse_similar_arm(arm: str, by_arm: ScoreTable, place: str) -> None:
    """Refuse an arm whose name differs only in blanks at its ends from that of an arm in
    ``by_arm``.
    """
    for other in by_arm:
        if other != arm and other.strip() == arm.strip():
            raise Refused(
                f"{place}: the arms {arm!r} and {other!r} differ in blanks alone; give one arm one name"
            )


def _seed(text: str, place: str) -> int:
    """Parse the whole number in a cell, which pandas may have written as 4.0; ``place`` says where
    it stands, for the error.

    Raises:
        Refused: The text is no whole number.
    """
    try:
        return whole_number(text.removesuffix(".0"))
    except ValueError:
        raise Refused(f"{place} {text!r} is no whole number") from None


def _score(text: str, place: str) -> float:
    """Parse the number in a cell, NaN for an empty one; ``place`` says where it stands, for the
    error.

    Raises:
        Refused: The text is no number.
    """
    if not text.strip():
        return math.nan
    try:
        return number(text)
    except ValueError:
        raise Refused(f"{place} {text!r} is no number") from None
