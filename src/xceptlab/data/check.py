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
from xceptlab.data.tree import Tree

SAMPLE = 200
"""Largest number of images of a split that are decoded unless all are asked for."""

Source = Arrays | Photographs


@dataclass(frozen=True)
class Counts:
    """Number of images in a split of a run and in its classes, with remarks on them."""

    split: str
    images: int
    available: int
    """Number of images in the split's files; ``data.validation`` and other keys may leave some of
    them out.
    """
    classes: int
    """Number of classes with an image."""
    smallest: int
    """Number of images in the smallest class; 0 where a class has none."""
    largest: int
    """Number of images in the largest class."""
    notes: tuple[str, ...] = ()
    """Remarks on what is no fault but may surprise: an original of more images, ignored files, a
    class without an image here.
    """


@dataclass(frozen=True)
class AbsentClasses:
    """A class, or several, of which a split of a run has no image."""

    split: str
    """``train``, ``validation`` or ``test``."""
    text: str
    """Line that names the split and the classes."""


@dataclass(frozen=True)
class Remark:
    """A remark of the decoder on an image that it could decode: no fault, but it may surprise."""

    text: str


def check(config: DataConfig, everything: bool, workers: int) -> Iterator[Counts | Remark | str]:
    """Check a data set as a run would use it.

    Faults are classes that are missing in a part, and images that cannot be decoded. With
    ``everything`` they are, in an own data set, also pictures that are in two splits or in two
    classes.

    Args:
        config: The data set.
        everything: Decode all images, not only up to ``SAMPLE`` of each split.
        workers: Processes beside this one that decode.

    Yields:
        For each split its ``Counts``, then a ``Remark`` or, as text, a fault for each image that
        deserves one. Where the set as a whole is unsound, the lines of its faults only.

    Raises:
        Refused: The data set is not there, or cannot be read.
    """
    try:
        sources_and_members = splits(config)
    except Unsound as error:
        yield from error.lines
        return
    names = _class_names(config)
    pictures = _Pictures(names)
    find_copies = everything and config.name == "folder"
    for split, (source, members) in sources_and_members.items():
        if not len(members):
            continue
        yield _counts(config, split, source, members, names)
        yield from _absent(config, split, source, names)
        if isinstance(source, Arrays):
            continue  # all of it was decoded when it was loaded
        chosen = members if everything else _sample(members)
        trials = DataLoader(_Trial(source), sampler=chosen, batch_size=None, num_workers=workers)
        for i, trial in zip(chosen, trials, strict=True):
            if trial.fault:
                yield trial.fault
            elif trial.printed:
                yield Remark(f"{source.store.name(i)}: {trial.printed}")
            if trial.digest and find_copies:
                pictures.add(split, source, i, trial.digest)
    yield from pictures.faults()


def _sample(members: Indices) -> Indices:
    """Up to ``SAMPLE`` images, spread evenly over the split."""
    count = min(SAMPLE, len(members))
    places = np.linspace(0, len(members) - 1, count).astype(np.int64)
    return members[places]


def _counts(
    config: DataConfig, split: str, source: Source, members: Indices, names: tuple[str, ...]
) -> Counts:
    images_by_class = np.bincount(source.labels[members], minlength=config.classes)
    return Counts(
        split=split,
        images=len(members),
        available=len(source.labels),
        classes=int((images_by_class > 0).sum()),
        smallest=int(images_by_class.min()),
        largest=int(images_by_class.max()),
        notes=tuple(_notes(config, split, source, members, names)),
    )


def _notes(
    config: DataConfig, split: str, source: Source, members: Indices, names: tuple[str, ...]
) -> Iterator[str]:
    if split in ("train", "test") and config.name in config.IMAGES:
        train_images, test_images = config.IMAGES[config.name]
        original = test_images if split == "test" else train_images
        if len(source.labels) != original:
            yield f"{split}: {len(source.labels):,} images; the original {config.name} has {original:,}"
    has_its_own_files = split != "validation" or len(config.parts) == 3
    if isinstance(source, Photographs) and isinstance(source.store, Tree) and has_its_own_files:
        yield from source.store.left_alone()
    yield from _left_out(split, source, members, names)


def absent_classes(config: DataConfig) -> Iterator[AbsentClasses]:
    """Find the classes of which a split has no image, worded as ``check`` words them; nothing is
    decoded.

    Raises:
        Refused: The data set is not there, or cannot be read.
    """
    names = _class_names(config)
    for split, (source, members) in splits(config).items():
        if not len(members):
            continue
        for text in (
            *_absent(config, split, source, names),
            *_left_out(split, source, members, names),
        ):
            yield AbsentClasses(split, text)


def _class_names(config: DataConfig) -> tuple[str, ...]:
    return identity.class_names(config) or tuple(map(str, range(config.classes)))


def _absent(
    config: DataConfig, split: str, source: Source, names: tuple[str, ...]
) -> Iterator[str]:
    """A line for each class of which the files of a split have no image."""
    for label in np.setdiff1d(np.arange(config.classes), source.labels):
        yield f"{split} holds no image of class {names[label]}"


def _left_out(
    split: str, source: Source, members: Indices, names: tuple[str, ...]
) -> Iterator[str]:
    """One line on the classes that have images in the files, of which ``data.validation`` and other
    keys leave none.
    """
    labels = np.setdiff1d(source.labels, source.labels[members])
    if not len(labels):
        return
    shown = ", ".join(names[label] for label in labels[:3])
    if len(labels) > 3:
        shown += f" and {len(labels) - 3} more"
    yield f"{split}: of the images that a run uses none is of class {shown}"


class _TrialResult(NamedTuple):
    """Result of decoding one image."""

    fault: str
    """Why the image cannot be decoded; empty where it can be."""
    printed: str
    """Warnings that C libraries such as libjpeg wrote to standard error while the image was
    decoded.
    """
    digest: bytes
    """16 bytes of a hash of the decoded pixels; empty for an image that cannot be decoded."""


class _Trial(Dataset[_TrialResult]):
    """Decodes images, given by their numbers in the source, and notes what is wrong with each."""

    def __init__(self, source: Photographs) -> None:
        self.source = source

    def __getitem__(self, i: int) -> _TrialResult:
        printed: list[str] = []
        try:
            with _printed_by_c(printed):
                image = self.source.decoded(i)
        except (Unreadable, OSError) as error:
            return _TrialResult(fault=str(error), printed="", digest=b"")
        # so that no image equals one of another shape with the same bytes
        width = b"%d" % image.shape[2]
        pixels = hashlib.blake2b(image.contiguous().numpy().data, digest_size=16, key=width)
        return _TrialResult(
            fault="", printed="; ".join(dict.fromkeys(printed)), digest=pixels.digest()
        )


@contextlib.contextmanager
def _printed_by_c(lines: list[str]) -> Iterator[None]:
    """Gather what is printed on file descriptor 2: libjpeg's warnings name no file, and Python does
    not see them.
    """
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
    """Digests of all decoded pictures, to find those that are in two splits or in two classes."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.digests = bytearray()
        """Digests of all pictures, 16 bytes each, in the order of ``images``."""
        self.sources: dict[str, Photographs] = {}
        """The source of each split's pictures, by split."""
        self.images: dict[str, list[int]] = {}
        """The pictures of each split, by their numbers in the source."""

    def add(self, split: str, source: Photographs, i: int, digest: bytes) -> None:
        self.sources[split] = source
        self.images.setdefault(split, []).append(int(i))
        self.digests += digest

    def faults(self) -> Iterator[str]:
        """A line for each picture that is in two splits or in two classes; copies within a class of
        a split do no harm.
        """
        keys = np.frombuffer(bytes(self.digests), np.uint64).reshape(-1, 2)  # (n, 2)
        order = np.lexsort(keys.T)  # (n,): equal pictures are neighbours
        same_as_next = (keys[order[1:]] == keys[order[:-1]]).all(1)  # (n - 1,)
        for place in np.flatnonzero(same_as_next):
            split, name, label = self._at(order[place])
            other_split, other_name, other_label = self._at(order[place + 1])
            if (split, label) != (other_split, other_label):
                yield f"{other_name} ({other_split}, class {other_label}) is the same picture as {name} ({split}, class {label})"

    def _at(self, number: int) -> tuple[str, str, str]:
        """Split, name and class of the picture with this number among all."""
        for split, images in self.images.items():
            if number < len(images):
                source = self.sources[split]
                i = images[number]
                return split, source.store.name(i), self.names[source.labels[i]]
            number -= len(images)
        raise IndexError(number)
