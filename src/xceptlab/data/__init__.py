"""The data sets. Looking whether one is there costs nothing heavy; ``module`` is the way to its batches."""

from typing import TYPE_CHECKING

import numpy as np

from xceptlab.config.schema import DataConfig
from xceptlab.data import order
from xceptlab.data.identity import resolved
from xceptlab.data.order import Indices
from xceptlab.data.sets import SETS
from xceptlab.data.sources import Arrays
from xceptlab.errors import Refused

if TYPE_CHECKING:
    from xceptlab.data.photographs import Photographs

__all__ = ["SETS", "locate", "resolved", "splits"]


def locate(config: DataConfig) -> None:
    """Check that the data set is there, before anything is started.

    Raises:
        Refused: What was looked for, where, and how to get it.
    """
    SETS[config.name].locate(config)


def splits(config: DataConfig) -> dict[str, "tuple[Arrays | Photographs, Indices]"]:
    """Per split its source and which of the source's images it has; ``validation`` has none where there are none.

    Raises:
        Refused: The data set cannot be read, or has too few images for what is asked of it.
    """
    train, test, *apart = SETS[config.name].load(config)
    if apart and config.validation:
        raise Refused(f"data.validation: {config.validation} is not allowed; it must be 0, as val holds images to validate on")
    members = _limited(train.labels, config.train_images, "train_images")
    count = round(config.validation * len(members))
    if config.validation and not count:
        raise Refused(
            f"data.validation: {config.validation} is not allowed; it holds out none of the {len(members)} training images"
        )
    held_out = members[order.stratified(train.labels[members], count, config.validation_seed)]
    return {
        "train": (train, np.setdiff1d(members, held_out)),
        "validation": (apart[0], np.arange(len(apart[0].labels))) if apart else (train, held_out),
        "test": (test, _limited(test.labels, config.test_images, "test_images")),
    }


def _limited(labels: Indices, count: int, key: str) -> Indices:
    if count > len(labels):
        raise Refused(f"data.{key}: {count} is not allowed; there are {len(labels)} images (0 uses all)")
    return np.arange(len(labels)) if count in (0, len(labels)) else order.stratified(labels, count, seed=0)
