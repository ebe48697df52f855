"""Scores that any other tool made, from a CSV file, and verdicts on them: ``xceptlab judge``."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xceptlab.config.fields import Section
from xceptlab.errors import Refused
from xceptlab.files import read
from xceptlab.study.definition import Claim
from xceptlab.study.verdict import Verdict, judge

Rows = list[dict[str, str]]
"""A table as a CSV file has it: text by column."""

ScoreTable = dict[str, dict[int, float]]
"""``table[arm][seed]`` of one metric; NaN where the file has no finite number."""


@dataclass(frozen=True, kw_only=True)
class ScoreClaim(Claim):
    """A claim on scores that another tool made."""

    metric: str
    """Any that the file has."""
    lower_is_better: bool | None = None  # type: ignore[assignment]
    """Whether a lower score is the better one, so that the claim is about b - a; left out, if the metric's name ends in loss."""

    def __post_init__(self) -> None:
        if self.lower_is_better is None:
            object.__setattr__(self, "lower_is_better", self.measure.lower_is_better)
        super().__post_init__()
        self._require("effect", not self.effect, "left out; effects are judged in the grid of a study")
        self._require("failed", self.failed is None, "left out; failures are counted in a study")


@dataclass(frozen=True, kw_only=True)
class ClaimsFile(Section):
    """What ``xceptlab judge --claims`` reads."""

    claims: list[ScoreClaim]
    """The claims, all of which Holm's correction is over."""
    alpha: float = 0.05
    """Chance of any false ``supported``, and of any false ``contradicted``, over all claims of the file; above 0, below 0.5."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("alpha", 0 < self.alpha < 0.5, "above 0 and below 0.5")
        ids = [claim.id for claim in self.claims]
        self._require("claims", 0 < len(ids) == len(set(ids)), "a list of at least one claim, each with an id of its own")


def judge_scores(file: Path, claims: Sequence[ScoreClaim], alpha: float, arm_column: str, seed_column: str) -> list[Verdict]:
    """The verdicts on the claims, by the scores of a CSV file; as ``judge_table``."""
    return judge_table(read_rows(file), str(file), claims, alpha, arm_column, seed_column)


def judge_table(
    rows: Rows, place: str, claims: Sequence[ScoreClaim], alpha: float, arm_column: str, seed_column: str
) -> list[Verdict]:
    """The verdicts on the claims; ``incomplete`` where an arm lacks a seed that another arm of the claims has.

    Args:
        rows: The scores, as ``scores_of`` takes them.
        place: Where they come from, for errors.
        claims: The claims.
        alpha: Familywise error rate.
        arm_column: Name of the column that tells the arms apart.
        seed_column: Name of the column of seeds.

    Raises:
        Refused: One line: what is wrong with the table, or what a claim names that it does not have.
    """
    metrics = {claim.metric for claim in claims}
    tables = {metric: scores_of(rows, place, metric, arm_column, seed_column) for metric in metrics}
    scores = [_scores_of_claim(claim, tables[claim.metric], place) for claim in claims]
    seeds: set[int] = set()
    for table in scores:
        for by_seed in table.values():
            seeds.update(by_seed)
    return judge(claims, scores, sorted(seeds), alpha)


def _scores_of_claim(claim: ScoreClaim, table: ScoreTable, place: str) -> ScoreTable:
    """The scores of a claim's arms; what is no finite number scores as the claim declares."""
    scores: ScoreTable = {}
    for arm in claim.sides:
        if arm not in table:
            raise Refused(f"{place}: claim {claim.id!r}: there is no arm {arm!r}; there are {', '.join(table)}")
        scores[arm] = {}
        for seed, score in table[arm].items():
            if math.isfinite(score):
                scores[arm][seed] = score
            elif claim.diverged is not None:
                scores[arm][seed] = claim.diverged
            else:
                no_score = f"arm {arm!r}, seed {seed} has no finite {claim.metric}"
                raise Refused(f"{place}: {no_score}; `diverged` declares what such a run scores (claim {claim.id!r})")
    return scores


def read_rows(file: Path) -> Rows:
    """The rows of a CSV file with a header.

    Raises:
        Refused: It is none.
    """
    try:
        return list(csv.DictReader(io.StringIO(read(str(file)), newline="")))
    except csv.Error as error:
        raise Refused(f"{file}: no CSV ({error})") from None


def read_scores(file: Path, metric: str, arm_column: str = "arm", seed_column: str = "seed") -> ScoreTable:
    """The scores of a metric from a CSV file; as ``scores_of``."""
    return scores_of(read_rows(file), str(file), metric, arm_column, seed_column)


def scores_of(rows: Rows, origin: str, metric: str, arm_column: str, seed_column: str) -> ScoreTable:
    """The scores of a metric: of a table with a column of its name, or with the columns ``metric`` and ``value``.

    Args:
        rows: One row per run, or per run and metric; every value is text.
        origin: Where they come from, for errors.
        metric: The metric's name.
        arm_column: Name of the column that tells the arms apart.
        seed_column: Name of the column of seeds, which are whole numbers and pair the arms' runs.

    Raises:
        Refused: A column is missing, a row is not whole, a seed is no whole number, or a run stands there twice.
    """
    columns = list(rows[0]) if rows else []
    row_per_metric = {"metric", "value"} <= set(columns)
    value_column = "value" if row_per_metric else metric
    for column in (arm_column, seed_column, value_column):
        if column not in columns:
            there = ", ".join(map(str, columns)) or "none, or no row"
            raise Refused(f"{origin}: there is no column {column!r}; there are {there}")
    table: ScoreTable = {}
    for number, row in enumerate(rows, start=2):  # the header is row 1
        place = f"{origin}: row {number}"
        if None in row or None in row.values():
            raise Refused(f"{place} is not whole; it must have {len(columns)} columns")
        if row_per_metric and row["metric"] != metric:
            continue
        arm = row[arm_column]
        seed = _seed(row[seed_column], f"{place}: {seed_column}")
        scores = table.setdefault(arm, {})
        if seed in scores:
            raise Refused(f"{place}: arm {arm!r}, seed {seed} stands there twice")
        scores[seed] = _score(row[value_column], f"{place}: {value_column}")
    if not table:
        raise Refused(f"{origin}: there is no row of the metric {metric!r}")
    return table


def _seed(text: str, place: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Refused(f"{place} {text!r} is no whole number") from None


def _score(text: str, place: str) -> float:
    """A score, NaN where there is none."""
    if not text.strip():
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise Refused(f"{place} {text!r} is no number") from None
