"""What makes a comparison controlled, seen on the networks before the first run: equal budgets and a single difference.

``matched`` solves the width of each arm for the first arm's parameters or MACs (``model.match``). ``trees`` builds every arm's
network, so that what cannot be built is refused before a run starts, and holds the module trees against the configurations.
"""

import bisect
import dataclasses

from xceptlab.models import pretrained
from xceptlab.models.cost import Row, changes, cost, table
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
    arms = {
        name: config if config is first or config.model.timm else _solved(config, budget)  # timm's have no width
        for name, config in expansion.arms.items()
    }
    return dataclasses.replace(expansion, arms=arms)


def trees(expansion: Expansion) -> dict[str, list[Row]]:
    """Every arm's module tree.

    Raises:
        ValueError: An arm's network cannot be built, does not take its images, or cannot start from its weights; or its modules
            differ from the baseline's although no key of ``model`` does, such as the classifier when two data sets have other
            classes.
    """
    found: dict[str, list[Row]] = {}
    for arm, config in expansion.arms.items():
        try:
            found[arm] = table(config.model, config.data.classes, config.data.size)
            pretrained.check(config.model, config.data.classes)
        except ValueError as error:
            raise ValueError(f"arm {arm!r}: {error}") from None
        baseline = next(iter(found))
        more = changes(found[baseline], found[arm])
        if more and not any(key.startswith("model.") for key in expansion.differences(arm)):
            raise ValueError(f"arm {arm!r} differs from {baseline!r} in its modules, though in no key of model: {more[0]}")
    return found


def twins(expansion: Expansion, found: dict[str, list[Row]]) -> list[str]:
    """Arms that differ only in keys of ``model`` which their module trees do not show, such as an order of regular convolutions.

    A warning and no refusal: what a timm model does between its modules is not in its tree.
    """
    seen: dict[str, str] = {}
    lines = []
    for arm, config in expansion.arms.items():
        start = ("model.init", "model.weights_digest")
        rest = {key: value for key, value in config.science().items() if key in start or not key.startswith("model.")}
        first = seen.setdefault(repr((rest, [(row.name, row.own) for row in found[arm]])), arm)
        if first != arm:
            lines.append(
                f"the arms {first!r} and {arm!r} have the same modules, so that what differs between them may do nothing"
            )
    return lines


def spent(config: RunConfig) -> int:
    """Parameters or MACs, whichever ``model.match`` names."""
    parameters, macs = cost(config.model, config.data.classes, config.data.size)
    return macs if config.model.match == "macs" else parameters


def _solved(config: RunConfig, budget: int) -> RunConfig:
    def at(step: int) -> RunConfig:
        return dataclasses.replace(config, model=dataclasses.replace(config.model, width=step * STEP))

    steps = range(int(0.016 / STEP) + 1, int(16 / STEP) + 1)
    above = min(bisect.bisect_left(steps, budget, key=lambda step: spent(at(step))), len(steps) - 1)
    return min((at(step) for step in steps[max(above - 1, 0) : above + 1]), key=lambda config: abs(spent(config) - budget))
