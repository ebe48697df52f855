"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 images of 32x32, in memory.

Read from a folder in the Hugging Face parquet layout (``train-*.parquet``, ``test-*.parquet``, in the folder or in one below it;
columns ``img`` or ``image``, ``label`` or, of CIFAR-100, ``fine_label``) or from torchvision's files, which torchvision checks by
their MD5 before it reads them and downloads where ``data.download`` is true.

The parquet files hold PNGs, which take seconds to decode: one run does it, later ones find the images in the user's cache.
"""

import hashlib
import importlib.metadata
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xceptlab.config.schema import SCIENCE_VERSION, DataConfig
from xceptlab.data.cache import cached
from xceptlab.data.sources import HUB, Arrays, digest_of_files, folder, locked, missing, reading, regular_bytes
from xceptlab.data.stores import shards
from xceptlab.data.tables import feature_names, open_table
from xceptlab.errors import Refused

_TORCHVISION = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_TORCHVISIONS_FILES = {
    "cifar10": ("batches.meta", *(f"data_batch_{number}" for number in range(1, 6)), "test_batch"),
    "cifar100": ("meta", "test", "train"),
}
"""What torchvision reads in its folder, where other files may lie, too."""
_LABELS = {"cifar10": ("label",), "cifar100": ("fine_label", "label")}
_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}


def locate(config: DataConfig) -> None:
    """Check that the files are there; with ``data.download`` fetch them, one process while the others wait.

    Raises:
        Refused: What was looked for, where, and how to get it; or the download failed.
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
    return _has_parquet(config) or (Path(config.root) / _TORCHVISION[config.name]).is_dir()


def _has_parquet(config: DataConfig) -> bool:
    return all(shards(folder(config), split) for split in ("train", "test"))


def _download(config: DataConfig) -> None:
    try:
        with locked(Path(config.root)):
            if not _is_there(config):
                _dataset(config)(config.root, download=True)
    except (OSError, RuntimeError) as error:
        raise Refused(f"data.download: {config.name} cannot be fetched here ({error})") from None


def files(config: DataConfig) -> str:
    """How the files lie and a digest of the names and sizes of those that are read.

    Raises:
        Refused: They are not there.
    """
    locate(config)
    if _has_parquet(config):
        kind, read = "parquet", [file for split in ("train", "test") for file in shards(folder(config), split)]
    else:
        here = Path(config.root) / _TORCHVISION[config.name]
        kind, read = "torchvision", [here / name for name in _TORCHVISIONS_FILES[config.name] if (here / name).is_file()]
    return f"{kind}-{digest_of_files((os.fsencode(file.name), file.stat().st_size) for file in read)}"


def class_names(config: DataConfig) -> tuple[str, ...]:
    """The names of the classes, by label; empty where the files do not tell."""
    if _has_parquet(config):
        file = shards(folder(config), "train")[0]
        return feature_names(file, "label") or feature_names(file, "fine_label")
    from torchvision.datasets.utils import check_integrity

    meta = _dataset(config).meta
    file = Path(config.root) / _TORCHVISION[config.name] / meta["filename"]
    if not check_integrity(file, meta["md5"]):  # without which nobody should open a pickle
        return ()
    return tuple(pickle.loads(file.read_bytes(), encoding="latin1")[meta["key"]])


def _dataset(config: DataConfig) -> Any:
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.name]


def load(config: DataConfig) -> tuple[Arrays, Arrays]:
    """Training and test images."""
    locate(config)
    if _has_parquet(config):
        return cached(config.name, _origin(config), lambda: _load(config, _read_parquet))
    return _load(config, _read_torchvision)


def _origin(config: DataConfig) -> str:
    """A digest of all that determines what is decoded: the set, what decodes it, and the bytes of the parquet files."""
    decoders = [f"{package} {importlib.metadata.version(package)}" for package in ("pillow", "torchvision")]
    h = hashlib.sha256(repr((config.name, SCIENCE_VERSION, decoders)).encode())
    for split in ("train", "test"):
        for file in shards(folder(config), split):
            with reading(file, "not a readable parquet file"):
                h.update(f"{split} {hashlib.sha256(regular_bytes(file)).hexdigest()}\n".encode())
    return h.hexdigest()[:32]


def _load(config: DataConfig, read: Callable[[DataConfig, str], Arrays]) -> tuple[Arrays, Arrays]:
    train, test = read(config, "train"), read(config, "test")
    _check_classes(train, config)
    return train, test


def _check_classes(train: Arrays, config: DataConfig) -> None:
    """Raises: Refused: Classes have no image, as where the files of CIFAR-10 are read as CIFAR-100."""
    found = len(np.unique(train.labels))
    if found < config.classes:
        raise Refused(f"{folder(config)}: train holds images of {found} classes; {config.name} has {config.classes}")


def _read_parquet(config: DataConfig, split: str) -> Arrays:
    import torch

    from xceptlab.data.photographs import decode

    images, labels = [], []
    files = shards(folder(config), split)
    for file in files:
        table = open_table(file, _LABELS[config.name])
        labels.append(table.labels(config.classes))
        cells = [cell.as_py() for group in range(len(table.sizes)) for cell in table.images(group)]
        for row, cell in enumerate(cells):
            if not cell:
                raise Refused(f"{file}: row {row} is no image (the cell holds no bytes)")
            try:
                image = decode(cell)
            except ValueError as error:
                raise Refused(f"{file}: row {row} is no image ({error})") from None
            if image.shape != (3, 32, 32):
                raise Refused(f"{file}: row {row} is an image of {image.shape[2]}x{image.shape[1]}; {config.name} has 32x32")
            images.append(image)
    if not images:
        raise Refused(f"{files[0].parent}: {split} holds no image")
    pixels = torch.stack(images).permute(0, 2, 3, 1).contiguous().numpy()
    return Arrays(pixels, np.concatenate(labels))


def _read_torchvision(config: DataConfig, split: str) -> Arrays:
    try:
        read = _dataset(config)(config.root, train=split == "train")
    except RuntimeError as error:
        raise Refused(f"{config.root}: torchvision refuses the files of {config.name} ({error})") from None
    return Arrays(read.data, np.array(read.targets, np.int64))
