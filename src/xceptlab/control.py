"""Arms of equal budget: ``model.match`` solves the width of each arm for the first arm's parameters or MACs."""

import dataclasses
from collections.abc import Callable

from xceptlab.models.cost import cost
from xceptlab.schema import RunConfig
from xceptlab.study import Expansion

STEP = 1 / 1024
"""Widths that are tried are multiples of this."""


def matched(expansion: Expansion) -> Expansion:
    """The study with every arm's width such that it comes nearest to the budget of the first arm, which keeps its own."""
    first = next(iter(expansion.arms.values()))
    if first.model.match == "none":
        return expansion
    budget = spent(first)
    arms = {name: config if config is first else _solved(config, budget) for name, config in expansion.arms.items()}
    return dataclasses.replace(expansion, arms=arms)


def spent(config: RunConfig) -> int:
    """Parameters or MACs, whichever ``model.match`` names."""
    parameters, macs = cost(config.model, config.data.classes, config.data.size)
    return macs if config.model.match == "macs" else parameters


def _solved(config: RunConfig, budget: int) -> RunConfig:
    def at(step: int) -> RunConfig:
        return dataclasses.replace(config, model=dataclasses.replace(config.model, width=step * STEP))

    lowest = int(0.016 / STEP) + 1
    above = _first(lambda step: spent(at(step)) >= budget, lowest, int(16 / STEP))
    return min((at(step) for step in (max(lowest, above - 1), above)), key=lambda candidate: abs(spent(candidate) - budget))


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first step from low to high at which ``holds``, which stays true once it is; high if none."""
    top = low
    while top < high and not holds(top):  # small widths are cheap to count, so approach from below
        low, top = top + 1, min(2 * top, high)
    while low < top:
        middle = (low + top) // 2
        low, top = (low, middle) if holds(middle) else (middle + 1, top)
    return top
