"""Crops: which part of an image the network gets, in training and in evaluation, and how it is cut
out.

Photographs are cropped one by one in the loader: ``for_training`` and ``for_evaluation`` find a box
and cut it out. Images in memory have the network's size: those of a batch are cropped at once on
the device, in training only (``crop_flip``).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xceptlab.config.schema import DataConfig
from xceptlab.data import order
from xceptlab.data.order import Draws


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


# ---- photographs ---------------------------------------------------------------------------------


def for_evaluation(image: Tensor, config: DataConfig) -> Tensor:
    """Cut a central square out of a photograph and resize it: (3, H, W) to (3, size, size), uint8,
    where ``size`` is ``data.size``.

    The square's side is the part ``data.eval_crop`` of the photograph's short side. The
    interpolation is ``data.eval_interpolation``.
    """
    box = central_box(image, config.eval_crop)
    return resized(image, box, config.size, config.eval_interpolation)


def for_training(image: Tensor, draws: Draws, config: DataConfig) -> Tensor:
    """Cut out of a photograph the part that is trained on, and resize it bilinearly: a random part
    with ``data.crop: resized``, otherwise the central square of evaluation.

    Args:
        image: (3, H, W) uint8.
        draws: Random numbers (DRAWS,) of the image in this epoch, uniform in [0, 1).
        config: The data set.

    Returns:
        (3, size, size) uint8, where ``size`` is ``data.size``.
    """
    if config.crop == "resized":
        height, width = image.shape[1:]
        box = random_box(draws, height, width)
    else:
        box = central_box(image, config.eval_crop)
    return resized(image, box, config.size, "bilinear")


def central_box(image: Tensor, part: float) -> Box:
    """Return the central square of an image (3, H, W) with ``part`` of the image's short side as
    its side.
    """
    height, width = image.shape[1:]
    short_side = min(height, width)
    side = max(1, round(short_side * part))
    return _centred(side, side, height, width)


def _centred(box_height: int, box_width: int, height: int, width: int) -> Box:
    """Return the box of ``box_height`` x ``box_width`` in the middle of an image of ``height`` x
    ``width`` pixels.
    """
    top = (height - box_height) // 2
    left = (width - box_width) // 2
    return Box(top, left, box_height, box_width)


def random_box(draws: Draws, height: int, width: int) -> Box:
    """Draw the box of Inception's random crop (Szegedy et al. 2015), as torchvision's
    RandomResizedCrop does.

    Each of ten tries draws a size: 8% to 100% of the photograph's area, with an aspect ratio from
    3/4 to 4/3. The first that fits into the photograph is placed at random. If none fits, the box
    is the largest central one with such an aspect ratio.

    Args:
        draws: (DRAWS,), uniform in [0, 1).
        height: Height of the photograph in pixels.
        width: Width of the photograph in pixels.

    Returns:
        The box, which lies inside the photograph.
    """
    tries = draws[order.TRIES].reshape(-1, 2)  # (10, 2)
    for area_draw, ratio_draw in tries:
        box_height, box_width = _random_size(area_draw, ratio_draw, height * width)
        fits_in_height = 0 < box_height <= height
        fits_in_width = 0 < box_width <= width
        if fits_in_height and fits_in_width:
            possible_tops = height - box_height + 1
            possible_lefts = width - box_width + 1
            top = int(draws[order.TOP] * possible_tops)
            left = int(draws[order.LEFT] * possible_lefts)
            return Box(top, left, box_height, box_width)
    box_height = min(height, round(width * 4 / 3))
    box_width = min(width, round(height * 4 / 3))
    return _centred(box_height, box_width, height, width)


def _random_size(area_draw: np.float32, ratio_draw: np.float32, pixels: int) -> tuple[int, int]:
    """Return the height and the width of the box that one try of ``random_box`` draws, which need
    not fit into the photograph.

    Args:
        area_draw: Uniform in [0, 1): where the box's area lies between 8% and 100% of the image's.
        ratio_draw: Uniform in [0, 1): where the logarithm of its aspect ratio, width by height,
            lies between those of 3/4 and 4/3.
        pixels: The area of the photograph.
    """
    share_of_area = 0.08 + 0.92 * area_draw
    area = pixels * share_of_area
    range_of_log_ratio = 2 * math.log(4 / 3)
    log_ratio = math.log(3 / 4) + ratio_draw * range_of_log_ratio
    ratio = math.exp(log_ratio)
    box_height = math.sqrt(area / ratio)
    box_width = math.sqrt(area * ratio)
    return round(box_height), round(box_width)


def resized(image: Tensor, box: Box, size: int, interpolation: str) -> Tensor:
    """Cut a box out of an image (3, H, W) uint8 and resize it to (3, size, size) by
    ``interpolation``, bilinear or bicubic, with antialiasing.
    """
    rows = slice(box.top, box.top + box.height)
    columns = slice(box.left, box.left + box.width)
    region = image[None, :, rows, columns]  # (1, 3, height, width)
    # In one piece and in this layout, resizing and the copy that follows take half the time.
    region = region.contiguous(memory_format=torch.channels_last)
    new_size = (size, size)
    result = F.interpolate(region, new_size, mode=interpolation, antialias=True)
    return result[0]  # (3, size, size)


# ---- images in memory ----------------------------------------------------------------------------


def crop_flip(images: Tensor, index: Tensor, draws: Tensor, pad: int, flip: bool) -> Tensor:
    """Crop and mirror images of a set in memory: pad each by reflection, cut a random part of the
    old size out, and flip it left to right.

    One gather does all of it, so that no padded image exists.

    Args:
        images: (n, H, W, C), any type: the whole set.
        index: (B,), numbers of the batch's images in the set.
        draws: (B, DRAWS), uniform in [0, 1).
        pad: Pixels of padding on each side, fewer than H and W; 0 for no crop.
        flip: Mirror the images whose draw is below a half.

    Returns:
        (B, H, W, C), of the images' type.
    """
    height, width = images.shape[1:3]
    possible_offsets = 2 * pad + 1
    offset = (draws[:, order.PLACE] * possible_offsets).long() - pad  # (B, 2), from -pad to pad
    down = offset[:, :1]  # (B, 1)
    right = offset[:, 1:]  # (B, 1)
    rows = _shifted_and_reflected(height, down)  # (B, H)
    columns = _shifted_and_reflected(width, right)  # (B, W)
    if flip:
        mirrored = draws[:, order.FLIP, None] < 0.5  # (B, 1)
        columns = torch.where(mirrored, columns.flip(1), columns)

    # A pixel's number counts the pixels of the whole set, image by image and row by row. On a CPU
    # this is twice as fast as indexing by image, row and column.
    first_rows = index[:, None] * height  # (B, 1)
    rows_of_set = first_rows + rows  # (B, H)
    first_pixels = rows_of_set[:, :, None] * width  # (B, H, 1)
    pixels = first_pixels + columns[:, None, :]  # (B, H, W)
    all_pixels = images.flatten(0, 2)  # (n * H * W, C)
    chosen = all_pixels.index_select(0, pixels.flatten())  # (B * H * W, C)
    return chosen.view(*pixels.shape, -1)


def _shifted_and_reflected(size: int, offset: Tensor) -> Tensor:
    """Return which pixels (B, size) along a side of ``size`` pixels a shifted crop of the same
    length takes: 0 to size - 1, plus the crop's ``offset`` (B, 1). Positions outside the side are
    reflected at its border pixels; an offset must be smaller than ``size``.
    """
    positions = torch.arange(size, device=offset.device) + offset  # (B, size)
    last = size - 1
    inside_first = positions.abs()
    return last - (last - inside_first).abs()
