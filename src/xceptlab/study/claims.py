"""A claim, made before the first run: which arms it compares, in which metric, what it says of
their difference, and with which margin.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from xceptlab.config.fields import Section
from xceptlab.config.layers import by_dotted_key
from xceptlab.errors import Refused
from xceptlab.runs import metrics
from xceptlab.runs.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class Claim(Section):
    """A statement about the difference between arms, which the scores of their runs will support or
    contradict.
    """

    id: str
    """Name of the claim; no other claim of the study may have it."""
    contrast: tuple[str, str] | None = None
    """The arms a and b, by name; the claim is about a - b (b - a for the loss, which is better when
    lower).
    """
    effect: dict[str, list[Any]] = field(default_factory=dict)
    """In place of a contrast, in a study with a grid: the levels a and b of a factor, compared on
    average over the other factors. With two or three factors their interaction: how much the effect
    of the first ones differs between the last one's levels."""
    metric: Literal[metrics.NAMES] | str  # type: ignore[valid-type]
    """What is compared, at the last epoch: accuracies in percent, the loss in nats, or a metric of
    ``train.metrics``. ``val`` needs images to validate on; top5 needs more than 5 classes."""
    kind: Literal["superior", "equivalent"]
    """superior: a - b > margin; equivalent: -margin < a - b < margin."""
    margin: float
    """Smallest difference that matters, 0 or more, in percentage points or nats; above 0 for
    equivalent.
    """
    statistic: Literal["mean", "median"] = "mean"
    """Statistic of the differences over seeds. mean: tested by t-tests; median: tested by counting
    in how many seeds a - b lies beyond the margin. The median stays valid where runs collapse or
    diverge, and needs 5 seeds for one claim, more for several."""
    pairing: Literal["seed", "none"] = "seed"
    """seed: runs of the same seed form a pair, as they see the same images in the same order; none:
    the arms are compared as if they had nothing in common, by Welch's t-tests. none is allowed for
    the mean of two arms with a list of seeds."""
    statement: str = ""
    """The claim in words."""
    diverged: float | None = None
    """Score of a run that diverged, in the metric's unit; null scores it as guessing."""
    failed: float | None = None
    """Score below which (above which, for the loss) a run counts as failed, as a diverged one does;
    null counts only diverged ones. The report counts failures, says how often they may be expected,
    and warns where they decide a verdict; the scores stay as they are."""

    def __post_init__(self) -> None:
        # Arms may be named by numbers, which YAML does not read as text.
        if isinstance(self.contrast, list | tuple):
            object.__setattr__(self, "contrast", tuple(map(str, self.contrast)))
        object.__setattr__(self, "effect", dotted(self.effect, "effect"))
        super().__post_init__()
        self._require("id", self.id.strip() != "", "a name, not empty")
        if (self.contrast is None) != bool(self.effect):
            stands = "there is an effect, too" if self.effect else "missing"
            raise Refused(
                f"contrast: {stands}; a claim is on either a contrast of two arms or an effect of a grid"
            )
        if self.contrast:
            self._require("contrast", self.contrast[0] != self.contrast[1], "two different arms")
        paired = all(_are_two_levels(levels) for levels in self.effect.values())
        self._require(
            "effect",
            len(self.effect) <= 3 and paired,
            "one to three factors, each with two different levels",
        )
        of_means = self.statistic == "mean" and not self.effect
        self._require(
            "pairing", self.pairing == "seed" or of_means, "seed, but for the means of two arms"
        )
        self._require("margin", self.margin >= 0, "0 or more")
        self._require(
            "margin",
            self.margin > 0 or self.kind == "superior",
            "above 0; nothing is equivalent to within 0",
        )
        self._check_range()

    def _check_range(self) -> None:
        """Refuse a ``diverged`` or ``failed`` that no run can score, and a margin that no
        difference can exceed, as far as the metric's range is known.

        Built-in accuracies are 0 to 100. The loss of a run is 0 or more, and a registered
        metric in percent is taken to be so, too. Of any other metric nothing is checked.
        """
        if self.measure.in_percent:
            # With each further factor an effect is a difference of two effects, which may be twice
            # as large as either.
            further_factors = max(0, len(self.effect) - 1)
            largest = self.measure.highest * 2**further_factors
            self._require(
                "margin",
                self.margin < largest,
                f"below {largest:g}, the largest difference that there is, in points",
            )
        elif self.metric not in metrics.NAMES:
            # Nothing is known of another metric's range: another tool's loss may be below 0.
            return
        for name in ("diverged", "failed"):
            score = getattr(self, name)
            self._require(
                name,
                score is None or 0 <= score <= self.measure.highest,
                f"{self.measure.allowed}, or null",
            )

    @property
    def measure(self) -> Metric:
        """The claim's metric without its split: its unit, range and direction."""
        return metrics.metric_of(self.metric)

    @property
    def unit_suffix(self) -> str:
        """Text that follows a difference of the metric in a sentence: `` points`` for a metric in
        percent, else empty.
        """
        return " points" if self.measure.in_percent else ""

    @property
    def decimals(self) -> int:
        """The number of decimals with which a value of the metric is shown."""
        return self.measure.decimals

    @property
    def sides(self) -> tuple[str, str]:
        """Names of the two things, a and b, that the claim compares: two arms or, for an effect,
        its last factor at either level, such as ``model.residual all``.
        """
        if self.contrast:
            return self.contrast
        factor, (a, b) = list(self.effect.items())[-1]
        return f"{factor} {level_name(a)}", f"{factor} {level_name(b)}"

    @property
    def margins(self) -> tuple[float, ...]:
        """The true differences at which neither the claim nor its opposite holds: one for
        ``superior``, the lower and the upper one for ``equivalent``.
        """
        if self.kind == "superior":
            return (self.margin,)
        return (-self.margin, self.margin)

    @property
    def gain(self) -> str:
        """What an interaction compares between its two sides, in words, such as
        ``the gain of model.residual all over none``; empty for a contrast and for a main effect.
        """
        gains = []
        for factor in list(self.effect)[:-1]:
            a, b = map(level_name, self.effect[factor])
            gains.append(f"{factor} {a} over {b}")
        if not gains:
            return ""
        kind = "gain" if len(gains) == 1 else "interaction"
        return f"the {kind} of {' and '.join(gains)}"

    def fails(self, score: float) -> bool:
        """Whether a run with this score counts as failed; never where ``failed`` is None."""
        if self.failed is None:
            return False
        if self.measure.lower_is_better:
            return score > self.failed
        return score < self.failed


def refuse_repeated(claims: Sequence[Claim]) -> None:
    """Refuse a claim that is made twice under two ids, whatever its ``statement`` and ``failed``.

    Holm's correction would count both, which takes power from every claim.
    """
    made: dict[tuple[object, ...], str] = {}
    for claim in claims:
        said = (
            _compared(claim),
            claim.metric,
            claim.kind,
            claim.margin,
            claim.statistic,
            claim.pairing,
            claim.diverged,
            claim.measure.lower_is_better,
        )
        if said in made:
            raise Refused(
                f"claim {claim.id!r}: is the same as the claim {made[said]!r}; remove one of them"
            )
        made[said] = claim.id


def _compared(claim: Claim) -> object:
    """Return a hashable key of what a claim compares. Claims of one kind with equal keys are about
    the same difference.

    The order in which an interaction lists its factors makes no difference, nor, for equivalence,
    does the direction of the comparison.
    """
    either_way = claim.kind == "equivalent"
    if claim.contrast:
        return frozenset(claim.contrast) if either_way else claim.contrast
    compared = set()
    is_turned = False
    for factor, levels in claim.effect.items():
        a, b = map(level_name, levels)
        compared.add((factor, frozenset((a, b))))
        # Turning the levels of a factor turns the sign, and turning those of two leaves it.
        is_turned ^= a > b
    return frozenset(compared), is_turned and not either_way


def dotted(declared: Any, place: str) -> Any:
    """Return a mapping of an arm, a grid or an effect with dotted keys: ``{"train.lr": 0.1}`` for
    ``{"train": {"lr": 0.1}}``.

    Anything but a mapping with keys of text is returned as it is: the type check of the field that
    holds it refuses it.

    Args:
        declared: The value in the study file.
        place: Where it stands in the study file, for errors.

    Raises:
        Refused: A key is given twice, such as nested and dotted.
    """
    if not isinstance(declared, dict) or not all(isinstance(key, str) for key in declared):
        return declared
    return by_dotted_key(declared, place)


def _are_two_levels(levels: list[Any]) -> bool:
    """Whether these are two levels that differ in the names that ``level_name`` gives them."""
    names = {level_name(level) for level in levels}
    return len(names) == len(levels) == 2


def level_name(level: Any) -> str:
    """Return the name of a factor's level, as a part of an arm's name.

    A list is joined by ``_``, other characters than letters, digits and ``_.+-`` become ``_``, and
    the empty name is ``none``.
    """
    text = str(level)
    if isinstance(level, list):
        text = "_".join(map(str, level))
    return re.sub(r"[^\w.+-]", "_", text) or "none"
