"""A verdict in words: its summary, the evidence beside it, and how many seeds would decide what is open."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from xceptlab.study import signs
from xceptlab.study.definition import Claim, Seeds, Study
from xceptlab.study.estimands import LEAST_PAIRS, Estimand, estimand

if TYPE_CHECKING:  # verdict.py keeps the summary in its verdicts
    from xceptlab.study.judging import Outcome, Verdict


def waiting(verdict: "Verdict", seeds: Sequence[int], asked: Estimand) -> str:
    """Which of the seeds a claim waits for that cannot be judged yet."""
    missing = [seed for seed in seeds if seed not in verdict.differences]
    if isinstance(asked.seeds, Seeds) and missing[0] >= asked.seeds.start:
        return f"Not decided yet: {named(missing, 'comes', 'come')} next, {verdict.most} seeds in all at most."
    arms = "both" if asked.claim.contrast else "all"
    return f"Not judged yet: {named(missing, 'is', 'are')} not trained in {arms} arms."


def named(seeds: Sequence[int], singular: str, plural: str) -> str:
    """Seeds as the subject of a sentence, with its verb: ``seed 3 is`` or ``seeds 3, 4 are``."""
    listed = ", ".join(map(str, seeds))
    if len(seeds) == 1:
        return f"seed {listed} {singular}"
    return f"seeds {listed} {plural}"


def summary(verdict: "Verdict", asked: Estimand, *, alone: "Outcome", p_alone: float, levels: Sequence[float]) -> str:
    """The verdict in one sentence.

    Args:
        verdict: The verdict.
        asked: What the claim asks of the differences.
        alone: What the outcome would be if the claim were the only one of the study.
        p_alone: The p-value of that, before Holm's adjustment.
        levels: Those at which the claim and its opposite are tested, of the p-value of a single analysis.
    """
    if verdict.n < LEAST_PAIRS:
        return _too_few_pairs(verdict, asked, levels)
    if why := asked.untestable(verdict.values):
        return f"Inconclusive: {why}."
    estimated = _estimated(verdict, asked.scope)
    if verdict.decided:
        return f"{verdict.outcome.capitalize()}: {estimated}, {_against_the_margin(verdict)}."
    if alone != "inconclusive":
        estimated += f"; by itself it would be {alone} (p = {p_alone:.2g}), but not beside the other claims (Holm)"
    ended = ""
    if verdict.given_up is not None:
        chance = f"a chance of {verdict.given_up:.1%} to be decided by {verdict.most} seeds"
        ended = f"; given up, with {chance} (futility)"
    elif verdict.n == verdict.most:
        ended = "; the seeds that were planned are used up"
    return f"Inconclusive: {estimated}{ended}; {asked.more_seeds(verdict.values, levels)}."


def _too_few_pairs(verdict: "Verdict", asked: Estimand, levels: Sequence[float]) -> str:
    pairs = "1 pair" if verdict.n == 1 else f"{verdict.n} pairs"
    missing = LEAST_PAIRS - verdict.n
    needed = "1 more seed is" if missing == 1 else f"{missing} more seeds are"
    outlook = ""
    if verdict.n > 1 and not asked.untestable(verdict.values):
        outlook = f"; {asked.more_seeds(verdict.values, levels)}"
    return f"Inconclusive: {pairs} of runs cannot be judged; at least {needed} needed{outlook}."


def _estimated(verdict: "Verdict", scope: str) -> str:
    """The estimate with its interval, number of seeds and p-value, and the ``scope`` for which it holds."""
    claim, places = verdict.claim, verdict.claim.decimals
    size = f"{abs(verdict.estimate):.{places}f}{claim.unit}"
    text = _compared(claim, size, verdict.estimate >= 0)
    if claim.statistic == "median":
        text += " in the median"
    text += f" {scope}"
    interval = f"{100 * verdict.level:g}% interval"
    seeds = f"{verdict.n} seeds"
    if verdict.most is not None:
        interval = f"repeated {interval}"
        seeds = f"{verdict.n} of at most {verdict.most} seeds"
    if math.isinf(verdict.low):
        interval = f"no finite {interval}"
    else:
        interval = f"{interval} {verdict.low:+.{places}f} to {verdict.high:+.{places}f}"
    return f"{text} ({interval}, {seeds}, adjusted p = {verdict.p_adjusted:.2g})"


def _compared(claim: Claim, size: str, positive: bool) -> str:
    """The estimate in words, such as ``a is 1.20 points better than b in test/top1``."""
    a, b = claim.sides
    if len(claim.effect) > 1:
        direction = "larger" if positive else "smaller"
        return f"{claim.gain} is {size} {direction} with {a} than with {b} in {claim.metric}"
    averaged = ", averaged over the other factors" if claim.effect else ""
    if float(size.removesuffix(claim.unit)) == 0:
        return f"{a} and {b} are {size} apart in {claim.metric}{averaged}"
    direction = "better" if positive else "worse"
    return f"{a} is {size} {direction} than {b} in {claim.metric}{averaged}"


def _against_the_margin(verdict: "Verdict") -> str:
    """What a decided verdict says of the difference and the claim's margin."""
    claim = verdict.claim
    unit = claim.unit.removesuffix("s") if claim.margin == 1 else claim.unit
    margin = f"{claim.margin:g}{unit}"
    if claim.kind == "superior":
        said = {"supported": f"more than the margin of {margin}", "contradicted": f"not better by the margin of {margin}"}
    else:
        said = {"supported": f"equal within {margin}", "contradicted": f"apart by more than {margin}"}
    return said[verdict.outcome]


def power(verdict: "Verdict", asked: Estimand, level: float) -> str:
    """What the pairing gained, and what so many pairs would have found with 80% power at the level of a single analysis."""
    found = asked.power(verdict.values, level)
    left, low, high = verdict.variance_left
    if math.isnan(left) or f"{low:.2f}" == f"{high:.2f}":  # which only scores that differ by next to nothing have
        return found
    gained = f"{left:.2f} of the variance of unpaired arms (95% interval {low:.2f} to {high:.2f})"
    if verdict.claim.pairing == "none":
        return f"Unpaired, as declared; pairing by seed would have left {gained}. {found}"
    return f"Pairing by seed leaves {gained}. {found}"


def since(decided: "Verdict", latest: "Verdict") -> str:
    """What the seeds say that came after a claim was decided, because other claims asked for them; empty where none did."""
    if not decided.decided or latest.n <= decided.n:
        return ""
    places = decided.claim.decimals
    interval = f"repeated {100 * latest.level:g}% interval {latest.low:+.{places}f} to {latest.high:+.{places}f}"
    return f"With all {latest.n} seeds that there are by now it is {latest.estimate:+.{places}f} ({interval})."


def sign_count(verdict: "Verdict") -> str:
    """In how many seeds the difference speaks for the claim, and how likely chance alone would be to make it so many.

    The p-value is unadjusted, and no verdict; it is left out where so few seeds cannot make it small, and in a study that adds
    seeds, whose other analyses it would ignore. Empty where nothing was tested, and where signs are what the verdict rests on.
    """
    if not verdict.tested or verdict.claim.statistic == "median":
        return ""
    differences, kind, margin = verdict.values, verdict.claim.kind, verdict.claim.margin
    if kind == "superior":
        where, holds = "beyond", differences > margin
    else:
        where, holds = "within", np.abs(differences) < margin
    count = f"The difference is {where} the margin in {int(holds.sum())} of {verdict.n} seeds"
    alpha = (1 - verdict.level) / 2
    if verdict.most is not None or verdict.n < signs.fewest(alpha):
        return f"{count}."
    p = signs.p_values(differences, kind, margin)[0]
    return f"{count} (sign test p = {p:.2g}, by itself)."


def forecast(verdict: "Verdict", study: Study) -> str:
    """How many seeds will decide the claim, from the pairs there are, a pilot's perhaps; empty with fewer than 2."""
    asked = estimand(verdict.claim, study.seeds, verdict.arms, verdict.image_variance)
    if verdict.settled or verdict.n < 2 or asked.untestable(verdict.values):
        return ""
    level = study.alpha / len(study.claims)
    if verdict.outcome == "inconclusive":  # it is judged, on all the seeds that were planned
        nominal = asked.nominal(level)
        more = asked.more_seeds(verdict.values, (nominal, nominal))
        outlook = f"all {verdict.n} planned seeds are used: {more}"
    else:
        outlook = asked.outlook(verdict.values, level)
    return f"{asked.describe(verdict.values)}; {outlook}."
