"""One split as the workers of a data loader see it: numbers of images go in, and a whole batch
comes out, which is finished on the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from xceptlab.config.schema import DataConfig
from xceptlab.data import augment, order
from xceptlab.data.order import BatchKey, Draws, Indices
from xceptlab.data.photographs import Photographs
from xceptlab.data.sources import Arrays, Unreadable
from xceptlab.errors import Refused
from xceptlab.text import say

REPLACEMENTS = 10
"""Number of photographs that are tried in place of one that cannot be decoded, before the data set
is refused.
"""
_LIST_THEM = "`xceptlab data check --all` lists all such"


class LoadedBatch(NamedTuple):
    """One batch of one process as it comes from the loader; ``module.DataModule`` finishes it on
    the device.
    """

    pixels: Tensor | None
    """Pixels (B, size, size, 3) uint8 of photographs; None for a set in memory, whose images lie on
    the device already.
    """
    source_index: Tensor
    """Numbers (B,) of the images in their source, by which a set in memory finds them."""
    labels: Tensor
    """Labels (B,) of the images."""
    number: Tensor
    """Numbers (B,) of the images in their split."""
    draws: Tensor | None
    """Random numbers (B, DRAWS) of augmentation; None in evaluation."""
    mixing: Tensor | None
    """Weights and boxes (B, 5) that ``augment.mixing`` has drawn; None where nothing is mixed."""
    weight: float
    """Factor by which the batch's summed loss is multiplied: the average of the gradients over
    processes and accumulated batches is then that of the mean over the global batch. It is 1 in
    evaluation.
    """
    replaced: int
    """Number of photographs of the batch that could not be decoded and have others in their place.
    """


class Split(Dataset[LoadedBatch]):
    """The images of a source that belong to one split, asked for by whole batches.

    Args:
        source: The images.
        members: Numbers (n,) of the split's images in the source.
        config: The data configuration: the size of the images, their augmentation, and what happens
            at a training photograph that cannot be decoded.
        seed: The run's seed for the split that is trained on; None for one that is evaluated, which
            gets no augmentation.
    """

    def __init__(
        self,
        source: Arrays | Photographs,
        members: Indices,
        config: DataConfig,
        seed: int | None = None,
    ) -> None:
        self.source = source
        self.members = members
        self.config = config
        self.seed = seed

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, key: BatchKey) -> LoadedBatch:
        """Load the batch of a key. Photographs are decoded, cropped and, in training, varied here;
        of a set in memory no pixels are loaded, since its images lie on the device.

        Raises:
            OSError: A file cannot be read.
            Refused: A photograph cannot be decoded, or its bytes are damaged, and it may not or
                cannot be replaced by another.
        """
        number = key.number  # (B,)
        pixels = None
        if isinstance(self.source, Photographs):
            number, pixels = self._read(self.source, key)
        index = self.members[number]  # (B,)
        draws = self._draws(key.epoch, index)  # (B, DRAWS)
        return LoadedBatch(
            pixels=pixels,
            source_index=torch.from_numpy(index),
            labels=torch.from_numpy(self.source.labels[index]),
            number=torch.from_numpy(number),
            draws=None if draws is None else torch.from_numpy(draws),
            mixing=self._mixing(draws),
            weight=key.weight,
            replaced=int((number != key.number).sum()),
        )

    def _draws(self, epoch: int, index: Indices) -> Draws | None:
        """Return the random numbers (B, DRAWS) of images in an epoch; None in evaluation. They
        follow from the images' numbers ``index`` (B,) in the source, so that holding out other
        images does not change them.
        """
        if self.seed is None:
            return None
        return order.draws(self.seed, epoch, index)

    def _mixing(self, draws: Draws | None) -> Tensor | None:
        """Return the weights and boxes (B, 5) that ``augment.mixing`` draws by the images' random
        numbers (B, DRAWS); None where nothing is mixed.
        """
        config = self.config
        if draws is None or not (config.mixup or config.cutmix):
            return None
        return torch.from_numpy(augment.mixing(draws, config.size, config.mixup, config.cutmix))

    def _read(self, source: Photographs, key: BatchKey) -> tuple[Indices, Tensor]:
        """Decode a batch of photographs.

        Returns:
            The numbers (B,) in the split of the photographs that were read, and their pixels (B,
            size, size, 3) uint8. A number differs from the key's where a photograph had to be
            replaced.

        Raises:
            OSError: A file cannot be read.
            Refused: A photograph cannot be decoded, or its bytes are damaged, and it may not or
                cannot be replaced by another.
        """
        number = key.number.copy()
        index = self.members[number]
        draws = self._draws(key.epoch, index)
        pixels = torch.empty((len(index), self.config.size, self.config.size, 3), dtype=torch.uint8)
        for row, i in enumerate(index):
            draws_of_image = None if draws is None else draws[row]
            try:
                pixels[row] = source.read(i, draws_of_image)
            except Unreadable as error:
                number[row], pixels[row] = self._replacement(
                    source, key.epoch, int(number[row]), error
                )
        return number, pixels

    def _replacement(
        self, source: Photographs, epoch: int, number: int, error: Unreadable
    ) -> tuple[int, Tensor]:
        """Read, in place of a photograph that cannot be decoded, the next one of the split that can
        be; after the last one comes the first. Which one that is follows from the split alone,
        whatever the order of training.

        Args:
            source: The photographs.
            epoch: The epoch, whose random numbers vary the photograph.
            number: The number in the split of the photograph that cannot be decoded.
            error: Why it cannot be decoded.

        Returns:
            The number in the split of the photograph in its place, and its pixels (size, size, 3)
            uint8.

        Raises:
            OSError: A file cannot be read.
            Refused: The split is evaluated, or ``data.on_corrupt`` is ``error``, or the
                ``REPLACEMENTS`` next photographs cannot be decoded either.
        """
        if self.seed is None:
            raise Refused(
                f"{error}; it must be evaluated, so mend or remove it; {_LIST_THEM}"
            ) from None
        if self.config.on_corrupt == "error":
            raise Refused(f"{error}; {_LIST_THEM}") from None
        for step in range(1, REPLACEMENTS + 1):
            say(f"{error}; the next of the split stands in for it")
            candidate = (number + step) % len(self)
            index = self.members[[candidate]]
            draws = order.draws(self.seed, epoch, index)
            try:
                return candidate, source.read(index[0], draws[0])
            except Unreadable as another:
                error = another
        raise Refused(
            f"{error}; as are the {REPLACEMENTS} before it, in {self.config.root}: {_LIST_THEM}"
        )
