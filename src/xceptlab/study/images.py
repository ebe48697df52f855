"""A claim's differences on single test images, from the values that its runs have kept image by
image.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from xceptlab.data.sources import reading
from xceptlab.errors import Refused
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.metrics import METRICS
from xceptlab.study import contrasts
from xceptlab.study.claims import Claim
from xceptlab.study.definition import Study
from xceptlab.study.statistics import Array, image_variance

FILES = {f"test/{name}": metric.per_image_file for name, metric in METRICS.items()}
"""By built-in metric of the test split, such as ``test/top1``, the name of the file in a run's
directory with the metric's values on the N test images (N,): 0 or 1 for an accuracy, nats for the
loss.
"""

ACCURACY_FILES = {metric.per_image_file for metric in METRICS.values() if metric.is_accuracy}
"""The names of those files of values by image that hold an accuracy: 1 for an image that is
answered rightly, else 0.
"""


def by_image(
    claim: Claim,
    study: Study,
    directories: Mapping[tuple[str, int], RunDirectory],
    seeds: Sequence[int],
) -> dict[int, Array]:
    """Return a claim's difference a - b on every one of N test images, by seed: ``{seed: (N,)}``.

    It is a - b for the loss, too, in nats; for accuracies it is in percentage points. A seed is
    left out where one of its runs has not kept its values, or where they are of different numbers
    of images. Empty for any metric but a built-in one of the test split, and where the test sets of
    different seeds differ in size.

    Args:
        claim: The claim.
        study: The claim's study.
        directories: The directories of the runs that stand for the arms, by (arm, seed).
        seeds: The seeds that are wanted.

    Raises:
        Refused: A run's file does not hold the values of its images.
    """
    if claim.metric not in FILES:
        return {}
    a, b = contrasts.weights(claim, study)
    weights = {arm: a.get(arm, 0.0) - b.get(arm, 0.0) for arm in contrasts.arms_of(claim, study)}
    in_the_metrics_unit = 100.0 if claim.measure.in_percent else 1.0
    found: dict[int, Array] = {}
    for seed in seeds:
        files = {
            arm: directories[arm, seed].path / FILES[claim.metric]
            for arm in weights
            if (arm, seed) in directories
        }
        values = _kept_values(files)
        if values.keys() == weights.keys() and _are_equally_long(values.values()):
            found[seed] = in_the_metrics_unit * _weighted_sum(values, weights)
    return found if _are_equally_long(found.values()) else {}


def _kept_values(files: Mapping[str, Path]) -> dict[str, Array]:
    """Read files of a run's values by image, given by arm, and return the values (N,) by arm. An
    arm whose file does not exist is left out.

    Raises:
        Refused: A file does not hold the values of a run's images.
    """
    kept = {}
    for arm, file in files.items():
        values = _values(file)
        if values is not None:
            kept[arm] = values
    return kept


def _are_equally_long(arrays: Iterable[Array]) -> bool:
    """Whether all arrays have the same length, as they do if there are none."""
    return len({len(array) for array in arrays}) <= 1


def _weighted_sum(values: Mapping[str, Array], weights: Mapping[str, float]) -> Array:
    """Return the weighted sum (N,) of the arms' values by image (N,).

    It is summed in the order of the weights, on which its rounding depends.
    """
    return np.asarray(np.sum([weight * values[arm] for arm, weight in weights.items()], axis=0))


def variance_of(
    claim: Claim,
    study: Study,
    directories: Mapping[tuple[str, int], RunDirectory],
    seeds: Sequence[int],
) -> float:
    """Return what the sample of images adds to the variance of a claim's mean difference
    (``statistics.image_variance``), in the square of the metric's unit.

    NaN where fewer than 2 seeds have values by image in all arms of the claim, where the test sets
    of seeds differ in size or have fewer than 2 images, and for any metric but a built-in one of
    the test split.

    Args:
        claim: The claim.
        study: The claim's study.
        directories: The directories of the runs that stand for the arms, by (arm, seed).
        seeds: The seeds that are used.

    Raises:
        Refused: A run's file does not hold the values of its images.
    """
    differences = list(by_image(claim, study, directories, seeds).values())
    if len(differences) < 2 or len(differences[0]) < 2:
        return float("nan")
    return float(image_variance(np.stack(differences)))


def _values(file: Path) -> Array | None:
    """Read a run's values by image (N,).

    None where the file does not exist, as of a diverged run or of one of an older version.

    Raises:
        Refused: The file holds something else, such as numbers other than 0 and 1 for an accuracy.
    """
    with (
        suppress(FileNotFoundError),
        reading(file, "not a run's values by image; remove its folder to train the run again"),
    ):
        values = np.load(file)
        if (
            not isinstance(values, np.ndarray)
            or values.ndim != 1
            or not len(values)
            or not np.isfinite(values).all()
        ):
            raise Refused("its values are no finite numbers, one an image")
        if file.name in ACCURACY_FILES and not np.isin(values, (0, 1)).all():
            raise Refused("its values are not 0 and 1, one an image")
        return values.astype(np.float64)
    return None
