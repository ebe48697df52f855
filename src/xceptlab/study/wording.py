"""Put a verdict into words: its summary, the evidence beside it, and how many seeds would decide an
open claim.
"""

import math
from collections.abc import Sequence

import numpy as np

from xceptlab.study import signs
from xceptlab.study.claims import Claim
from xceptlab.study.definition import Seeds, Study
from xceptlab.study.estimands import MIN_PAIRS, Estimand, estimand_of
from xceptlab.study.verdict import Outcome, Verdict


def waiting(verdict: Verdict, seeds: Sequence[int], estimand: Estimand) -> str:
    """Return a sentence on the seeds that are missing before a claim can be judged.

    Args:
        verdict: The verdict so far, with fewer pairs than ``seeds``.
        seeds: The seeds of the analysis that is to be made.
        estimand: The claim's estimand.
    """
    missing = [seed for seed in seeds if seed not in verdict.differences]
    planned = estimand.seeds
    if isinstance(planned, Seeds) and missing[0] >= planned.start:
        seeds_come = named(missing, "comes", "come")
        return f"Not decided yet: {seeds_come} next, {verdict.max_seeds} seeds in all at most."
    seeds_are = named(missing, "is", "are")
    arms = "both" if estimand.claim.contrast else "all"
    return f"Not judged yet: {seeds_are} not trained in {arms} arms."


def named(seeds: Sequence[int], singular: str, plural: str) -> str:
    """Return seeds as the subject of a sentence with its verb, such as ``seeds 3, 4 are``; the verb
    is given in the ``singular`` and the ``plural``.
    """
    listed = ", ".join(map(str, seeds))
    if len(seeds) == 1:
        return f"seed {listed} {singular}"
    return f"seeds {listed} {plural}"


def summary(
    verdict: Verdict,
    estimand: Estimand,
    *,
    unadjusted_outcome: Outcome,
    unadjusted_p: float,
    nominal_levels: Sequence[float],
) -> str:
    """Return the verdict in one sentence.

    Args:
        verdict: The verdict, of which the outcome and the numbers are used, and none of the words.
        estimand: The claim's estimand.
        unadjusted_outcome: What the outcome would be without Holm's adjustment, if the claim were
            the only one of the study.
        unadjusted_p: The p-value of ``unadjusted_outcome``.
        nominal_levels: The levels at which a single analysis tests the claim and its opposite.
    """
    if verdict.n < MIN_PAIRS:
        return _too_few_pairs(verdict, estimand, nominal_levels)
    if why := estimand.untestable(verdict.values):
        return f"Inconclusive: {why}."
    estimated = _estimated(verdict, estimand.scope)
    if verdict.decided:
        return f"{verdict.outcome.capitalize()}: {estimated}, {_against_the_margin(verdict)}."
    if unadjusted_outcome != "inconclusive":
        by_itself = f"by itself it would be {unadjusted_outcome} (p = {unadjusted_p:.2g})"
        estimated += f"; {by_itself}, but not beside the other claims (Holm)"
    ended = ""
    if verdict.chance_when_given_up is not None:
        chance = f"a chance of {verdict.chance_when_given_up:.1%} to be decided by {verdict.max_seeds} seeds"
        ended = f"; given up, with {chance} (futility)"
    elif verdict.n == verdict.max_seeds:
        ended = "; the seeds that were planned are used up"
    more_seeds = estimand.more_seeds_clause(verdict.values, nominal_levels)
    return f"Inconclusive: {estimated}{ended}; {more_seeds}."


def _too_few_pairs(verdict: Verdict, estimand: Estimand, nominal_levels: Sequence[float]) -> str:
    """Return the verdict in one sentence where there are fewer than ``MIN_PAIRS`` pairs."""
    pairs = "1 pair" if verdict.n == 1 else f"{verdict.n} pairs"
    missing = MIN_PAIRS - verdict.n
    needed = "1 more seed is" if missing == 1 else f"{missing} more seeds are"
    more = ""
    if verdict.n > 1 and not estimand.untestable(verdict.values):
        more_seeds = estimand.more_seeds_clause(verdict.values, nominal_levels)
        more = f"; {more_seeds}"
    return f"Inconclusive: {pairs} of runs cannot be judged; at least {needed} needed{more}."


def _estimated(verdict: Verdict, scope: str) -> str:
    """Return the estimate in words, with the ``scope`` for which it holds (``Estimand.scope``), its
    interval, its number of seeds and its p-value.
    """
    claim = verdict.claim
    text = _compared(claim, verdict.estimate)
    if claim.statistic == "median":
        text += " in the median"
    text += f" {scope}"
    percent = 100 * verdict.level
    interval = f"{percent:g}% interval"
    seeds = f"{verdict.n} seeds"
    if verdict.max_seeds is not None:
        interval = f"repeated {interval}"
        seeds = f"{verdict.n} of at most {verdict.max_seeds} seeds"
    if math.isinf(verdict.low):
        interval = f"no finite {interval}"
    else:
        places = claim.decimals
        interval = f"{interval} {verdict.low:+.{places}f} to {verdict.high:+.{places}f}"
    return f"{text} ({interval}, {seeds}, adjusted p = {verdict.p_adjusted:.2g})"


def _compared(claim: Claim, estimate: float) -> str:
    """Return an estimate in words, such as ``a is 1.20 points better than b in test/top1``."""
    a, b = claim.sides
    places = claim.decimals
    size = f"{abs(estimate):.{places}f}{claim.unit_suffix}"
    is_interaction = len(claim.effect) > 1
    if is_interaction:
        direction = "larger" if estimate >= 0 else "smaller"
        return f"{claim.gain} is {size} {direction} with {a} than with {b} in {claim.metric}"
    in_metric = f"in {claim.metric}"
    if claim.effect:
        in_metric += ", averaged over the other factors"
    if round(estimate, places) == 0:
        return f"{a} and {b} are {size} apart {in_metric}"
    direction = "better" if estimate >= 0 else "worse"
    return f"{a} is {size} {direction} than {b} {in_metric}"


def _against_the_margin(verdict: Verdict) -> str:
    """Return words that say on which side of the claim's margin a decided verdict lies."""
    claim = verdict.claim
    unit = claim.unit_suffix.removesuffix("s") if claim.margin == 1 else claim.unit_suffix
    margin = f"{claim.margin:g}{unit}"
    if claim.kind == "superior":
        said = {
            "supported": f"more than the margin of {margin}",
            "contradicted": f"not better by the margin of {margin}",
        }
    else:
        said = {
            "supported": f"equal within {margin}",
            "contradicted": f"apart by more than {margin}",
        }
    return said[verdict.outcome]


def pairing_and_power(verdict: Verdict, estimand: Estimand, nominal_level: float) -> str:
    """Return sentences on what the pairing gained, if that can be told, and on the effect that so
    many pairs would have found with 80% power; empty where nothing was tested.

    ``nominal_level`` is the level at which a single analysis tests the claim.
    """
    if not verdict.tested:
        return ""
    found = estimand.power_sentence(verdict.values, nominal_level)
    left, low, high = verdict.variance_left
    # Where scores differ by next to nothing, the interval has no width and says nothing.
    hardly_differ = f"{low:.2f}" == f"{high:.2f}"
    if math.isnan(left) or hardly_differ:
        return found
    # The arms within a side of an effect have the same seeds either way.
    unpaired = "two sides with seeds of their own" if verdict.claim.effect else "unpaired arms"
    gained = f"{left:.2f} of the variance of {unpaired} (95% interval {low:.2f} to {high:.2f})"
    if verdict.claim.pairing == "none":
        return f"Unpaired, as declared; pairing by seed would have left {gained}. {found}"
    return f"Pairing by seed leaves {gained}. {found}"


def stopping(verdict: Verdict, estimand: Estimand, level: float) -> str:
    """Return a sentence for reports on how the estimate is biased because a claim was decided, and
    seeds were no longer added for it, before ``Seeds.max``.

    It is empty where the claim was not decided before, and, for a claim on a mean, where the
    simulated bias rounds to 0.

    Args:
        verdict: The verdict on the claim.
        estimand: The claim's estimand, which simulates the bias.
        level: Significance level of the claim's test over all analyses together.
    """
    if verdict.max_seeds is None or not verdict.decided:
        return ""
    stopped_early = verdict.n < verdict.max_seeds
    if not stopped_early:
        return ""
    return estimand.stopping_sentence(verdict.values, level)


def since(decided: Verdict, latest: Verdict) -> str:
    """Return a sentence on the estimate with the seeds that came after a claim was decided, because
    other claims asked for them; empty where none did.

    Args:
        decided: The verdict on the claim, supported or contradicted.
        latest: The untested verdict on all seeds that there are.
    """
    if latest.n <= decided.n:
        return ""
    places = decided.claim.decimals
    percent = 100 * latest.level
    ends = f"{latest.low:+.{places}f} to {latest.high:+.{places}f}"
    estimate = f"{latest.estimate:+.{places}f} (repeated {percent:g}% interval {ends})"
    return f"With all {latest.n} seeds that there are by now it is {estimate}."


def evidence(verdict: Verdict) -> str:
    """Return the sentences that reports show beside a verdict: in how many seeds it holds, what the
    pairing gained, which effect could have been found, and what stopping early means.
    """
    sentences = (sign_count(verdict), verdict.pairing_and_power, verdict.stopping)
    return " ".join(filter(None, sentences))


def sign_count(verdict: Verdict) -> str:
    """Return a sentence on the number of seeds whose difference speaks for the claim, with the
    p-value of the sign test.

    The p-value is unadjusted, and no verdict. It is left out where so few seeds cannot make it
    small, and in a study that adds seeds, whose other analyses it would ignore. The sentence is
    empty where nothing was tested, and for a claim on the median, whose verdict is the sign test's.
    """
    if not verdict.tested or verdict.claim.statistic == "median":
        return ""
    differences = verdict.values
    kind = verdict.claim.kind
    margin = verdict.claim.margin
    if kind == "superior":
        where = "beyond"
        holds = differences > margin
    else:
        where = "within"
        holds = np.abs(differences) < margin
    seeds = int(holds.sum())
    count = f"The difference is {where} the margin in {seeds} of {verdict.n} seeds"
    alpha = (1 - verdict.level) / 2
    too_few = verdict.n < signs.fewest(alpha)
    if too_few or verdict.max_seeds is not None:
        return f"{count}."
    p, _ = signs.p_values(differences, kind, margin)
    return f"{count} (sign test p = {p:.2g}, by itself)."


def forecast(verdict: Verdict, study: Study) -> str:
    """Return a sentence on how many seeds would decide an open claim, or on the chance that the
    seeds until ``Seeds.max`` decide it, from the pairs so far.

    Empty for a claim that is settled, has fewer than 2 pairs, or cannot be tested on them.
    """
    estimand = estimand_of(verdict.claim, study.seeds, verdict.arms, verdict.image_variance)
    if verdict.settled or verdict.n < 2 or estimand.untestable(verdict.values):
        return ""
    values = verdict.values
    level = study.alpha / len(study.claims)
    # An inconclusive claim has been judged on all the seeds that were planned.
    if verdict.outcome == "inconclusive":
        nominal = estimand.nominal(level)
        more = estimand.more_seeds_clause(values, (nominal, nominal))
        decided_by = f"all {verdict.n} planned seeds are used: {more}"
    else:
        decided_by = estimand.forecast_clause(values, level)
    description = estimand.description(values)
    return f"{description}; {decided_by}."
