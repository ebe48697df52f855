"""The data sets: whether the files of one are there (``require_files``) and which images each of
its splits has (``splits``). Importing this module does not import torch.

Where to find what:

- the images of a batch: ``module`` (the LightningDataModule), ``split`` (what the loader's workers
  see), ``order`` (which image comes when, and its random numbers), ``crop``, ``augment``;
  ``transform`` makes one picture ready for a trained network
- data sets: ``sets`` (the list of them), ``digits``, ``cifar``, ``imagenet`` (also a user's own
  ``folder``)
- files: ``layouts`` (how ImageNet or a user's set may lie on disk), ``ilsvrc``, ``tables``,
  ``photographs`` (decoding), ``stores`` (the interface of ``tree``, ``archive`` and ``shards``)
- for all of them: ``sources`` (images in memory, hashes, locks), ``cache``, ``identity`` (digests)
- commands: ``check``, ``prepare``
"""

from typing import TYPE_CHECKING

import numpy as np

from xceptlab.config.schema import DataConfig
from xceptlab.data import order
from xceptlab.data.identity import resolved
from xceptlab.data.order import Indices
from xceptlab.data.sets import SETS, data_set
from xceptlab.data.sources import Arrays
from xceptlab.errors import Refused

if TYPE_CHECKING:
    from xceptlab.data.photographs import Photographs

__all__ = ["SETS", "data_set", "require_files", "resolved", "splits"]


def require_files(config: DataConfig) -> None:
    """Check that the files of a data set are there. With ``data.download`` fetch CIFAR, or a data
    set of the Hugging Face hub, if it is not there; but not where prepared photographs are looked
    for in ``data.cache``. A set without files of its own always passes.

    Raises:
        OSError: The note on the originals of prepared photographs cannot be read.
        Refused: They are not there, and the message says what was looked for, where, and how to get
            it; or they cannot be fetched, are seen to be incomplete, or lie in several folders; or
            the note on the originals of prepared photographs is damaged.
    """
    data_set(config.name).require_files(config)


def splits(config: DataConfig) -> dict[str, "tuple[Arrays | Photographs, Indices]"]:
    """Load the splits of a data set, ``train``, ``validation`` and ``test``.

    Returns:
        For each split, by name, the source of its images and the numbers (n,) of those images in
        the source. ``validation`` has no images where none are held out and the data set has no
        part of its own for it.

    Raises:
        OSError: A file cannot be read; or, for ImageNet's tar files, the user's cache cannot be
            written.
        RuntimeError: ImageNet's tar files need a cache, and the user has no home for one.
        Refused: The data set is not there or cannot be used, has too few images for what is asked
            of it, or has validation images of its own although ``data.validation`` is not 0.
    """
    train, test, *validation = data_set(config.name).load(config)
    if validation and config.validation:
        raise Refused(
            f"data.validation: {config.validation} is not allowed; it must be 0, as val holds images to validate on"
        )
    chosen = _limited(train.labels, config.train_images, "train_images")
    count = round(config.validation * len(chosen))
    if config.validation and not count:
        raise Refused(
            f"data.validation: {config.validation} is not allowed; it holds out none of the {len(chosen)} training images"
        )
    held_out = chosen[order.stratified(train.labels[chosen], count, config.validation_seed)]
    if validation:
        (part,) = validation
        validation_split = (part, np.arange(len(part.labels)))
    else:
        validation_split = (train, held_out)
    return {
        "train": (train, np.setdiff1d(chosen, held_out)),
        "validation": validation_split,
        "test": (test, _limited(test.labels, config.test_images, "test_images")),
    }


def _limited(labels: Indices, count: int, key: str) -> Indices:
    """Choose ``count`` of n images, each class in proportion to its size.

    Args:
        labels: Labels (n,) of the images.
        count: Number of images; 0 for all.
        key: Field of ``DataConfig`` with the count, for the error.

    Returns:
        The numbers of the chosen images, sorted.

    Raises:
        Refused: There are fewer than ``count`` images.
    """
    n = len(labels)
    if count > n:
        raise Refused(f"data.{key}: {count} is not allowed; there are {n} images (0 uses all)")
    if count in (0, n):
        return np.arange(n)
    return order.stratified(labels, count, seed=0)
