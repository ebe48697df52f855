"""Damaged images."""

import functools
import io
import struct
import zlib
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from damaged.case import BYTES, cut_out, flipped, inserted, truncated, zeroed

FORMATS = {
    "JPEG": "RGB", "PNG": "RGB", "WEBP": "RGB", "BMP": "RGB", "PPM": "RGB", "GIF": "P", "TIFF": "RGB", "ICO": "RGBA",
    "JPEG2000": "RGB", "TGA": "RGB", "PCX": "RGB", "PDF": "RGB", "EPS": "RGB",
}  # fmt: skip
"""Pillow's formats, with a mode that each can hold."""
MODES = {
    "JPEG": ("L", "CMYK", "1"), "PNG": ("1", "L", "P", "RGBA", "LA", "I", "I;16"), "WEBP": ("RGBA", "L"),
    "TIFF": ("1", "L", "P", "RGBA", "LA", "I", "I;16", "F", "CMYK", "YCbCr", "LAB"),
}  # fmt: skip


@functools.cache
def picture(seed: int, width: int = 32, height: int = 32) -> Image.Image:
    """A smooth random image."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image's file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def wrong_bytes(rng: Random, data: bytes) -> bytes:
    return rng.choice(BYTES)(rng, data)


def another_format(rng: Random, data: bytes) -> bytes:
    kind = rng.choice(list(FORMATS))
    return encoded(picture(rng.randrange(9)).convert(FORMATS[kind]), kind)


def another_damaged_format(rng: Random, data: bytes) -> bytes:
    return rng.choice([truncated, flipped, zeroed, inserted, cut_out])(
        rng, another_format(rng, data)
    )


def another_mode(rng: Random, data: bytes) -> bytes:
    kind = rng.choice(list(MODES))
    return encoded(_converted(picture(0), rng.choice(MODES[kind])), kind)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":  # Pillow converts grey to it only
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8)
    if mode == "LAB":
        from PIL import ImageCms

        return ImageCms.applyTransform(
            image,
            ImageCms.buildTransform(*map(ImageCms.createProfile, ("sRGB", "LAB")), "RGB", "LAB"),
        )
    return image.convert(mode)


def another_shape(rng: Random, data: bytes) -> bytes:
    width, height = rng.choice([(1, 1), (1, 3000), (3000, 1), (7, 9), (600, 400)])
    return encoded(picture(1, width, height), rng.choice(["JPEG", "PNG", "BMP"]))


def exif(rng: Random, data: bytes) -> bytes:
    """Data that say which way is up, sound or damaged, in a sound image."""
    tags = Image.Exif()
    tags[0x0112] = rng.choice([1, 3, 6, 8, 0, 9, 65535])
    wrong = rng.choice([truncated, flipped, zeroed, inserted, cut_out])(rng, tags.tobytes())
    return encoded(
        picture(2), rng.choice(["JPEG", "PNG", "WEBP"]), exif=rng.choice([tags.tobytes(), wrong])
    )


def claims_more(rng: Random, data: bytes) -> bytes:
    """A header that claims far more pixels than follow."""
    side = rng.choice([10_000, 30_000, 65_500])
    jpeg, bmp, gif = (
        encoded(picture(3).convert(FORMATS[kind]), kind) for kind in ("JPEG", "BMP", "GIF")
    )
    frame = jpeg.index(b"\xff\xc0") + 5
    return rng.choice(
        [
            jpeg[:frame] + struct.pack(">HH", side, side) + jpeg[frame + 4 :],
            bmp[:18] + struct.pack("<ii", side, side) + bmp[26:],
            gif[:6] + struct.pack("<HH", side, side) + gif[10:],
            _black_png(side, rows=10),
            b"P6 %d %d 255\n" % (side, side),
            b"P6\n%d %d\n255\n" % (side, side) + bytes(3000),
            b"P6 " + b"9" * 5000 + b" 9 255\n",
        ]
    )


def bomb(rng: Random, data: bytes) -> bytes:
    """Some kilobytes that are 25 or 400 million pixels."""
    side = rng.choice([5000, 20_000])
    return _black_png(side, rows=side)


def _black_png(side: int, rows: int) -> bytes:
    """A black PNG of so many pixels squared, of which it has so many rows."""
    row = bytes(1 + -(-side // 8))
    packer = zlib.compressobj(1)
    pixels = b"".join([*(packer.compress(row) for _ in range(rows)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")):
        file += (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )
    return file


def no_image(rng: Random, data: bytes) -> bytes:
    page, pointer = b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n"
    return rng.choice(
        [
            page,
            pointer,
            b"<svg/>",
            b"\xff\xd8\xff",
            b"P6 0 0 255\n",
            b"P6 -1 3 255\n",
            b"\x1f\x8b\x08",
        ]
    )


IMAGES = (
    *(
        wrong_bytes,
        wrong_bytes,
        another_format,
        another_damaged_format,
        another_mode,
        another_shape,
        exif,
        claims_more,
    ),
    *(bomb, no_image),
)
