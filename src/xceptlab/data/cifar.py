"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 images of 32x32, in memory.

Read from a folder in the Hugging Face parquet layout (``train-*.parquet``, ``test-*.parquet``, in the folder or in one below it;
columns ``img`` or ``image``, ``label`` or ``fine_label``) or from torchvision's files, which torchvision checks by their MD5
before it reads them and downloads where ``data.download`` is true.
"""

from pathlib import Path
from typing import Any

import numpy as np

from xceptlab.data.sources import HUB, Arrays, folder, locked, missing
from xceptlab.data.stores import PICTURE, column, feature_names, shards
from xceptlab.schema import DataConfig

_TORCHVISION = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}


def locate(config: DataConfig) -> None:
    """Check that the files are there; with ``data.download`` fetch them, one process while the others wait.

    Raises:
        ValueError: What was looked for, where, and how to get it; or the download failed.
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
        raise ValueError(f"data.download: {config.name} cannot be fetched here ({error})") from None


def files(config: DataConfig) -> list[Path]:
    """The files that are read.

    Raises:
        ValueError: They are not there.
    """
    locate(config)
    if _has_parquet(config):
        return [file for split in ("train", "test") for file in shards(folder(config), split)]
    return sorted((Path(config.root) / _TORCHVISION[config.name]).iterdir())


def class_names(config: DataConfig) -> tuple[str, ...]:
    """The names of the classes, by label; empty where the files do not tell."""
    if _has_parquet(config):
        file = files(config)[0]
        return feature_names(file, "label") or feature_names(file, "fine_label")
    return tuple(_dataset(config)(config.root, train=False).classes)


def _dataset(config: DataConfig) -> Any:
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.name]


def load(config: DataConfig) -> tuple[Arrays, Arrays]:
    """Training and test images."""
    locate(config)
    read = _read_parquet if _has_parquet(config) else _read_torchvision
    return read(config, "train"), read(config, "test")


def _read_parquet(config: DataConfig, split: str) -> Arrays:
    import torch

    from xceptlab.data.photographs import decode

    images, labels = [], []
    for file in shards(folder(config), split):
        labels.append(column(file, ("label", "fine_label")).to_numpy())
        for row, cell in enumerate(column(file, PICTURE).to_pylist()):
            try:
                image = decode(cell["bytes"])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{file}: row {row} is no image ({error})") from None
            if image.shape != (3, 32, 32):
                raise ValueError(f"{file}: row {row} is an image of {image.shape[2]}x{image.shape[1]}; {config.name} has 32x32")
            images.append(image)
    pixels = torch.stack(images).permute(0, 2, 3, 1).contiguous().numpy()
    return Arrays(pixels, _checked(np.concatenate(labels), config, str(file.parent)))


def _read_torchvision(config: DataConfig, split: str) -> Arrays:
    try:
        read = _dataset(config)(config.root, train=split == "train")
    except RuntimeError as error:
        raise ValueError(f"{config.root}: torchvision refuses the files of {config.name} ({error})") from None
    return Arrays(read.data, _checked(np.array(read.targets), config, config.root))


def _checked(labels: np.ndarray, config: DataConfig, where: str) -> np.ndarray:
    if labels.min() < 0 or labels.max() >= config.classes:
        raise ValueError(
            f"{where}: labels {labels.min()} to {labels.max()} do not fit {config.name}, which has {config.classes} classes"
        )
    return labels.astype(np.int64)
