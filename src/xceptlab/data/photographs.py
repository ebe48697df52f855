"""Photographs: encoded images of any size, decoded, cut and resized when they are asked for, in uint8."""

import contextlib
import io
import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xceptlab.data import augment
from xceptlab.data.order import Draws, Indices
from xceptlab.data.sources import Unreadable, digest
from xceptlab.data.stores import Store
from xceptlab.schema import DataConfig

_JPEG = b"\xff\xd8\xff"
_RAW = re.compile(rb"P6 (\d+) (\d+) 255\n")
"""How a file begins that ``prepare`` wrote as pixels."""


@dataclass(frozen=True)
class Photographs:
    """The photographs of a store, varied as the configuration says."""

    store: Store
    config: DataConfig

    @property
    def labels(self) -> Indices:
        """(n,)"""
        return self.store.labels

    def read(self, i: int, draws: Draws | None) -> Tensor:
        """The i-th, (size, size, 3) uint8, varied as its draws (DRAWS,) say or, without, as for evaluation.

        Raises:
            Unreadable: It cannot be decoded.
        """
        return self._cut(self.decoded(i), draws).permute(1, 2, 0)

    def decoded(self, i: int) -> Tensor:
        """The i-th whole, (3, H, W) uint8.

        Raises:
            Unreadable: It cannot be decoded.
        """
        try:
            return decode(self.store.read(i))
        except ValueError as error:  # an OSError, such as a disk that fails, is no corrupt photograph
            raise Unreadable(f"{self.store.name(i)}: no readable image ({error})") from None

    def _cut(self, image: Tensor, draws: Draws | None) -> Tensor:
        """(3, H, W) to (3, size, size): the random crop of training, or the central one of evaluation."""
        config = self.config
        height, width = image.shape[1:]
        side = round(min(height, width) * config.eval_crop) or 1
        top, left, h, w = (height - side) // 2, (width - side) // 2, side, side
        if draws is not None and config.crop == "resized":
            top, left, h, w = augment.resized_crop(draws, height, width)
        # as one piece in this layout it is resized, and then copied, in half the time
        region = image[None, :, top : top + h, left : left + w].contiguous(memory_format=torch.channels_last)
        image = F.interpolate(region, (config.size, config.size), mode="bilinear", antialias=True)[0]
        if draws is None:
            return image
        return augment.vary(image, draws, flip=config.flip, colour=config.colour, rand_augment=config.rand_augment)

    def fingerprint(self) -> str:
        """Of all labels and up to 16 decoded images; hashing a million photographs would take an hour."""
        sample = []
        for i in np.linspace(0, len(self.labels) - 1, 16).astype(np.int64):
            with contextlib.suppress(Unreadable):  # training says what becomes of it
                sample.append(self.read(i, None).numpy())
        return digest(self.labels, *sample)


def decode(data: bytes) -> Tensor:
    """An encoded image as (3, H, W) uint8 in RGB, upright as its EXIF data say.

    torchvision decodes JPEG, whatever the file is called, to the same bits as Pillow in less time; Pillow takes the rest
    (torchvision 0.29 crashes on a PNG with a wrong byte).

    A JPEG that ends too early is refused. What libjpeg conceals passes, with a warning of its own: wrong bytes inside, which
    leave shifted or grey blocks, and sometimes a missing end marker. Pillow lets the same pass.

    Raises:
        ValueError: It cannot be decoded.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    if raw := _RAW.match(data):
        width, height = map(int, raw.groups())
        pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8)[raw.end() :]
        if len(pixels) == height * width * 3:
            return pixels.reshape(height, width, 3).permute(2, 0, 1)
    if data.startswith(_JPEG):
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        with contextlib.suppress(RuntimeError):  # Pillow may know it, and says better what is wrong
            return decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    return _decode_with_pillow(data)


def _decode_with_pillow(data: bytes) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):  # convert() would clip the 16 bits to 8, not scale them
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except Exception as error:  # of every kind: Pillow's plugins let through what they stumble over
        raise ValueError(str(error).partition(" <_io")[0]) from None
