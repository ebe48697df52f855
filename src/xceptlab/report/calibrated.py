"""How often verdicts are wrong for data like the reader's, as text: a table, a sentence a claim,
and warnings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xceptlab.report.tuned import Rows
from xceptlab.study.calibration import Calibration, ClaimRates, Rate, Rates
from xceptlab.study.definition import Seeds

FEW = 10
"""Number of differences below which they are called few, since a resample repeats them often."""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A calibration as text: what was simulated, a table of error rates, and what follows for each
    claim.
    """

    described: str
    """Sentences on what was simulated and what the table's columns mean."""
    table: Rows
    """Table of error rates, with its header as the first row."""
    sentences: list[str]
    """One sentence for each claim, in the claims' order."""
    warnings: list[str]
    """Warnings of verdicts that would be wrong more than twice as often as alpha."""


def calibrated(calibration: Calibration) -> Calibrated:
    """Put a calibration into words and a table."""
    return Calibrated(
        described=" ".join(_described(calibration)),
        table=_table(calibration),
        sentences=[_sentence(one, calibration.studies) for one in calibration.claims],
        warnings=_warnings(calibration),
    )


def _described(calibration: Calibration) -> list[str]:
    """Sentences on what was simulated, and what the numbers mean."""
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
    fewest = _fewest(calibration)
    if fewest < FEW:
        sentences.append(
            f"A resample of {fewest} differences knows only {fewest} values, so that these rates are rough."
        )
    return sentences


def _table(calibration: Calibration) -> Rows:
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
    power = "–"
    if rates.power:
        power = f"{_percent(rates.power)} {rates.right_verdict}{_where(rates.power)}"
    false = [f"{_percent(rate)}{_where(rate)}" for rate in (rates.supported, rates.contradicted)]
    return [rates.differences, *false, power]


def _percent(rate: Rate) -> str:
    return f"{100 * rate.share:.1f} ± {100 * rate.error:.1f}%"


def _where(rate: Rate) -> str:
    """The case that a rate belongs to, in brackets; empty where there is only one case."""
    if rate.failing is None:
        return ""
    arm, share = rate.failing
    return f" ({arm} fails in {share:.0%})"


def _sentence(one: ClaimRates, studies: int) -> str:
    """A sentence on a claim's error rates for differences as they were seen, and on what the table
    cannot say.
    """
    observed = one.observed
    if observed.why_not_simulated:
        return f"{observed.claim.id} is not simulated: {observed.why_not_simulated}."
    rates = one.rates[0]
    nothing = (
        "nothing is there to find"
        if observed.claim.kind == "superior"
        else "the arms are apart by the margin"
    )
    false = f"{rates.supported.share:.1%} said supported and {rates.contradicted.share:.1%} contradicted"
    sentence = f"{observed.claim.id}: of {studies:,} simulated studies like this one in which {nothing}, {false}"
    if rates.power:
        sentence += f"; of those with the difference that was seen, {rates.power.share:.1%} said {rates.right_verdict}"
    if observed.why_no_failures:
        sentence += f". No failures are simulated: {observed.why_no_failures}"
    return f"{sentence}."


def _warnings(calibration: Calibration) -> list[str]:
    """Warnings of error rates above twice alpha, by more than the simulation's error."""
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
    """Warnings for differences as they were seen: of the claims, or else of all of them together."""
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
        by_chance = _by_chance(_fewest(calibration))
        warnings.append(
            f"All claims together: with differences such as these {wrong}, of one claim at least{by_chance}."
        )
    return warnings


def _by_chance(n: int) -> str:
    """Remark that so few differences may look worse than their distribution is; empty where they
    are not few (``FEW``).
    """
    return f" ({n} differences may look so by chance)" if n < FEW else ""


def _fewest(calibration: Calibration) -> int:
    """The smallest number of differences from which studies are drawn; ``FEW`` where none are."""
    return min(
        (len(one.observed.differences) for one in calibration.claims if one.rates), default=FEW
    )


def _too_often_wrong(candidates: Sequence[Rates], alpha: float) -> str:
    """The largest rate of false verdicts, in words, where it is more than twice alpha; else empty."""
    worst, text = 0.0, ""
    for rates in candidates:
        for verdict, rate in (("supported", rates.supported), ("contradicted", rates.contradicted)):
            if rate.share > worst and rate.share - 2 * rate.error > 2 * alpha:
                worst = rate.share
                text = f"{rate.share:.0%} of studies would falsely say {verdict}{_where(rate)}, more than twice alpha"
    return text
