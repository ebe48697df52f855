"""The command ``xceptlab data check``: what is in a data set, and what is wrong with it, before a
run finds out.
"""

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
    """``train``, ``validation`` or ``test``."""
    images: int
    """Number of images of the split that a run uses."""
    available: int
    """Number of images in the files from which the split is taken, of which ``data.validation`` and
    other keys may leave some out. Validation images that are held out are taken from the training
    files.
    """
    classes: int
    """Number of classes of which a run uses an image."""
    smallest: int
    """Number of images that a run uses of the smallest class; 0 where it uses none of a class."""
    largest: int
    """Number of images that a run uses of the largest class."""
    notes: tuple[str, ...] = ()
    """Remarks on what is no fault but may surprise: the original data set has another number of
    images, files are ignored, or the split has no image of a class although its files do.
    """


@dataclass(frozen=True)
class AbsentClasses:
    """One class, or several, without an image in a split of a run."""

    split: str
    """``train``, ``validation`` or ``test``."""
    text: str
    """Line for the user that names the split and the classes."""


@dataclass(frozen=True)
class Remark:
    """A warning of the decoder on an image that it could decode: no fault, but it may surprise."""

    text: str
    """Line for the user that names the image."""


def check(config: DataConfig, everything: bool, workers: int) -> Iterator[Counts | Remark | str]:
    """Check a data set as a run would use it.

    Faults are classes without an image in a split's files, and images that cannot be decoded. With
    ``everything``, pictures that are in two splits or in two classes are faults, too, but only in a
    user's data set (``data.name: folder``).

    Args:
        config: The data set, with its number of classes, which ``identity.resolved_data`` finds out
            for a user's data set.
        everything: Decode all photographs, not only up to ``SAMPLE`` of each split. The images of a
            data set in memory are all decoded when it is loaded.
        workers: Number of processes beside this one that decode; with 0 this one does.

    Yields:
        For each split that has images its ``Counts``, then its faults, each as a line of text, and
        its ``Remark`` objects; at last the lines on pictures that are in two splits or in two
        classes. Of a data set that cannot be used at all, only the lines of its faults.

    Raises:
        OSError: A file cannot be read, other than that of a single photograph, which is a fault.
        Refused: The data set is not there, is damaged, or has too few images for what is asked of
            it; or its number of classes is not known.
        RuntimeError: ImageNet's tar files need a cache, and the user has no home for one.
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
        # All images of a set in memory were decoded when it was loaded.
        if isinstance(source, Arrays):
            continue
        chosen = members if everything else _sample(members)
        decoder = _Decoder(source)
        results = DataLoader(decoder, sampler=chosen, batch_size=None, num_workers=workers)
        for i, result in zip(chosen, results, strict=True):
            if result.fault:
                yield result.fault
            elif result.printed:
                yield Remark(f"{source.store.name(i)}: {result.printed}")
            if result.digest and find_copies:
                pictures.add(split, source, i, result.digest)
    yield from pictures.faults()


def _sample(members: Indices) -> Indices:
    """Choose up to ``SAMPLE`` of a split's images, evenly spread over the split.

    Args:
        members: Numbers (n,) of the split's images in their source.

    Returns:
        The numbers of the chosen images in the source, (at most ``SAMPLE``,).
    """
    count = min(SAMPLE, len(members))
    places = np.linspace(0, len(members) - 1, count).astype(np.int64)
    return members[places]


def _counts(
    config: DataConfig, split: str, source: Source, members: Indices, names: tuple[str, ...]
) -> Counts:
    """Count the images of a split and of its classes, and collect the remarks on them.

    Args:
        config: The data set.
        split: ``train``, ``validation`` or ``test``.
        source: The images of the split's files.
        members: Numbers (n,) in the source, one at least, of the images that a run uses.
        names: Names of the classes, by label.
    """
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
    """Yield lines on what is no fault of a split but may surprise: the original data set has
    another number of images, files are ignored, or the split has no image of a class although its
    files do.

    Args:
        config: The data set.
        split: ``train``, ``validation`` or ``test``.
        source: The images of the split's files.
        members: Numbers (n,) in the source of the images that a run uses.
        names: Names of the classes, by label.
    """
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
    """Yield the classes of which a split of a run has no image: one object for each class that is
    absent from the split's files, and one for all classes whose images ``data.validation`` or
    another key leaves out. A split without any image is passed over. No photograph is decoded.

    Args:
        config: The data set, with its number of classes, which ``identity.resolved_data`` finds out
            for a user's data set.

    Raises:
        OSError: A file cannot be read.
        Refused: The data set is not there, is damaged, has faults as a whole, such as a class
            without training photographs, or has too few images for what is asked of it; or its
            number of classes is not known.
        RuntimeError: ImageNet's tar files need a cache, and the user has no home for one.
    """
    names = _class_names(config)
    for split, (source, members) in splits(config).items():
        if not len(members):
            continue
        for text in _absent(config, split, source, names):
            yield AbsentClasses(split, text)
        for text in _left_out(split, source, members, names):
            yield AbsentClasses(split, text)


def _class_names(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes, by label; where they are not known, the labels as text."""
    return identity.class_names(config) or tuple(map(str, range(config.classes)))


def _absent(
    config: DataConfig, split: str, source: Source, names: tuple[str, ...]
) -> Iterator[str]:
    """Yield a line for each class of which the files of a split have no image."""
    for label in np.setdiff1d(np.arange(config.classes), source.labels):
        yield f"{split} holds no image of class {names[label]}"


def _left_out(
    split: str, source: Source, members: Indices, names: tuple[str, ...]
) -> Iterator[str]:
    """Yield at most one line: on the classes of which the files that a split is taken from have
    images, but the split has none, since ``data.validation`` or another key leaves them out.

    Args:
        split: ``train``, ``validation`` or ``test``.
        source: The images of the files.
        members: Numbers (n,) in the source of the images in the split.
        names: Names of the classes, by label.
    """
    labels = np.setdiff1d(source.labels, source.labels[members])
    if not len(labels):
        return
    shown = ", ".join(names[label] for label in labels[:3])
    if len(labels) > 3:
        shown += f" and {len(labels) - 3} more"
    yield f"{split}: of the images that a run uses none is of class {shown}"


class _DecodingResult(NamedTuple):
    """What came of decoding one image."""

    fault: str
    """Line that names the image and says why it cannot be decoded; empty where it can be."""
    printed: str
    """Warnings that C libraries such as libjpeg wrote to standard error while the image was
    decoded, each once, joined by "; "; empty for an image that cannot be decoded.
    """
    digest: bytes
    """16 bytes of a hash of the decoded pixels; empty for an image that cannot be decoded."""


class _Decoder(Dataset[_DecodingResult]):
    """Dataset that decodes the images of a source: item i tells what came of decoding the i-th
    image. One that cannot be decoded raises no error.
    """

    def __init__(self, source: Photographs) -> None:
        self.source = source

    def __getitem__(self, i: int) -> _DecodingResult:
        printed: list[str] = []
        try:
            with _printed_by_c(printed):
                image = self.source.decoded(i)
        except (Unreadable, OSError) as error:
            return _DecodingResult(fault=str(error), printed="", digest=b"")
        # Hash the width, too, or an image would equal one of another shape with the same bytes.
        width = b"%d" % image.shape[2]
        pixels = hashlib.blake2b(image.contiguous().numpy().data, digest_size=16, key=width)
        distinct = "; ".join(dict.fromkeys(printed))
        return _DecodingResult(fault="", printed=distinct, digest=pixels.digest())


@contextlib.contextmanager
def _printed_by_c(lines: list[str]) -> Iterator[None]:
    """Keep from the user what is printed on file descriptor 2 in the block, and append its lines to
    ``lines`` when the block ends. libjpeg prints its warnings there, without the file's name, and
    Python does not see them.
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
    """Digests of all decoded pictures, to find those that are in two splits or in two classes.

    Args:
        names: Names of the classes, by label.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.digests = bytearray()
        """Digests of all pictures, 16 bytes each, in the order of ``images``."""
        self.sources: dict[str, Photographs] = {}
        """The source of each split's pictures, by split."""
        self.images: dict[str, list[int]] = {}
        """By split, the numbers of its pictures in their source, in the order of adding."""

    def add(self, split: str, source: Photographs, i: int, digest: bytes) -> None:
        """Add the i-th picture of a split's source by its digest, 16 bytes. All pictures of a split
        must be added before the first one of the next.
        """
        self.sources[split] = source
        self.images.setdefault(split, []).append(int(i))
        self.digests += digest

    def faults(self) -> Iterator[str]:
        """Yield a line for each two equal pictures in different splits or classes. Of several equal
        ones, each is compared with the one that was added before it. Copies within a class of a
        split do no harm.
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
        """Return the split, the name of the file and the name of the class of a picture, by its
        number, from 0, in the order of ``digests``.

        Raises:
            IndexError: There are not so many pictures.
        """
        for split, images in self.images.items():
            if number < len(images):
                source = self.sources[split]
                i = images[number]
                return split, source.store.name(i), self.names[source.labels[i]]
            number -= len(images)
        raise IndexError(number)
