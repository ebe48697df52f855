"""Find out where the error of a claim's mean difference comes from: from the seeds, or from the
finite number of test images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.metrics import decimals, metric_of
from xceptlab.study.definition import Study
from xceptlab.study.images import by_image
from xceptlab.study.statistics import error_over_images, image_variance
from xceptlab.study.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The standard error of a claim's mean difference, by its two sources; in percentage points for
    a metric in percent, else in the metric's unit. As text it is two sentences.
    """

    seeds: float
    """Standard error from drawing other seeds, on the same test images."""
    images: float
    """Standard error from drawing other test images alone; no number of seeds takes the error below
    it.
    """
    both: float
    """Standard error from drawing other seeds and other test images."""
    freedom: float
    """Degrees of freedom of ``both``; infinite where all seeds have the same difference."""
    n: int
    """Number of seeds."""
    test_images: int
    """Number of test images."""
    metric: str
    """The claim's metric, such as ``test/top1``."""

    def __str__(self) -> str:
        seeds = self._rounded(self.seeds)
        images = self._rounded(self.images)
        both = self._rounded(self.both)
        unit = metric_of(self.metric).unit_of_difference
        sources = f"{seeds} from {self.n} seeds, {images} from {self.test_images:,} test images"
        if float(images):
            limiting = "test images" if self.images > self.seeds else "seeds"
            floor = f"No number of seeds takes it below {images}; the {limiting} limit the answer"
        else:
            floor = "The images add nothing"
        return f"Standard error in {unit}: {sources}, {both} from both. {floor}."

    def _rounded(self, standard_error: float) -> str:
        """Return a standard error as text, with the metric's number of decimals."""
        return f"{standard_error:.{decimals(self.metric)}f}"


def sampling_errors(
    verdicts: list[Verdict], study: Study, directories: Mapping[tuple[str, int], RunDirectory]
) -> dict[str, Sampling]:
    """Return the sources of error of mean differences, by the claim's id.

    A claim is left out if it is not judged yet, has fewer than 2 pairs, is on a median or is not
    paired; if its metric is a registered one or of the validation split; if one of its runs has not
    kept the metric's value for each test image; or if its runs have a single test image, or test
    sets of different sizes.

    Args:
        verdicts: Verdicts on the study's claims.
        study: The study.
        directories: Directories of the runs that stand for the arms, by (arm, seed).

    Raises:
        Refused: A run's file does not hold the values of its images.
    """
    sampling = {}
    for verdict in verdicts:
        if not _has_paired_mean(verdict):
            continue
        kept = by_image(verdict.claim, study, directories, list(verdict.differences))
        if len(kept) < verdict.n:
            continue
        differences = np.stack(list(kept.values()))
        if differences.shape[1] > 1:
            sampling[verdict.claim.id] = _sampling(verdict, differences)
    return sampling


def _has_paired_mean(verdict: Verdict) -> bool:
    """Whether a verdict is on a mean over pairs, is not incomplete, and has the 2 pairs that a
    standard error needs.
    """
    claim = verdict.claim
    of_pairs = claim.statistic == "mean" and claim.pairing == "seed"
    return of_pairs and verdict.n >= 2 and verdict.outcome != "incomplete"


def _sampling(verdict: Verdict, differences: np.ndarray) -> Sampling:
    """Compute the sources of a verdict's error from its differences (seeds, images), one for every
    seed and test image.
    """
    n, test_images = differences.shape
    variance_of_images = image_variance(differences)
    spread = float(verdict.values.std(ddof=1))
    both, freedom = error_over_images(spread, n, variance_of_images)
    return Sampling(
        seeds=spread / math.sqrt(n),
        images=math.sqrt(variance_of_images),
        both=float(both),
        freedom=float(freedom),
        n=n,
        test_images=test_images,
        metric=verdict.claim.metric,
    )
