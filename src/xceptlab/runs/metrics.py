"""Define every built-in metric: its unit, whether lower is better, how it is shown, and what
guessing scores. ``metric_of`` also finds those that a user's module has registered.

A record names a metric after the split that it was measured on, such as ``test/top1``. The function
that computes a metric stands under the same name in ``training/metrics.py`` (``PER_IMAGE``). A new
built-in metric is an entry in both files, its name in ``register.RESERVED_METRICS``, its file in
the list at the top of ``runs/directory.py`` and, for arms to be tuned by it, its name in
``study.tuning.Tune.select``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xceptlab import register


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric, whatever split it is measured on."""

    name: str
    """Name without the split, such as ``top1``."""
    unit: str
    """``%``, ``nats``, or the unit that a registered metric has; empty where none is known."""
    decimals: int
    """Number of decimals with which a value is shown."""
    lower_is_better: bool = False
    guessing: Callable[[int], float]
    """Function from the number of classes to the score of uniform guessing; its value is NaN where
    none is known.
    """
    highest: float = math.inf
    """The highest score of a built-in metric, whose lowest score is 0."""
    more_classes_than: int = 0
    """The metric is measured only where there are more classes than this: with 5 classes the label
    is always among the 5 best.
    """
    per_image_file: str = ""
    """Name of the file in a run's folder with the metric's value for each test image; empty for a
    metric of another tool's scores.
    """

    @property
    def in_percent(self) -> bool:
        """Whether a difference of two values is in percentage points."""
        return self.unit == "%"

    @property
    def allowed(self) -> str:
        """Range of a run's scores in this metric, in words for an error message, such as ``0 or
        more``.
        """
        if math.isinf(self.highest):
            return "0 or more"
        return f"0 to {self.highest:g}, as accuracies are in percent"

    @property
    def unit_of_difference(self) -> str:
        """Unit of a difference of two values: ``points`` for percent, and else the metric's unit."""
        return "points" if self.in_percent else self.unit


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            name="top1",
            unit="%",
            decimals=2,
            highest=100,
            guessing=lambda classes: 100 / classes,
            per_image_file="test_correct.npy",
        ),
        Metric(
            name="top5",
            unit="%",
            decimals=2,
            highest=100,
            guessing=lambda classes: 100 * min(5, classes) / classes,
            more_classes_than=5,
            per_image_file="test_top5.npy",
        ),
        Metric(
            name="loss",
            unit="nats",
            decimals=4,
            lower_is_better=True,
            guessing=math.log,
            per_image_file="test_loss.npy",
        ),
    )
}
"""The built-in metrics of a run's evaluation, by name; ``metric_of`` knows registered ones, too."""

ACCURACY = "top1"
"""Name of the metric that tells whether a network has learned anything, for learning curves and
warnings.
"""

SPLITS = ("test", "val")
"""The splits on which a trained network is evaluated."""

NAMES = tuple(f"{split}/{name}" for split in SPLITS for name in METRICS)
"""Names of the built-in metrics with their split, such as ``test/top1``. A study's claims can be on
them, and on registered ones.
"""


def metric_of(name: str) -> Metric:
    """Return the metric, registered or built-in, that a name such as ``test/top1`` ends in.

    Scores that another tool made have names of their own: ``valid_loss`` is taken for a loss, and
    for a name such as ``kappa`` the metric has no unit and no score of guessing.
    """
    entry = register.loaded("metric", name.rpartition("/")[2])
    if entry:
        return _registered(entry)
    for metric in METRICS.values():
        if name.endswith(metric.name):
            return metric
    return Metric(name=name, unit="", decimals=4, guessing=lambda classes: math.nan)


def _registered(entry: register.Entry) -> Metric:
    """Return a registered metric, which ``entry`` describes."""
    return Metric(
        name=entry.name,
        unit=entry.about["unit"],
        decimals=entry.about["decimals"],
        lower_is_better=entry.about["lower_is_better"],
        guessing=entry.about["guessing"] or (lambda classes: math.nan),
        per_image_file=f"test_{entry.name}.npy",
    )


def decimals(name: str) -> int:
    """Return the number of decimals with which a value of the metric is shown."""
    return metric_of(name).decimals


def split_of(name: str) -> str:
    """Return the split on which a metric such as ``test/top1`` was measured."""
    return name.split("/")[0]


def measured(classes: int, registered: Sequence[str] = ()) -> list[Metric]:
    """Return the metrics that an evaluation computes: the built-in ones that tell something about a
    network with so many classes, and the registered ones with these names.
    """
    built_in = [metric for metric in METRICS.values() if classes > metric.more_classes_than]
    return built_in + [_registered(register.entry("metric", name)) for name in registered]
