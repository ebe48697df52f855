"""The data sets by name. Each is a module with four functions of the data configuration, or a set
that a user's module has registered, with the same functions as methods:

- ``require_files`` raises ``Refused`` where files are missing. With ``data.download`` it first
  fetches those that can be fetched.
- ``load`` returns the training and the test source and, where the validation images have files of
  their own, a source of these.
- ``class_names`` returns the names of the classes, by label; empty where the files do not tell.
- ``files`` returns the layout of the files and a digest of their names and sizes as one text, such
  as ``tree-0123456789abcdef``; it is empty for a set that has no files of its own.
"""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from xceptlab import register
from xceptlab.config.schema import DataConfig
from xceptlab.data import cifar, digits, imagenet
from xceptlab.data.sources import Arrays
from xceptlab.errors import Refused

SETS: dict[str, ModuleType] = {
    "digits": digits,
    "cifar10": cifar,
    "cifar100": cifar,
    "imagenet": imagenet,
    "folder": imagenet,
}
"""The module of each data set of this package, by name."""


@dataclass(frozen=True)
class Registered:
    """A data set of images in memory that a module of the user's has registered."""

    entry: register.Entry
    """What was registered: the set's name, and the function that makes its images."""

    def require_files(self, config: DataConfig) -> None:
        """Do nothing: only the user's function knows whether it needs files."""

    def class_names(self, config: DataConfig) -> tuple[str, ...]:
        """Return an empty tuple: a registration does not name the classes."""
        return ()

    def files(self, config: DataConfig) -> str:
        """Return an empty string: a registered set is identified by its version and its
        fingerprint, not by files.
        """
        return ""

    def load(self, config: DataConfig) -> tuple[Arrays, Arrays]:
        """Load the training and the test images by the user's function, and check them.

        Raises:
            Refused: The function raises an error, or the images or labels that it returns are of a
                wrong type, shape, range or number.
            OSError, MemoryError: The function raises this one, which is passed on as it is. So are
                torch's errors about a GPU.
        """
        pairs = self.entry.call(Path(config.root), config.size)
        if not (_is_pair(pairs) and all(map(_is_pair, pairs))):
            two_pairs = "two pairs (images, labels), of the training and of the test split"
            raise self.entry.refusal(pairs, two_pairs)
        (train_images, train_labels), (test_images, test_labels) = pairs
        arrays = (
            self._arrays(train_images, train_labels, "training", config),
            self._arrays(test_images, test_labels, "test", config),
        )
        for split, registered, given in zip(
            ("training", "test"), self.entry.about["images"], arrays, strict=True
        ):
            if registered and registered != len(given.labels):
                found = f"there are {len(given.labels):,} {split} images"
                raise Refused(
                    f"data.name: {self.entry.name}: {found}; it is registered with {registered:,}"
                )
        return arrays

    def _arrays(self, images: Any, labels: Any, split: str, config: DataConfig) -> Arrays:
        """Check what the user's function gives of a split, and return it as arrays.

        Args:
            images: What should be images (n, size, size, 3) of uint8.
            labels: What should be labels (n,), whole numbers from 0 to the number of classes - 1.
            split: ``training`` or ``test``, for the error.
            config: The data set.

        Raises:
            Refused: The type, the shape or the range is wrong, or there are no images.
        """
        size, classes = config.size, config.classes
        place = f"data.name: {self.entry.name}: the {split}"
        try:
            images, labels = np.asarray(images), np.asarray(labels)
        # Rows of different lengths, for example.
        except ValueError as error:
            raise Refused(f"{place} images and labels must be arrays ({error})") from None
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            found = f"{images.dtype} of shape {images.shape}"
            raise Refused(
                f"{place} images are {found}; they must be uint8 of shape (n, {size}, {size}, 3)"
            )
        whole = labels.shape == (len(images),) and np.issubdtype(labels.dtype, np.integer)
        if not whole or not len(labels) or labels.min() < 0 or labels.max() >= classes:
            raise Refused(
                f"{place} labels must be {len(images)} whole numbers from 0 to {classes - 1}, one for each image"
            )
        return Arrays(np.ascontiguousarray(images), labels.astype(np.int64))


def _is_pair(value: object) -> bool:
    """Whether a value is a tuple or a list of two things."""
    return isinstance(value, tuple | list) and len(value) == 2


def data_set(name: str) -> ModuleType | Registered:
    """Return the data set of a name: a module of this package, or a registered set.

    Raises:
        Refused: No data set has this name.
    """
    if name in SETS:
        return SETS[name]
    return Registered(register.entry("data", name))
