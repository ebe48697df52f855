"""Photographs: encoded images of any size, which are decoded, cropped and resized when they are
asked for. Their pixels stay uint8.
"""

import contextlib
import io
import re
import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from xceptlab.config.schema import DataConfig
from xceptlab.data import augment, crop
from xceptlab.data.order import Draws, Indices
from xceptlab.data.sources import Unreadable, digest
from xceptlab.data.stores import Store
from xceptlab.errors import Refused

if TYPE_CHECKING:
    from PIL import Image

_JPEG = b"\xff\xd8\xff"
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Codes of the markers that begin a JPEG's frame header, which has the image's size."""
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
"""Codes of the markers in a JPEG that no length follows."""
_PNG = b"\x89PNG"
_RAW = re.compile(rb"P6 (\d{1,9}) (\d{1,9}) 255\n")
"""Header of a PPM file, as which ``data.prepare`` writes pixels with ``data.quality: 0``."""


@dataclass(frozen=True)
class Photographs:
    """The photographs of a store, decoded, cropped, resized and, in training, varied as a
    configuration says.
    """

    store: Store
    config: DataConfig

    @property
    def labels(self) -> Indices:
        """Labels (n,) of the photographs."""
        return self.store.labels

    def read(self, i: int, draws: Draws | None) -> Tensor:
        """Decode, crop and resize the i-th photograph: (size, size, 3) uint8.

        Args:
            i: Number of the photograph in the store.
            draws: Random numbers (DRAWS,) by which it is varied for training; None for evaluation.

        Raises:
            OSError: Its file cannot be read.
            Unreadable: It cannot be decoded, or the store finds its bytes missing or damaged.
        """
        return self._cut(self.decoded(i), draws).permute(1, 2, 0)

    def decoded(self, i: int) -> Tensor:
        """Decode the whole i-th photograph, (3, H, W) uint8.

        Raises:
            OSError: Its file cannot be read.
            Unreadable: It cannot be decoded, or the store finds its bytes missing or damaged.
        """
        config = self.config
        try:
            data = self.store.read(i)
            return decode(
                data, exif_orientation=config.exif_orientation, max_pixels=config.max_pixels
            )
        # An OSError, such as that of a disk that fails, is no corrupt photograph and passes.
        except Refused as error:
            raise Unreadable(f"{self.store.name(i)}: no readable image ({error})") from None

    def _cut(self, image: Tensor, draws: Draws | None) -> Tensor:
        """Crop and resize a photograph, (3, H, W) to (3, size, size), both uint8, and vary it by
        its random numbers ``draws`` (DRAWS,) for training; None is for evaluation.
        """
        config = self.config
        if draws is None:
            return crop.for_evaluation(image, config)
        image = crop.for_training(image, draws, config)
        return augment.vary(
            image, draws, flip=config.flip, colour=config.colour, rand_augment=config.rand_augment
        )

    def fingerprint(self) -> str:
        """Return a hash of all labels and of up to 16 images, evenly spread, decoded and cropped as
        in evaluation; hashing a million photographs would take an hour. Images that cannot be
        decoded are left out.

        Raises:
            OSError: A file cannot be read.
        """
        sample = []
        for i in np.linspace(0, len(self.labels) - 1, 16).astype(np.int64):
            # Training replaces or refuses an unreadable photograph, and says so.
            with contextlib.suppress(Unreadable):
                sample.append(self.read(i, None).numpy())
        return digest(self.labels, *sample)


def decode(
    data: bytes, *, exif_orientation: bool = True, max_pixels: int = DataConfig.max_pixels
) -> Tensor:
    """Decode an image to (3, H, W) uint8 in RGB.

    torchvision decodes JPEG, whatever the file is called, to the same bits as Pillow in less time.
    The PPM files of ``data.prepare`` hold plain pixels, which are taken over. Pillow decodes the
    rest (torchvision 0.29 crashes on a PNG with a wrong byte).

    A JPEG that ends too early is refused. Damage that libjpeg conceals passes, as it does in
    Pillow, and libjpeg prints a warning: wrong bytes inside, which leave shifted or grey blocks,
    and sometimes a missing end marker. EXIF data that are damaged are ignored.

    Args:
        data: Bytes of the image's file.
        exif_orientation: Turn the image upright as its EXIF data say.
        max_pixels: Largest number of pixels; an image that claims more is refused before anything
            is decoded.

    Raises:
        Refused: The image cannot be decoded, or claims too many pixels.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    raw = _RAW.match(data)
    if raw:
        width, height = map(int, raw.groups())
        if width * height > max_pixels:
            raise _too_large(f"Image size ({width * height} pixels)", max_pixels)
        if not width * height:
            raise Refused("it has no pixels")
        values = torch.frombuffer(bytearray(data), dtype=torch.uint8)[raw.end() :]
        if len(values) == height * width * 3:
            return values.reshape(height, width, 3).permute(2, 0, 1)
    if data.startswith(_JPEG):
        pixels = _jpeg_pixels(data)
        if pixels > max_pixels:
            raise _too_large(f"Image size ({pixels} pixels)", max_pixels)
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        # Where torchvision fails, Pillow may decode it, or says better what is wrong.
        with contextlib.suppress(RuntimeError):
            return decode_jpeg(
                encoded, mode=ImageReadMode.RGB, apply_exif_orientation=exif_orientation
            )
    return _decode_with_pillow(data, exif_orientation, max_pixels)


def _too_large(found: str, max_pixels: int) -> Refused:
    """Return the error for an image of more than ``max_pixels`` pixels; ``found`` is the beginning
    of its message, such as ``Image size (900 pixels)``.
    """
    return Refused(f"{found} exceeds data.max_pixels, {max_pixels}")


def _jpeg_pixels(data: bytes) -> int:
    """Return the number of pixels that a JPEG's frame header claims; 0 where there is no header. It
    is found as libjpeg finds it, past wrong bytes.
    """
    at = 0
    while marker := _JPEG_MARKER.search(data, at):
        code = marker[1][0]
        at = marker.end()
        if code in _JPEG_FRAMES and len(data) >= at + 7:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return height * width
        if code not in _JPEG_WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2])
    return 0


def _decode_with_pillow(data: bytes, exif_orientation: bool, max_pixels: int) -> Tensor:
    """Decode an image by Pillow to (3, H, W) uint8.

    Raises:
        Refused: It cannot be decoded, or claims more than ``max_pixels`` pixels.
    """
    from PIL import Image, UnidentifiedImageError

    limit = Image.MAX_IMAGE_PIXELS
    try:
        # Pillow warns of more pixels than this, and raises for more than twice as many.
        Image.MAX_IMAGE_PIXELS = max_pixels / 2  # type: ignore[assignment]
        with warnings.catch_warnings():
            # Pillow's warnings name no file, and are about metadata.
            warnings.simplefilter("ignore")
            try:
                return _opened_with_pillow(data, exif_orientation)
            except UnidentifiedImageError:
                if not data.startswith(_PNG):
                    raise
                return _opened_with_pillow(_without_metadata(data), exif_orientation)
    except Image.DecompressionBombError as error:
        raise _too_large(str(error).partition(" exceeds")[0], max_pixels) from None
    # Pillow's plugins raise errors of every kind.
    except Exception as error:
        raise Refused(str(error).partition(" <_io")[0] or type(error).__name__) from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _opened_with_pillow(data: bytes, exif_orientation: bool) -> Tensor:
    """Decode an image by Pillow to (3, H, W) uint8 in RGB; errors of Pillow, of any type, pass."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as file:
        file.load()
        return torch.from_numpy(np.array(in_rgb(file, exif_orientation))).permute(2, 0, 1)


def in_rgb(image: "Image.Image", exif_orientation: bool) -> "Image.Image":
    """Convert a Pillow image, whose pixels are loaded, to 8-bit RGB and, with ``exif_orientation``,
    turn it upright as its EXIF data say. Of 16-bit pixels the upper 8 bits are taken; integers of
    32 bits are clipped to 16 bits first.

    Raises:
        Refused: Its pixels are floating-point numbers, whose range is not known.
    """
    from PIL import Image, ImageOps

    if exif_orientation:
        # EXIF data may be damaged where the pixels are sound.
        with contextlib.suppress(Exception):
            image = ImageOps.exif_transpose(image)
    # Scale 16 bits to 8, since convert() would clip them. Pillow opens PNM files of 16 bits as I.
    if image.mode.startswith("I"):
        values = np.asarray(image).clip(0, 2**16 - 1)
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise Refused("its pixels are decimal numbers, whose range is not known")
    return image.convert("RGB")


def _without_metadata(png: bytes) -> bytes:
    """Return the bytes of a PNG without EXIF data and texts: Pillow refuses those with a wrong
    checksum, while other readers pass over them.
    """
    signature_size = 8
    chunks = [png[:signature_size]]
    start = signature_size
    while start < len(png):
        length = int.from_bytes(png[start : start + 4])
        kind = png[start + 4 : start + 8]
        # A chunk's length, kind and checksum take four bytes each.
        end = start + 12 + length
        if kind not in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            chunks.append(png[start:end])
        start = end
    return b"".join(chunks)
