"""Define every built-in metric: its unit, whether lower is better, how it is shown, and what
guessing scores. ``metric_of`` also finds those that a user's module has registered, and
``metric_of_another_tool`` guesses what the scores of another tool are.

A record names a metric after the split that it was measured on, such as ``test/top1``. The function
that computes a metric stands under the same name in ``training/metrics.py`` (``PER_IMAGE``). A new
built-in metric is an entry in ``METRICS`` and one in ``PER_IMAGE``. Its name is repeated only where
it cannot be derived, and tests fail where it lacks: in ``register.RESERVED_METRICS``, since
``register`` must not import this module, which imports it; in the tables of ``docs/study.md``; and
in the JSON Schemas.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
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
    is_accuracy: bool = False
    """Whether the metric's value is 1 for an image that is answered rightly and 0 for any other, so
    that a score is the share of these images, in percent. False for every registered metric, whose
    values may lie between 0 and 1 even where the unit is percent.
    """
    guessing: Callable[[int], float]
    """Function from the number of classes to the score of uniform guessing; its value is NaN where
    none is known.
    """
    highest: float = math.inf
    """The highest score of a built-in metric, whose lowest score is 0; infinity for any other
    metric, whose lowest score is not known.
    """
    more_classes_than: int = 0
    """The metric is measured only where there are more classes than this: 5 for ``top5``, since
    with 5 classes the label is always among the 5 best, and 0 for any other metric.
    """
    per_image_file: str = ""
    """Name of the file in a run's folder with the metric's value for each test image; empty for a
    metric that is neither built in nor registered.
    """

    @property
    def in_percent(self) -> bool:
        """Whether values are in percent, so that a difference of two is in percentage points."""
        return self.unit == "%"

    @property
    def allowed(self) -> str:
        """Range of the scores that a claim may declare (``diverged``, ``failed``) in this metric,
        in words for an error message, such as ``0 or more``: right for a metric that is built in or
        in percent.
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
            is_accuracy=True,
            highest=100,
            guessing=lambda classes: 100 / classes,
            per_image_file="test_correct.npy",
        ),
        Metric(
            name="top5",
            unit="%",
            decimals=2,
            is_accuracy=True,
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

ERRORS = frozenset((
    "err", "error", "errors", "mse", "rmse", "mae", "nll", "brier", "ece", "ppl", "perplexity", "fid", "wer", "cer", "eer",
    "bpb", "bpc", "misclassified", "latency", "time", "seconds", "ms", "flops", "macs", "cost", "memory", "loss", "entropy",
    "crossentropy", "xent", "ce", "bce", "kl", "kld", "kldiv", "divergence", "deviance", "likelihood", "elbo", "regret",
    "distance", "hamming", "hausdorff", "lpips", "epe", "fpr", "fnr", "parameters", "params", "gap", "mape", "smape", "msle",
    "rmsle", "miss", "misclassification", "kid", "jsd", "false", "bits", "bpd", "crps", "aic", "bic", "frr", "fde", "ade",
    "asd", "chamfer", "forgetting", "clock", "runtime", "walltime", "duration", "emd", "wasserstein", "mistakes", "failures",
    "fail", "wrong", "neg", "hinge", "huber", "distances", "perplexities",
))  # fmt: skip
"""Words by which the name of another tool's metric suggests an error. The user must then say
whether a lower score is better, unless the metric is registered or its name ends in ``loss``. For
most of these words it is; some, such as likelihood, are used for a quantity and for its negative.
"""
ENDINGS_OF_ERRORS = ("error", "errors", "err", "loss", "losses", "mse", "mae")
"""Ends of words that suggest an error, such as ``valloss``."""


# ---- names ---------------------------------------------------------------------------------------


def names_on(split: str, registered: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the full names of metrics on a split, such as ``val/top1``: those of all built-in
    metrics, and then those of the ``registered`` ones, which are given without a split.
    """
    return tuple(f"{split}/{name}" for name in (*METRICS, *registered))


VALIDATION_NAMES = names_on("val")
"""Names of the built-in metrics by which arms can be tuned; registered ones can be, too."""

NAMES = (*names_on("test"), *VALIDATION_NAMES)
"""Names of the built-in metrics that a study's claims can be on; they can be on registered ones, too.
"""


def split_of(name: str) -> str:
    """Return the split on which a metric such as ``test/top1`` was measured; empty for a name
    without one.
    """
    split, slash, _ = name.partition("/")
    return split if slash else ""


def on_split(values: Mapping[str, float], split: str) -> dict[str, float]:
    """Return those of the values by name that were measured on a split, such as ``val/top1`` on
    ``val``.
    """
    return {name: value for name, value in values.items() if split_of(name) == split}


# ---- what a name stands for ----------------------------------------------------------------------


def metric_of(name: str) -> Metric:
    """Return the metric, registered or built-in, that a name such as ``test/top1`` stands for.

    For any other name a metric is returned whose unit is empty, whose score of guessing is NaN, and
    of which higher values count as better.
    """
    entry = _entry_of(name)
    if entry:
        return _registered(entry)
    unknown = Metric(name=name, unit="", decimals=4, guessing=lambda classes: math.nan)
    return METRICS.get(without_split(name), unknown)


def metric_of_another_tool(name: str) -> Metric:
    """Return the metric that a score of another tool is taken for: the registered one of this name,
    or else the built-in one with whose name it ends, as ``valid_loss`` is taken for a loss.

    For any other name, such as ``kappa``, a metric is returned whose unit is empty, whose score of
    guessing is NaN, and of which higher values count as better.
    """
    if not _entry_of(name):
        for metric in METRICS.values():
            if name.lower().endswith(metric.name):
                return metric
    return metric_of(name)


def direction_is_known(name: str) -> bool:
    """Whether it is known if a lower or a higher score of another tool's metric is better, so that
    the user need not say it.

    It is not known where the name suggests an error: by a word in ``ERRORS`` or one such as
    ``errorrate``, or by beginning with ``1-`` as ``1-acc`` does. It is known all the same if the
    metric is a registered one, or if its name ends in ``loss``, the built-in metric in which lower
    is better.

    For any other name it counts as known. A name that is neither registered nor ends in that of a
    built-in metric, such as ``kappa``, is taken for one in which higher is better.
    """
    is_complement = re.match(r"1\s*-", name) is not None
    # The words of test_err, testErr and RMSE, and of FLOPs.
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
    words.update(re.findall(r"[a-z]+", name.lower()))
    if not is_complement and not any(map(_suggests_an_error, words)):
        return True
    return _entry_of(name) is not None or metric_of_another_tool(name).lower_is_better


def _suggests_an_error(word: str) -> bool:
    """Whether a word of a metric's name, in lower case, is one of ``ERRORS``, begins with
    ``error``, such as ``errorrate``, or ends in one of ``ENDINGS_OF_ERRORS``, such as ``valmse``.
    """
    return word in ERRORS or word.startswith("error") or word.endswith(ENDINGS_OF_ERRORS)


def without_split(name: str) -> str:
    """Return the name of a metric such as ``test/top1`` without its split."""
    return name.rpartition("/")[2]


def _entry_of(name: str) -> register.Entry | None:
    """Return the registered metric that a name such as ``test/brier`` stands for; None if no module
    that this process has loaded has registered it.
    """
    return register.loaded("metric", without_split(name))


def _registered(entry: register.Entry) -> Metric:
    """Make the ``Metric`` of a registered metric from its entry in the registry."""
    return Metric(
        name=entry.name,
        unit=entry.about["unit"],
        decimals=entry.about["decimals"],
        lower_is_better=entry.about["lower_is_better"],
        guessing=entry.about["guessing"] or (lambda classes: math.nan),
        per_image_file=f"test_{entry.name}.npy",
    )


def decimals(name: str) -> int:
    """Return the number of decimals with which a metric's values are shown, by a name such as
    ``test/top1``; 4 for an unknown metric.
    """
    return metric_of(name).decimals


# ---- what is measured ----------------------------------------------------------------------------


def measured(classes: int, registered: Sequence[str] = ()) -> list[Metric]:
    """Return the metrics that an evaluation computes: the built-in ones, without ``top5`` where
    there are at most 5 classes, and then the registered ones.

    Args:
        classes: Number of classes that the network tells apart.
        registered: Names of the registered metrics, without a split.

    Raises:
        Refused: No metric is registered under one of these names, or the module of an installed
            package raises an error.
    """
    built_in = [metric for metric in METRICS.values() if classes > metric.more_classes_than]
    return built_in + [_registered(register.entry("metric", name)) for name in registered]
