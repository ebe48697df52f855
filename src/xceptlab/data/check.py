"""``xceptlab data check``: what is in a data set and what is wrong with it, before a run finds out."""

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from xceptlab.config.schema import DataConfig
from xceptlab.data import identity, splits
from xceptlab.data.order import Indices
from xceptlab.data.photographs import Photographs
from xceptlab.data.sources import Arrays, Unreadable, Unsound
from xceptlab.data.stores import Tree

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
    """What is no fault but may surprise: the original has more images, files are left alone, or a class has no image here."""


@dataclass(frozen=True)
class Remark:
    """What is no fault of an image but may surprise: what the decoder says of it."""

    text: str


def check(config: DataConfig, everything: bool, workers: int) -> Iterator[Counts | Remark | str]:
    """Per split of a run its counts, then a line for each fault.

    Faults are classes that are not in a part, and images that cannot be decoded, of ``SAMPLE`` spread over the split or of all;
    with all, of an own data set also pictures that are in two splits or in two classes. Where the set as a whole is unsound only
    the lines of its faults.

    Raises:
        Refused: The data set is not there, or cannot be read.
    """
    try:
        found = splits(config)
    except Unsound as error:
        yield from error.lines
        return
    names = _class_names(config)
    pictures = _Pictures(names)
    for split, (source, members) in found.items():
        if not len(members):
            continue
        sizes, total = np.bincount(source.labels[members], minlength=config.classes), len(source.labels)
        classes, smallest, largest = int((sizes > 0).sum()), int(sizes.min()), int(sizes.max())
        yield Counts(split, len(members), total, classes, smallest, largest, tuple(_notes(config, split, source, members, names)))
        yield from _absent(config, split, source, names)
        if isinstance(source, Arrays):
            continue  # all of it was decoded
        count = len(members) if everything else min(SAMPLE, len(members))
        index = members[np.linspace(0, len(members) - 1, count).astype(np.int64)]
        trials = DataLoader(_Trial(source), sampler=index, batch_size=None, num_workers=workers)
        for i, (fault, said, digest) in zip(index, trials, strict=True):
            if fault:
                yield fault
            elif said:
                yield Remark(f"{source.store.name(i)}: {said}")
            if digest and everything and config.name == "folder":
                pictures.add(split, source, i, digest)
    yield from pictures.faults()


def _notes(
    config: DataConfig, split: str, source: Arrays | Photographs, members: Indices, names: tuple[str, ...]
) -> Iterator[str]:
    original = config.IMAGES.get(config.name)
    if split != "validation" and original and len(source.labels) != original[split == "test"]:
        yield f"{split}: {len(source.labels):,} images; the original {config.name} has {original[split == 'test']:,}"
    if isinstance(source, Photographs) and isinstance(source.store, Tree) and (split != "validation" or len(config.parts) == 3):
        yield from source.store.left_alone()
    yield from _left_out(split, source, members, names)


def absent_classes(config: DataConfig) -> Iterator[str]:
    """A line for each class of which a split has no image, in the words of ``check``; nothing is decoded.

    Raises:
        Refused: The data set is not there, or cannot be read.
    """
    names = _class_names(config)
    for split, (source, members) in splits(config).items():
        if len(members):
            yield from _absent(config, split, source, names)
            yield from _left_out(split, source, members, names)


def _class_names(config: DataConfig) -> tuple[str, ...]:
    return identity.class_names(config) or tuple(map(str, range(config.classes)))


def _absent(config: DataConfig, split: str, source: Arrays | Photographs, names: tuple[str, ...]) -> Iterator[str]:
    """A line for each class of which the files of a split have no image."""
    for label in np.setdiff1d(np.arange(config.classes), source.labels):
        yield f"{split} holds no image of class {names[label]}"


def _left_out(split: str, source: Arrays | Photographs, members: Indices, names: tuple[str, ...]) -> Iterator[str]:
    """One line on the classes of which the files have images, and what ``data.validation`` and others leave of them has none."""
    left_out = [names[label] for label in np.setdiff1d(source.labels, source.labels[members])]
    if left_out:
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        yield f"{split}: of the images that a run uses none is of class {', '.join(left_out[:3])}{more}"


class _Tried(NamedTuple):
    """What came of decoding an image."""

    fault: str
    said: str
    """What libraries written in C printed meanwhile."""
    digest: bytes
    """16 bytes of the decoded pixels; none of an image that cannot be decoded."""


class _Trial(Dataset[_Tried]):
    """Decodes an image and tells what is wrong with it."""

    def __init__(self, source: Photographs) -> None:
        self.source = source

    def __getitem__(self, i: int) -> _Tried:
        said: list[str] = []
        try:
            with _printed_by_c(said):
                image = self.source.decoded(i)
        except (Unreadable, OSError) as error:
            return _Tried(str(error), "", b"")
        pixels = hashlib.blake2b(image.contiguous().numpy().data, digest_size=16, key=b"%d" % image.shape[2])
        return _Tried("", "; ".join(dict.fromkeys(said)), pixels.digest())


@contextlib.contextmanager
def _printed_by_c(lines: list[str]) -> Iterator[None]:
    """Gather what is printed on file descriptor 2: libjpeg's warnings name no file, and Python does not see them."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


class _Pictures:
    """The digests of all pictures, 16 bytes each, to find those that are there twice where they must not be."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.digests = bytearray()
        self.sources: dict[str, Photographs] = {}
        self.images: dict[str, list[int]] = {}

    def add(self, split: str, source: Photographs, i: int, digest: bytes) -> None:
        self.sources[split] = source
        self.images.setdefault(split, []).append(int(i))
        self.digests += digest

    def faults(self) -> Iterator[str]:
        """A line for each picture that is in two splits or in two classes; copies within a class of a split do no harm."""
        keys = np.frombuffer(bytes(self.digests), np.uint64).reshape(-1, 2)
        order = np.lexsort(keys.T)
        for place in np.flatnonzero((keys[order[1:]] == keys[order[:-1]]).all(1)):
            (split, one, label), (other_split, other, other_label) = (self._at(n) for n in order[place : place + 2])
            if split != other_split or label != other_label:
                yield f"{other} ({other_split}, class {other_label}) is the same picture as {one} ({split}, class {label})"

    def _at(self, number: int) -> tuple[str, str, str]:
        """Split, name and class of the picture whose digest is the n-th."""
        for split, images in self.images.items():
            if number < len(images):
                source, i = self.sources[split], images[number]
                return split, source.store.name(i), self.names[source.labels[i]]
            number -= len(images)
        raise IndexError(number)
