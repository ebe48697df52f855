"""Crops: which part of an image the network gets, in training and in evaluation, and how it is cut
out.

Photographs are cropped one by one in the loader: ``for_training`` and ``for_evaluation`` find a box
and cut it out. Images in memory have the network's size: those of a batch are cropped at once on
the device, in training only (``crop_flip``).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from xceptlab.config.schema import DataConfig
from xceptlab.data import order
from xceptlab.data.order import Draws

Box = tuple[int, int, int, int]
"""A part of an image in pixels: top, left, height, width."""


# ---- photographs ---------------------------------------------------------------------------------


def for_evaluation(image: Tensor, config: DataConfig) -> Tensor:
    """Cut a central square out of a photograph and resize it: (3, H, W) to (3, size, size).

    The square's side is the part ``data.eval_crop`` of the photograph's short side.
    """
    box = central_box(image, config.eval_crop)
    return resized(image, box, config.size, config.eval_interpolation)


def for_training(image: Tensor, draws: Draws, config: DataConfig) -> Tensor:
    """Cut the part of a photograph that is trained on out of it, and resize it: a random part with
    ``data.crop: resized``, otherwise the one that is evaluated.

    Args:
        image: (3, H, W) uint8.
        draws: Random numbers (DRAWS,) of the image in this epoch, uniform in [0, 1).
        config: The data set.

    Returns:
        (3, size, size) uint8.
    """
    if config.crop == "resized":
        box = random_box(draws, *image.shape[1:])
    else:
        box = central_box(image, config.eval_crop)
    return resized(image, box, config.size, "bilinear")


def central_box(image: Tensor, part: float) -> Box:
    """Return the central square of an image (3, H, W) with ``part`` of the image's short side as
    its side.
    """
    height, width = image.shape[1:]
    side = round(min(height, width) * part) or 1
    return (height - side) // 2, (width - side) // 2, side, side


def random_box(draws: Draws, height: int, width: int) -> Box:
    """Draw the box of Inception's random crop (Szegedy et al. 2015), as torchvision's
    RandomResizedCrop does.

    The box has 8% to 100% of the area and an aspect ratio from 3/4 to 4/3. If none of ten tries
    fits into the image, it is the largest central box with an allowed ratio.

    Args:
        draws: (DRAWS,), uniform in [0, 1).
        height: Pixels of the photograph.
        width: Pixels of the photograph.

    Returns:
        The box in pixels: top, left, height, width.
    """
    for area_draw, ratio_draw in draws[order.TRIES].reshape(-1, 2):
        area = height * width * (0.08 + 0.92 * area_draw)
        ratio = math.exp(math.log(3 / 4) + ratio_draw * 2 * math.log(4 / 3))
        w = round(math.sqrt(area * ratio))
        h = round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(draws[order.TOP] * (height - h + 1))
            left = int(draws[order.LEFT] * (width - w + 1))
            return top, left, h, w
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def resized(image: Tensor, box: Box, size: int, interpolation: str) -> Tensor:
    """Cut a box out of an image (3, H, W) and resize it to (3, size, size)."""
    top, left, height, width = box
    # In one piece and in this layout, resizing and the copy that follows take half the time.
    region = image[None, :, top : top + height, left : left + width].contiguous(
        memory_format=torch.channels_last
    )
    return F.interpolate(region, (size, size), mode=interpolation, antialias=True)[0]


# ---- images in memory ----------------------------------------------------------------------------


def crop_flip(images: Tensor, index: Tensor, draws: Tensor, pad: int, flip: bool) -> Tensor:
    """Crop and mirror images of a set in memory: pad each by reflection, cut a random part of the
    old size out, and flip it left to right.

    One gather does all of it, so that no padded image exists.

    Args:
        images: (n, H, W, C), any type: the whole set.
        index: (B,), numbers of the batch's images in the set.
        draws: (B, DRAWS), uniform in [0, 1).
        pad: Pixels of padding on each side; 0 for no crop.
        flip: Mirror the images whose draw is below a half.

    Returns:
        (B, H, W, C), of the images' type.
    """
    height, width = images.shape[1:3]
    offset = (draws[:, order.PLACE] * (2 * pad + 1)).long() - pad  # (B, 2), from -pad to pad
    rows = torch.arange(height, device=images.device) + offset[:, :1]  # (B, H)
    columns = torch.arange(width, device=images.device) + offset[:, 1:]  # (B, W)
    rows = _reflect(rows, height)
    columns = _reflect(columns, width)
    if flip:
        mirrored = draws[:, order.FLIP, None] < 0.5  # (B, 1)
        columns = torch.where(mirrored, columns.flip(1), columns)
    # Among the pixels of the whole set in one row; on a CPU this is twice as fast as indexing by
    # image, row and column.
    pixels = (index[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]  # (B, H, W)
    chosen = images.flatten(0, 2).index_select(0, pixels.flatten())  # (B * H * W, C)
    return chosen.view(*pixels.shape, -1)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Mirror positions that lie outside 0 to size - 1 at the border pixels."""
    last = size - 1
    inside_first = positions.abs()
    return last - (last - inside_first).abs()
