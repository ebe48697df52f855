"""What makes a comparison controlled, seen on the networks before the first run: equal budgets and a single difference.

``matched`` solves the width of each arm for the first arm's parameters or MACs (``model.match``). ``module_trees`` builds every
arm's network, so that what cannot be built is refused before a run starts, and compares the modules with the configurations.
"""

import bisect
import dataclasses
import functools
import math
from typing import Any

from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.models import warm_start
from xceptlab.models.cost import Row, changes, cost, table
from xceptlab.study.expansion import Expansion

STEP = 1 / 1024
"""Widths that are tried are multiples of this."""


def matched(expansion: Expansion) -> Expansion:
    """The study with every arm's width such that it comes nearest to the budget of the first arm, which keeps its own."""
    first = expansion.baseline
    if first.model.match == "none":
        return expansion
    budget = spent(first)
    arms = {}
    for name, config in expansion.arms.items():
        has_width = config.model.is_xception
        arms[name] = _solved(config, budget) if has_width and config is not first else config
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
        declared = [key for key in expansion.differences(arm) if key.startswith("model.")]
        if more and not declared:
            raise Refused(f"arm {arm!r} differs from {baseline!r} in its modules, though in no key of model: {more[0]}")
    return found


def identical_arms(expansion: Expansion, found: dict[str, list[Row]]) -> list[str]:
    """Arms that differ only in what nothing reads, or in keys of ``model`` that no module tree shows.

    Such as an order of regular convolutions. A warning and no refusal: what a timm model does between its modules is not in its
    tree.
    """
    seen: dict[str, str] = {}
    lines = _idle_arms(expansion)
    for arm, config in expansion.arms.items():
        modules = [(row.name, row.description) for row in found[arm]]
        what_is_trained = repr((_beside_the_modules(config), modules))
        first = seen.setdefault(what_is_trained, arm)
        if first != arm:
            may_do_nothing = "so that what differs between them may do nothing"
            lines.append(f"the arms {first!r} and {arm!r} have the same modules, {may_do_nothing}")
    return lines


def _idle_arms(expansion: Expansion) -> list[str]:
    """Arms whose every difference from the baseline is in a key that neither of the two reads."""
    baseline, *others = expansion.arms
    lines = []
    for arm in others:
        idle = expansion.baseline.keys_without_effect().keys() & expansion.arms[arm].keys_without_effect().keys()
        keys = expansion.differences(arm).keys()
        if keys and keys <= idle:
            lines.append(f"the arms {baseline!r} and {arm!r} differ in {', '.join(keys)} alone, which changes nothing in them")
    return lines


def _beside_the_modules(config: RunConfig) -> dict[str, Any]:
    """Of a run's science what no module tree can show: all that is not of the network, and the weights it starts from."""
    starts = ("model.init", "model.weights_digest")
    return {key: value for key, value in config.science().items() if key in starts or not key.startswith("model.")}


def spent(config: RunConfig) -> int:
    """Parameters or MACs, whichever ``model.match`` names."""
    parameters, macs = cost(config.model, config.data.classes, config.data.size)
    if config.model.match == "macs":
        return macs
    return parameters


def _solved(config: RunConfig, budget: int) -> RunConfig:
    """The configuration at the width, of all that are tried, at which it comes nearest to the budget.

    What a network costs grows about as the square of its width, which gives a first guess. From there the search goes on in
    strides that double, until the budget lies between two widths, and then by bisection.
    """

    def at(step: int) -> RunConfig:
        model = dataclasses.replace(config.model, width=step * STEP)
        return dataclasses.replace(config, model=model)

    def distance(step: int) -> int:
        return abs(spent_at(step) - budget)

    @functools.cache  # a network takes a quarter of a second
    def spent_at(step: int) -> int:
        return spent(at(step))

    least, most = int(0.016 / STEP) + 1, int(16 / STEP)
    low = round(config.model.width / STEP)
    for _ in range(2):
        guess = round(low * math.sqrt(budget / spent_at(low)))
        low = min(max(guess, least), most)
    high = low
    stride = 1
    while low > least and spent_at(low) >= budget:
        low = max(low - stride, least)
        stride *= 2
    while high < most and spent_at(high) < budget:
        high = min(high + stride, most)
        stride *= 2
    above = bisect.bisect_left(range(most), budget, low, high, key=spent_at)
    below = max(above - 1, least)
    return at(min(below, above, key=distance))
