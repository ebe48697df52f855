"""Augmentation whose randomness belongs to the image and the epoch: functions of images and of uniform draws, nothing else.

What varies the pixels of a batch alike (crops of small images, cutout, mixing, normalisation) runs on whole batches on their
device; what belongs to the decoding (``resized_crop``, ``vary``) runs per photograph in the loader.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xceptlab.data.order import Draws

# The columns of order.draws, which are read here and nowhere else.
_TOP, _LEFT, _FLIP = 0, 1, 2
_TRIES = slice(3, 23)  # ten areas and ratios of a resized crop
_CUTOUT = slice(23, 25)
_COLOUR = slice(25, 28)
_RATIO, _COIN, _BOX = 28, 29, slice(30, 32)  # of a pair that is mixed
_SEED = slice(32, 34)


def crop_flip(images: Tensor, index: Tensor, draws: Tensor, pad: int, flip: bool) -> Tensor:
    """Some of the images, each after reflecting ``pad`` pixels at its borders and cutting the old size back out, and mirroring.

    Args:
        images: (n, H, W, C), any type: the whole set.
        index: (B,), which of them.
        draws: (B, DRAWS), uniform in [0, 1).
        pad: Pixels, 0 for no crop.
        flip: Mirror the images whose draw is below a half.

    Returns:
        (B, H, W, C), of the images' type: one gather, nothing is padded in memory.
    """
    height, width = images.shape[1:3]
    place = (draws[:, [_TOP, _LEFT]] * (2 * pad + 1)).long() - pad
    rows = _reflect(torch.arange(height, device=images.device) + place[:, :1], height)
    columns = _reflect(torch.arange(width, device=images.device) + place[:, 1:], width)
    if flip:
        columns = torch.where(draws[:, _FLIP, None] < 0.5, columns.flip(1), columns)
    return images[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Positions outside 0 .. size - 1, mirrored at the border pixels."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


def normalise(images: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, H, W, C) uint8 to (B, C, H, W) in [-1, 1], the range of the paper's code, channels last in memory as they came."""
    return images.permute(0, 3, 1, 2).to(dtype).div_(127.5).sub_(1)


def cutout(images: Tensor, draws: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) with a square of ``side`` pixels around a random centre at 0, cut off at the borders.

    DeVries and Taylor 2017, arXiv:1708.04552.
    """
    size = torch.tensor(images.shape[2:], device=images.device)
    low = (draws[:, _CUTOUT] * size).long() - side // 2
    return images.masked_fill(_inside(low, low + side, *images.shape[2:]), 0)


def _inside(low: Tensor, high: Tensor, height: int, width: int) -> Tensor:
    """(B, 1, H, W), true from row and column ``low`` (B, 2) up to ``high``."""
    row, column = (torch.arange(size, device=low.device) for size in (height, width))
    rows = (row >= low[:, :1]) & (row < high[:, :1])
    columns = (column >= low[:, 1:]) & (column < high[:, 1:])
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def mixing(draws: Draws, size: int, mixup: float, cutmix: float) -> NDArray[np.float32]:
    """How images 2k and 2k + 1 of a batch are mixed, from the draws (B, DRAWS) of the first of the two.

    The ratio is from Beta(mixup, mixup) or Beta(cutmix, cutmix); 0 switches a kind off, a coin decides between two. Both of
    a pair get the same one. Of mixup's and its complement the larger is taken, which only says which image is called which.

    Returns:
        (B, 5): the partner's weight inside a box, and the box in pixels: top, left, bottom, right. Mixup's is the whole image,
        cutmix's weight is 1. The last of an odd number of images stays alone: weight 0.
    """
    from scipy.special import betaincinv

    first = draws[np.arange(len(draws)) // 2 * 2].astype(np.float64)
    cut = first[:, _COIN] < (0.5 if mixup and cutmix else bool(cutmix))
    alpha = np.where(cut, cutmix or 1.0, mixup or 1.0)
    ratio = betaincinv(alpha, alpha, first[:, _RATIO])
    part = np.where(cut, 1 - ratio, np.minimum(ratio, 1 - ratio))
    half = np.where(cut, size * np.sqrt(part) / 2, 2 * size)[:, None]
    centre = first[:, _BOX] * size
    box = np.clip(np.round(np.concatenate([centre - half, centre + half], 1)), 0, size)
    weight = np.where(cut, 1.0, part)
    if len(draws) % 2:
        weight[-1] = 0
    return np.concatenate([weight[:, None], box], 1).astype(np.float32)


def mix(images: Tensor, plan: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) mixed with their partners as ``mixing`` says, and the part (B,) of each that is its own."""
    height, width = images.shape[2:]
    weight, low, high = plan[:, :1, None, None].to(images.dtype), plan[:, 1:3], plan[:, 3:5]
    mixed = images.lerp(images[partners(len(images), images.device)], weight * _inside(low, high, height, width))
    return mixed, 1 - plan[:, 0] * (high - low).prod(1) / (height * width)


def partners(n: int, device: torch.device) -> Tensor:
    """(n,): the other of 2k and 2k + 1; the last of an odd number is its own."""
    return (torch.arange(n, device=device) ^ 1).clamp(max=n - 1)


def resized_crop(draws: Draws, height: int, width: int) -> tuple[int, int, int, int]:
    """The box (top, left, height, width) of Inception's random crop (Szegedy et al. 2015), as torchvision draws it.

    8% to 100% of the area, aspect ratio 3/4 to 4/3, up to ten tries from draws (DRAWS,), then the largest central box of an
    allowed ratio.
    """
    for part, shape in draws[_TRIES].reshape(-1, 2):
        area = height * width * (0.08 + 0.92 * part)
        ratio = math.exp(math.log(3 / 4) + shape * 2 * math.log(4 / 3))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(draws[_TOP] * (height - h + 1)), int(draws[_LEFT] * (width - w + 1)), h, w
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def vary(image: Tensor, draws: Draws, *, flip: bool, colour: float, rand_augment: int) -> Tensor:
    """A photograph (3, H, W) uint8 mirrored, in other brightness, contrast and saturation, and after RandAugment.

    Args:
        image: The photograph, cut and resized.
        draws: (DRAWS,), uniform in [0, 1).
        flip: Mirror it if its draw is below a half.
        colour: Largest change of the three factors from 1, applied in this order.
        rand_augment: Magnitude of torchvision's RandAugment, 1 to 30, two operations (Cubuk et al. 2020, arXiv:1909.13719); 0 for
            none. It draws from torch's generator, which is seeded by the image's draws and put back afterwards.
    """
    from torchvision.transforms import v2

    if flip and draws[_FLIP] < 0.5:
        image = image.flip(2)
    if colour:
        f = v2.functional
        for change, draw in zip((f.adjust_brightness, f.adjust_contrast, f.adjust_saturation), draws[_COLOUR], strict=True):
            image = change(image, float(1 + colour * (2 * draw - 1)))
    if rand_augment:
        high, low = (int(draw * 2**24) for draw in draws[_SEED])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed((high << 24) + low)
            image = v2.RandAugment(2, rand_augment, interpolation=v2.InterpolationMode.BILINEAR, fill=[128, 128, 128])(image)
    return image
