"""``xceptlab data check``: what is in a data set and what is wrong with it, before a run finds out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import DataLoader, Dataset

from xceptlab.data import SETS
from xceptlab.data.photographs import Photographs
from xceptlab.data.sources import Arrays, Unreadable, Unsound
from xceptlab.data.stores import Tree
from xceptlab.schema import DataConfig

SAMPLE = 200
"""Images of a split that are decoded where not all are."""
ORIGINAL = {"digits": (1297, 500), "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "imagenet": (1_281_167, 50_000)}
"""Images of the complete sets, training and test; of others (``data.num_classes``) nothing is known."""


@dataclass(frozen=True)
class Counts:
    """What a split holds."""

    split: str
    images: int
    classes: int
    smallest: int
    """Images of the smallest class; 0 where a class has none."""
    largest: int
    notes: tuple[str, ...] = ()
    """What is no fault but may surprise: the original has more images, or files are left alone."""


def check(config: DataConfig, everything: bool, workers: int) -> Iterator[Counts | str]:
    """Per split its counts, then a line for each image that cannot be decoded, of ``SAMPLE`` spread over it or of all.

    Where the set as a whole is unsound only the lines of its faults.

    Raises:
        ValueError: The data set is not there, or cannot be read.
    """
    try:
        sources = SETS[config.name].load(config)
    except Unsound as error:
        yield from error.lines
        return
    for number, (split, source) in enumerate(zip(("train", "test"), sources, strict=True)):
        sizes = np.bincount(source.labels, minlength=config.classes)
        notes = []
        if config.num_classes == 0 and len(source.labels) != (original := ORIGINAL[config.name][number]):
            notes.append(f"{split}: {len(source.labels):,} images; the original {config.name} has {original:,}")
        if not isinstance(source, Arrays) and isinstance(source.store, Tree):
            notes += source.store.left_alone()
        yield Counts(split, len(source.labels), int((sizes > 0).sum()), int(sizes.min()), int(sizes.max()), tuple(notes))
        if isinstance(source, Arrays):
            continue  # all of it was decoded
        count = len(source.labels) if everything else min(SAMPLE, len(source.labels))
        index = np.linspace(0, len(source.labels) - 1, count).astype(np.int64)
        yield from filter(None, DataLoader(_Trial(source), sampler=index, batch_size=None, num_workers=workers))


class _Trial(Dataset[str]):
    """Decodes an image; returns what is wrong with it."""

    def __init__(self, source: Photographs) -> None:
        self.source = source

    def __getitem__(self, i: int) -> str:
        try:
            self.source.read(i, None)
        except (Unreadable, OSError) as error:
            return str(error)
        return ""
