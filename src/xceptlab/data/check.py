"""``xceptlab data check``: what is in a data set and what is wrong with it, before a run finds out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import DataLoader, Dataset

from xceptlab.data import splits
from xceptlab.data.photographs import Photographs
from xceptlab.data.sources import Arrays, Unreadable, Unsound
from xceptlab.data.stores import Tree
from xceptlab.schema import DataConfig

SAMPLE = 200
"""Images of a split that are decoded where not all are."""


@dataclass(frozen=True)
class Counts:
    """What a split holds."""

    split: str
    images: int
    available: int
    """Images of the files; ``data.validation`` and others may leave some of them out."""
    classes: int
    smallest: int
    """Images of the smallest class; 0 where a class has none."""
    largest: int
    notes: tuple[str, ...] = ()
    """What is no fault but may surprise: the original has more images, or files are left alone."""


def check(config: DataConfig, everything: bool, workers: int) -> Iterator[Counts | str]:
    """Per split of a run its counts, then a line for each image that cannot be decoded, of ``SAMPLE`` spread over it or of all.

    Where the set as a whole is unsound only the lines of its faults.

    Raises:
        ValueError: The data set is not there, or cannot be read.
    """
    try:
        found = splits(config)
    except Unsound as error:
        yield from error.lines
        return
    for split, (source, members) in found.items():
        if not len(members):
            continue
        sizes, total = np.bincount(source.labels[members], minlength=config.classes), len(source.labels)
        notes = []
        original = config.IMAGES.get(config.name, (total, total))[split == "test"]
        if split != "validation" and total != original:
            notes.append(f"{split}: {total:,} images; the original {config.name} has {original:,}")
        if split != "validation" and not isinstance(source, Arrays) and isinstance(source.store, Tree):
            notes += source.store.left_alone()
        classes, smallest, largest = int((sizes > 0).sum()), int(sizes.min()), int(sizes.max())
        yield Counts(split, len(members), total, classes, smallest, largest, tuple(notes))
        if isinstance(source, Arrays):
            continue  # all of it was decoded
        count = len(members) if everything else min(SAMPLE, len(members))
        index = members[np.linspace(0, len(members) - 1, count).astype(np.int64)]
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
