"""The scores of a study's runs as its claims compare them: two sides, with a score for each seed.

A side is an arm or, in a claim on an effect of a grid, a weighted sum of several arms' scores. A
diverged run counts with the score that the claim declares, or else with that of guessing.
"""

from collections.abc import Mapping, Sequence

from xceptlab.errors import Refused
from xceptlab.runs.record import Record
from xceptlab.study.choice import ArmRecords
from xceptlab.study.claims import Claim
from xceptlab.study.contrasts import arms_of, weights
from xceptlab.study.expansion import Expansion

Scores = Mapping[str, Mapping[int, float]]
"""Scores in one metric, ``scores[name][seed]``, by the name of an arm or of a claim's side
(``Claim.sides``).

Accuracies are in percent, losses in nats.
"""


def scores_of_runs(claim: Claim, expansion: Expansion, records: ArmRecords) -> Scores:
    """Return the scores of a claim's two sides by seed, of each side for the seeds with which all
    its arms have a record.

    A diverged run scores what the claim declares (``diverged``), by default what guessing would.

    Args:
        claim: The claim.
        expansion: The study.
        records: The records of the runs that stand for the arms, by (arm, seed).

    Raises:
        Refused: The record of a run that did not diverge has no score in the claim's metric.
    """
    by_arm = {
        arm: _scores_of_arm(arm, claim, expansion, records)
        for arm in arms_of(claim, expansion.study)
    }
    sides = {}
    for side, weight_of in zip(claim.sides, weights(claim, expansion.study), strict=True):
        sides[side] = _weighted(by_arm, weight_of, expansion.seeds)
    return sides


def _scores_of_arm(
    arm: str, claim: Claim, expansion: Expansion, records: ArmRecords
) -> dict[int, float]:
    """Return an arm's scores in the claim's metric by seed, as far as its runs have records.

    Raises:
        Refused: The record of a run that did not diverge has no score in the metric.
    """
    if_diverged = score_of_divergence(claim, expansion.arms[arm].data.classes)
    found = {}
    for seed in expansion.seeds:
        record = records[arm, seed]
        if record is None:
            continue
        score = record.score(claim.metric, if_diverged)
        if score is None:
            raise Refused(
                f"claim {claim.id!r}: the run {record.run_id} has no {claim.metric} (data.validation is 0?)"
            )
        found[seed] = score
    return found


def _weighted(
    by_arm: Scores, weights: Mapping[str, float], seeds: Sequence[int]
) -> dict[int, float]:
    """Return the weighted sum of the arms' scores by seed, rounded to 9 decimals, for the seeds of
    which all arms with a weight have a score. A single arm has weight 1, and its scores are
    returned as they are.
    """
    complete = []
    for seed in seeds:
        in_all_arms = all(seed in by_arm[arm] for arm in weights)
        if in_all_arms:
            complete.append(seed)
    if len(weights) == 1:
        (arm,) = weights
        return {seed: by_arm[arm][seed] for seed in complete}
    sums = {}
    for seed in complete:
        total = sum(weight * by_arm[arm][seed] for arm, weight in weights.items())
        # Rounding makes equal scores in all arms leave 0, and not a rest of floating point.
        sums[seed] = round(total, 9)
    return sums


def score_of_divergence(claim: Claim, classes: int) -> float:
    """Return the score of a diverged run in a claim: the one that the claim declares, else that of
    guessing among so many classes, which is NaN for a metric whose score of guessing is not known.
    """
    if claim.diverged is not None:
        return claim.diverged
    return claim.measure.guessing(classes)


def has_failed(record: Record, claims: Sequence[Claim]) -> bool:
    """Whether a run diverged, or its score in the metric of one of the claims is worse than that
    claim's ``failed``. A claim in whose metric the run has no score does not count.
    """
    if record.status == "diverged":
        return True
    measured = [claim for claim in claims if claim.metric in record.metrics]
    return any(claim.fails(record.metrics[claim.metric]) for claim in measured)
