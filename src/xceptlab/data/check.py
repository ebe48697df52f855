"""``xceptlab data check``: what is in a data set and what is wrong with it, before a run finds out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import DataLoader, Dataset

from xceptlab.data import SETS
from xceptlab.data.sources import Arrays, Decoded, Unreadable
from xceptlab.schema import DataConfig

SAMPLE = 200
"""Images of a split that are decoded where not all are."""


@dataclass(frozen=True)
class Counts:
    """What a split holds."""

    split: str
    images: int
    classes: int
    smallest: int
    """Images of the smallest class; 0 where a class has none."""
    largest: int


def check(config: DataConfig, everything: bool, workers: int) -> Iterator[Counts | str]:
    """Per split its counts, then a line for each image that cannot be decoded, of ``SAMPLE`` spread over it or of all.

    Raises:
        ValueError: The data set is not there, or not what is configured: all that ``load`` refuses.
    """
    for split, source in zip(("train", "test"), SETS[config.name].load(config), strict=True):
        sizes = np.bincount(source.labels, minlength=config.classes)
        yield Counts(split, len(source.labels), int((sizes > 0).sum()), int(sizes.min()), int(sizes.max()))
        if isinstance(source, Arrays):
            continue  # all of it was decoded
        count = len(source.labels) if everything else min(SAMPLE, len(source.labels))
        index = np.linspace(0, len(source.labels) - 1, count).astype(np.int64)
        yield from filter(None, DataLoader(_Trial(source), sampler=index, batch_size=None, num_workers=workers))


class _Trial(Dataset[str]):
    """Decodes an image; returns what is wrong with it."""

    def __init__(self, source: Decoded) -> None:
        self.source = source

    def __getitem__(self, i: int) -> str:
        try:
            self.source.read(i, None)
        except (Unreadable, OSError) as error:
            return str(error)
        return ""
