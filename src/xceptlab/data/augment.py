"""Augmentation whose randomness belongs to the image and the epoch: functions of images and of uniform draws, nothing else.

The columns of ``order.draws`` are read here and nowhere else: 0 and 1 the place of the crop, 2 the flip, 3 onwards its size.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def pad_crop_flip(images: Tensor, draws: Tensor, pad: int, flip: bool) -> Tensor:
    """Whole batches at once, on their device: reflect ``pad`` pixels at each border, crop the old size back out, mirror.

    Args:
        images: (B, H, W, C), any type.
        draws: (B, at least 3), uniform in [0, 1).
        pad: Pixels, 0 for no crop.
        flip: Mirror the images whose draw is below a half.

    Returns:
        (B, H, W, C), of the images' type: one gather, nothing is padded in memory.
    """
    b, height, width = images.shape[:3]
    place = (draws[:, :2] * (2 * pad + 1)).long() - pad
    rows = _reflect(torch.arange(height, device=images.device) + place[:, :1], height)
    columns = _reflect(torch.arange(width, device=images.device) + place[:, 1:], width)
    if flip:
        columns = torch.where(draws[:, 2:3] < 0.5, columns.flip(1), columns)
    return images[torch.arange(b, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Positions outside 0 .. size - 1, mirrored at the border pixels."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


def resized_crop(draws: NDArray[np.float32], height: int, width: int) -> tuple[int, int, int, int]:
    """The box (top, left, height, width) of Inception's random crop (Szegedy et al. 2015), as torchvision draws it.

    8% to 100% of the area, aspect ratio 3/4 to 4/3, up to five tries (torchvision: ten) from draws (at least 13,), then the
    largest central box of an allowed ratio.
    """
    for attempt in range(5):
        area = height * width * (0.08 + 0.92 * draws[3 + 2 * attempt])
        ratio = math.exp(math.log(3 / 4) + draws[4 + 2 * attempt] * 2 * math.log(4 / 3))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(draws[0] * (height - h + 1)), int(draws[1] * (width - w + 1)), h, w
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def normalise(images: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, H, W, C) uint8 to (B, C, H, W) in [-1, 1], the range of the paper's code, channels last in memory as they came."""
    return images.permute(0, 3, 1, 2).to(dtype) / 127.5 - 1
