"""ImageNet, or any photographs in the same ImageFolder layout: ``train/<class>/*`` and ``val/<class>/*``.

The official validation set, ``val/``, is the test split; a validation split is held out of ``train/`` (``data.validation``).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xceptlab.data.sources import Images, Indices, digest, missing
from xceptlab.schema import DataConfig

_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class Photographs:
    """Image files, decoded when read."""

    files: NDArray[np.str_]
    labels: Indices
    size: int
    eval_crop: float

    def read(self, index: Indices, draws: NDArray[np.float32] | None) -> Images:
        return np.stack([self._decode(i, None if draws is None else draws[row]) for row, i in enumerate(index)])

    def _decode(self, i: int, draws: NDArray[np.float32] | None) -> Images:
        """One image: a random crop where there are draws, else the central crop of evaluation; (size, size, 3)."""
        from PIL import Image, ImageOps

        from xceptlab.data.augment import resized_crop

        try:
            with Image.open(self.files[i]) as file:
                image = ImageOps.exif_transpose(file).convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"{self.files[i]}: no readable image ({error})") from None
        side = min(image.size) * self.eval_crop
        top, left, height, width = (image.height - side) / 2, (image.width - side) / 2, side, side
        if draws is not None:
            top, left, height, width = resized_crop(draws, image.height, image.width)
        box = (left, top, left + width, top + height)
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box))

    def fingerprint(self) -> str:
        """Of all labels, names and 16 decoded images; hashing a million photographs would take an hour."""
        names = np.frombuffer("\n".join("/".join(Path(file).parts[-2:]) for file in self.files).encode(), np.uint8)
        sample = self.read(np.linspace(0, len(self.labels) - 1, 16).astype(np.int64), None)
        return digest(self.labels, names, sample)


def locate(config: DataConfig) -> None:
    """Check that ``train/`` and ``val/`` are there.

    Raises:
        ValueError: What was looked for, where, and how to get it.
    """
    for split in ("train", "val"):
        if not (Path(config.root) / split).is_dir():
            raise missing(
                config.name,
                config.root,
                "the folders train/<class>/ and val/<class>/",
                "ImageNet is given out at https://image-net.org after registration; set --data.root to its folder, "
                "or try the embedded images: -c configs/data/digits.yaml",
            )


def load(config: DataConfig) -> tuple[Photographs, Photographs]:
    """Training and test photographs."""
    locate(config)
    classes = sorted(entry.name for entry in (Path(config.root) / "train").iterdir() if entry.is_dir())
    if len(classes) != config.classes:
        raise ValueError(
            f"{config.root}/train: holds {len(classes)} classes, {config.classes} were expected; see data.num_classes"
        )
    return _photographs(config, "train", classes), _photographs(config, "val", classes)


def _photographs(config: DataConfig, split: str, classes: list[str]) -> Photographs:
    folder = Path(config.root) / split
    unknown = {entry.name for entry in folder.iterdir() if entry.is_dir()} - set(classes)
    if unknown:
        raise ValueError(f"{folder}: the class {min(unknown)} is not among those of train")
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(str(file) for file in (folder / name).glob("*") if file.suffix.lower() in _SUFFIXES)
        if not found and split == "train":
            raise ValueError(f"{folder / name}: holds no image ({', '.join(_SUFFIXES)})")
        files += found
        labels += [label] * len(found)
    if not files:
        raise ValueError(f"{folder}: holds no image ({', '.join(_SUFFIXES)})")
    return Photographs(np.array(files), np.array(labels, np.int64), config.size, config.eval_crop)
