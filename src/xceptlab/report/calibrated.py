"""Put a simulation of how often verdicts are wrong, for data like the reader's own, into text: a
table, a sentence for each claim, and warnings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xceptlab.report.tuned import Rows
from xceptlab.study.calibration import Calibration, ClaimRates, Rate, Rates
from xceptlab.study.definition import Seeds

FEW = 10
"""Number of paired differences below which they are called few: a simulation that draws from them
repeats them often.
"""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """Text on how often verdicts are wrong: what was simulated, a table of error rates, and what
    follows for each claim.
    """

    described: str
    """Sentences on what was simulated and what the table's columns mean."""
    table: Rows
    """Table of error rates, with its header as the first row."""
    sentences: list[str]
    """One sentence for each claim, in the claims' order."""
    warnings: list[str]
    """Warnings of rates of false verdicts that are above twice alpha by more than 2 standard errors
    of the simulation; empty where none is.
    """


def calibrated(calibration: Calibration) -> Calibrated:
    """Return the results of a simulation as words and a table."""
    return Calibrated(
        described=" ".join(_described(calibration)),
        table=_table(calibration),
        sentences=[_sentence(one, calibration.studies) for one in calibration.claims],
        warnings=_warnings(calibration),
    )


def _described(calibration: Calibration) -> list[str]:
    """Return sentences on what was simulated, and what the numbers in the table of error rates
    mean; a single one, which says so, where nothing was simulated.
    """
    if not any(one.rates for one in calibration.claims):
        return ["Nothing was simulated."]
    seeds, claims = calibration.seeds, len(calibration.claims)
    counts = f"{seeds.start} to {seeds.max}" if isinstance(seeds, Seeds) else f"{len(seeds)}"
    sentences = [
        f"{calibration.studies:,} simulated studies of {counts} seeds for every rate; ± is one standard error.",
        "Their differences are drawn from those that were seen, and judged as these are.",
        "False: the true difference is on the margin, of two margins on the worse one.",
        "Power: the true difference is the one that was seen, and failures come on top.",
    ]
    if claims > 1:
        sentences.append(
            f"Holm's correction is over all {claims} claims; the others are as they were seen."
        )
    if isinstance(seeds, Seeds) and seeds.futility is not None:
        sentences.append("Giving up (futility) is left out; it makes every verdict rarer.")
    fewest = _fewest_differences(calibration)
    if fewest < FEW:
        sentences.append(
            f"A resample of {fewest} differences knows only {fewest} values, so that these rates are rough."
        )
    return sentences


def _table(calibration: Calibration) -> Rows:
    """Return the table of error rates, with its header as the first row.

    A claim has a row for each distribution of differences, or a single one that says that it was
    not simulated. With 2 simulated claims or more, the last row says how often at least one of them
    is judged falsely.
    """
    rows = [["claim", "differences", "false supported", "false contradicted", "power"]]
    for one in calibration.claims:
        name = one.observed.claim.id
        if one.observed.why_not_simulated:
            rows.append([name, "not simulated", "–", "–", "–"])
        for rates in one.rates:
            rows.append([name, *_cells(rates)])
            name = ""
    if calibration.any_claim:
        rows.append(["any of them", *_cells(calibration.any_claim)])
    return rows


def _cells(rates: Rates) -> list[str]:
    """Return the cells of a row of the table of error rates, after the claim's name: the
    distribution of the differences, the rate of false ``supported``, that of false
    ``contradicted``, and the power with the name of the right verdict. A dash stands for a power
    that is None.
    """
    power = "–"
    if rates.power:
        power = f"{_percent(rates.power)} {rates.right_verdict}{_assumed_failures(rates.power)}"
    false = [
        f"{_percent(rate)}{_assumed_failures(rate)}"
        for rate in (rates.supported, rates.contradicted)
    ]
    return [rates.differences, *false, power]


def _percent(rate: Rate) -> str:
    """Return a rate in percent with its standard error, such as ``5.1 ± 0.3%``."""
    return f"{100 * rate.share:.1f} ± {100 * rate.error:.1f}%"


def _assumed_failures(rate: Rate) -> str:
    """Return the failures that were assumed for a rate, such as ``(residual fails in 20%)``, after
    a space: the arm, and the share of its seeds in which it fails. Empty where no arm is assumed to
    fail more often than was seen.
    """
    if rate.failing is None:
        return ""
    arm, share = rate.failing
    return f" ({arm} fails in {share:.0%})"


def _sentence(one: ClaimRates, studies: int) -> str:
    """Return a sentence on how often a claim is judged falsely, and how often rightly if that is
    known, where differences are drawn as they were seen. If no failed runs were simulated, a second
    sentence says why. For a claim that was not simulated at all, the only sentence says why.

    ``studies`` is the number of simulated studies.
    """
    observed = one.observed
    if observed.why_not_simulated:
        return f"{observed.claim.id} is not simulated: {observed.why_not_simulated}."
    # The first rates are those for differences as they were seen.
    rates = one.rates[0]
    if observed.claim.kind == "superior":
        nothing = "nothing is there to find"
    else:
        nothing = "the arms are apart by the margin"
    false = f"{rates.supported.share:.1%} said supported and {rates.contradicted.share:.1%} contradicted"
    sentence = f"{observed.claim.id}: of {studies:,} simulated studies like this one in which {nothing}, {false}"
    if rates.power:
        sentence += f"; of those with the difference that was seen, {rates.power.share:.1%} said {rates.right_verdict}"
    if observed.why_no_failures:
        sentence += f". No failures are simulated: {observed.why_no_failures}"
    return f"{sentence}."


def _warnings(calibration: Calibration) -> list[str]:
    """Return warnings of rates of false verdicts that are above twice alpha by more than 2 standard
    errors of the simulation.

    First come those of studies whose runs fail no more often than was seen. Then at most one names
    all claims with such a rate in studies whose runs fail more often.
    """
    warnings = _warnings_as_seen(calibration)
    assumed, claims = [], []
    for one in calibration.claims:
        of_claim = [rates for rates in one.rates if rates.assumed]
        if _too_often_wrong(of_claim, calibration.alpha):
            assumed += of_claim
            claims.append(one.observed.claim.id)
    if wrong := _too_often_wrong(assumed, calibration.alpha):
        named = f"Claim{'s' if len(claims) > 1 else ''} {', '.join(claims)}"
        rare = "if runs failed more often than was seen, which so many seeds cannot rule out"
        warnings.append(f"{named}: {rare}, up to {wrong}; `statistic: median` is sound there.")
    return warnings


def _warnings_as_seen(calibration: Calibration) -> list[str]:
    """Return warnings that false verdicts are more frequent than twice alpha, by more than 2
    standard errors, in simulated studies whose runs fail no more often than was seen.

    There is one warning for each claim with such a rate. Only where no claim has one, the rate at
    which at least one of all claims is judged falsely is looked at, and may give a single warning.
    """
    warnings = []
    for one in calibration.claims:
        as_seen = [rates for rates in one.rates if not rates.assumed]
        if wrong := _too_often_wrong(as_seen, calibration.alpha):
            by_chance = _by_chance(len(one.observed.differences))
            warnings.append(
                f"Claim {one.observed.claim.id}: with differences such as these {wrong}{by_chance}."
            )
    if warnings or calibration.any_claim is None:
        return warnings
    if wrong := _too_often_wrong([calibration.any_claim], calibration.alpha):
        by_chance = _by_chance(_fewest_differences(calibration))
        warnings.append(
            f"All claims together: with differences such as these {wrong}, of one claim at least{by_chance}."
        )
    return warnings


def _by_chance(n: int) -> str:
    """Return a remark in brackets, after a space, that so few differences as ``n`` may look worse
    than their distribution is; empty where ``n`` is not below ``FEW``.
    """
    return f" ({n} differences may look so by chance)" if n < FEW else ""


def _fewest_differences(calibration: Calibration) -> int:
    """Return the smallest number of differences, over the simulated claims, from which studies were
    drawn; ``FEW`` where no claim was simulated.
    """
    numbers = [len(one.observed.differences) for one in calibration.claims if one.rates]
    return min(numbers, default=FEW)


def _too_often_wrong(candidates: Sequence[Rates], alpha: float) -> str:
    """Return a clause on the largest rate of false ``supported`` or ``contradicted`` among the
    candidates; empty where there is none to warn of.

    Only rates count that are above twice alpha by more than 2 standard errors of the simulation.
    """
    worst, text = 0.0, ""
    for rates in candidates:
        for verdict, rate in (("supported", rates.supported), ("contradicted", rates.contradicted)):
            if rate.share > worst and rate.share - 2 * rate.error > 2 * alpha:
                worst = rate.share
                text = f"{rate.share:.0%} of studies would falsely say {verdict}{_assumed_failures(rate)}, more than twice alpha"
    return text
