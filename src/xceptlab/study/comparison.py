"""What makes a comparison controlled, seen on the networks before the first run: equal budgets and a single difference.

``matched`` solves the width of each arm for the first arm's parameters or MACs (``model.match``). ``module_trees`` builds every
arm's network, so that what cannot be built is refused before a run starts, and compares the modules with the configurations.
"""

import bisect
import dataclasses
import functools
import math

from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.models import warm_start
from xceptlab.models.cost import Row, changes, cost, table
from xceptlab.study.expansion import Expansion

STEP = 1 / 1024
"""Widths that are tried are multiples of this."""


def matched(expansion: Expansion) -> Expansion:
    """The study with every arm's width such that it comes nearest to the budget of the first arm, which keeps its own."""
    first = next(iter(expansion.arms.values()))
    if first.model.match == "none":
        return expansion
    budget = spent(first)
    arms = {
        name: _solved(config, budget) if config is not first and config.model.is_xception else config  # others have no width
        for name, config in expansion.arms.items()
    }
    return dataclasses.replace(expansion, arms=arms)


def module_trees(expansion: Expansion) -> dict[str, list[Row]]:
    """Every arm's module tree.

    Raises:
        Refused: An arm's network cannot be built, does not take its images, or cannot start from its weights; or its modules
            differ from the baseline's although no key of ``model`` does, such as the classifier when two data sets have other
            classes.
    """
    found: dict[str, list[Row]] = {}
    for arm, config in expansion.arms.items():
        try:
            found[arm] = table(config.model, config.data.classes, config.data.size)
            warm_start.check(config.model, config.data.classes)
        except Refused as error:
            raise Refused(f"arm {arm!r}: {error}") from None
        baseline = next(iter(found))
        more = changes(found[baseline], found[arm])
        if more and not any(key.startswith("model.") for key in expansion.differences(arm)):
            raise Refused(f"arm {arm!r} differs from {baseline!r} in its modules, though in no key of model: {more[0]}")
    return found


def identical_arms(expansion: Expansion, found: dict[str, list[Row]]) -> list[str]:
    """Arms that differ only in keys of ``model`` which their module trees do not show, such as an order of regular convolutions.

    A warning and no refusal: what a timm model does between its modules is not in its tree.
    """
    seen: dict[str, str] = {}
    lines = []
    for arm, config in expansion.arms.items():
        start = ("model.init", "model.weights_digest")
        rest = {key: value for key, value in config.science().items() if key in start or not key.startswith("model.")}
        first = seen.setdefault(repr((rest, [(row.name, row.description) for row in found[arm]])), arm)
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
    """The configuration at the width, of all that are tried, at which it comes nearest to the budget."""

    def at(step: int) -> RunConfig:
        return dataclasses.replace(config, model=dataclasses.replace(config.model, width=step * STEP))

    @functools.cache  # a network takes a quarter of a second
    def spent_at(step: int) -> int:
        return spent(at(step))

    least, most = int(0.016 / STEP) + 1, int(16 / STEP)
    low = round(config.model.width / STEP)
    for _ in range(2):  # what a network costs grows about as the square of its width
        low = min(max(round(low * math.sqrt(budget / spent_at(low))), least), most)
    high, reach = low, 1
    while low > least and spent_at(low) >= budget:
        low, reach = max(low - reach, least), 2 * reach
    while high < most and spent_at(high) < budget:
        high, reach = min(high + reach, most), 2 * reach
    above = bisect.bisect_left(range(most), budget, low, high, key=lambda step: spent_at(step))
    return at(min((max(above - 1, least), above), key=lambda step: abs(spent_at(step) - budget)))
