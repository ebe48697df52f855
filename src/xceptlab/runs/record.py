"""The record of a finished run."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a finished run leaves behind, in ``record.json``."""

    run_id: str
    status: Literal["finished", "diverged"]
    """How the run ended; ``diverged``: the loss was not finite at some step, and there are no
    metrics.
    """
    science: dict[str, Any]
    """The science configuration, by dotted key."""
    metrics: dict[str, float]
    """Every final metric, such as test/top1 (percent) and test/loss (nats)."""
    parameters: int
    """Number of trainable parameters."""
    macs: int
    """Multiply-accumulates of one image's forward pass."""
    test_images: int
    """Number of images in the test split."""
    steps: int
    """Number of optimizer steps done."""
    seconds: float
    """Seconds of training, evaluation excluded, over all interruptions."""
    images_per_second: float
    """Throughput of the training in images per second, over all devices."""
    device: str
    world_size: int
    precision: str
    data_fingerprint: str
    """Hash of the decoded images and labels."""
    data_files: str = ""
    """Layout of a known data set's files, and a digest of their names and sizes; for other sets
    ``data.content`` says it.
    """
    classes: list[str] = dataclasses.field(default_factory=list)
    """The names of the classes, by label; empty where the files do not say."""
    versions: dict[str, str]
    git: dict[str, str | bool]
    """Revision and dirty flag of the code; empty where it is not a checkout."""
    started: float
    """Unix time at which the run first started."""
    finished: float
    """Unix time at which the record was made."""
    train_images: int = 0
    """Number of images that were trained on, without those held out; 0 in records of older
    versions.
    """
    validation_images: int = 0
    """Number of images held out for validation; 0 also in records of older versions."""
    majority_class: dict[str, float] = field(default_factory=dict)
    """Percent that always answering with a split's majority class would score, by metric:
    test/top1, and val/top1 where there are images to validate on; empty in records of older
    versions."""
    host: str = ""
    """Name of the machine (of the first process); empty in records of older versions."""
    registrations: list[str] | None = None
    """Digests of the studies' registrations that stood before the run began; None in records of
    older versions.
    """
    arithmetic: str = ""
    """Properties of the device and its libraries that decide how sums are rounded; empty in records
    of older versions.
    """
    weights: str = ""
    """Source of the weights that the training started from (``model.weights``), in words; empty
    where they were drawn.
    """
