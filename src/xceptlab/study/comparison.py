"""Make and check a controlled comparison on the arms' networks, before the first run.

A comparison is controlled where budgets are equal and only the declared keys differ. ``matched``
chooses the width of each arm so that its network has about as many parameters, or
multiply-accumulates, as the first arm's (``model.match``). ``module_trees`` builds every arm's
network, so that what cannot be built is refused before a run starts, and compares the modules with
the configurations.
"""

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.models import warm_start
from xceptlab.models.cost import Row, changes, cost, table
from xceptlab.study.expansion import UNMATCHED, Expansion

STEP = 1 / 1024
"""The widths that ``matched`` tries first are multiples of this."""

FINER = 16
"""Number of parts of a step that ``matched`` tries where no multiple of ``STEP`` comes near enough
to the budget.
"""

LEAST, MOST = int(0.016 / STEP) + 1, int(16 / STEP)
"""The smallest and the largest width that ``matched`` tries, as multiples of ``STEP``."""


def matched(expansion: Expansion) -> Expansion:
    """Return the study with each arm but the first at the width that brings its network nearest to
    the budget of the first arm's: the number of parameters, or of multiply-accumulates with
    ``model.match: macs``.

    Networks of other families than Xception have no width, and stay as they are. That the study
    asks for matching, by a ``model.match`` other than ``none``, is not checked.

    Raises:
        Refused: A network cannot be built, or cannot classify its images.
    """
    first = expansion.baseline
    budget = budget_of(first)
    arms = {}
    for name, config in expansion.arms.items():
        has_width = config.model.is_xception
        if has_width and config is not first:
            config = _with_matched_width(config, budget)
        arms[name] = config
    return dataclasses.replace(expansion, arms=arms)


def module_trees(expansion: Expansion) -> dict[str, list[Row]]:
    """Build every arm's network and return the rows of its module tree, by arm.

    Raises:
        Refused: An arm's network cannot be built, cannot classify its images, or cannot start from
            its weights; or its modules differ from the baseline's although no key of ``model``
            does, such as the classifier where data sets have different numbers of classes.
    """
    found: dict[str, list[Row]] = {}
    for arm, config in expansion.arms.items():
        try:
            found[arm] = table(config.model, config.data.classes, config.data.size)
            warm_start.check(config.model, config.data.classes)
        except Refused as error:
            raise Refused(f"arm {arm!r}: {error}") from None
        baseline = next(iter(found))
        changed = changes(found[baseline], found[arm])
        keys = expansion.differences(arm)
        differs_in_model = any(key.startswith("model.") for key in keys)
        if changed and not differs_in_model:
            in_modules = "in its modules, though in no key of model"
            raise Refused(f"arm {arm!r} differs from {baseline!r} {in_modules}: {changed[0]}")
    return found


def identical_arms(expansion: Expansion, found: dict[str, list[Row]]) -> list[str]:
    """Return a warning for each arm whose declared difference may do nothing; empty if there is
    none.

    Either the keys in which the arm differs from the baseline have no effect in both, or another
    arm has the same module tree and is trained in the same way: the order inside regular
    convolutions, for example, shows in no tree. These are warnings and not errors, since what a
    timm model does between its modules is not in its tree either.

    Args:
        expansion: The study.
        found: The module trees of its arms, as ``module_trees`` returns them.
    """
    seen: dict[str, str] = {}
    lines = _idle_arms(expansion)
    for arm, config in expansion.arms.items():
        modules = [(row.name, row.description) for row in found[arm]]
        beside = _beside_the_modules(config)
        what_is_trained = repr((beside, modules))
        first = seen.setdefault(what_is_trained, arm)
        if first != arm:
            may_do_nothing = "so that what differs between them may do nothing"
            lines.append(f"the arms {first!r} and {arm!r} have the same modules, {may_do_nothing}")
    return lines


def _idle_arms(expansion: Expansion) -> list[str]:
    """Return a warning for each arm that differs from the baseline, the first arm, only in
    configuration keys that have no effect in either of the two; empty where there is none.
    """
    baseline, *others = expansion.arms
    idle_in_baseline = expansion.baseline.keys_without_effect()
    lines = []
    for arm in others:
        idle_in_arm = expansion.arms[arm].keys_without_effect()
        idle_in_both = idle_in_baseline.keys() & idle_in_arm.keys()
        keys = expansion.differences(arm).keys()
        if keys and keys <= idle_in_both:
            listed = ", ".join(keys)
            lines.append(
                f"the arms {baseline!r} and {arm!r} differ in {listed} alone, "
                "which changes nothing in them"
            )
    return lines


def _beside_the_modules(config: RunConfig) -> dict[str, Any]:
    """Return the values, by dotted key, that can change a run's result and that no module tree
    shows: all those outside ``model``, and those of ``model`` that decide the initial weights.
    """
    initial_weights = ["model.weights_digest"]
    if warm_start.draws_a_layer(config.model, config.data.classes):
        initial_weights.append("model.init")
    found = {}
    for key, value in config.science().items():
        in_tree = key.startswith("model.") and key not in initial_weights
        if not in_tree:
            found[key] = value
    return found


def budget_of(config: RunConfig) -> int:
    """Return the number of trainable parameters of a configuration's network or, for
    ``model.match: macs``, of its multiply-accumulates for one image.
    """
    parameters, macs = cost(config.model, config.data.classes, config.data.size)
    if config.model.match == "macs":
        return macs
    return parameters


def _with_matched_width(config: RunConfig, budget: int) -> RunConfig:
    """Return the configuration at the width whose cost (``budget_of``) is nearest to the budget,
    among the multiples of ``STEP`` from ``LEAST`` to ``MOST`` or, if the nearest cost is off by
    more than ``UNMATCHED`` of the budget, among the ``FINER`` parts of the step in which the budget
    lies.
    """

    # To build a network takes a quarter of a second, and the search asks for some widths again.
    @functools.cache
    def cost_at(step: float) -> int:
        return budget_of(_at_width(config, step))

    start = round(config.model.width / STEP)
    guess = _first_guess(cost_at, start, budget)
    low, high = _bracket(cost_at, guess, budget)
    above = bisect.bisect_left(range(high), budget, lo=low, key=cost_at)
    below = max(above - 1, LEAST)
    nearest = _nearest(cost_at, below, above, budget)
    off = abs(cost_at(nearest) - budget)
    if off > UNMATCHED * budget:
        parts = [below + part / FINER for part in range(FINER + 1)]
        first_above = bisect.bisect_left(parts, budget, lo=1, hi=FINER, key=cost_at)
        last_below = first_above - 1
        nearest = _nearest(cost_at, parts[last_below], parts[first_above], budget)
    return _at_width(config, nearest)


def _nearest(cost_at: Callable[[float], int], a: float, b: float, budget: int) -> float:
    """Return the one of two widths, in steps of ``STEP``, whose cost is nearer to the budget, and
    ``a`` if both are equally near; ``cost_at`` gives the cost at a width.
    """
    distance_a = abs(cost_at(a) - budget)
    distance_b = abs(cost_at(b) - budget)
    return a if distance_a <= distance_b else b


def _at_width(config: RunConfig, step: float) -> RunConfig:
    """Return the configuration at the width of ``step`` times ``STEP``."""
    width = step * STEP
    model = dataclasses.replace(config.model, width=width)
    return dataclasses.replace(config, model=model)


def _first_guess(cost_at: Callable[[float], int], step: int, budget: int) -> int:
    """Return a guess, from ``LEAST`` to ``MOST``, at the width that costs the budget, found from
    any width ``step``: the cost of a network grows about as the square of its width.

    Widths are in steps of ``STEP``; ``cost_at`` gives the cost at a width.
    """
    for _ in range(2):
        missing_factor = budget / cost_at(step)
        guess = round(step * math.sqrt(missing_factor))
        step = min(max(guess, LEAST), MOST)
    return step


def _bracket(cost_at: Callable[[float], int], guess: int, budget: int) -> tuple[int, int]:
    """Return two widths, one that costs less than the budget and one that costs as much or more,
    found from a guess by strides that double.

    Widths are in steps of ``STEP``; ``cost_at`` gives the cost at a width. If the budget lies
    beyond the cost at ``LEAST`` or ``MOST``, that width is returned in place of the missing one.
    """
    low = guess
    stride = 1
    while low > LEAST and cost_at(low) >= budget:
        low = max(low - stride, LEAST)
        stride *= 2
    high = guess
    stride = 1
    while high < MOST and cost_at(high) < budget:
        high = min(high + stride, MOST)
        stride *= 2
    return low, high
