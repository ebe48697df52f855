"""Augmentation except for crops, and normalisation: functions of images and of random numbers,
which belong to the image and the epoch (``order.draws``).

They are applied after ``crop``. On the device, to whole batches: ``normalise``, ``cutout``, ``mix``
(by ``module.DataModule``). In the loader: ``vary`` to each photograph (by
``photographs.Photographs``), and ``mixing``, which draws what ``mix`` then does to the batch (by
``split.Split``). Evaluation, and the module ``transform``, use ``normalise`` only.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xceptlab.data import order
from xceptlab.data.order import Draws


def normalise(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale pixels from 0 to 255 to the range -1 to 1, that of the paper's code: (B, H, W, C) uint8
    to (B, C, H, W) of the floating-point type ``dtype``, channels last in memory.
    """
    channels_first = images.permute(0, 3, 1, 2)  # (B, C, H, W)
    scaled = channels_first.to(dtype)
    scaled.div_(127.5)  # 0 to 2
    scaled.sub_(1)  # -1 to 1
    return scaled


def cutout(images: Tensor, draws: Tensor, side: int) -> Tensor:
    """Set a square around a random centre to 0 in each image (DeVries and Taylor 2017,
    arXiv:1708.04552).

    Args:
        images: (B, C, H, W), normalised, so that 0 is a middle grey.
        draws: (B, DRAWS), uniform in [0, 1).
        side: Pixels of the square's side; it is cut off at the image's borders.

    Returns:
        (B, C, H, W).
    """
    height, width = images.shape[2:]
    size = torch.tensor([height, width], device=images.device)
    centre = draws[:, order.CUTOUT_CENTRE] * size  # (B, 2)
    low = centre.long() - side // 2  # (B, 2)
    high = low + side  # (B, 2)
    in_square = _in_box(low, high, height, width)  # (B, 1, H, W)
    return images.masked_fill(in_square, 0)


def _in_box(low: Tensor, high: Tensor, height: int, width: int) -> Tensor:
    """Return the mask (B, 1, H, W) of the pixels from row and column ``low`` (B, 2) up to, but
    without, row and column ``high`` (B, 2).
    """
    top, left = low.split(1, dim=1)  # (B, 1) each
    bottom, right = high.split(1, dim=1)  # (B, 1) each
    in_rows = _between(top, bottom, height)  # (B, H)
    in_columns = _between(left, right, width)  # (B, W)
    mask = in_rows[:, :, None] & in_columns[:, None, :]  # (B, H, W)
    return mask[:, None]


def _between(first: Tensor, end: Tensor, size: int) -> Tensor:
    """Return the mask (B, size) of the positions along a side of ``size`` pixels from ``first``
    (B, 1) up to, but without, ``end`` (B, 1).
    """
    position = torch.arange(size, device=first.device)
    is_behind_start = position >= first
    is_before_end = position < end
    return is_behind_start & is_before_end


def mixing(draws: Draws, size: int, mixup: float, cutmix: float) -> NDArray[np.float32]:
    """Draw how the images 2k and 2k + 1 of a batch are mixed with each other; the draws of the
    first of the two decide.

    A ratio is drawn from Beta(alpha, alpha). CutMix takes from the partner a square around a random
    centre, with the part 1 - ratio of the image's area, which is cut off at the image's borders.
    For mixup the smaller of ratio and 1 - ratio is the partner's weight; the larger one would only
    exchange the two mixed images.

    Args:
        draws: (B, DRAWS), uniform in [0, 1).
        size: Pixels of an image's side.
        mixup: Alpha of mixup; 0 switches it off.
        cutmix: Alpha of CutMix; 0 switches it off. At least one of the two must be on; where both
            are, a coin decides for each pair.

    Returns:
        (B, 5): the partner's weight inside a box, and the box in whole pixels: top, left, bottom,
        right, where the row ``bottom`` and the column ``right`` are the first outside. Mixup's box
        is the whole image, CutMix's weight is 1. The last of an odd number of images stays as it
        is: weight 0.
    """
    from scipy.special import betaincinv

    number = np.arange(len(draws))
    first_of_pair = number // 2 * 2
    draws_of_pair = draws[first_of_pair].astype(np.float64)  # (B, DRAWS)
    if mixup and cutmix:
        cuts = draws_of_pair[:, order.MIX_COIN] < 0.5  # (B,)
    else:
        cuts = np.full(len(draws), bool(cutmix))
    # A kind of mixing that is off has no alpha; 1 is a valid one, and its result is not used.
    cutmix_alpha = cutmix or 1.0
    mixup_alpha = mixup or 1.0
    alpha = np.where(cuts, cutmix_alpha, mixup_alpha)
    ratio = betaincinv(alpha, alpha, draws_of_pair[:, order.MIX_RATIO])  # (B,)
    complement = 1 - ratio
    partners_part = np.where(cuts, complement, np.minimum(ratio, complement))

    side_of_cut = size * np.sqrt(partners_part)
    # With this half side a box covers the image wherever its centre lies.
    half_of_mixup = 2 * size
    half = np.where(cuts, side_of_cut / 2, half_of_mixup)
    half = half[:, None]  # (B, 1)
    centre = draws_of_pair[:, order.MIX_CENTRE] * size  # (B, 2)
    box = np.concatenate([centre - half, centre + half], axis=1)  # (B, 4)
    box = np.clip(np.round(box), 0, size)

    weight = np.where(cuts, 1.0, partners_part)
    last_has_no_partner = len(draws) % 2 == 1
    if last_has_no_partner:
        weight[-1] = 0
    plan = np.concatenate([weight[:, None], box], axis=1)  # (B, 5)
    return plan.astype(np.float32)


def mix(images: Tensor, plan: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each image with its partner, the images 2k and 2k + 1 of a batch with each other.

    Args:
        images: (B, C, H, W).
        plan: (B, 5), the weights and boxes that ``mixing`` has drawn.

    Returns:
        The mixed images (B, C, H, W), and the weights (B,) of the images' own labels; their
        partners' labels have the rest.
    """
    height, width = images.shape[2:]
    partners_weight, low, high = plan.split([1, 2, 2], dim=1)  # (B, 1), (B, 2), (B, 2)

    partner_of = partners(len(images), images.device)  # (B,)
    partner = images[partner_of]  # (B, C, H, W)
    in_box = _in_box(low, high, height, width)  # (B, 1, H, W)
    weight = partners_weight[:, :, None, None].to(images.dtype)  # (B, 1, 1, 1)
    mixed = images.lerp(partner, weight * in_box)

    area = (high - low).prod(1)  # (B,)
    partners_label_weight = partners_weight[:, 0] * area / (height * width)
    return mixed, 1 - partners_label_weight


def partners(n: int, device: torch.device) -> Tensor:
    """Return for each of n images the number (n,) of the one that it is mixed with: 2k for 2k + 1,
    2k + 1 for 2k, and itself for the last of an odd number.
    """
    number = torch.arange(n, device=device)
    other_of_pair = number ^ 1
    last = n - 1
    return other_of_pair.clamp(max=last)


def vary(image: Tensor, draws: Draws, *, flip: bool, colour: float, rand_augment: int) -> Tensor:
    """Mirror a photograph, change its brightness, contrast and saturation, and apply RandAugment,
    in this order.

    Args:
        image: (3, H, W) uint8, cropped and resized.
        draws: (DRAWS,), uniform in [0, 1).
        flip: Mirror it if its draw is below a half.
        colour: Largest change of the three factors from 1; 0 for none.
        rand_augment: Magnitude of torchvision's RandAugment, 1 to 30, two operations (Cubuk et al.
            2020, arXiv:1909.13719); 0 for none.

    Returns:
        (3, H, W) uint8.
    """
    if flip and draws[order.FLIP] < 0.5:
        image = image.flip(2)
    if colour:
        image = _with_other_colours(image, draws, colour)
    if rand_augment:
        image = _with_rand_augment(image, draws, rand_augment)
    return image


def _with_other_colours(image: Tensor, draws: Draws, largest_change: float) -> Tensor:
    """Multiply the brightness, the contrast and the saturation of an image (3, H, W) uint8 by
    random factors from 1 - ``largest_change`` to 1 + ``largest_change``, which its draws (DRAWS,)
    determine.
    """
    from torchvision.transforms.v2 import functional

    adjustments = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
    )
    for adjust, draw in zip(adjustments, draws[order.COLOUR], strict=True):
        factor = 1 + largest_change * (2 * draw - 1)
        image = adjust(image, float(factor))
    return image


def _with_rand_augment(image: Tensor, draws: Draws, magnitude: int) -> Tensor:
    """Apply torchvision's RandAugment, two operations of the ``magnitude`` given, to one image
    (3, H, W) uint8.

    It draws from torch's global generator, which is seeded with the image's draws (DRAWS,) and then
    put back as it was.
    """
    from torchvision.transforms import v2

    operations = v2.RandAugment(
        num_ops=2,
        magnitude=magnitude,
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=[128, 128, 128],
    )
    # A draw has 24 random bits; the seed is made of two of them.
    high, low = draws[order.RAND_AUGMENT_SEED]
    seed = (int(high * 2**24) << 24) + int(low * 2**24)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return operations(image)
