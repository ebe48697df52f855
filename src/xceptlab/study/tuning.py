"""Tuning: train every arm at several values of some keys, so that each is compared at its own best
values.
"""

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from xceptlab.config.field_errors import shown
from xceptlab.config.fields import Section
from xceptlab.config.fields import keys as run_keys
from xceptlab.config.layers import unknown_run_key
from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.runs.metrics import VALIDATION_NAMES

TUNABLE = (
    "train.lr",
    "train.optimizer",
    "train.momentum",
    "train.nesterov",
    "train.weight_decay",
    "train.decay_norm_bias",
    "train.schedule",
    "train.decay_rate",
    "train.decay_epochs",
    "train.warmup",
    "train.label_smoothing",
    "train.gradient_clip",
    "train.ema",
    "model.dropout",
    "data.crop",
    "data.pad",
    "data.flip",
    "data.cutout",
    "data.colour",
    "data.rand_augment",
    "data.mixup",
    "data.cutmix",
)
"""Keys that may be tuned: those of the training recipe, but none that changes the budget, the
network's parts or which images are used.
"""


@dataclass(frozen=True, kw_only=True)
class Tune(Section):
    """How arms are tuned: each is trained at each of some values, and judged, seed by seed, at the
    one that validates best.
    """

    PREFIX: ClassVar[str] = "tune."

    keys: dict[str, list[Any] | dict[str, list[float]]]
    """The values of each key, such as ``train.lr: [0.03, 0.1, 0.3]``; the values of several keys
    are crossed. Or, for each key, a range to draw from evenly on a logarithmic scale, such as
    ``train.lr: {log: [0.01, 1.0]}``."""
    trials: int = 0
    """Number of values that are drawn from ranges, the same values for all arms; 0 where values are
    listed.
    """
    select: Literal[VALIDATION_NAMES] | str = "val/top1"  # type: ignore[valid-type]
    """The metric at the last epoch by which the best value of an arm is chosen, anew for every
    seed: a built-in one or, as ``val/NAME``, a metric of ``train.metrics``. Ties go to the first
    value.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("keys", bool(self.keys), "a mapping of at least one key to its values")
        for key, values in self.keys.items():
            _check_key(key, values)
        are_lists = [isinstance(values, list) for values in self.keys.values()]
        self._require(
            "keys",
            all(are_lists) or not any(are_lists),
            "lists of values throughout, or ranges throughout",
        )
        if all(are_lists):
            self._require(
                "trials",
                self.trials == 0,
                "left out where values are listed; each of them is tried",
            )
        else:
            self._require(
                "trials",
                2 <= self.trials <= 100,
                "from 2 to 100 where values are drawn from ranges",
            )
            drawn = [tuple(values.values()) for values in self.trial_values]
            self._require(
                "keys",
                len(set(drawn)) == len(drawn),
                f"ranges wide enough for {self.trials} values of 3 digits",
            )

    @functools.cached_property
    def trial_values(self) -> list[dict[str, Any]]:
        """The values at which every arm is trained, each as ``{key: value}`` of all tuned keys: all
        combinations of the listed values, or ``trials`` points from the ranges.

        Values from ranges are Halton's points, which fill a range more evenly than random ones.
        They depend on nothing but the ranges and their index, so that more trials keep the runs of
        fewer. They are rounded to 3 digits.
        """
        if not self.trials:
            crossed = itertools.product(*self.keys.values())
            return [dict(zip(self.keys, values, strict=True)) for values in crossed]
        # This import takes a second, which listed values do not need.
        from scipy.stats import qmc

        # Halton's first point is a corner of the ranges, and left out.
        points = qmc.Halton(len(self.keys), scramble=False).random(self.trials + 1)[1:]
        drawn = []
        for point in points:
            values = {}
            for share, (key, between) in zip(point, self.keys.items(), strict=True):
                assert isinstance(between, dict)
                low, high = between["log"]
                values[key] = float(f"{low * (high / low) ** share:.3g}")
            drawn.append(values)
        return drawn

    @property
    def described(self) -> str:
        """A sentence on how the arms are tuned, for verdicts."""
        tuned = " and ".join(self.keys)
        return f"Each arm at the best of {len(self.trial_values)} values of {tuned} by {self.select}, chosen anew for every seed."


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is trained with every seed: an arm at one of the tuned values or, in a study that tunes
    nothing, an arm.
    """

    arm: str
    """Name of the arm."""
    values: dict[str, Any]
    """The value of each tuned key; empty in a study that tunes nothing."""
    config: RunConfig
    """The arm's configuration with ``values`` and the study's first seed."""


def _check_key(key: str, values: list[Any] | dict[str, list[float]]) -> None:
    """Refuse a key that cannot be tuned, and values of it that are neither two or more different
    ones nor a range ``{log: [low, high]}`` with 0 < low < high.
    """
    if key not in TUNABLE:
        if key in run_keys(RunConfig):
            raise Refused(f"tune.keys: {key}: cannot be tuned; {', '.join(TUNABLE)} can")
        raise Refused(f"tune.keys: {unknown_run_key(key, TUNABLE)}")
    if not _can_be_tried(values):
        allowed = (
            "a list of at least two different values, or {log: [low, high]} with 0 < low < high"
        )
        raise Refused(f"tune.keys: {key}: {shown(values)} is not allowed; it must be {allowed}")


def _can_be_tried(values: list[Any] | dict[str, list[float]]) -> bool:
    """Whether these are two or more values, all different, or a range ``{log: [low, high]}`` with
    0 < low < high.
    """
    if isinstance(values, list):
        return len(values) > 1 and all(values.count(value) == 1 for value in values)
    if values.keys() != {"log"} or len(values["log"]) != 2:
        return False
    low, high = values["log"]
    return 0 < low < high


def value_name(values: dict[str, Any]) -> str:
    """Return the values of a trial as tables show them, such as ``0.1, 0.9``."""
    return ", ".join(map(str, values.values()))


def trials(arms: dict[str, RunConfig], tune: Tune | None) -> dict[str, Trial]:
    """Return every trial by its name: ``arm`` in a study that tunes nothing (None), ``arm@0.1`` in
    one that tunes a key, ``arm@0.1,0.9`` in one that tunes two.

    Raises:
        Refused: A tuned value is not allowed.
    """
    if tune is None:
        return {arm: Trial(arm=arm, values={}, config=config) for arm, config in arms.items()}
    found = {}
    for arm, config in arms.items():
        for values in tune.trial_values:
            name = f"{arm}@{value_name(values).replace(' ', '')}"
            found[name] = Trial(arm=arm, values=values, config=_with(config, values))
    return found


def _with(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """Return the configuration with these values, by dotted key.

    Raises:
        Refused: A value is not allowed.
    """
    by_section: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, name = key.split(".")
        by_section.setdefault(section, {})[name] = value
    sections = {}
    for section, fields in by_section.items():
        sections[section] = dataclasses.replace(getattr(config, section), **fields)
    return dataclasses.replace(config, **sections)
