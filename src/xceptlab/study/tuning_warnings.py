"""Warn about a study's tuning: a best value that may lie beyond those that were tried, and a choice
between values that chance made.
"""

import math
from collections import Counter
from typing import Any

from xceptlab.runs.metrics import metric_of
from xceptlab.study.choice import Records, chosen
from xceptlab.study.expansion import Expansion

APART = 2.0
"""The number of standard errors by which two validation accuracies must differ to be told apart."""


def tuning_warnings(expansion: Expansion, records: Records) -> list[str]:
    """Return warnings, a sentence each, of arms of which, in more than half of the seeds, the best
    value lies at the edge of those that were tried, or the validation images cannot tell the two
    best values apart. There are none in a study that tunes nothing.

    Raises:
        Refused: The record of a run that did not diverge has no score in ``tune.select``.
    """
    if expansion.study.tune is None:
        return []
    return [*_at_the_edge(expansion, records), *_indistinct(expansion, records)]


def _at_the_edge(expansion: Expansion, records: Records) -> list[str]:
    """Return a warning for each arm and key whose best value is the smallest or the largest number
    that was tried, in more than half of the seeds with which all of the arm's runs have finished.

    A best value of 0 does not count, since no tuned key can be negative.
    """
    assert expansion.study.tune
    choice = chosen(expansion, records)
    warnings = []
    for arm in expansion.arms:
        trials = [expansion.trials[name] for (chooser, _), name in choice.items() if chooser == arm]
        for key in expansion.study.tune.keys:
            edges = _edge_values([values[key] for values in expansion.study.tune.trial_values])
            best = [trial.values[key] for trial in trials]
            at_an_edge = Counter(value for value in best if value in edges)
            if 2 * at_an_edge.total() > len(best):
                where = " and ".join(
                    f"{value} in {count}" for value, count in sorted(at_an_edge.items())
                )
                warnings.append(
                    f"Tuning: the best {key} of {arm} is at the edge of the values that were tried ({where} of "
                    f"{len(best)} seeds); a better one may lie beyond."
                )
    return warnings


def _edge_values(tried: list[Any]) -> list[Any]:
    """Return the values of a key beyond which a better one may lie: the smallest and the largest of
    those that were tried.

    Empty where not all values are numbers, as names have no order, and for a single value. 0 is
    left out, since no tuned key can be negative.
    """
    if not all(map(_is_number, tried)) or len(set(tried)) < 2:
        return []
    return [value for value in (min(tried), max(tried)) if value != 0]


def _is_number(value: Any) -> bool:
    """Whether a value is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _indistinct(expansion: Expansion, records: Records) -> list[str]:
    """Return a warning for each arm whose two best values the validation images cannot tell apart,
    in more than half of the seeds with two values to compare; none where values are chosen by
    another metric than an accuracy.

    The standard error is that of a difference of two independent binomial shares. Both values are
    validated on the same images, whose correctness is not kept one by one; where they err on the
    same ones the true error is smaller, so that this warns rather too often than too seldom.
    """
    assert expansion.study.tune
    # The standard error of another metric is not known, so that nothing can be said of it.
    if not metric_of(expansion.study.tune.select).is_accuracy:
        return []
    warnings = []
    for arm in expansion.arms:
        judged = 0
        close = 0
        largest_error = 0.0
        images = 0
        for seed in expansion.seeds:
            found = _best_two(arm, seed, expansion, records)
            if found is None:
                continue
            # There are as many images at every seed.
            best, second, images = found
            error = math.sqrt((best * (100 - best) + second * (100 - second)) / images)
            largest_error = max(largest_error, error)
            judged += 1
            if best - second <= APART * error:
                close += 1
        if 2 * close > judged:
            warnings.append(
                f"Tuning: {images:,} validation images cannot tell the two best values of {arm} apart in {close} of {judged} "
                f"seeds (not by {APART:g} standard errors, of up to {largest_error:.2g} points); chance chooses between them, "
                "which adds to the spread over seeds."
            )
    return warnings


def _best_two(
    arm: str, seed: int, expansion: Expansion, records: Records
) -> tuple[float, float, int] | None:
    """Return the best and the second best validation accuracy, in percent, among an arm's tuned
    values at a seed, and the number of validation images.

    None where fewer than two of its runs have finished with such an accuracy, as runs that diverge
    do not, or where the number of images is not known.
    """
    assert expansion.study.tune
    select = expansion.study.tune.select
    tried = [records.get((name, seed)) for name in expansion.trials_of(arm)]
    finished = [record for record in tried if record and select in record.metrics]
    if len(finished) < 2:
        return None
    images = finished[0].validation_images or expansion.arms[arm].data.images()[1]
    if not images:
        return None
    best, second = sorted((record.metrics[select] for record in finished), reverse=True)[:2]
    return best, second, images
