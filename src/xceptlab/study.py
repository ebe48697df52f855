"""A study: a question, arms that differ from the baseline in declared keys, seeds, and claims made before the first run."""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from xceptlab import loading, shipped
from xceptlab.data import identity, resolved
from xceptlab.errors import Refused
from xceptlab.records import RunDirectory, write_atomically, write_once
from xceptlab.schema import RunConfig
from xceptlab.section import Section, from_file, misfit, shown
from xceptlab.text import decoded

DERIVED = ("data.content", "model.weights_digest")
"""Science that xceptlab fills in: what the files of other keys hold."""
FACTORS = [*(key for key in RunConfig().science() if key not in ("seed", *DERIVED)), "model.weights"]
"""The keys in which arms may differ."""
SECTIONS = [f.name for f in dataclasses.fields(RunConfig) if dataclasses.is_dataclass(f.type)]
"""What an arm's keys may be nested in, as in a configuration file."""


def in_percent(metric: str) -> bool:
    """Whether the metric is an accuracy in percent, whose differences are percentage points."""
    return metric.endswith(("top1", "top5"))


def decimals(metric: str) -> int:
    """How many a value of the metric is shown with: percent with 2, nats and others with 4."""
    return 2 if in_percent(metric) else 4


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
    metric: Literal["test/top1", "test/top5", "test/loss", "val/top1", "val/top5", "val/loss"]
    """Compared at the last epoch: accuracies in percent, the loss in nats; ``val`` needs images to validate on, top5 over 5
    classes."""
    kind: Literal["superior", "equivalent"]
    """superior: a - b > margin; equivalent: -margin < a - b < margin."""
    margin: float
    """Smallest difference that matters, 0 or more, in percentage points or nats; above 0 for equivalent."""
    statistic: Literal["mean", "median"] = "mean"
    """Of the differences over seeds: the mean, by t-tests; or the median, by counting in how many seeds a - b lies beyond the
    margin, which stays valid where runs collapse or diverge, and needs 5 seeds for one claim, more for several."""
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
        pairs = all(len(set(map(level_name, levels))) == len(levels) == 2 for levels in self.effect.values())
        self._require("effect", len(self.effect) <= 3 and pairs, "one to three factors, each with two different levels")
        self._require("margin", self.margin >= 0, "0 or more")
        self._require("margin", self.margin > 0 or self.kind == "superior", "above 0; nothing is equivalent to within 0")

    @property
    def lower_is_better(self) -> bool:
        return self.metric.endswith("loss")

    @property
    def unit(self) -> str:
        """What stands behind a difference of the metric: `` points``, or nothing."""
        return " points" if in_percent(self.metric) else ""

    @property
    def sides(self) -> tuple[str, str]:
        """What the claim compares, a and b, in words: two arms, or the last factor of an effect at its two levels."""
        if self.contrast:
            return self.contrast
        factor, (a, b) = list(self.effect.items())[-1]
        return f"{factor} {level_name(a)}", f"{factor} {level_name(b)}"

    @property
    def gain(self) -> str:
        """Of an interaction, what differs between its two sides, in words; empty for a contrast and a main effect."""
        gains = [f"{factor} {' over '.join(map(level_name, levels))}" for factor, levels in self.effect.items()][:-1]
        several = "the gain of" if len(gains) == 1 else "the interaction of"
        return f"{several} {' and '.join(gains)}" if gains else ""

    def fails(self, score: float) -> bool:
        """Whether a run of this score has failed."""
        if self.failed is None:
            return False
        return score > self.failed if self.lower_is_better else score < self.failed


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
        self._require("max", self.max == self.looks[-1], f"start plus steps, such as {self.looks[-1]}")
        self._require("futility", self.futility is None or 0 < self.futility < 1, "above 0 and below 1, or null")

    @property
    def looks(self) -> range:
        """The numbers of seeds at which the claims are judged."""
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
        places = {"section": self.section, "figure": self.figure, "table": self.table}
        return ", ".join([self.ref or "the paper", *(f"{name} {value}" for name, value in places.items() if value)])

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
    paper: Paper = field(default_factory=Paper)
    """Where the tested claim stands."""

    def __post_init__(self) -> None:
        if self.arms is None or isinstance(self.arms, dict):  # 4: is a name too
            if switches := [name for name in self.arms or () if isinstance(name, bool)]:
                raise Refused(f"arms: YAML reads a name as {shown(switches[0])}; on, off, yes, no, true and false need quotes")
            arms = {str(name): _dotted(keys, f"arms.{name}") for name, keys in (self.arms or {}).items()}
            object.__setattr__(self, "arms", arms)
        object.__setattr__(self, "grid", _dotted(self.grid, "grid"))
        super().__post_init__()
        self._require("alpha", 0 < self.alpha < 0.5, "above 0 and below 0.5")
        if isinstance(self.seeds, Seeds):
            self._require("seeds", bool(self.claims), "a list in a study without claims to decide")
        else:
            different = 0 < len(self.seeds) == len(set(self.seeds)) and all(0 <= seed < 2**63 for seed in self.seeds)
            allowed = "a list of different whole numbers from 0 to 2**63 - 1, or {start, step, max, stop: decided}"
            self._require("seeds", different, allowed)
        if bool(self.arms) == bool(self.grid):
            raise Refused(f"arms: {'missing' if not self.arms else 'there is a grid, too'}; a study has either arms or a grid")
        cells = self.cells()
        if len(cells) < math.prod(map(len, self.grid.values())):
            raise Refused("grid: two cells have the same name; each factor's levels must differ")
        if len(cells) < 2:
            raise Refused(f"{'arms' if self.arms else 'grid'}: at least 2 arms are needed, to be compared")
        for name, declared in cells.items():
            if not re.fullmatch(r"[\w.+-]+", name):
                raise Refused(f"arms: the name {name!r} is not allowed; letters, digits, '_', '.', '+' and '-' are")
            for key in declared:
                if key not in FACTORS:
                    no_factor = f"{key} cannot be a factor; only what can change a result can, such as {FACTORS[0]}"
                    known = key in loading.keys(RunConfig)
                    raise Refused(f"arm {name!r}: {no_factor if known else loading.unknown(key, FACTORS)}")
        ids = [claim.id for claim in self.claims]
        for claim in self.claims:
            if ids.count(claim.id) > 1:
                raise Refused(f"claim {claim.id!r}: there are {ids.count(claim.id)} claims of this id")
            for arm in claim.contrast or ():
                if arm not in cells:
                    raise Refused(f"claim {claim.id!r}: contrast: there is no arm {arm!r}; there are {', '.join(cells)}")
            for factor, levels in claim.effect.items():
                if factor not in self.grid:
                    there = f"there are {', '.join(self.grid)}" if self.grid else "a study of arms has none, a grid has"
                    raise Refused(f"claim {claim.id!r}: effect: there is no factor {factor!r}; {there}")
                named = [level_name(level) for level in self.grid[factor]]
                for level in map(level_name, levels):
                    if level not in named:
                        missing = f"{factor} has no level {level!r}; there are {', '.join(named)}"
                        raise Refused(f"claim {claim.id!r}: effect: {missing}")

    def cells(self) -> dict[str, dict[str, Any]]:
        """Per arm the keys that it declares, of ``arms`` or of the crossed ``grid``."""
        if self.arms:
            return self.arms
        crossed = itertools.product(*self.grid.values())
        return {"-".join(map(level_name, levels)): dict(zip(self.grid, levels, strict=True)) for levels in crossed}

    def weights(self, claim: Claim) -> tuple[dict[str, float], dict[str, float]]:
        """By arm the weights with which its scores make up the two sides that a claim compares; arms without weight are left out.

        Of a main effect each side is the mean of the arms at its level. Of an interaction it is the effect of the factors before
        the last one, on average over the other factors, at its level of the last one.
        """
        if claim.contrast:
            a, b = claim.contrast
            return {a: 1.0}, {b: 1.0}
        return self._side(claim.effect, 0), self._side(claim.effect, 1)

    def _side(self, effect: dict[str, list[Any]], side: int) -> dict[str, float]:
        *before, last = effect
        weights = {}
        for arm, levels in self.cells().items():
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
            if weight:
                weights[arm] = weight
        return weights

    def arms_of(self, claim: Claim) -> list[str]:
        """The arms that a claim compares, those of its first side first."""
        a, b = self.weights(claim)
        return list(dict.fromkeys([*a, *b]))

    def pairs_of(self, claim: Claim) -> list[tuple[str, str]]:
        """The pairs of arms that a claim compares, which differ in nothing but its (first) factor."""
        if claim.contrast:
            return [claim.contrast]
        factor, (a, b) = next(iter(claim.effect.items()))
        cells = self.cells()
        names = {tuple(map(level_name, levels.values())): arm for arm, levels in cells.items()}
        place = list(self.grid).index(factor)
        pairs = []
        for arm in self.arms_of(claim):
            levels = [level_name(level) for level in cells[arm].values()]
            if levels[place] == level_name(a):
                levels[place] = level_name(b)
                pairs.append((arm, names[tuple(levels)]))
        return pairs


def _dotted(declared: Any, place: str) -> Any:
    """An arm's keys or a grid's factors, ``{model: {width: 1}}`` as ``{model.width: 1}``; what is no mapping as it is."""
    if not isinstance(declared, dict):
        return declared
    dotted: dict[Any, Any] = {}
    for key, value in declared.items():
        nested = key in SECTIONS and isinstance(value, dict)
        for name, one in {f"{key}.{inner}": each for inner, each in value.items()}.items() if nested else [(key, value)]:
            if name in dotted:
                raise Refused(f"{place}: the key {name} stands there twice")
            dotted[name] = one
    return dotted


def level_name(level: Any) -> str:
    """A factor's level as a part of an arm's name."""
    text = "_".join(map(str, level)) if isinstance(level, list) else str(level)
    return re.sub(r"[^\w.+-]", "_", text) or "none"


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """A study with every arm's configuration resolved."""

    name: str
    """The study's folder or file name, with the layers of the command line: ``residual+cifar10``."""
    study: Study
    arms: dict[str, RunConfig]
    """Per arm its configuration with the first seed; the first one is the baseline."""
    command: str = ""
    """The command that runs the study."""
    look: int = 0
    """Blocks of seeds that were added to the first one, where the study adds seeds until its claims are decided."""
    planned: int = 0
    """Seeds of the whole study, at most, where this is a first look with fewer of them; else 0."""
    files: tuple[Path, ...] = ()
    """The study file and the layers that the name tells of, by their absolute paths."""

    @property
    def first_look(self) -> str:
        """What to say of a first look with fewer seeds; empty for a whole study."""
        few = f"a first look with {len(self.seeds)} of the study's {self.planned} seeds; its verdicts are not the study's"
        return few if self.planned else ""

    @property
    def seeds(self) -> list[int]:
        """The seeds of every arm, as far as the study has come."""
        seeds = self.study.seeds
        return list(range(seeds.looks[self.look])) if isinstance(seeds, Seeds) else seeds

    def run(self, arm: str, seed: int) -> RunConfig:
        """The run of one arm and one seed."""
        return dataclasses.replace(self.arms[arm], seed=seed)

    def runs(self) -> dict[tuple[str, int], RunConfig]:
        """Every run by (arm, seed), seed by seed, so that an unfinished study is balanced."""
        return {(arm, seed): self.run(arm, seed) for seed in self.seeds for arm in self.arms}

    def differences(self, arm: str) -> dict[str, tuple[Any, Any]]:
        """The science in which an arm differs from the baseline: ``{key: (baseline, arm)}``.

        A field that does not apply to one of the two, such as Nesterov's momentum to AdamW, is no difference. Weights to start
        from, which a digest tells apart, are named as an arm declares them.
        """
        baseline, config = next(iter(self.arms.values())), self.arms[arm]
        base, other = baseline.science(), config.science()
        applicable = base.keys() - baseline.train.unused - config.train.unused
        found = {key: (base[key], other[key]) for key in base if key in applicable and base[key] != other[key]}
        if found.pop("model.weights_digest", None):
            found["model.weights"] = (baseline.model.start, config.model.start)
        return found

    def data(self) -> str:
        """In words, which part of the data set is which split; of each data set, should the arms have several."""
        return "; ".join(dict.fromkeys(config.data.splits() for config in self.arms.values()))

    def directory(self) -> Path:
        """Where the study's registration and report are kept."""
        return Path(next(iter(self.arms.values())).runtime.outputs) / "studies" / self.name

    def nothing_found(self) -> str:
        """What to say where neither the study nor a run of it is in the outputs, as from another folder; else nothing."""
        runs = [RunDirectory.of(run.runtime.outputs, run.run_id).path for run in self.runs().values()]
        if any(path.exists() for path in (self.directory(), *runs)):
            return ""
        return f"{self.name}: no run of it is in {runs[0].parent.resolve()}; --runtime.outputs names another outputs folder"


def locate(path: str) -> Path:
    """The study file that a folder, a file or the name of a shipped study names."""
    for candidate in (Path(path), shipped.root() / path, shipped.root() / "experiments" / path):
        file = candidate / "study.yaml" if candidate.is_dir() else candidate
        if file.is_file():
            return file
        if Path(path).exists():
            break
    raise Refused(f"{path}: no study there; give a study's folder (with a study.yaml in it), its file, or a shipped one's name")


def expand(path: str, args: Sequence[str] = (), seeds: int | None = None) -> Expansion:
    """Read a study and resolve its arms; ``args`` are layers and overrides that apply after the base and before the arms.

    ``seeds`` asks for a first look with so many of the study's first seeds: a study by itself, whose name says so, which shares
    its runs with the whole one.

    Raises:
        Refused: One line, for a study that is not well formed, an arm that differs from the baseline in a key that neither
            declares, two arms of equal science, or an override of what the study itself decides.
    """
    file = locate(path)
    study = loading.load_file(Study, str(file))
    cells = study.cells()
    for key, _ in loading.overrides(args):
        if key == "print_config":
            raise Refused("--print_config: xceptlab train shows a configuration; xceptlab plan shows a study")
        if key == "seed" or any(key in declared for declared in cells.values()):
            raise Refused(f"--{key}: the study {file} decides it; edit the study to change it")
    planned = 0
    if seeds is not None:
        study, planned = _first_look(study, seeds)
    layers = [arg for base in study.base for arg in ("-c", _find(base, file))]
    arms = {}
    first = 0 if isinstance(study.seeds, Seeds) else study.seeds[0]
    for name, declared in cells.items():
        located = {key: _beside(value, file) if key == "model.weights" else value for key, value in declared.items()}
        overrides = [f"--{key}={_text(value)}" for key, value in located.items()]
        overrides.append(f"--seed={first}")
        try:
            arms[name] = loading.load_run([*layers, *args, *overrides], "study")
        except Refused as error:
            blamed = _blamed(f"{file}: arm {name!r}: ", str(error), args, [*layers, *overrides])
            raise Refused(blamed) from None
    named = _naming_layers(args)
    first_look = [f"--seeds={seeds}"] if seeds is not None else []
    typed = os.fsencode(shlex.join(["xceptlab", "study", path, *first_look, *args]))
    loaded = Expansion(
        name=_name(file, named, seeds if planned and seeds else 0),
        study=study,
        arms=arms,
        command=typed.decode("utf-8", errors="replace"),  # arguments are in the terminal's encoding, the report is in UTF-8
        planned=planned,
        files=(file.resolve(), *(shipped.find(value).resolve() for key, value in named if key == "config")),
    )
    expansion = dataclasses.replace(loaded, arms=_resolved(loaded))
    _control(file, expansion)
    return expansion


def _first_look(study: Study, seeds: int) -> tuple[Study, int]:
    """The study with its first seeds only, and how many it has in all; 0 where these are all of a list."""
    every = list(range(study.seeds.max)) if isinstance(study.seeds, Seeds) else study.seeds
    if not 1 <= seeds <= len(every):
        raise Refused(f"--seeds: {seeds} is not allowed; it must be between 1 and {len(every)}, the seeds of the study")
    whole = every[:seeds] == study.seeds
    return dataclasses.replace(study, seeds=every[:seeds]), 0 if whole else len(every)


def _blamed(place: str, message: str, args: Sequence[str], without: Sequence[str]) -> str:
    """Why an arm is refused, and who is to blame: the command line where it is refused by itself, or where the arm, ``without``
    it, is not."""

    def refusal(given: Sequence[str]) -> str:
        try:
            loading.load_run(given, "study")
        except ValueError as error:
            return str(error)
        return ""

    if refusal(args) == message:
        return message
    return place + message if refusal(without) else f"{place}with {shlex.join(args)}: {message}"


def _resolved(expansion: Expansion) -> dict[str, RunConfig]:
    """The arms with all that their identity needs; where an own data set is not at hand, as they were registered."""
    look = functools.cache(identity.contents)  # the arms share their data
    try:
        registration = Registration.load(expansion.directory())
    except (OSError, ValueError):  # Registration.read says what is wrong with it
        registration = None
    registered = registration.arms if registration else {}
    return {name: resolved(config, registered.get(name), look) for name, config in expansion.arms.items()}


def _control(file: Path, expansion: Expansion) -> None:
    """Refuse a comparison that is not controlled: design section 5."""
    cells = expansion.study.cells()
    baseline = next(iter(cells))
    for arm in expansion.arms:
        if more := set(expansion.differences(arm)) - set(cells[arm]) - set(cells[baseline]):
            raise Refused(
                f"{file}: arm {arm!r} differs from {baseline!r} in {', '.join(sorted(more))}, which it does not declare"
            )
    for claim in expansion.study.claims:
        for arm in expansion.study.arms_of(claim):
            if claim.metric.startswith("val/") and not expansion.arms[arm].data.validates:
                needs = f"metric: {claim.metric} needs data.validation, which is 0 in arm {arm!r}"
                raise Refused(f"{file}: claim {claim.id!r}: {needs}")
            classes = expansion.arms[arm].data.classes
            if claim.metric.endswith("/top5") and classes <= 5:
                always = f"metric: {claim.metric} is always 100% with {classes} classes, as in arm {arm!r}; claim top1"
                raise Refused(f"{file}: claim {claim.id!r}: {always}")
    seen: dict[str, str] = {}
    for arm, config in expansion.arms.items():
        if config.run_id in seen:
            raise Refused(f"{file}: the arms {seen[config.run_id]!r} and {arm!r} are the same science; an arm must differ")
        seen[config.run_id] = arm


def _beside(path: Any, file: Path) -> Any:
    """A path of a study file as it is from the working directory: beside the study file, or as it stands there."""
    if not isinstance(path, str) or not path:
        return path
    beside = file.parent / os.path.expanduser(path)
    return str(beside) if beside.exists() else path


def _find(base: str, file: Path) -> str:
    for candidate in (Path(_beside(base, file)), shipped.find(base)):
        if candidate.is_file():
            return str(candidate)
    raise Refused(f"{file}: base {base!r} is neither beside the study file nor in the working directory, nor shipped")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _naming_layers(args: Sequence[str]) -> list[tuple[str, str]]:
    """Of the command line the layers and overrides that make another study, because they can change a result."""
    science = {*FACTORS, "model.match"}
    found = []
    for key, value in loading.overrides(args):
        if key == "config":
            layer = _dotted(loading.read(str(shipped.find(value or ""))), "")
            if science & layer.keys():
                found.append((key, value or ""))
        elif key in science:
            found.append((key, value or ""))
    return found


def _name(file: Path, layers: Sequence[tuple[str, str]], seeds: int) -> str:
    """The study's name, with the layers and overrides that make another study, and the number of seeds of a first look.

    At most 60 characters: it is also a folder and a tag in W&B, which takes 64.
    """
    name = [file.parent.resolve().name if file.name == "study.yaml" else file.stem]
    name += [Path(value).stem if key == "config" else f"{key}={value}" for key, value in layers]
    name += [f"seeds{seeds}"] if seeds else []
    full = re.sub(r"[^\w.=+-]", "_", "+".join(name)).lstrip(".")
    return full if len(full) <= 60 else f"{full[:51]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


FILES = "files.txt"
"""In a study's directory: its study file and the layers that its name tells of, and their copies elsewhere, one path a line."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A study as it stood before its first run, ``registered.yaml``; what is changed later is flagged."""

    time: float
    """Unix time."""
    claims: list[dict[str, Any]]
    alpha: float
    seeds: list[int] | dict[str, Any]
    """A list, or the keys of ``Seeds``."""
    arms: dict[str, dict[str, Any]]
    """Per arm its science."""
    question: str = ""
    digest: str = ""
    """Of the bytes of the file, which does not hold it; empty before it is written. The records of the runs that began under this
    registration name it so: one that is made anew has another, and a later version that knows more fields finds the same."""

    @classmethod
    def now(cls, expansion: Expansion) -> "Registration":
        study = expansion.study
        claims = [dataclasses.asdict(claim) for claim in study.claims]
        for claim in claims:
            claim["contrast"] = claim["contrast"] and list(claim["contrast"])
        arms = {name: config.science() for name, config in expansion.arms.items()}
        seeds = dataclasses.asdict(study.seeds) if isinstance(study.seeds, Seeds) else list(study.seeds)
        return cls(time=time.time(), claims=claims, alpha=study.alpha, seeds=seeds, arms=arms, question=study.question)

    @classmethod
    def read(cls, expansion: Expansion) -> "Registration | None":
        """What was registered, or None before the first run.

        Raises:
            Refused: The file is no registration, or one of another study, with which this one shares neither question nor arm.
        """
        registered = cls.load(expansion.directory())
        if registered is None:
            return None
        before = [RunConfig().science() | arm for arm in registered.arms.values()]  # an older version knew fewer fields
        shared = any(config.science() in before for config in expansion.arms.values())
        if registered.question not in ("", expansion.study.question) and not shared:
            raise Refused(
                f"{expansion.directory()}: another study of this name was run, {registered.question!r}; "
                "rename this one's folder or file, or give it another --runtime.outputs"
            )
        return registered

    @classmethod
    def load(cls, directory: Path) -> "Registration | None":
        """What a study's directory holds, or None before the first run.

        Raises:
            Refused: The file is no registration.
        """
        file = directory / "registered.yaml"
        try:
            written = file.read_bytes()
            values = yaml.safe_load(decoded(written))
            if "digest" in values:
                raise Refused("digest: a file does not hold its own")
            registered = from_file(cls, values)
            if isinstance(registered.seeds, dict):
                from_file(Seeds, registered.seeds)
            for claim in registered.claims:
                if wrong := misfit(str, claim.get("id"), "claims.id"):
                    raise Refused(wrong)
        except FileNotFoundError:
            return None
        except (RecursionError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:  # of PyYAML's constructors
            reason = getattr(error, "problem", None) or error
            remedy = "remove it to register the study anew"
            raise Refused(f"{file}: not a registration of this version ({reason}); {remedy}") from None
        return dataclasses.replace(registered, digest=hashlib.sha256(written).hexdigest()[:16])

    @classmethod
    def make(cls, expansion: Expansion) -> None:
        """Register a study, once, and note it with every run that has not begun.

        Of several commands that do so at the same time the first one's registration stays.
        """
        registered = cls.read(expansion)
        if registered is None:
            expansion.directory().mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(cls.now(expansion).contents(), sort_keys=False)
            write_once(expansion.directory() / "registered.yaml", text.encode())
            registered = cls.read(expansion)
            assert registered is not None
        for run in expansion.runs().values():
            RunDirectory.of(run.runtime.outputs, run.run_id).register(registered.digest)

    def contents(self) -> dict[str, Any]:
        """What the file holds: all but its own digest."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "digest"}

    def edits(self, expansion: Expansion) -> list[str]:
        """What differs between the registered study and today's, in words."""
        today = Registration.now(expansion)
        seeds = dataclasses.asdict(Seeds(**self.seeds)) if isinstance(self.seeds, dict) else self.seeds
        defaults = RunConfig().science()  # where fields stood that a later version has added
        claim_defaults = {f.name: f.default for f in dataclasses.fields(Claim) if f.default is not dataclasses.MISSING}
        claim_defaults["effect"] = {}
        planned = (("alpha", self.alpha, today.alpha), ("seeds", seeds, today.seeds))
        edits = [f"{name} {old} -> {new}" for name, old, new in planned if old != new]
        for what, old, new in (
            ("claim", {c["id"]: claim_defaults | c for c in self.claims}, {c["id"]: c for c in today.claims}),
            ("arm", {name: defaults | science for name, science in self.arms.items()}, today.arms),
        ):
            edits += [f"{what} {name} added" for name in new if name not in old]
            edits += [f"{what} {name} removed" for name in old if name not in new]
            for name in [name for name in old if name in new]:
                keys = [key for key in new[name] if old[name].get(key) != new[name][key]]
                edits += [f"{what} {name}: {key} {old[name].get(key)} -> {new[name][key]}" for key in keys]
        return edits


def refuse_namesake(expansion: Expansion) -> None:
    """Refuse a study whose directory belongs to another study file of this name, or to other layers.

    A file that is gone, since its folder was moved, and a copy that is as the study was registered, as in another clone, are the
    same study, and are remembered with it.

    Raises:
        Refused: The other study's file is there, and this one differs from what was registered.
    """
    remembered = _remembered(expansion)
    others = [file for file in remembered if file not in expansion.files and file.is_file()]
    if not others or set(expansion.files) <= set(remembered):
        return
    registered = Registration.read(expansion)
    if registered and registered.edits(expansion):
        raise Refused(
            f"{expansion.directory()}: belongs to another study of this name, {others[0]}; "
            "rename this one's folder or file, or give it another --runtime.outputs"
        )


def remember_files(expansion: Expansion) -> None:
    """Note in the study's directory which files the study is made of."""
    expansion.directory().mkdir(parents=True, exist_ok=True)
    files = dict.fromkeys([*_remembered(expansion), *expansion.files])
    write_atomically(expansion.directory() / FILES, "".join(f"{file}\n" for file in files).encode("utf-8", "surrogateescape"))


def _remembered(expansion: Expansion) -> list[Path]:
    try:
        text = (expansion.directory() / FILES).read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        return []
    return [Path(line) for line in text.splitlines()]
