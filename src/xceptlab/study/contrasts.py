"""Which arms a claim compares, and with which weights: the two arms of a contrast, or those cells
of a grid that make up an effect.
"""

from typing import Any

from xceptlab.study.claims import Claim, level_name
from xceptlab.study.definition import Study


def weights(claim: Claim, study: Study) -> tuple[dict[str, float], dict[str, float]]:
    """Return the weights of the arms in the two sides, a and b, that a claim compares.

    Each is ``{arm: weight}``, without arms of weight 0.

    A side's score is the weighted sum of its arms' scores. In a contrast it is that of one arm. In
    a main effect it is the mean over all arms at one level of the factor. In an interaction it is
    the effect of the first factors, on average over the other factors, at one level of the last
    factor.
    """
    if claim.contrast:
        a, b = claim.contrast
        return {a: 1.0}, {b: 1.0}
    side_a = _side(0, claim.effect, study)
    side_b = _side(1, claim.effect, study)
    return side_a, side_b


def _side(side: int, effect: dict[str, list[Any]], study: Study) -> dict[str, float]:
    """Return the weights of the arms in one side of an effect, a for 0 or b for 1, as
    ``{arm: weight}`` without arms of weight 0.
    """
    found = {}
    for arm, levels in study.cells().items():
        weight = _weight(levels, side, effect, study.grid)
        if weight:
            found[arm] = weight
    return found


def _weight(
    levels: dict[str, Any], side: int, effect: dict[str, list[Any]], grid: dict[str, list[Any]]
) -> float:
    """Return the weight of a cell of the grid in one side (0 or 1) of an effect; 0 if the cell has
    no part in it.

    Args:
        levels: The cell's level of every factor of the grid, by factor.
        side: 0 for a, 1 for b.
        effect: The levels a and b of each factor of the effect.
        grid: All levels of every factor.
    """
    *before, last = effect
    last_level = effect[last][side]
    weight = 1.0
    for factor, level in levels.items():
        if factor == last:
            if level_name(level) != level_name(last_level):
                return 0.0
        elif factor in before:
            weight *= _sign(level, effect[factor])
        else:
            weight /= len(grid[factor])
    return weight


def _sign(level: Any, compared: list[Any]) -> int:
    """Return the sign of a level in the difference a - b of two ``compared`` levels: 1 for a, -1
    for b, 0 for any other.
    """
    a, b = map(level_name, compared)
    name = level_name(level)
    if name == a:
        return 1
    if name == b:
        return -1
    return 0


def arms_of(claim: Claim, study: Study) -> list[str]:
    """Return the names of the arms that a claim compares, those of its first side first."""
    a, b = weights(claim, study)
    return list(dict.fromkeys([*a, *b]))


def pairs_of(claim: Claim, study: Study) -> list[tuple[str, str]]:
    """Return the pairs of arms (a, b) that a claim compares.

    The two of a contrast are one pair. In an effect, a pair is two arms that differ only in the
    effect's first factor: a has the first of the two compared levels, b the second.
    """
    if claim.contrast:
        return [claim.contrast]
    factor, (a, b) = next(iter(claim.effect.items()))
    levels_of = {}
    arm_at = {}
    for arm, levels in study.cells().items():
        names = tuple(level_name(level) for level in levels.values())
        levels_of[arm] = names
        arm_at[names] = arm
    factors = list(study.grid)
    place = factors.index(factor)
    pairs = []
    for arm in arms_of(claim, study):
        names = levels_of[arm]
        is_at_a = names[place] == level_name(a)
        if is_at_a:
            names_of_partner = (*names[:place], level_name(b), *names[place + 1 :])
            partner = arm_at[names_of_partner]
            pairs.append((arm, partner))
    return pairs
