"""What every metric is: its unit, whether lower is better, how it is shown, and what guessing
scores.

A record names a metric after the split that it was measured on, ``test/top1``. How it is computed
stands under the same name in ``training/metrics.py``. A new built-in metric is an entry in both
files, its name in ``register.RESERVED_METRICS``, and its file in ``runs/directory.py``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xceptlab import register


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric, whatever the split it is measured on."""

    name: str
    """Name without the split, such as ``top1``."""
    unit: str
    """``%`` or ``nats``; empty where nothing is known of the metric."""
    decimals: int
    """Number of decimals with which a value is shown."""
    lower_is_better: bool = False
    guessing: Callable[[int], float]
    """Score of uniform guessing, by the number of classes."""
    highest: float = math.inf
    """The highest score that there is; the lowest one is 0."""
    more_classes_than: int = 0
    """The metric is measured only where there are more classes: among the 5 best of 5 classes is
    every one.
    """
    per_image_file: str = ""
    """The file in a run's folder that has its value for each test image; empty for a metric of
    another tool's scores.
    """

    @property
    def in_percent(self) -> bool:
        """Whether a difference of two values is in percentage points."""
        return self.unit == "%"

    @property
    def allowed(self) -> str:
        """The scores that a run can have in this metric, in words for an error message, such as
        ``0 or more``.
        """
        return (
            "0 or more"
            if math.isinf(self.highest)
            else f"0 to {self.highest:g}, as accuracies are in percent"
        )

    @property
    def unit_of_difference(self) -> str:
        """Unit of a difference of two values: ``points`` or ``nats``."""
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
"""Every metric of a run's evaluation, by its name."""

ACCURACY = "top1"
"""The metric that tells whether a network has learned anything: that of learning curves and of
warnings.
"""

SPLITS = ("test", "val")
"""The splits on which a trained network is evaluated."""

NAMES = tuple(f"{split}/{name}" for split in SPLITS for name in METRICS)
"""The metrics on which a study's claims can be."""


def metric_of(name: str) -> Metric:
    """The metric that a name such as ``test/top1`` ends in.

    Scores that another tool made have names of their own: ``valid_loss`` is a loss, too, and of
    ``kappa`` nothing is known.
    """
    entry = register.loaded("metric", name.rpartition("/")[2])
    if entry:
        return _registered(entry)
    for metric in METRICS.values():
        if name.endswith(metric.name):
            return metric
    return Metric(name=name, unit="", decimals=4, guessing=lambda classes: math.nan)


def _registered(entry: register.Entry) -> Metric:
    return Metric(
        name=entry.name,
        unit=entry.about["unit"],
        decimals=entry.about["decimals"],
        lower_is_better=entry.about["lower_is_better"],
        guessing=entry.about["guessing"] or (lambda classes: math.nan),
        per_image_file=f"test_{entry.name}.npy",
    )


def decimals(name: str) -> int:
    """Number of decimals with which a value of the metric is shown."""
    return metric_of(name).decimals


def split_of(name: str) -> str:
    """Split on which a metric such as ``test/top1`` was measured."""
    return name.split("/")[0]


def measured(classes: int, registered: Sequence[str] = ()) -> list[Metric]:
    """The built-in metrics that tell something about a network of so many classes, and the
    registered ones of these names.
    """
    built_in = [metric for metric in METRICS.values() if classes > metric.more_classes_than]
    return built_in + [_registered(register.entry("metric", name)) for name in registered]
