"""Which arms a claim compares, and with which weights: the two of a contrast, or the cells of a
grid that make up an effect.
"""

from typing import Any

from xceptlab.study.claims import Claim, level_name
from xceptlab.study.definition import Study


def weights(claim: Claim, study: Study) -> tuple[dict[str, float], dict[str, float]]:
    """The weights, by arm, with which scores make up the two sides that a claim compares; arms
    without weight are left out.

    A side of a main effect is the mean of the arms at its level. A side of an interaction is the
    effect of the factors before the last one, on average over the other factors, at its level of
    the last one.
    """
    if claim.contrast:
        a, b = claim.contrast
        return {a: 1.0}, {b: 1.0}
    return _side(0, claim.effect, study), _side(1, claim.effect, study)


def _side(side: int, effect: dict[str, list[Any]], study: Study) -> dict[str, float]:
    """The weights, by arm, in one side, 0 or 1, of an effect."""
    found = {}
    for arm, levels in study.cells().items():
        weight = _weight(levels, side, effect, study.grid)
        if weight:
            found[arm] = weight
    return found


def _weight(
    levels: dict[str, Any], side: int, effect: dict[str, list[Any]], grid: dict[str, list[Any]]
) -> float:
    """The weight of the cell with these levels, by factor, in one side of an effect."""
    *before, last = effect
    weight = 1.0
    for factor, level in levels.items():
        if factor == last:
            if level_name(level) != level_name(effect[factor][side]):
                return 0.0
        elif factor in before:
            weight *= _sign(level, effect[factor])
        else:
            weight /= len(grid[factor])
    return weight


def _sign(level: Any, compared: list[Any]) -> int:
    """The sign of a level in the difference a - b of two levels: 1 for a, -1 for b, 0 for any
    other.
    """
    a, b = map(level_name, compared)
    name = level_name(level)
    if name == a:
        return 1
    if name == b:
        return -1
    return 0


def arms_of(claim: Claim, study: Study) -> list[str]:
    """The arms that a claim compares, those of its first side first."""
    a, b = weights(claim, study)
    return list(dict.fromkeys([*a, *b]))


def pairs_of(claim: Claim, study: Study) -> list[tuple[str, str]]:
    """The pairs of arms that a claim compares, which differ in nothing but its (first) factor."""
    if claim.contrast:
        return [claim.contrast]
    factor, (a, b) = next(iter(claim.effect.items()))
    levels_of = {}
    for arm, levels in study.cells().items():
        levels_of[arm] = [level_name(level) for level in levels.values()]
    arm_at = {tuple(levels): arm for arm, levels in levels_of.items()}
    place = list(study.grid).index(factor)
    pairs = []
    for arm in arms_of(claim, study):
        levels_b = list(levels_of[arm])
        if levels_b[place] == level_name(a):
            levels_b[place] = level_name(b)
            pairs.append((arm, arm_at[tuple(levels_b)]))
    return pairs
