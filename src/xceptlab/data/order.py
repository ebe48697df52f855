"""Which image is used at which step, and which random numbers are drawn for it: pure functions of
(seed, epoch, step) and of (seed, epoch, image).

Nothing here has a state. So neither workers nor the number of processes, prefetching or an
interruption can change what comes out. All randomness is a hash (splitmix64, Steele et al. 2014) of
its key, computed for whole arrays; unlike a library's generator it is the same in every version.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xceptlab.errors import Refused

Indices = NDArray[np.int64]
"""Numbers of images, or labels."""
Draws = NDArray[np.float32]
"""Uniform random numbers in [0, 1): (DRAWS,) for one image, (B, DRAWS) for a batch."""

# Each kind of random numbers has its own first word of the key, so that no two kinds are equal.
_ORDER = 1
_DRAWS = 2
_SPLIT = 3
DRAWS = 36
"""Number of uniform random numbers that are drawn for each image and epoch."""

# The columns of ``draws`` are named by what they decide in ``crop`` and ``augment``.
TOP = 0
LEFT = 1
PLACE = slice(TOP, LEFT + 1)
"""Top and left of a crop."""
FLIP = 2
TRIES = slice(3, 23)
"""An area and an aspect ratio for each of the ten tries of a resized crop."""
CUTOUT_CENTRE = slice(23, 25)
COLOUR = slice(25, 28)
"""Brightness, contrast and saturation."""
MIX_RATIO = 28
MIX_COIN = 29
"""Choice between mixup and CutMix, where both are on."""
MIX_CENTRE = slice(30, 32)
RAND_AUGMENT_SEED = slice(32, 34)


def bits(*key: int | NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return 64 pseudo-random bits for each key, which follow from it alone. The words of a key are
    whole numbers; arrays among them stand for many keys, and broadcast. The result has their common
    shape, (1,) without arrays.
    """
    h = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for word in key:
            h = h ^ np.asarray(word).astype(np.uint64)
            h = h + np.uint64(0x9E3779B97F4A7C15)
            h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            h = h ^ (h >> np.uint64(31))
    return h


def permutation(seed: int, epoch: int, n: int) -> Indices:
    """Return the numbers of n images in the order in which an epoch uses them, (n,)."""
    keys = bits(_ORDER, seed, epoch, np.arange(n))  # (n,)
    return np.argsort(keys, kind="stable")


def draws(seed: int, epoch: int, index: Indices) -> Draws:
    """Return the uniform random numbers in [0, 1) that belong to images in an epoch, (B, DRAWS).

    Args:
        seed: The run's seed.
        epoch: The epoch, from 0.
        index: Numbers (B,) of the images in their source.
    """
    column = np.arange(DRAWS)
    words = bits(_DRAWS, seed, epoch, index[:, None], column[None])  # (B, DRAWS)
    upper_24_bits = words >> np.uint64(40)
    return upper_24_bits.astype(np.float32) * np.float32(2.0**-24)


def stratified(labels: Indices, count: int, seed: int) -> Indices:
    """Choose ``count`` of n images with labels (n,) at random, by ``seed``, from each class in
    proportion to its size.

    A class of s images gets its share to within (1 + s / mean size of a class) / 2 images. That is
    one image where all classes have the same size, and more for a class that is much larger.

    Returns:
        The numbers (count,) of the chosen images, sorted.
    """
    n = len(labels)
    key = bits(_SPLIT, seed, np.arange(n))
    # An image's place in the random order of its class, from 0 to 1. The images with the smallest
    # ones make up nearly the same part of every class.
    quantile = np.empty(n)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        by_key = np.argsort(key[members], kind="stable")
        members = members[by_key]
        place = np.arange(len(members)) + 0.5
        quantile[members] = place / len(members)
    by_quantile = np.lexsort((key, quantile))
    return np.sort(by_quantile[:count])


def share(total: int, parts: int, part: int) -> slice:
    """Return the ``part``-th, from 0, of ``parts`` consecutive and almost equal slices of a
    sequence of ``total`` things.
    """
    start = total * part // parts
    stop = total * (part + 1) // parts
    return slice(start, stop)


def _part_of_pairs(images: Indices, parts: int, part: int) -> Indices:
    """Return the ``part``-th, from 0, of ``parts`` consecutive and almost equal parts of a sequence
    of images.

    Unlike with ``share`` their bounds are even: the images 2k and 2k + 1 of a global batch, which
    may be mixed with each other, stay together.
    """
    number_of_pairs = (len(images) + 1) // 2
    pairs = share(number_of_pairs, parts, part)
    return images[2 * pairs.start : 2 * pairs.stop]


@dataclass(frozen=True)
class BatchKey:
    """Key of one batch of one process: a sampler yields it, and ``split.Split`` loads the batch."""

    epoch: int
    """The epoch, from 0, to which the random numbers of augmentation belong."""
    number: Indices
    """Numbers (B,) of the images in the split."""
    weight: float
    """Factor by which the summed loss of the batch is multiplied.

    It is processes * accumulated batches / images of the global batch. The average of all gradients
    over processes and accumulated batches is then the gradient of the mean over the global batch.
    In evaluation it is 1.
    """


class TrainingOrder:
    """Sampler of the training batches of one process, from where the run stands to the end of the
    epoch.

    A global batch is the images of one optimizer step. It is cut into ``accumulate`` batches, and
    each of these into a slice for each process. The sampler yields a key for each slice of this
    process, so ``accumulate`` of them for an optimizer step.

    Args:
        n: Number of images in an epoch. The last global batch of an epoch holds what is left.
        batch_size: Number of images in a global batch; where it is more than n, n is used.
        accumulate: Number of batches that one optimizer step accumulates.
        seed: The run's seed.
        rank: Number of this process, from 0.
        world: Number of processes.
        position: Called when an epoch begins or a run continues; returns the epoch, from 0, and how
            many of its accumulated batches are done. The number of all batches of an epoch counts
            as 0, since Lightning still has it from the epoch before when an epoch begins.

    Raises:
        Refused: The last global batch is too small for every slice to have the two images that
            BatchNorm needs.
    """

    def __init__(
        self,
        *,
        n: int,
        batch_size: int,
        accumulate: int,
        seed: int,
        rank: int,
        world: int,
        position: Callable[[], tuple[int, int]],
    ) -> None:
        self.n = n
        self.batch_size = min(batch_size, n)
        self.accumulate = accumulate
        self.seed = seed
        self.rank = rank
        self.world = world
        self.position = position
        last = _last_batch(n, self.batch_size)
        needed = 2 * world * accumulate
        if last < needed:
            why = "which BatchNorm needs"
            if world * accumulate > 1:
                why = f"two for each of {world} processes x {accumulate} accumulated batches"
            raise Refused(
                f"train.batch_size: {batch_size} is not allowed: the last batch of the {n} training images would have {last} of "
                f"at least {needed} images, {why}; {_sizes_that_fit(n, self.batch_size, needed)}"
            )

    def __len__(self) -> int:
        steps = math.ceil(self.n / self.batch_size)
        return steps * self.accumulate

    def __iter__(self) -> Iterator[BatchKey]:
        epoch, done = self.position()
        order = permutation(self.seed, epoch, self.n)
        # When an epoch begins, ``done`` still counts all batches of the epoch before it, which
        # makes 0 here: the new epoch begins with its first batch.
        first = done % len(self)
        for batch in range(first, len(self)):
            step, part = divmod(batch, self.accumulate)
            start = step * self.batch_size
            global_batch = order[start : start + self.batch_size]
            accumulated = _part_of_pairs(global_batch, self.accumulate, part)
            of_this_rank = _part_of_pairs(accumulated, self.world, self.rank)
            weight = self.world * self.accumulate / len(global_batch)
            yield BatchKey(epoch, of_this_rank, weight)


def _last_batch(n: int, batch_size: int) -> int:
    """Return the number of images in the last batch of an epoch of n images."""
    return n % batch_size or batch_size


def _sizes_that_fit(n: int, batch_size: int, needed: int) -> str:
    """Return in words the sizes nearest to a batch size, one below and one above it, with which the
    last batch of n images has ``needed`` images or more; or that there are too few images.
    """
    fitting = []
    for sizes in (range(batch_size - 1, needed - 1, -1), range(batch_size + 1, n + 1)):
        nearest = next((size for size in sizes if _last_batch(n, size) >= needed), None)
        if nearest:
            fitting.append(str(nearest))
    if not fitting:
        return "there are too few training images"
    return f"{' or '.join(fitting)} would do"


class EvaluationOrder:
    """Sampler of one process in evaluation: yields a ``BatchKey`` for each batch of the process's
    share of the split. The images are numbered 0 to n - 1; each process has consecutive ones, in
    this order. The shares are not padded to one length, so that no image is evaluated twice.

    Args:
        n: Number of images in the split.
        batch_size: Number of images in a batch of this process.
        rank: Number of this process, from 0.
        world: Number of processes.
    """

    def __init__(self, *, n: int, batch_size: int, rank: int, world: int) -> None:
        numbers = np.arange(n)
        self.of_this_rank = numbers[share(n, world, rank)]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.of_this_rank) / self.batch_size)

    def __iter__(self) -> Iterator[BatchKey]:
        for start in range(0, len(self.of_this_rank), self.batch_size):
            batch = self.of_this_rank[start : start + self.batch_size]
            yield BatchKey(epoch=0, number=batch, weight=1.0)
