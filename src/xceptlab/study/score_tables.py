"""Judge claims on scores that any other tool made: ``xceptlab judge``."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from xceptlab.config.field_types import Bounds
from xceptlab.config.fields import Section
from xceptlab.config.loading import load_file
from xceptlab.errors import Refused
from xceptlab.runs.metrics import ACCURACY, Metric, direction_is_known, metric_of_another_tool
from xceptlab.study import verdict_warnings
from xceptlab.study.claims import Claim, refuse_repeated
from xceptlab.study.judging import judge
from xceptlab.study.score_files import ScoreTable, Table, quoted_if_blank, read_table, scores_of
from xceptlab.study.verdict import Verdict
from xceptlab.text import counted

Runs = tuple[tuple[str, int], ...]
"""Runs, each as (arm, seed)."""


@dataclass(frozen=True, kw_only=True)
class ScoreClaim(Claim):
    """A claim that ``xceptlab judge`` decides by scores from another tool. It compares two arms,
    given by ``contrast``; ``effect`` and ``failed`` must be left out.
    """

    metric: str
    """Name of the metric that is compared, any that the scores have."""
    lower_is_better: bool | None = None
    """Whether a lower score is the better one, so that the claim is about b - a; null takes what a
    registered metric of this name says, or else decides by whether the name ends in loss, and is
    refused for other names of errors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lower_is_better is None and not direction_is_known(self.metric):
            says = "lower_is_better (--lower-is-better, --no-lower-is-better) says it"
            raise Refused(
                f"metric: whether a lower {self.metric} is the better one is not known; {says}"
            )
        self._require(
            "effect", not self.effect, "left out; effects are judged in the grid of a study"
        )
        self._require("failed", self.failed is None, "left out; failures are counted in a study")

    @property
    def measure(self) -> Metric:
        """Unit, range and direction of the claim's metric: those of a registered metric of its
        name, or else of the built-in metric with whose name it ends, such as ``loss``. The metric
        has no unit where there is neither. ``lower_is_better``, unless None, decides the direction.
        """
        metric = metric_of_another_tool(self.metric)
        if self.lower_is_better is None:
            return metric
        return replace(metric, lower_is_better=self.lower_is_better)


@dataclass(frozen=True, kw_only=True)
class ClaimsFile(Section):
    """A file of claims on scores, as ``xceptlab judge --claims`` reads it."""

    claims: list[ScoreClaim]
    """The claims, over all of which Holm's correction goes."""
    alpha: Annotated[float, Bounds(at_least=1e-6, below=0.5)] = 0.05
    """Chance of any false ``supported``, and of any false ``contradicted``, over all claims of the
    file.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        ids = {claim.id for claim in self.claims}
        self._require(
            "claims",
            bool(ids) and len(ids) == len(self.claims),
            "a list of at least one claim, each with an id of its own",
        )
        refuse_repeated(self.claims)


def claims_on(contrasts: Iterable[Any], given: dict[str, Any]) -> ClaimsFile:
    """Make a claim on each contrast: that a is better than b in test/top1, unless ``given`` says
    something else.

    Args:
        contrasts: The arms (a, b) of each claim.
        given: ``alpha``, and fields of ``ScoreClaim`` that all the claims have in common, by name;
            other fields have their defaults.

    Raises:
        Refused: There is no contrast, one stands there twice or is not a pair of different arms, or
            a field has a value that is not allowed.
    """
    common: dict[str, Any] = {
        "kind": "superior",
        "metric": f"test/{ACCURACY}",
        "margin": 0.0,
    } | given
    alpha = common.pop("alpha", ClaimsFile.alpha)
    claims = [
        ScoreClaim(id=f" {common['kind']} ".join(map(str, pair)), contrast=pair, **common)
        for pair in contrasts
    ]
    return ClaimsFile(claims=claims, alpha=alpha)


def claims_given(
    contrasts: Sequence[Any] | None,
    fields: Mapping[str, Any],
    file: str | None,
    *,
    either: str,
    not_with_file: Callable[[list[str]], str],
) -> ClaimsFile:
    """Return the claims that a user makes, on contrasts or in a file.

    Args:
        contrasts: The arms (a, b) of each claim; None where a file has the claims.
        fields: ``alpha``, and fields of ``ScoreClaim`` that all claims on contrasts have in common,
            by name; None for a field that is left out.
        file: Path of a YAML file as ``ClaimsFile`` describes it; None where there are contrasts.
        either: The error's text where there are both contrasts and a file, or neither.
        not_with_file: Makes the error's text where there is a file, from the names of the fields
            that are given beside it.

    Raises:
        Refused: There are both contrasts and a file, or neither; fields are given beside a file;
            the file cannot be read; or a claim is not allowed.
    """
    if (contrasts is None) == (file is None):
        raise Refused(either)
    given = {name: value for name, value in fields.items() if value is not None}
    if contrasts is not None:
        return claims_on(contrasts, given)
    if given:
        raise Refused(not_with_file(list(given)))
    return load_file(ClaimsFile, str(file))


def judge_scores(
    file: Path, claims: Sequence[ScoreClaim], alpha: float, arm_column: str, seed_column: str
) -> list[Verdict]:
    """Judge claims by the scores in a CSV file, and return the verdict on each, in their order.

    A verdict is ``incomplete`` where an arm of its claim lacks a seed that any arm of the claims
    has.

    Args:
        file: The CSV file: with a row per run and a column for each metric, or with a row per run
            and metric and the columns ``metric`` and ``value``.
        claims: The claims.
        alpha: Familywise error rate.
        arm_column: Name of the column that tells the arms apart.
        seed_column: Name of the column of seeds.

    Raises:
        OSError: The file cannot be read.
        Refused: The file is not well formed; it lacks an arm or a metric that a claim names; a
            score is too large to compute with, or not finite though its claim does not declare
            ``diverged``; or the two arms of a claim with ``pairing: none`` have different seeds.
    """
    return judge_table(read_table(file), str(file), claims, alpha, arm_column, seed_column)


def judge_table(
    table: Table,
    place: str,
    claims: Sequence[ScoreClaim],
    alpha: float,
    arm_column: str,
    seed_column: str,
) -> list[Verdict]:
    """Judge claims by the scores in a table, and return the verdict on each, in their order.

    A verdict is ``incomplete`` where an arm of its claim lacks a seed that any arm of the claims
    has.

    Args:
        table: The scores: with a row per run and a column for each metric, or with a row per run
            and metric and the columns ``metric`` and ``value``.
        place: Where the table comes from, for errors.
        claims: The claims.
        alpha: Familywise error rate.
        arm_column: Name of the column that tells the arms apart.
        seed_column: Name of the column of seeds.

    Raises:
        Refused: The table is not whole or not well formed; it lacks an arm or a metric that a claim
            names; a score is too large to compute with, or not finite though its claim does not
            declare ``diverged``; or the two arms of a claim with ``pairing: none`` have different
            seeds.
    """
    metrics = {claim.metric for claim in claims}
    by_metric = {
        metric: scores_of(table, place, metric, arm_column, seed_column) for metric in metrics
    }
    scores: list[ScoreTable] = []
    without_score: list[Runs] = []
    seeds: set[int] = set()
    for claim in claims:
        by_arm, runs = _scores_of_claim(claim, by_metric[claim.metric], place)
        scores.append(by_arm)
        without_score.append(runs)
        for by_seed in by_arm.values():
            seeds.update(by_seed)
    warned = []
    for verdict, runs in zip(
        judge(claims, scores, sorted(seeds), alpha), without_score, strict=True
    ):
        warnings = (*verdict_warnings.of_fractions(verdict), *verdict.warnings)
        warned.append(_with_diverged(replace(verdict, warnings=warnings), runs))
    return warned


def _scores_of_claim(claim: ScoreClaim, table: ScoreTable, place: str) -> tuple[ScoreTable, Runs]:
    """Select a claim's two arms from the scores of its metric, and replace non-finite scores by
    ``claim.diverged``.

    Returns:
        The scores by arm and seed, and the runs (arm, seed) whose scores were replaced.

    Raises:
        Refused: The table does not have one of the arms, a score is not finite though the claim
            does not declare ``diverged``, or the arms have different seeds though the claim
            declares ``pairing: none``.
    """
    scores: ScoreTable = {}
    without_score = []
    for arm in claim.sides:
        if arm not in table:
            raise Refused(
                f"{place}: claim {claim.id!r}: there is no arm {arm!r}; there are {', '.join(map(quoted_if_blank, table))}"
            )
        if claim.pairing == "none" and table[arm].keys() != table[claim.sides[0]].keys():
            first = claim.sides[0]
            alike = (
                "pairing: none compares as many runs of both arms, numbered alike, such as from 0"
            )
            raise Refused(
                f"{place}: claim {claim.id!r}: {first!r} has other seeds than {arm!r}; {alike}"
            )
        scores[arm] = {}
        for seed, score in table[arm].items():
            if math.isfinite(score):
                scores[arm][seed] = score
            elif claim.diverged is not None:
                scores[arm][seed] = claim.diverged
                without_score.append((arm, seed))
            else:
                no_score = f"arm {arm!r}, seed {seed} has no finite {claim.metric}"
                raise Refused(
                    f"{place}: {no_score}; `diverged` declares what such a run scores (claim {claim.id!r})"
                )
    return scores, tuple(without_score)


def _with_diverged(verdict: Verdict, runs: Runs) -> Verdict:
    """Return a verdict with ``runs``, those of its claim's arms that have no finite score, as its
    ``diverged``, and with warnings of them. Without such runs it is returned as it is.
    """
    if not runs:
        return verdict
    have, count = ("has", "counts") if len(runs) == 1 else ("have", "count")
    listed = ", ".join(f"{arm} seed {seed}" for arm, seed in runs)
    replaced = f"{counted(len(runs), 'run')} {have} no finite score and {count} as {verdict.claim.diverged:g}: {listed}"
    why = (*verdict.warnings, replaced, *verdict_warnings.of_failures(verdict, runs))
    return replace(verdict, diverged=runs, warnings=why)
