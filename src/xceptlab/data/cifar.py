"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32x32 pixels,
which are kept in memory.

They are read from one of two layouts in ``data.root``:

- parquet files of the Hugging Face hub, ``train-*.parquet`` and ``test-*.parquet``, in the folder
  or in one below it; their columns are ``img`` or ``image``, and ``label`` or, for CIFAR-100,
  ``fine_label``;
- torchvision's files, which torchvision checks by their MD5 before it reads them, and downloads
  where ``data.download`` is true.

The parquet files hold PNGs, which take seconds to decode: one run does it, and later runs find the
images in the user's cache.
"""

import hashlib
import importlib.metadata
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xceptlab.config.run_id import SCIENCE_VERSION
from xceptlab.config.schema import DataConfig
from xceptlab.data.cache import cached
from xceptlab.data.shards import find_shards
from xceptlab.data.sources import (
    HUB,
    Arrays,
    digest_of_files,
    folder,
    locked,
    missing,
    reading,
    regular_bytes,
)
from xceptlab.data.tables import feature_names, open_table
from xceptlab.errors import Refused

if TYPE_CHECKING:
    from torch import Tensor

_TORCHVISION = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
"""Name of the folder in ``data.root`` that torchvision reads, by data set."""
_TORCHVISIONS_FILES = {
    "cifar10": (
        "batches.meta",
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
    ),
    "cifar100": ("meta", "test", "train"),
}
"""Names of the files that torchvision reads in its folder, by data set; other files there do not
count.
"""
_SPLITS = ("train", "test")
_LABELS = {"cifar10": ("label",), "cifar100": ("fine_label", "label")}
"""Possible names of the column of labels in parquet files, by data set; of several that a file has,
the first one here is read.
"""
_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""Name in the Hugging Face hub, by data set."""


def require_files(config: DataConfig) -> None:
    """Check that CIFAR's files are there in one of two layouts: parquet files of both splits, or the
    folder that torchvision reads.

    With ``data.download``, what is missing is fetched. Where ``data.root`` names a data set of the
    Hugging Face hub (``hf://``), its parquet files are fetched into the hub's cache. Else
    torchvision downloads into ``data.root``: one process does it, while others wait.

    Without ``data.download`` it is enough that torchvision's folder exists. With it, all files that
    torchvision reads must be whole, since a download may be under way or cut off.

    Raises:
        Refused: They are not there, and the message says how to get them; the download failed; or
            some parquet files are missing, or those of a split lie in several folders.
    """
    if _is_there(config):
        return
    if config.download and not config.root.startswith(HUB):
        _download(config)
    else:
        raise missing(
            config.name,
            folder(config),
            f"train-*.parquet with test-*.parquet, and the folder {_TORCHVISION[config.name]}",
            f"--data.download true fetches it, from the hub with --data.root hf://{_HUB[config.name]}",
        )


def _is_there(config: DataConfig) -> bool:
    """Whether there are parquet files of both splits, or the folder that torchvision reads. With
    ``data.download`` the files in this folder have to be whole, since another process may be fetching
    them or was stopped at it; and a data set of the Hugging Face hub is fetched first.

    Raises:
        Refused: The data set of the hub is not in its cache or cannot be fetched; or some parquet
            files are missing, or those of a split lie in several folders.
    """
    if _has_parquet(config):
        return True
    if config.download:
        return _is_whole(config)
    return (Path(config.root) / _TORCHVISION[config.name]).is_dir()


_whole: set[tuple[str, str]] = set()
"""Name and ``data.root`` of those data sets whose files this process has found whole."""


def _is_whole(config: DataConfig) -> bool:
    """Whether all files that torchvision reads are there and have the right MD5. Once they have,
    this process does not read them again for it.
    """
    from torchvision.datasets.utils import check_integrity

    key = config.name, config.root
    if key not in _whole:
        root = Path(config.root) / _TORCHVISION[config.name]
        kind = _dataset(config)
        digests = dict([*kind.train_list, *kind.test_list])
        digests[kind.meta["filename"]] = kind.meta["md5"]
        if not all(check_integrity(str(root / name), md5) for name, md5 in digests.items()):
            return False
        _whole.add(key)
    return True


def _has_parquet(config: DataConfig) -> bool:
    """Whether there are parquet files of both splits, ``train`` and ``test``. With
    ``data.download`` a data set of the Hugging Face hub is fetched first.

    Raises:
        Refused: The data set of the hub is not in its cache or cannot be fetched; or some parquet
            files are missing, or those of a split lie in several folders.
    """
    return all(find_shards(folder(config), split) for split in _SPLITS)


def _download(config: DataConfig) -> None:
    """Download CIFAR into ``data.root`` by torchvision, unless another process does it first.

    Raises:
        Refused: The download failed, or the files cannot be written; or some parquet files are
            missing, or those of a split lie in several folders.
    """
    try:
        with locked(Path(config.root)):
            if not _is_there(config):
                _dataset(config)(config.root, download=True)
    except (OSError, RuntimeError) as error:
        raise Refused(f"data.download: {config.name} cannot be fetched here ({error})") from None


def files(config: DataConfig) -> str:
    """Return the layout of CIFAR's files and a digest of the names and sizes of those that are
    read, such as ``parquet-0123456789abcdef``. With ``data.download`` they are fetched first where
    there is neither layout. Of torchvision's files, those that are missing are left out.

    Raises:
        Refused: They are not there, or cannot be fetched; or some parquet files are missing, or
            those of a split lie in several folders.
    """
    require_files(config)
    if _has_parquet(config):
        kind = "parquet"
        paths = [*find_shards(folder(config), "train"), *find_shards(folder(config), "test")]
    else:
        kind = "torchvision"
        root = Path(config.root) / _TORCHVISION[config.name]
        paths = [root / name for name in _TORCHVISIONS_FILES[config.name]]
    there = [path for path in paths if path.is_file()]
    digest = digest_of_files((os.fsencode(path.name), path.stat().st_size) for path in there)
    return f"{kind}-{digest}"


def class_names(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes, by label; empty where the files do not tell or are not
    there. Of torchvision's files only the original file of names is read. With ``data.download`` a
    data set of the Hugging Face hub is fetched first.

    Raises:
        OSError: A file cannot be read.
        Refused: A parquet file is damaged or lacks a column, some parquet files are missing, or
            those of a split lie in several folders; or the data set of the hub is not in its cache
            or cannot be fetched.
    """
    if _has_parquet(config):
        file = find_shards(folder(config), "train")[0]
        names = feature_names(file, open_table(file, _LABELS[config.name]).label_column)
        return names if len(names) == config.classes else ()
    from torchvision.datasets.utils import check_integrity

    meta = _dataset(config).meta
    file = Path(config.root) / _TORCHVISION[config.name] / meta["filename"]
    # Unpickling executes code, which is safe for the original file only.
    if not check_integrity(file, meta["md5"]):
        return ()
    names = pickle.loads(file.read_bytes(), encoding="latin1")[meta["key"]]
    return tuple(names)


def _dataset(config: DataConfig) -> Any:
    """Return torchvision's class for the data set, ``CIFAR10`` or ``CIFAR100``."""
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.name]


def load(config: DataConfig) -> tuple[Arrays, Arrays]:
    """Load CIFAR's training and test images, in this order.

    Images from parquet files are decoded once and then taken from the user's cache; torchvision's
    files are read anew each time. With ``data.download`` the files are fetched first where there is
    neither layout.

    Raises:
        OSError: A file cannot be read.
        Refused: The files are not there or not complete, cannot be fetched, are damaged, or are
            those of another data set.
    """
    require_files(config)
    if _has_parquet(config):
        return cached(
            config.name, _digest_of_what_is_decoded(config), lambda: _read(config, _read_parquet)
        )
    return _read(config, _read_torchvision)


def _digest_of_what_is_decoded(config: DataConfig) -> str:
    """Return a digest of all that determines the images decoded from parquet files: the data set,
    ``SCIENCE_VERSION``, the decoders' versions, and the bytes of the files.

    Raises:
        OSError: A file cannot be read.
        Refused: A file is a pipe or a device; or the parquet files are no longer complete.
    """
    decoders = [
        f"{package} {importlib.metadata.version(package)}" for package in ("pillow", "torchvision")
    ]
    h = hashlib.sha256(repr((config.name, SCIENCE_VERSION, decoders)).encode())
    for split in _SPLITS:
        for file in find_shards(folder(config), split):
            with reading(file, "not a readable parquet file"):
                content = hashlib.sha256(regular_bytes(file)).hexdigest()
            h.update(f"{split} {content}\n".encode())
    return h.hexdigest()[:32]


def _read(
    config: DataConfig, read_split: Callable[[DataConfig, str], Arrays]
) -> tuple[Arrays, Arrays]:
    """Decode the training and the test images, and check that there are training images of all
    classes.

    Args:
        config: The data set.
        read_split: Decodes the split ``train`` or ``test`` from the layout that was found.

    Raises:
        Refused: Classes have no training image, as where the files of CIFAR-10 are read as
            CIFAR-100; or ``read_split`` refuses the files.
    """
    train = read_split(config, "train")
    test = read_split(config, "test")
    classes = len(np.unique(train.labels))
    if classes < config.classes:
        raise Refused(
            f"{folder(config)}: train holds images of {classes} classes; {config.name} has {config.classes}"
        )
    return train, test


def _read_parquet(config: DataConfig, split: str) -> Arrays:
    """Decode all images of the split ``train`` or ``test`` from its parquet files.

    Raises:
        OSError: A file cannot be read.
        Refused: A file is damaged or lacks a column, a row holds no image of 32x32 pixels or no
            label of the data set, or there are no rows.
    """
    import torch

    images: list[Tensor] = []
    labels = []
    files = find_shards(folder(config), split)
    for file in files:
        table = open_table(file, _LABELS[config.name])
        labels.append(table.labels(config.classes))
        encoded: list[bytes | None] = []
        for group in range(len(table.sizes)):
            encoded += table.images(group).to_pylist()
        for row, data in enumerate(encoded):
            images.append(_decoded(data, f"{file}: row {row}", config.name))
    if not images:
        raise Refused(f"{files[0].parent}: {split} holds no image")
    stacked = torch.stack(images)  # (n, 3, 32, 32)
    pixels = stacked.permute(0, 2, 3, 1).contiguous()  # (n, 32, 32, 3)
    return Arrays(pixels.numpy(), np.concatenate(labels))


def _decoded(data: bytes | None, where: str, name: str) -> "Tensor":
    """Decode an image of CIFAR to (3, 32, 32) uint8.

    Args:
        data: The encoded image; None for an empty cell.
        where: File and row, for the error.
        name: The data set, for the error.

    Raises:
        Refused: It is no image of this size.
    """
    from xceptlab.data.photographs import decode

    if not data:
        raise Refused(f"{where} is no image (the cell holds no bytes)")
    try:
        image = decode(data)
    except Refused as error:
        raise Refused(f"{where} is no image ({error})") from None
    if image.shape != (3, 32, 32):
        raise Refused(f"{where} is an image of {image.shape[2]}x{image.shape[1]}; {name} has 32x32")
    return image


def _read_torchvision(config: DataConfig, split: str) -> Arrays:
    """Read all images of the split ``train`` or ``test`` from torchvision's files.

    Raises:
        Refused: The files are not there, or their MD5 is not that of the original ones.
    """
    try:
        dataset = _dataset(config)(config.root, train=split == "train")
    except RuntimeError as error:
        raise Refused(
            f"{config.root}: torchvision refuses the files of {config.name} ({error})"
        ) from None
    return Arrays(dataset.data, np.array(dataset.targets, np.int64))
