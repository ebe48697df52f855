"""The data sets. Looking whether one is there costs nothing heavy; ``module`` is the way to its batches."""

from types import ModuleType

from xceptlab.data import cifar, digits, imagenet
from xceptlab.schema import DataConfig

SETS: dict[str, ModuleType] = {"digits": digits, "cifar10": cifar, "cifar100": cifar, "imagenet": imagenet}
"""Each has ``locate(config)``, which raises where files are missing, and ``load(config)``, the training and the test source."""


def locate(config: DataConfig) -> None:
    """Check that the data set is there, before anything is started.

    Raises:
        ValueError: What was looked for, where, and how to get it.
    """
    SETS[config.name].locate(config)
