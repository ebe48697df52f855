"""The study file: its keys, and what is allowed in them.

A study is a question, arms that differ from the baseline in declared keys, seeds, and claims made
before the first run.
"""

import itertools
import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from xceptlab.config import options
from xceptlab.config.field_errors import shown
from xceptlab.config.field_types import Bounds
from xceptlab.config.fields import Section, keys
from xceptlab.config.layers import unknown_run_key
from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.study.claims import Claim, dotted, level_name, refuse_repeated
from xceptlab.study.tuning import Tune

DERIVED = ("data.content", "model.weights_digest")
"""Keys that xceptlab fills in itself, from the contents of the files that other keys name."""

FACTORS = [
    *(key for key in RunConfig().science() if key not in ("seed", *DERIVED)),
    "model.weights",
]
"""The dotted keys in which arms may differ: those that can change a result, but for the seed and
the ``DERIVED`` ones. An arm may also declare single options, such as ``model.options.depth``.
"""


@dataclass(frozen=True, kw_only=True)
class Seeds(Section):
    """Seeds that are added until every claim is decided or given up.

    The first seeds are 0 to ``start`` - 1. Then ``step`` more are added at a time, to ``max`` in
    all at most. The bounds are those for which ``statistics.Boundary`` has tables.
    """

    PREFIX: ClassVar[str] = "seeds."

    start: Annotated[int, Bounds(at_least=3, at_most=10)]
    """Number of seeds with which the claims are judged for the first time."""
    step: Annotated[int, Bounds(at_least=1, at_most=5)]
    """Number of seeds that are added at a time, while a claim is undecided."""
    max: Annotated[int, Bounds(at_most=40)]
    """Number of seeds at most: ``start`` plus one or more times ``step``."""
    stop: Literal["decided"]
    """decided: stop when every claim is supported or contradicted, or given up; peeking is
    accounted for.
    """
    futility: float | None = None
    """Give a claim up, inconclusive, when its chance to be decided by ``max`` seeds falls below
    this; null never does.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        fewest = self.start + self.step
        self._require("max", self.max >= fewest, f"at least {fewest}, start plus a step")
        last = self.analyses[-1]
        self._require("max", self.max == last, f"start plus steps, such as {last}")
        is_chance = self.futility is None or 0 < self.futility < 1
        self._require("futility", is_chance, "above 0 and below 1, or null")

    @property
    def analyses(self) -> range:
        """The numbers of seeds with which the claims are judged, rising: ``start``, then ``step``
        more each time, to ``max``.
        """
        return range(self.start, self.max + 1, self.step)


@dataclass(frozen=True, kw_only=True)
class Paper(Section):
    """The place in a paper of the claim that the study tests."""

    PREFIX: ClassVar[str] = "paper."

    ref: str = ""
    """The paper, such as arXiv:1610.02357."""
    section: str = ""
    """Section, such as "4.6"; empty for none."""
    figure: int = 0
    """Number of the figure; 0 for none."""
    table: int = 0
    """Number of the table; 0 for none."""

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
    """A study, as its YAML file declares it."""

    question: str
    """The question that the study answers."""
    base: list[str]
    """Configuration files that every arm shares, in order; looked up beside the study file, then
    from the working directory, then among the shipped ones."""
    extensions: list[str] = field(default_factory=list)
    """Modules that register what the arms use from outside: ``.py`` files beside the study file, or
    importable modules.
    """
    seeds: list[int] | Seeds
    """Every arm is trained once with each of these seeds; a verdict needs at least 3. A mapping
    adds seeds until the claims are decided.
    """
    claims: list[Claim] = field(default_factory=list)
    """The claims that the study tests, made before the first run."""
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Arms by name, each with the keys of a run that it overrides; the first arm is the baseline.
    """
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """In place of arms: the levels of each factor, fully crossed; an arm is named after its levels,
    joined by ``-`` (a list by ``_``, an empty one ``none``)."""
    alpha: Annotated[float, Bounds(at_least=1e-6, below=0.5)] = 0.05
    """Chance of any false ``supported``, and of any false ``contradicted``, over all claims of the
    file.
    """
    scope: Literal["test_set", "images"] = "test_set"
    """What verdicts hold for. test_set: the images of this test set; images: also other images of
    the same kind, which takes larger effects.
    """
    tune: Tune | None = None
    """Train every arm at several values of some keys, and compare the arms at the best ones; null
    compares them as they are.
    """
    paper: Paper = field(default_factory=Paper)
    """The place in a paper of the claim that the study tests."""

    def __post_init__(self) -> None:
        # Only a mapping has names to convert. Any other value is left for the type check of all
        # fields, which refuses it.
        if self.arms is None or isinstance(self.arms, dict):
            object.__setattr__(self, "arms", _named_arms(self.arms or {}))
        object.__setattr__(self, "grid", dotted(self.grid, "grid"))
        super().__post_init__()
        self._check_seeds()
        self._check_arms()
        for claim in self.claims:
            self._check_claim(claim)
        refuse_repeated(self.claims)

    def _check_seeds(self) -> None:
        """Refuse a list of seeds that is empty, repeats one or has one outside of 0 to 2**63 - 1.
        Refuse seeds that are added until the claims are decided in a study without claims.
        """
        if isinstance(self.seeds, Seeds):
            self._require("seeds", bool(self.claims), "a list in a study without claims to decide")
            return
        different = len(set(self.seeds)) == len(self.seeds)
        in_range = all(0 <= seed < 2**63 for seed in self.seeds)
        allowed = "a list of different whole numbers from 0 to 2**63 - 1, or {start, step, max, stop: decided}"
        self._require("seeds", bool(self.seeds) and different and in_range, allowed)

    def _check_arms(self) -> None:
        """Refuse arms beside a grid, fewer than two arms, cells of a grid with the same name, a
        name that is not allowed, and a declared key in which arms may not differ or that is tuned.
        """
        if bool(self.arms) == bool(self.grid):
            stands = "there is a grid, too" if self.arms else "missing"
            raise Refused(f"arms: {stands}; a study has either arms or a grid")
        cells = self.cells()
        combinations = math.prod(len(levels) for levels in self.grid.values())
        if self.grid and len(cells) < combinations:
            raise Refused("grid: two cells have the same name; each factor's levels must differ")
        if len(cells) < 2:
            raise Refused(
                f"{'arms' if self.arms else 'grid'}: at least 2 arms are needed, to be compared"
            )
        for name, declared in cells.items():
            if not re.fullmatch(r"[\w.+-]+", name):
                raise Refused(
                    f"arms: the name {name!r} is not allowed; letters, digits, '_', '.', '+' and '-' are"
                )
            for key in declared:
                if key not in FACTORS and not options.is_option(key):
                    raise Refused(f"arm {name!r}: {_not_a_factor_message(key)}")
                if self.tune and key in self.tune.keys:
                    raise Refused(f"arm {name!r}: {key} is tuned, so that no arm may declare it")

    def _check_claim(self, claim: Claim) -> None:
        """Refuse a claim that does not fit the study.

        Its id must differ from those of the other claims. ``pairing: none`` goes with neither seeds
        until decided nor ``scope: images``. And the study must have the arms, the factors and the
        levels that the claim names.
        """
        ids = [other.id for other in self.claims]
        if ids.count(claim.id) > 1:
            raise Refused(f"claim {claim.id!r}: there are {ids.count(claim.id)} claims of this id")
        if claim.pairing == "none" and (isinstance(self.seeds, Seeds) or self.scope == "images"):
            raise Refused(
                f"claim {claim.id!r}: pairing: none needs a list of seeds and scope: test_set"
            )
        cells = self.cells()
        for arm in claim.contrast or ():
            if arm not in cells:
                raise Refused(
                    f"claim {claim.id!r}: contrast: there is no arm {arm!r}; there are {', '.join(cells)}"
                )
        for factor, levels in claim.effect.items():
            if factor not in self.grid:
                there = (
                    f"there are {', '.join(self.grid)}"
                    if self.grid
                    else "a study of arms has none, a grid has"
                )
                raise Refused(f"claim {claim.id!r}: effect: there is no factor {factor!r}; {there}")
            names = [level_name(level) for level in self.grid[factor]]
            for level in map(level_name, levels):
                if level not in names:
                    missing = f"{factor} has no level {level!r}; there are {', '.join(names)}"
                    raise Refused(f"claim {claim.id!r}: effect: {missing}")

    def cells(self) -> dict[str, dict[str, Any]]:
        """Return the values that each arm declares, ``{arm: {key: value}}``: those of ``arms``, or
        one arm for each cell of the crossed ``grid``.
        """
        if self.arms:
            return self.arms
        cells = {}
        for levels in itertools.product(*self.grid.values()):
            name = "-".join(map(level_name, levels))
            cells[name] = dict(zip(self.grid, levels, strict=True))
        return cells


def _named_arms(declared: dict[Any, Any]) -> dict[str, Any]:
    """Return the arms of a study file with every name as text and every key dotted.

    YAML reads a name such as 4 as a number, which is allowed.

    Raises:
        Refused: YAML reads a name, such as ``on``, as true or false; or an arm's name, or a key of
            an arm, is given twice.
    """
    arms = {}
    for name, values in declared.items():
        if isinstance(name, bool):
            raise Refused(
                f"arms: YAML reads a name as {shown(name)}; on, off, yes, no, true and false need quotes"
            )
        if str(name) in arms:
            raise Refused(f"arms: the name {str(name)!r} stands there twice")
        arms[str(name)] = dotted(values, f"arms.{name}")
    return arms


def _not_a_factor_message(key: str) -> str:
    """Return the error's text for a key that an arm declares, but in which arms may not differ,
    since it cannot change a result or no run has it.
    """
    if key in keys(RunConfig):
        return f"{key} cannot be a factor; only what can change a result can, such as {FACTORS[0]}"
    return str(unknown_run_key(key, FACTORS))
