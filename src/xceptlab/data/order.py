"""Which image at which step, and what is drawn for it: pure functions of (seed, epoch, step) and
(seed, epoch, image).

Nothing here has a state: not the workers, the number of processes, prefetching or an interruption
can change what comes out. All randomness is a hash (splitmix64, Steele et al. 2014) of its key,
computed for whole arrays; unlike a library's generator it is the same in every version.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xceptlab.errors import Refused

Indices = NDArray[np.int64]
Draws = NDArray[np.float32]

# The first word of each key, so that the streams of random numbers never meet.
_ORDER = 1
_DRAWS = 2
_SPLIT = 3
DRAWS = 36
"""Number of uniform random numbers drawn for each image and epoch."""

# The columns of ``draws``, by what they decide in ``crop`` and ``augment``.
TOP = 0
LEFT = 1
PLACE = slice(TOP, LEFT + 1)
FLIP = 2
TRIES = slice(3, 23)  # an area and an aspect ratio for each of the ten tries of a resized crop
CUTOUT_CENTRE = slice(23, 25)
COLOUR = slice(25, 28)  # brightness, contrast, saturation
MIX_RATIO = 28
MIX_COIN = 29  # mixup or CutMix, where both are on
MIX_CENTRE = slice(30, 32)
RAND_AUGMENT_SEED = slice(32, 34)


def bits(*key: int | NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 random bits for each key; integer arrays among the key's words broadcast."""
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
    """The order of an epoch's n images, (n,)."""
    return np.argsort(bits(_ORDER, seed, epoch, np.arange(n)), kind="stable")


def draws(seed: int, epoch: int, index: Indices) -> Draws:
    """Uniform numbers in [0, 1) that belong to each image in this epoch: (B,) -> (B, DRAWS)."""
    words = bits(_DRAWS, seed, epoch, index[:, None], np.arange(DRAWS)[None])
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def stratified(labels: Indices, count: int, seed: int) -> Indices:
    """Choose ``count`` of n images with labels (n,), each class in proportion to its size; returns
    their numbers, sorted.
    """
    key = bits(_SPLIT, seed, np.arange(len(labels)))
    quantile = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(key[members], kind="stable")]
        quantile[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(np.lexsort((key, quantile))[:count])


def share(total: int, parts: int, part: int) -> slice:
    """The ``part``-th of ``parts`` consecutive, almost equal slices of ``total`` things."""
    start = total * part // parts
    stop = total * (part + 1) // parts
    return slice(start, stop)


def _share_of_pairs(total: int, parts: int, part: int) -> slice:
    """A slice as of ``share`` with even bounds: images 2k and 2k + 1 of a global batch, which may
    be mixed, stay together.
    """
    pairs = share((total + 1) // 2, parts, part)
    return slice(2 * pairs.start, 2 * pairs.stop)


@dataclass(frozen=True)
class Key:
    """Key of one batch of one process, by which the loader is asked for it."""

    epoch: int
    number: Indices
    """Numbers (B,) of the images in the split."""
    weight: float
    """Factor of the summed loss by which gradients, averaged over processes and accumulated
    batches, are those of the mean over the global batch."""


class TrainingOrder:
    """The training batches of one process: its slice of each global batch, from where the run
    stands to the end of the epoch.

    Args:
        n: Images in an epoch. The last global batch of an epoch holds what is left.
        batch_size: Images of a global batch.
        accumulate: Batches that one optimizer step accumulates.
        seed: The run's seed.
        rank: Number of this process.
        world: Number of processes.
        position: Gives (epoch, batches done in it) when an epoch begins or a run continues.

    Raises:
        Refused: The last batch is too small for every process to have the two images that BatchNorm
            needs.
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
        return math.ceil(self.n / self.batch_size) * self.accumulate

    def __iter__(self) -> Iterator[Key]:
        epoch, done = self.position()
        order = permutation(self.seed, epoch, self.n)
        first = done % len(self)  # 0 where all are done: the next epoch begins
        for batch in range(first, len(self)):
            step, part = divmod(batch, self.accumulate)
            global_batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            accumulated = global_batch[_share_of_pairs(len(global_batch), self.accumulate, part)]
            of_this_rank = accumulated[_share_of_pairs(len(accumulated), self.world, self.rank)]
            weight = self.world * self.accumulate / len(global_batch)
            yield Key(epoch, of_this_rank, weight)


def _last_batch(n: int, batch_size: int) -> int:
    """Number of images in the last batch of an epoch of n images."""
    return n % batch_size or batch_size


def _sizes_that_fit(n: int, batch_size: int, needed: int) -> str:
    """Sizes nearest to a batch size, one below and one above, that leave the last batch ``needed``
    images or more, in words.
    """
    below = next(
        (size for size in range(batch_size - 1, needed - 1, -1) if _last_batch(n, size) >= needed),
        None,
    )
    above = next(
        (size for size in range(batch_size + 1, n + 1) if _last_batch(n, size) >= needed), None
    )
    fitting = [str(size) for size in (below, above) if size]
    return f"{' or '.join(fitting)} would do" if fitting else "there are too few training images"


class EvaluationOrder:
    """The evaluation batches of one process: its slice of n images in their order, none twice, no
    padding.
    """

    def __init__(self, *, n: int, batch_size: int, rank: int, world: int) -> None:
        self.of_this_rank = np.arange(n)[share(n, world, rank)]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.of_this_rank) / self.batch_size)

    def __iter__(self) -> Iterator[Key]:
        for start in range(0, len(self.of_this_rank), self.batch_size):
            yield Key(0, self.of_this_rank[start : start + self.batch_size], 1.0)
