"""Verdicts from Python: ``Verdicts`` shows them as a table, ``judge`` makes them of scores from any
tool.
"""

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from xceptlab.errors import Refused
from xceptlab.study.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

    from xceptlab.study.score_files import Table

Pair = tuple[str, str]
"""The arms (a, b) that a claim compares."""


SHOWN = ("outcome", "estimate", "low", "high", "level", "n", "p_adjusted", "summary")
"""The fields of a verdict that the table of verdicts shows, after the claim's."""


class Verdicts(dict[str, Verdict]):
    """Verdicts by the ids of their claims: ``verdicts["residual-helps"].outcome``.

    Raises:
        Refused: On ``verdicts[id]``: no claim has this id; the text names those that there are.
    """

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> "Verdicts":
        """Make ``Verdicts`` of a list of verdicts, in its order."""
        return cls((verdict.claim.id, verdict) for verdict in verdicts)

    def __missing__(self, claim: str) -> Verdict:
        raise Refused(f"there is no claim {claim!r}; there are {', '.join(self) or 'none'}")

    def __repr__(self) -> str:
        return "\n".join(map(str, self.values()))

    def _repr_html_(self) -> str:
        """Return the table of verdicts as HTML, which notebooks show."""
        return self.table().to_html(index=False)

    def table(self) -> "pd.DataFrame":
        """Return a table with a row per claim: what it says, its verdict, and the numbers behind
        it.

        Estimate and interval, in the metric's unit, are those of a - b, or of b - a for a metric in
        which lower is better. For an interaction the column ``gain`` says which gain is
        compared between a and b; it is empty for any other claim.
        """
        import pandas as pd

        rows = []
        for verdict in self.values():
            claim = verdict.claim
            a, b = claim.sides
            row: dict[str, Any] = {"claim": claim.id, "a": a, "b": b, "gain": claim.gain}
            row |= {"metric": claim.metric, "kind": claim.kind, "margin": claim.margin}
            row |= {"statistic": claim.statistic, "pairing": claim.pairing}
            row |= {name: getattr(verdict, name) for name in SHOWN}
            rows.append(row)
        return pd.DataFrame(rows)


def judge(
    scores: "pd.DataFrame",
    contrast: Pair | Sequence[Pair] | None = None,
    *,
    metric: str | None = None,
    kind: Literal["superior", "equivalent"] | None = None,
    margin: float | None = None,
    statistic: Literal["mean", "median"] | None = None,
    pairing: Literal["seed", "none"] | None = None,
    lower_is_better: bool | None = None,
    diverged: float | None = None,
    alpha: float | None = None,
    claims: str | os.PathLike[str] | None = None,
    arm: str = "arm",
    seed: str = "seed",
) -> Verdicts:
    """Judge claims by scores that any tool made, as ``xceptlab judge`` does, and warn of what makes
    a verdict doubtful. A verdict is ``incomplete`` where an arm of its claim lacks a seed that any
    arm of the claims has.

    Args:
        scores: A row per run with a column per metric, or a row per run and metric with the columns
            ``metric`` and ``value``.
        contrast: The arms (a, b) of one claim, or a list of such pairs for several claims; None
            where ``claims`` is given.
        metric: The metric that is compared; ``test/top1`` where it is left out.
        kind: What the claims say. ``superior`` (the default): a - b > margin; ``equivalent``:
            -margin < a - b < margin.
        margin: Smallest difference that matters, in the metric's unit; 0 where it is left out.
        statistic: Statistic of the differences over seeds that the claims are about; ``mean`` where
            it is left out.
        pairing: ``seed`` (the default): runs of equal seeds form pairs; ``none``: the arms are
            compared as if they had nothing in common.
        lower_is_better: Whether a lower score is the better one, so that the claims are about
            b - a. None decides by the name: a registered metric tells it, a name that ends in
            ``loss`` is of a loss, and for any other metric a higher score is better; a name that
            suggests another error, such as ``rmse``, is refused.
        diverged: Score of a run that has no finite score; None refuses such runs.
        alpha: Chance of any false ``supported``, and of any false ``contradicted``, over all
            claims; 0.05 where it is left out.
        claims: A YAML file with ``claims`` and ``alpha``, in place of ``contrast`` and the other
            arguments that describe claims.
        arm: Name of the column that tells the arms apart.
        seed: Name of the column of seeds, which are whole numbers and pair the arms' runs.

    Raises:
        Refused: ``scores`` is no DataFrame or not well formed; a claim is not allowed, or names an
            arm or a metric that the table does not have; a score is too large to compute with, or
            is not finite and there is no ``diverged``; the arms of a claim have different seeds and
            ``pairing`` is ``none``; there are both ``contrast`` and ``claims``, or neither; or
            ``claims`` cannot be read, or stands beside arguments that describe claims.
    """
    from xceptlab.study.score_tables import claims_given, judge_table

    table = _as_table(scores)
    fields: dict[str, Any] = {
        "metric": metric,
        "kind": kind,
        "margin": margin,
        "statistic": statistic,
    }
    fields |= {
        "pairing": pairing,
        "lower_is_better": lower_is_better,
        "diverged": diverged,
        "alpha": alpha,
    }
    # NumPy's numbers are as good as Python's.
    fields = {
        name: value.item() if hasattr(value, "item") else value for name, value in fields.items()
    }
    claimed = claims_given(
        None if contrast is None else _as_pairs(contrast),
        fields,
        None if claims is None else os.fspath(claims),
        either="judge: either contrast=(A, B) or claims=FILE says what is claimed",
        not_with_file=lambda names: (
            f"judge: {', '.join(names)}: not allowed with claims, whose file says it of each claim"
        ),
    )
    verdicts = judge_table(table, "scores", claimed.claims, claimed.alpha, arm, seed)
    for verdict in verdicts:
        for line in verdict.warnings:
            warnings.warn(f"{verdict.claim.id}: {line}", stacklevel=2)
    return Verdicts.of(verdicts)


def _as_pairs(contrast: Pair | Sequence[Pair]) -> Sequence[Any]:
    """Return a list of pairs of arms, whether one pair (a, b) or a list of pairs is given.

    Raises:
        Refused: It is no tuple or list, or has elements of both kinds, arms and pairs. The number
            of arms in a pair is not checked.
    """
    if not isinstance(contrast, tuple | list):
        raise Refused(
            f"contrast: {contrast!r} is not allowed; it must be a pair of arms, or a list of pairs"
        )
    several = any(isinstance(one, tuple | list) for one in contrast)
    pairs = contrast if several else [contrast]
    for pair in pairs:
        if not isinstance(pair, tuple | list):
            raise Refused(f"contrast: {pair!r} is not allowed; it must be a pair of arms")
    return pairs


def _as_table(scores: "pd.DataFrame") -> "Table":
    """Return a pandas table as a CSV file would hold it: as text, empty for None and pandas's
    ``NA``, with the first row as number 2, below a header. Of columns of one name the first is
    taken; its name stands in ``Table.columns`` as often as in ``scores``.

    Raises:
        Refused: The scores are not a pandas DataFrame.
    """
    import pandas as pd

    from xceptlab.study.score_files import Table

    if not isinstance(scores, pd.DataFrame):
        raise Refused(
            f"scores: a value of type {type(scores).__name__} is not allowed; it must be a pandas DataFrame, "
            "which pandas.read_csv makes of a file"
        )
    # Rows need each column once. One that is there twice is refused later, if it is needed.
    each_once = scores.loc[:, ~scores.columns.duplicated()]
    rows = []
    for row in each_once.to_dict("records"):
        texts = {}
        for key, value in row.items():
            is_missing = value is None or value is pd.NA
            texts[str(key)] = "" if is_missing else _cell(value)
        rows.append(texts)
    columns = [str(column) for column in scores.columns]
    return Table(columns=columns, rows=rows, numbers=range(2, len(rows) + 2))


def _cell(value: Any) -> str:
    """Return the text in a CSV file of a value that is not missing: ``nan`` for a NaN, and ``0``
    for 0.0, since pandas turns a column of integers with gaps into floats.
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
