"""Verdicts that hold for other images of the same kind, too: how much of a difference belongs to the images of the test set.

Every run of a claim's arms is scored on the same test images, so that the difference of a seed on an image is the sum of a mean,
a part of the seed, a part of the image, and a rest. The mean squares of this two-way table tell the parts apart (Searle, Casella
& McCulloch 1992, *Variance Components*). Over new seeds *and* new images the variance of the mean difference is s^2/n + B/N.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from xceptlab.data.sources import reading
from xceptlab.errors import Refused
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.metrics import METRICS
from xceptlab.study.definition import Claim, Seeds, Study
from xceptlab.study.statistics import Array

FILES = {f"test/{name}": metric.per_image_file for name, metric in METRICS.items()}
"""By metric the file in a run's directory that has its values by image, (N,): 0 or 1, or nats."""


# ---- statistics -----------------------------------------------------------------------------------------------------------


def image_variance(differences: Array) -> Array:
    """The variance that the images add to a mean difference, B / N, of differences (..., n seeds, N images); n, N >= 2.

    B = max(0, (MS_images - MS_residual) / n) is the variance over images of what all seeds have in common. No number of seeds
    takes the standard error below the root of B / N.
    """
    *_, n, images = differences.shape
    by_image = differences.mean(axis=-2, keepdims=True)
    by_seed = differences.mean(axis=-1, keepdims=True)
    mean = by_image.mean(axis=-1, keepdims=True)
    of_images = n * ((by_image - mean) ** 2).sum(axis=(-2, -1)) / (images - 1)
    rest = differences - by_image - by_seed + mean
    of_rest = (rest**2).sum(axis=(-2, -1)) / ((n - 1) * (images - 1))
    return np.asarray(np.maximum(0.0, (of_images - of_rest) / n) / images)


def error(spread: Array | float, n: int, added: Array | float) -> tuple[Array, Array]:
    """Standard error of a mean over seeds and images, and its degrees of freedom (...), of n differences of this spread (...).

    ``added`` is ``image_variance``. The degrees of freedom are Satterthwaite's (1946) of the sum of both variances; that of the
    images, estimated from many of them, counts as known.
    """
    of_seeds = np.asarray(spread**2 / n)
    both = of_seeds + added
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(of_seeds > 0, both**2 * (n - 1) / of_seeds**2, np.inf)
    return np.sqrt(both), freedom


# ---- the values of single images ------------------------------------------------------------------------------------------


def refuse_scope(study: Study, file: Path) -> None:
    """Refuse ``scope: images`` for what it cannot be had for.

    Raises:
        Refused: One line: which claim, and why.
    """
    if study.scope != "images":
        return
    if isinstance(study.seeds, Seeds):
        raise Refused(f"{file}: scope: images needs a list of seeds; seeds until decided are judged on this test set only")
    for claim in study.claims:
        if claim.statistic == "median":
            raise Refused(f"{file}: claim {claim.id!r}: statistic: with scope: images it must be mean, not median")
        if claim.metric not in FILES:
            kept = f"with scope: images it must be one of {', '.join(FILES)}, whose values are kept image by image"
            raise Refused(f"{file}: claim {claim.id!r}: metric: {claim.metric} is not allowed; {kept}")


def by_image(
    claim: Claim, study: Study, directories: Mapping[tuple[str, int], RunDirectory], seeds: Sequence[int]
) -> dict[int, Array]:
    """By seed the claim's difference on every test image (N,), in the metric's unit, of the seeds of which all runs have kept it.

    Args:
        claim: The claim.
        study: Its study.
        directories: Of the runs that stand for the arms, by (arm, seed).
        seeds: Which are wanted.
    """
    if claim.metric not in FILES:
        return {}
    a, b = study.weights(claim)
    weights = {arm: a.get(arm, 0.0) - b.get(arm, 0.0) for arm in study.arms_of(claim)}
    found: dict[int, Array] = {}
    for seed in seeds:
        kept = [directories[arm, seed].path / FILES[claim.metric] for arm in weights if (arm, seed) in directories]
        values = [_values(file) for file in kept]
        difference = _weighted_sum(values, list(weights.values()))
        if difference is not None:
            in_the_metrics_unit = 1.0 if claim.lower_is_better else 100.0
            found[seed] = in_the_metrics_unit * difference
    lengths = {len(difference) for difference in found.values()}
    if len(lengths) > 1:
        return {}  # test sets of different sizes have no images in common
    return found


def _weighted_sum(values: Sequence[Array | None], weights: Sequence[float]) -> Array | None:
    """The sum (N,) of arms' values by image (N,); None where an arm lacks its own, or they are of different test sets."""
    known = [one for one in values if one is not None]
    if len(known) < len(weights) or len({len(one) for one in known}) > 1:
        return None
    weighted = [weight * one for weight, one in zip(weights, known, strict=True)]
    return np.asarray(np.sum(weighted, axis=0))


def variance_of(claim: Claim, study: Study, directories: Mapping[tuple[str, int], RunDirectory], seeds: Sequence[int]) -> float:
    """The claim's ``image_variance``; NaN where fewer than 2 seeds, or images, are known image by image."""
    differences = list(by_image(claim, study, directories, seeds).values())
    if len(differences) < 2 or len(differences[0]) < 2:
        return float("nan")
    return float(image_variance(np.stack(differences)))


def _values(file: Path) -> Array | None:
    """A run's values by image; None for a run that has none, such as a diverged one or one of an older version."""
    with suppress(FileNotFoundError), reading(file, "not a run's correctness by image; remove its folder to train the run again"):
        values = np.load(file)
        if not isinstance(values, np.ndarray) or values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise Refused("its values are no finite numbers, one an image")
        if file.name != FILES["test/loss"] and not np.isin(values, (0, 1)).all():
            raise Refused("its values are not 0 and 1, one an image")
        return values.astype(np.float64)
    return None
