"""The record of a run: what ``record.json`` in its directory holds once the run is done."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run that is done leaves behind in ``record.json``: its scores and what made them."""

    run_id: str
    status: Literal["finished", "diverged"]
    """How the run ended. ``diverged``: the training loss was not finite at some step, so that the
    training ended with the next step that is logged, or the final evaluation was not finite. There
    are no metrics then.
    """
    science: dict[str, Any]
    """The part of the configuration that can change a result, by dotted key such as ``train.lr``.
    """
    metrics: dict[str, float]
    """Every metric at the end of the training, such as test/top1 (percent) and test/loss (nats);
    empty for a run that diverged.
    """
    parameters: int
    """Number of trainable parameters."""
    macs: int
    """Multiply-accumulates of one image's forward pass."""
    test_images: int
    """Number of images in the test split."""
    steps: int
    """Number of optimizer steps done."""
    seconds: float
    """Seconds of training, without evaluation, added up over interruptions."""
    images_per_second: float
    """Throughput of the training in images per second, of all devices together."""
    device: str
    """Model of the CPU or GPU."""
    world_size: int
    """Number of processes, one for each device."""
    precision: str
    """Precision of the arithmetic, by Lightning's name such as ``bf16-mixed``."""
    data_fingerprint: str
    """Hashes of the labels and decoded images, one for each distinct source of the splits, joined
    by hyphens; of photographs, of all labels and up to 16 images of each source.
    """
    data_files: str = ""
    """Layout of a known data set's files, and a digest of their names and sizes. Empty for a data
    set without files, where not all files were at hand, and for a user's own photographs, which
    ``data.content`` in ``science`` identifies.
    """
    classes: list[str] = dataclasses.field(default_factory=list)
    """The names of the classes, by label; empty where the files do not say."""
    versions: dict[str, str]
    """Versions of Python, of this package and of the libraries that compute, by name."""
    git: dict[str, str | bool]
    """``revision``, the commit of the code's git checkout, and whether tracked files differ from it
    (``dirty``); empty where the code is in no checkout, or there is no git.
    """
    started: float
    """Unix time at which the run first started."""
    finished: float
    """Unix time at which the record was made."""
    train_images: int = 0
    """Number of images that were trained on, without those held out; 0 in records of older
    versions.
    """
    validation_images: int = 0
    """Number of validation images, whether they were held out of the training images or are a part
    of their own; 0 also in records of older versions.
    """
    majority_class: dict[str, float] = field(default_factory=dict)
    """The accuracy, in percent, of always answering with a split's most frequent class, by metric:
    test/top1, and val/top1 where there are images to validate on; empty in records of older
    versions.
    """
    host: str = ""
    """Name of the machine of the first process; empty in records of older versions."""
    registrations: list[str] | None = None
    """Digests of the studies' registrations that were made before the run began; None in records of
    older versions.
    """
    arithmetic: str = ""
    """Properties of the device and its libraries that decide how sums are rounded, as text; empty
    for devices other than CPUs and NVIDIA GPUs, and in records of older versions.
    """
    weights: str = ""
    """Source of the weights that the training started from (``model.weights``), in words; empty
    where they were drawn at random.
    """

    def score(self, metric: str, if_diverged: float) -> float | None:
        """Return the run's score in a metric such as ``test/top1``, which is ``if_diverged`` for a
        run that diverged; None for a finished run without it, such as ``val/top1`` of a run that
        had no images to validate on.
        """
        if self.status == "diverged":
            return if_diverged
        return self.metrics.get(metric)


def packages_of(records: Iterable[Record]) -> set[str]:
    """Return the names of all packages whose versions any of the records has."""
    packages: set[str] = set()
    for record in records:
        packages |= record.versions.keys()
    return packages
