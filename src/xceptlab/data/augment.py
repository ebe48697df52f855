"""Augmentation: functions of images and of uniform draws that belong to the image and the epoch (``order.draws``).

Two places call them. On the device, for whole batches: ``crop_flip`` (images in memory), ``normalise``, ``cutout``, ``mix``; see
``module.DataModule``. In the loader, for one photograph: ``resized_crop`` and ``vary``; see ``photographs.Photographs``.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xceptlab.data.order import Draws

# The columns of order.draws. They are read in this module and nowhere else.
_TOP = 0
_LEFT = 1
_PLACE = slice(_TOP, _LEFT + 1)
_FLIP = 2
_TRIES = slice(3, 23)  # an area and an aspect ratio for each of the ten tries of a resized crop
_CUTOUT_CENTRE = slice(23, 25)
_COLOUR = slice(25, 28)  # brightness, contrast, saturation
_MIX_RATIO = 28
_MIX_COIN = 29  # mixup or CutMix, where both are on
_MIX_CENTRE = slice(30, 32)
_RAND_AUGMENT_SEED = slice(32, 34)


def crop_flip(images: Tensor, index: Tensor, draws: Tensor, pad: int, flip: bool) -> Tensor:
    """Crop and mirror images that lie in memory: pad each by reflection, cut the old size back out, flip it left to right.

    One gather does all of it; nothing is padded in memory.

    Args:
        images: (n, H, W, C), any type: the whole set.
        index: (B,), which images of the set.
        draws: (B, DRAWS), uniform in [0, 1).
        pad: Pixels of padding on each side; 0 for no crop.
        flip: Mirror the images whose draw is below a half.

    Returns:
        (B, H, W, C), of the images' type.
    """
    height, width = images.shape[1:3]
    offset = (draws[:, _PLACE] * (2 * pad + 1)).long() - pad  # (B, 2), from -pad to pad
    rows = torch.arange(height, device=images.device) + offset[:, :1]  # (B, H)
    columns = torch.arange(width, device=images.device) + offset[:, 1:]  # (B, W)
    rows = _reflect(rows, height)
    columns = _reflect(columns, width)
    if flip:
        mirrored = draws[:, _FLIP, None] < 0.5  # (B, 1)
        columns = torch.where(mirrored, columns.flip(1), columns)
    return images[index[:, None, None], rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Mirror positions outside 0 to size - 1 at the border pixels."""
    last = size - 1
    inside_first = positions.abs()
    return last - (last - inside_first).abs()


def normalise(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale pixels to [-1, 1], the range of the paper's code: (B, H, W, C) uint8 to (B, C, H, W), channels last in memory."""
    channels_first = images.permute(0, 3, 1, 2)
    return channels_first.to(dtype).div_(127.5).sub_(1)


def cutout(images: Tensor, draws: Tensor, side: int) -> Tensor:
    """Set a square around a random centre to 0 in each image (DeVries and Taylor 2017, arXiv:1708.04552).

    Args:
        images: (B, C, H, W).
        draws: (B, DRAWS), uniform in [0, 1).
        side: Pixels of the square's side; it is cut off at the image's borders.

    Returns:
        (B, C, H, W).
    """
    height, width = images.shape[2:]
    size = torch.tensor(images.shape[2:], device=images.device)
    low = (draws[:, _CUTOUT_CENTRE] * size).long() - side // 2  # (B, 2)
    high = low + side
    return images.masked_fill(_in_box(low, high, height, width), 0)


def _in_box(low: Tensor, high: Tensor, height: int, width: int) -> Tensor:
    """Mask (B, 1, H, W) of the pixels from row and column ``low`` (B, 2) up to, but without, ``high`` (B, 2)."""
    row = torch.arange(height, device=low.device)
    column = torch.arange(width, device=low.device)
    in_rows = (row >= low[:, :1]) & (row < high[:, :1])  # (B, H)
    in_columns = (column >= low[:, 1:]) & (column < high[:, 1:])  # (B, W)
    mask = in_rows[:, :, None] & in_columns[:, None, :]  # (B, H, W)
    return mask[:, None]


def mixing(draws: Draws, size: int, mixup: float, cutmix: float) -> NDArray[np.float32]:
    """Draw how the images 2k and 2k + 1 of a batch are mixed with each other; the draws of the first of the two decide.

    The ratio is from Beta(alpha, alpha). For mixup the smaller of the ratio and its complement is the partner's weight: the
    choice only says which image is called which.

    Args:
        draws: (B, DRAWS), uniform in [0, 1).
        size: Pixels of an image's side.
        mixup: Alpha of mixup; 0 switches it off.
        cutmix: Alpha of CutMix; 0 switches it off. Where both are on, a coin decides for each pair.

    Returns:
        (B, 5): the partner's weight inside a box, and the box in pixels: top, left, bottom, right. Mixup's box is the whole
        image, CutMix's weight is 1. The last of an odd number of images stays as it is: weight 0.
    """
    from scipy.special import betaincinv

    first_of_pair = np.arange(len(draws)) // 2 * 2
    pair = draws[first_of_pair].astype(np.float64)  # (B, DRAWS)
    if mixup and cutmix:
        cuts = pair[:, _MIX_COIN] < 0.5
    else:
        cuts = np.full(len(draws), bool(cutmix))
    alpha = np.where(cuts, cutmix or 1.0, mixup or 1.0)  # a kind that is off needs a valid alpha that nothing reads
    ratio = betaincinv(alpha, alpha, pair[:, _MIX_RATIO])
    partners_part = np.where(cuts, 1 - ratio, np.minimum(ratio, 1 - ratio))

    whole_image = 2 * size  # half a side of a box that covers the image wherever its centre lies
    half = np.where(cuts, size * np.sqrt(partners_part) / 2, whole_image)[:, None]
    centre = pair[:, _MIX_CENTRE] * size
    box = np.concatenate([centre - half, centre + half], axis=1)
    box = np.clip(np.round(box), 0, size)
    weight = np.where(cuts, 1.0, partners_part)
    if len(draws) % 2:
        weight[-1] = 0
    return np.concatenate([weight[:, None], box], axis=1).astype(np.float32)


def mix(images: Tensor, plan: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each image with its partner.

    Args:
        images: (B, C, H, W).
        plan: (B, 5), what ``mixing`` has drawn.

    Returns:
        The mixed images (B, C, H, W), and the weights (B,) of the images' own labels; their partners' labels have the rest.
    """
    height, width = images.shape[2:]
    low = plan[:, 1:3]
    high = plan[:, 3:5]
    partner = images[partners(len(images), images.device)]  # (B, C, H, W)
    weight = plan[:, :1, None, None].to(images.dtype) * _in_box(low, high, height, width)  # (B, 1, H, W)
    mixed = images.lerp(partner, weight)
    area = (high - low).prod(1)  # (B,)
    label_weight = 1 - plan[:, 0] * area / (height * width)
    return mixed, label_weight


def partners(n: int, device: torch.device) -> Tensor:
    """The image (n,) that each of n is mixed with: 2k with 2k + 1; the last of an odd number with itself."""
    other_of_pair = torch.arange(n, device=device) ^ 1
    return other_of_pair.clamp(max=n - 1)


def resized_crop(draws: Draws, height: int, width: int) -> tuple[int, int, int, int]:
    """Draw the box of Inception's random crop (Szegedy et al. 2015), as torchvision's RandomResizedCrop does.

    The box has 8% to 100% of the area and an aspect ratio from 3/4 to 4/3. After ten tries that do not fit into the image it is
    the largest central box of an allowed ratio.

    Args:
        draws: (DRAWS,), uniform in [0, 1).
        height: Pixels of the photograph.
        width: Pixels of the photograph.

    Returns:
        The box in pixels: top, left, height, width.
    """
    for area_draw, ratio_draw in draws[_TRIES].reshape(-1, 2):
        area = height * width * (0.08 + 0.92 * area_draw)
        ratio = math.exp(math.log(3 / 4) + ratio_draw * 2 * math.log(4 / 3))
        w = round(math.sqrt(area * ratio))
        h = round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(draws[_TOP] * (height - h + 1))
            left = int(draws[_LEFT] * (width - w + 1))
            return top, left, h, w
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def vary(image: Tensor, draws: Draws, *, flip: bool, colour: float, rand_augment: int) -> Tensor:
    """Mirror a photograph, change its brightness, contrast and saturation, and apply RandAugment, in this order.

    Args:
        image: (3, H, W) uint8, cropped and resized.
        draws: (DRAWS,), uniform in [0, 1).
        flip: Mirror it if its draw is below a half.
        colour: Largest change of the three factors from 1; 0 for none.
        rand_augment: Magnitude of torchvision's RandAugment, 1 to 30, two operations (Cubuk et al. 2020, arXiv:1909.13719); 0 for
            none.

    Returns:
        (3, H, W) uint8.
    """
    if flip and draws[_FLIP] < 0.5:
        image = image.flip(2)
    if colour:
        image = _with_other_colours(image, draws, colour)
    if rand_augment:
        image = _with_rand_augment(image, draws, rand_augment)
    return image


def _with_other_colours(image: Tensor, draws: Draws, largest_change: float) -> Tensor:
    from torchvision.transforms.v2 import functional

    adjustments = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    for adjust, draw in zip(adjustments, draws[_COLOUR], strict=True):
        factor = 1 + largest_change * (2 * draw - 1)
        image = adjust(image, float(factor))
    return image


def _with_rand_augment(image: Tensor, draws: Draws, magnitude: int) -> Tensor:
    """Apply torchvision's RandAugment to one image, drawn by the image's numbers; torch's global generator stays as it was."""
    from torchvision.transforms import v2

    operations = v2.RandAugment(2, magnitude, interpolation=v2.InterpolationMode.BILINEAR, fill=[128, 128, 128])
    high, low = (int(draw * 2**24) for draw in draws[_RAND_AUGMENT_SEED])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed((high << 24) + low)
        return operations(image)
