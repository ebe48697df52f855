"""A study: a question, arms that differ from the baseline in declared keys, seeds, and claims made before the first run."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from xceptlab.config import options
from xceptlab.config.field_errors import shown
from xceptlab.config.fields import Section, keys
from xceptlab.config.layers import by_dotted_key, unknown_run_key
from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.runs import metrics
from xceptlab.runs.metrics import Metric
from xceptlab.study.tuning import Tune

DERIVED = ("data.content", "model.weights_digest")
"""Science that xceptlab fills in: what the files of other keys hold."""

FACTORS = [*(key for key in RunConfig().science() if key not in ("seed", *DERIVED)), "model.weights"]
"""The keys in which arms may differ."""


@dataclass(frozen=True, kw_only=True)
class Claim(Section):
    """A statement about two arms that the records will support or contradict."""

    id: str
    """Name of the claim, different from the others'."""
    contrast: tuple[str, str] | None = None
    """The arms a and b, by name; the claim is about a - b (b - a for the loss, which is better when lower)."""
    effect: dict[str, list[Any]] = field(default_factory=dict)
    """In place of a contrast, in a grid: by factor its levels a and b, compared on average over the other factors; of two or
    three factors how much the effect of the first ones differs between the last one's levels, their interaction."""
    metric: Literal[metrics.NAMES] | str  # type: ignore[valid-type]
    """Compared at the last epoch: accuracies in percent, the loss in nats, or a metric of ``train.metrics``; ``val`` needs images
    to validate on, top5 over 5 classes."""
    kind: Literal["superior", "equivalent"]
    """superior: a - b > margin; equivalent: -margin < a - b < margin."""
    margin: float
    """Smallest difference that matters, 0 or more, in percentage points or nats; above 0 for equivalent."""
    statistic: Literal["mean", "median"] = "mean"
    """Of the differences over seeds: the mean, by t-tests; or the median, by counting in how many seeds a - b lies beyond the
    margin, which stays valid where runs collapse or diverge, and needs 5 seeds for one claim, more for several."""
    pairing: Literal["seed", "none"] = "seed"
    """seed: the arms of a seed form a pair, as they see the same images in the same order; none: the arms are compared as if they
    had nothing in common, by Welch's t-tests, for a mean of two arms with a list of seeds."""
    statement: str = ""
    """The claim in words."""
    diverged: float | None = None
    """Score of a run that diverged, in the metric's unit; null scores it as guessing."""
    failed: float | None = None
    """Score below which a run has failed (above, for the loss), as one that diverged has: the report counts failures, says how
    often they may be expected, and warns where they decide; the verdict is of the scores as they are."""

    def __post_init__(self) -> None:
        if isinstance(self.contrast, list | tuple):  # arms may be named by numbers
            object.__setattr__(self, "contrast", tuple(map(str, self.contrast)))
        object.__setattr__(self, "effect", _dotted(self.effect, "effect"))
        super().__post_init__()
        self._require("id", self.id.strip() != "", "a name, not empty")
        if (self.contrast is None) != bool(self.effect):
            stands = "there is an effect, too" if self.effect else "missing"
            raise Refused(f"contrast: {stands}; a claim is on either a contrast of two arms or an effect of a grid")
        if self.contrast:
            self._require("contrast", self.contrast[0] != self.contrast[1], "two different arms")
        paired = all(_are_two_levels(levels) for levels in self.effect.values())
        self._require("effect", len(self.effect) <= 3 and paired, "one to three factors, each with two different levels")
        of_means = self.statistic == "mean" and not self.effect
        self._require("pairing", self.pairing == "seed" or of_means, "seed, but for the means of two arms")
        self._require("margin", self.margin >= 0, "0 or more")
        self._require("margin", self.margin > 0 or self.kind == "superior", "above 0; nothing is equivalent to within 0")
        self._check_range()

    def _check_range(self) -> None:
        """Refuse scores that no run can have, and margins that no difference can exceed."""
        if self.measure.in_percent:
            of_gains = 2 ** max(0, len(self.effect) - 1)  # a difference of differences may be twice as large
            largest = self.measure.highest * of_gains
            self._require("margin", self.margin < largest, f"below {largest:g}, the largest difference that there is, in points")
        elif self.metric not in metrics.NAMES:  # what another tool calls a loss may be below 0
            return
        for name in ("diverged", "failed"):
            score = getattr(self, name)
            self._require(name, score is None or 0 <= score <= self.measure.highest, f"{self.measure.allowed}, or null")

    @property
    def measure(self) -> Metric:
        """What the claim's metric is, whatever the split."""
        return metrics.metric_of(self.metric)

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower score is the better one, so that the claim is about b - a."""
        return self.measure.lower_is_better

    @property
    def unit(self) -> str:
        """What stands behind a difference of the metric in a sentence: `` points``, or nothing."""
        return " points" if self.measure.in_percent else ""

    @property
    def decimals(self) -> int:
        """With how many a value of the metric is shown."""
        return self.measure.decimals

    @property
    def sides(self) -> tuple[str, str]:
        """What the claim compares, a and b, in words: two arms, or the last factor of an effect at its two levels."""
        if self.contrast:
            return self.contrast
        factor, (a, b) = list(self.effect.items())[-1]
        return f"{factor} {level_name(a)}", f"{factor} {level_name(b)}"

    @property
    def margins(self) -> tuple[float, ...]:
        """The true differences at which neither the claim nor its opposite holds."""
        if self.kind == "superior":
            return (self.margin,)
        return (-self.margin, self.margin)

    @property
    def gain(self) -> str:
        """What differs between the two sides of an interaction, in words; empty for a contrast and a main effect."""
        gains = []
        for factor in list(self.effect)[:-1]:
            a, b = map(level_name, self.effect[factor])
            gains.append(f"{factor} {a} over {b}")
        if not gains:
            return ""
        kind = "gain" if len(gains) == 1 else "interaction"
        return f"the {kind} of {' and '.join(gains)}"

    def fails(self, score: float) -> bool:
        """Whether a run of this score has failed."""
        if self.failed is None:
            return False
        if self.lower_is_better:
            return score > self.failed
        return score < self.failed


@dataclass(frozen=True, kw_only=True)
class Seeds(Section):
    """Seeds until every claim is decided or given up: 0 to ``start`` - 1, and then ``step`` more at a time, ``max`` at most."""

    PREFIX: ClassVar[str] = "seeds."

    start: int
    """Seeds before the claims are judged for the first time, 3 to 10."""
    step: int
    """Seeds that are added while a claim is undecided, 1 to 5."""
    max: int
    """Seeds at most: ``start`` plus some steps, 40 or less."""
    stop: Literal["decided"]
    """decided: stop when every claim is supported or contradicted, or given up; peeking is accounted for."""
    futility: float | None = None
    """Give a claim up, inconclusive, when its chance to be decided by ``max`` seeds falls below this; null never does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (("start", 3, 10), ("step", 1, 5), ("max", self.start + self.step, 40)):
            self._require(name, low <= getattr(self, name) <= high, f"a whole number from {low} to {high}")
        last = self.analyses[-1]
        self._require("max", self.max == last, f"start plus steps, such as {last}")
        self._require("futility", self.futility is None or 0 < self.futility < 1, "above 0 and below 1, or null")

    @property
    def analyses(self) -> range:
        """The numbers of seeds at which the claims are judged: of every interim analysis, and of the last one."""
        return range(self.start, self.max + 1, self.step)


@dataclass(frozen=True, kw_only=True)
class Paper(Section):
    """Where the claim that is tested stands."""

    PREFIX: ClassVar[str] = "paper."

    ref: str = ""
    """Such as arXiv:1610.02357."""
    section: str = ""
    """Section."""
    figure: int = 0
    """Figure; 0 for none."""
    table: int = 0
    """Table; 0 for none."""

    def __str__(self) -> str:
        words = [self.ref or "the paper"]
        for name in ("section", "figure", "table"):
            if value := getattr(self, name):
                words.append(f"{name} {value}")
        return ", ".join(words)

    def __bool__(self) -> bool:
        return self != Paper()


@dataclass(frozen=True, kw_only=True)
class Study(Section):
    """A study file."""

    question: str
    """What the study answers."""
    base: list[str]
    """Configuration files that every arm shares, in order; looked up beside the study file, then from the working directory, then
    among the shipped ones."""
    extensions: list[str] = field(default_factory=list)
    """Modules that register what the arms use from outside: ``.py`` files beside the study file, or importable modules."""
    seeds: list[int] | Seeds
    """Each arm is trained once with each, of which a verdict needs 3; a mapping adds seeds until the claims are decided."""
    claims: list[Claim] = field(default_factory=list)
    """What is claimed before the first run."""
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name of the arm the keys of a run in which it differs; the first arm is the baseline."""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """In place of arms: the levels of each factor, fully crossed; an arm is named after its levels, joined by ``-`` (a list by
    ``_``, an empty one ``none``)."""
    alpha: float = 0.05
    """Chance of any false ``supported``, and of any false ``contradicted``, over all claims of the file; above 0, below 0.5."""
    scope: Literal["test_set", "images"] = "test_set"
    """What verdicts hold for: these images of the test set; or other images of the same kind, too, which takes larger effects."""
    tune: Tune | None = None
    """Train every arm at several values of some keys, and compare the arms at the best ones; null compares them as they are."""
    paper: Paper = field(default_factory=Paper)
    """Where the tested claim stands."""

    def __post_init__(self) -> None:
        if self.arms is None or isinstance(self.arms, dict):  # a value of another type is refused with the types of all fields
            object.__setattr__(self, "arms", _named_arms(self.arms or {}))
        object.__setattr__(self, "grid", _dotted(self.grid, "grid"))
        super().__post_init__()
        self._require("alpha", 0 < self.alpha < 0.5, "above 0 and below 0.5")
        self._check_seeds()
        self._check_arms()
        for claim in self.claims:
            self._check_claim(claim)
        refuse_repeated(self.claims)

    def _check_seeds(self) -> None:
        if isinstance(self.seeds, Seeds):
            self._require("seeds", bool(self.claims), "a list in a study without claims to decide")
            return
        different = 0 < len(self.seeds) == len(set(self.seeds))
        in_range = all(0 <= seed < 2**63 for seed in self.seeds)
        allowed = "a list of different whole numbers from 0 to 2**63 - 1, or {start, step, max, stop: decided}"
        self._require("seeds", different and in_range, allowed)

    def _check_arms(self) -> None:
        """Refuse arms that cannot be told apart, are badly named, or declare what is no factor."""
        if bool(self.arms) == bool(self.grid):
            stands = "there is a grid, too" if self.arms else "missing"
            raise Refused(f"arms: {stands}; a study has either arms or a grid")
        cells = self.cells()
        if len(cells) < math.prod(map(len, self.grid.values())):
            raise Refused("grid: two cells have the same name; each factor's levels must differ")
        if len(cells) < 2:
            raise Refused(f"{'arms' if self.arms else 'grid'}: at least 2 arms are needed, to be compared")
        for name, declared in cells.items():
            if not re.fullmatch(r"[\w.+-]+", name):
                raise Refused(f"arms: the name {name!r} is not allowed; letters, digits, '_', '.', '+' and '-' are")
            for key in declared:
                if key not in FACTORS and not options.is_option(key):
                    raise Refused(f"arm {name!r}: {_no_factor(key)}")
                if self.tune and key in self.tune.keys:
                    raise Refused(f"arm {name!r}: {key} is tuned, so that no arm may declare it")

    def _check_claim(self, claim: Claim) -> None:
        """Refuse a claim whose id another one has, or that names an arm, a factor or a level that the study does not have."""
        ids = [other.id for other in self.claims]
        if ids.count(claim.id) > 1:
            raise Refused(f"claim {claim.id!r}: there are {ids.count(claim.id)} claims of this id")
        if claim.pairing == "none" and (isinstance(self.seeds, Seeds) or self.scope == "images"):
            raise Refused(f"claim {claim.id!r}: pairing: none needs a list of seeds and scope: test_set")
        cells = self.cells()
        for arm in claim.contrast or ():
            if arm not in cells:
                raise Refused(f"claim {claim.id!r}: contrast: there is no arm {arm!r}; there are {', '.join(cells)}")
        for factor, levels in claim.effect.items():
            if factor not in self.grid:
                there = f"there are {', '.join(self.grid)}" if self.grid else "a study of arms has none, a grid has"
                raise Refused(f"claim {claim.id!r}: effect: there is no factor {factor!r}; {there}")
            names = [level_name(level) for level in self.grid[factor]]
            for level in map(level_name, levels):
                if level not in names:
                    missing = f"{factor} has no level {level!r}; there are {', '.join(names)}"
                    raise Refused(f"claim {claim.id!r}: effect: {missing}")

    def cells(self) -> dict[str, dict[str, Any]]:
        """By arm the keys that it declares, of ``arms`` or of the crossed ``grid``."""
        if self.arms:
            return self.arms
        cells = {}
        for levels in itertools.product(*self.grid.values()):
            name = "-".join(map(level_name, levels))
            cells[name] = dict(zip(self.grid, levels, strict=True))
        return cells

    def weights(self, claim: Claim) -> tuple[dict[str, float], dict[str, float]]:
        """By arm the weights with which its scores make up the two sides that a claim compares; arms without weight are left out.

        A side of a main effect is the mean of the arms at its level. A side of an interaction is the effect of the factors before
        the last one, on average over the other factors, at its level of the last one.
        """
        if claim.contrast:
            a, b = claim.contrast
            return {a: 1.0}, {b: 1.0}
        return self._side(claim.effect, 0), self._side(claim.effect, 1)

    def _side(self, effect: dict[str, list[Any]], side: int) -> dict[str, float]:
        """By arm its weight in one side, 0 or 1, of an effect."""
        weights = {}
        for arm, levels in self.cells().items():
            weight = self._weight(levels, effect, side)
            if weight:
                weights[arm] = weight
        return weights

    def _weight(self, levels: dict[str, Any], effect: dict[str, list[Any]], side: int) -> float:
        """The weight of the cell with these levels, by factor, in one side of an effect."""
        *before, last = effect
        weight = 1.0
        for factor, level in levels.items():
            name = level_name(level)
            if factor == last:
                weight *= name == level_name(effect[factor][side])
            elif factor in before:
                a, b = map(level_name, effect[factor])
                weight *= (name == a) - (name == b)
            else:
                weight /= len(self.grid[factor])
        return weight

    def arms_of(self, claim: Claim) -> list[str]:
        """The arms that a claim compares, those of its first side first."""
        a, b = self.weights(claim)
        return list(dict.fromkeys([*a, *b]))

    def pairs_of(self, claim: Claim) -> list[tuple[str, str]]:
        """The pairs of arms that a claim compares, which differ in nothing but its (first) factor."""
        if claim.contrast:
            return [claim.contrast]
        factor, (a, b) = next(iter(claim.effect.items()))
        levels_of = {}
        for arm, levels in self.cells().items():
            levels_of[arm] = [level_name(level) for level in levels.values()]
        arm_at = {tuple(levels): arm for arm, levels in levels_of.items()}
        place = list(self.grid).index(factor)
        pairs = []
        for arm in self.arms_of(claim):
            levels_b = list(levels_of[arm])
            if levels_b[place] == level_name(a):
                levels_b[place] = level_name(b)
                pairs.append((arm, arm_at[tuple(levels_b)]))
        return pairs


def refuse_repeated(claims: Sequence[Claim]) -> None:
    """Refuse a claim that is made twice, under two ids: it would take from the power of all (Holm)."""
    made: dict[tuple[object, ...], str] = {}
    for claim in claims:
        said = (
            claim.sides,
            claim.gain,
            claim.metric,
            claim.kind,
            claim.margin,
            claim.statistic,
            claim.pairing,
            claim.diverged,
            claim.lower_is_better,
        )
        if said in made:
            raise Refused(f"claim {claim.id!r}: is the same as the claim {made[said]!r}; remove one of them")
        made[said] = claim.id


def _named_arms(declared: dict[Any, Any]) -> dict[str, Any]:
    """The arms of a study file, each name as text, since 4 is a name, too; their keys dotted."""
    arms = {}
    for name, values in declared.items():
        if isinstance(name, bool):
            raise Refused(f"arms: YAML reads a name as {shown(name)}; on, off, yes, no, true and false need quotes")
        arms[str(name)] = _dotted(values, f"arms.{name}")
    return arms


def _no_factor(key: str) -> str:
    """Why arms cannot differ in a key."""
    if key in keys(RunConfig):
        return f"{key} cannot be a factor; only what can change a result can, such as {FACTORS[0]}"
    return str(unknown_run_key(key, FACTORS))


def _dotted(declared: Any, place: str) -> Any:
    """The keys of an arm, or the factors of a grid or an effect, dotted; what is no mapping by text is left to ``Section``."""
    if not isinstance(declared, dict) or not all(isinstance(key, str) for key in declared):
        return declared
    return by_dotted_key(declared, place)


def _are_two_levels(levels: list[Any]) -> bool:
    """Whether these are two levels that differ, as parts of an arm's name."""
    names = {level_name(level) for level in levels}
    return len(names) == len(levels) == 2


def level_name(level: Any) -> str:
    """A factor's level as a part of an arm's name."""
    text = str(level)
    if isinstance(level, list):
        text = "_".join(map(str, level))
    return re.sub(r"[^\w.+-]", "_", text) or "none"
