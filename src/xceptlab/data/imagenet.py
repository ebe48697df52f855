"""ImageNet, and photographs of one's own (``data.name: folder``), in whichever layout ``layouts``
finds in ``data.root``.

The files come in parts. The part ``val`` of ImageNet, its official validation set, is the test
split. A user's data set has ``train``, and ``val``, ``test`` or both: where only one of the two is
there, it is the test split; where both are, ``val`` is the validation split.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xceptlab.config.schema import DataConfig
from xceptlab.data import ilsvrc, layouts
from xceptlab.data.archive import Archive, read_table
from xceptlab.data.layouts import Layout, find_layout
from xceptlab.data.shards import Shards
from xceptlab.data.sources import Unsound, digest_of_files
from xceptlab.data.stores import Store
from xceptlab.data.tree import SUFFIXES, Tree, folders, photographs_in
from xceptlab.errors import Refused

if TYPE_CHECKING:
    from xceptlab.data.photographs import Photographs


def require_files(config: DataConfig) -> None:
    """Check that the data set's files or, with ``data.short_side``, its prepared photographs are
    there. With ``data.download`` fetch a data set of the Hugging Face hub that is not in its cache,
    unless prepared photographs are looked for in ``data.cache``.

    Raises:
        OSError: The note on the originals of prepared photographs cannot be read.
        Refused: The files are not there, and the message says what was looked for, where, and how
            to get it; or some parquet files are missing, or they lie in several folders; or the
            note on the originals of prepared photographs is damaged.
    """
    find_layout(config)


def class_names(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes, by label: those of the folders, of the parquet files'
    metadata or of the note on prepared photographs. For parquet files without names, or with too
    few, they are the labels as text. The result is empty for ImageNet's tar files and what was
    prepared from them.

    Raises:
        OSError: A file or folder cannot be read.
        Refused: The files are not there, are not complete, or are damaged.
    """
    return layouts.classes(find_layout(config))


def files(config: DataConfig) -> str:
    """Return the layout of the data set's files and a digest of their names and sizes, such as
    ``tree-0123456789abcdef``. For prepared photographs it is a digest of the note on their
    originals.

    Raises:
        OSError: A file or folder cannot be read.
        Refused: They are not there or not complete, or the note is damaged.
    """
    layout = find_layout(config)
    return f"{layout.kind}-{digest_of_files(layouts.names_and_sizes(layout))}"


def load(config: DataConfig) -> "tuple[Photographs, ...]":
    """Open the training and the test photographs and, as a third source, the validation photographs
    where these have files of their own.

    Raises:
        OSError: A file cannot be read; or, for ImageNet's tar files, the user's cache cannot be
            written.
        Refused: The files are not there, or are damaged.
        RuntimeError: ImageNet's tar files need a cache, and the user has no home for one.
        Unsound: The data set as a whole has faults, such as a class without photographs.
    """
    from xceptlab.data.photographs import Photographs

    by_part = stores(config)
    test = "test" if "test" in by_part else "val"
    validation = [part for part in by_part if part not in ("train", test)]
    return tuple(Photographs(by_part[part], config) for part in ("train", test, *validation))


def stores(config: DataConfig) -> dict[str, Store]:
    """Open the encoded photographs of each part of the data set, by the part's name: ``train``, and
    ``val``, ``test`` or both.

    Raises:
        OSError: A file cannot be read; or, for ImageNet's tar files, the user's cache cannot be
            written.
        Refused: The files are not there, or are damaged.
        RuntimeError: ImageNet's tar files need a cache, and the user has no home for one.
        Unsound: There are not as many classes as configured or as ImageNet has; a part or, in
            train, a class has no photograph; or a class or a label of a part is not in train.
    """
    layout = find_layout(config)
    open_layout = {
        "tree": _open_tree,
        "parquet": _open_parquet,
        "tars": _open_tars,
        "prepared": _open_prepared,
    }[layout.kind]
    by_part = open_layout(layout)
    faults = list(_faults(by_part, layout.root, config))
    if faults:
        raise Unsound(faults)
    return by_part


def _faults(by_part: Mapping[str, Store], root: Path, config: DataConfig) -> Iterator[str]:
    """Yield a line for each fault of the data set as a whole: an unexpected number of classes, a
    part or a class of train without photographs, or classes of another part that train does not
    have.

    Args:
        by_part: The photographs of each part, by the part's name.
        root: The folder of the data set, for the lines.
        config: The data set, which may say how many classes are expected.
    """
    train = by_part["train"]
    if isinstance(train, Tree):
        count = len(train.classes)
    else:
        count = int(train.labels.max(initial=-1)) + 1
    yield from _faults_of_count(count, root, config)
    for part, store in by_part.items():
        yield from _faults_of_part(part, store, count, root)
    for label in np.setdiff1d(np.arange(count), train.labels):
        yield from _faults_of_class(label, by_part)


def _faults_of_count(count: int, root: Path, config: DataConfig) -> Iterator[str]:
    """Yield an error message if the training photographs have ``count`` classes and another number
    is expected: ``data.num_classes`` or, where that is 0, the known number of the data set. Where
    neither is given, any count is right, and nothing is yielded.
    """
    expected = config.num_classes or config.CLASSES.get(config.name, count)
    if count == expected:
        return
    if config.name == "folder":
        hint = "see data.num_classes"
    else:
        hint = "photographs of one's own are data.name: folder"
    yield f"{root}: train holds {count} classes, {expected} were expected; {hint}"


def _faults_of_part(part: str, store: Store, count: int, root: Path) -> Iterator[str]:
    """Yield the faults of one part of the data set, such as ``val``: a line for each class folder
    that train does not have (in a tree of folders only), and a line if the part holds no image or
    has a label outside 0 to ``count`` - 1. ``count`` is the number of classes of train.
    """
    if isinstance(store, Tree):
        for name in sorted(set(folders(store.folder)) - set(store.classes)):
            yield f"{store.folder}: the class {name} is not among those of train"
    if not len(store.labels):
        yield f"{root}: {part} {_no_image(store)}"
    elif store.labels.min() < 0 or store.labels.max() >= count:
        yield f"{root}: labels {store.labels.min()} to {store.labels.max()} of {part} do not fit {count} classes"


def _faults_of_class(label: int, by_part: Mapping[str, Store]) -> Iterator[str]:
    """Yield the faults of a class that has no image in train: in a tree of folders a line for each
    of its folders that holds no image, also in other parts; in other layouts one line.
    """
    if not isinstance(by_part["train"], Tree):
        yield f"class {label}: {_no_image(by_part['train'])}"
        return
    for store in by_part.values():
        if isinstance(store, Tree) and label not in store.labels:
            folder = store.folder / store.classes[label]
            if folder.is_dir():
                yield f"{folder}: {_no_image(store)}"


def _no_image(store: Store) -> str:
    """Return the clause ``holds no image``; for a tree of folders, in which images are known by
    their suffixes, it lists these.
    """
    if isinstance(store, Tree):
        return f"holds no image ({', '.join(SUFFIXES)})"
    return "holds no image"


def _open_tree(layout: Layout) -> dict[str, Store]:
    """Open the photographs of each part, by the part's name, in a tree of folders. The folders of
    train are the classes of all parts.

    Raises:
        OSError: A folder, or the development kit, cannot be read.
        Refused: The photographs of val lie in no class's folder, and the development kit of
            ImageNet does not give their labels.
    """
    root = layout.root
    classes = tuple(folders(root / "train"))
    by_part: dict[str, Store] = {}
    for part in layout.parts:
        without_classes = photographs_in(root / part) and not folders(root / part)
        if part == "val" and without_classes:
            by_part[part] = _open_flat_val(root, classes)
        else:
            by_part[part] = Tree.of(root / part, classes)
    return by_part


def _open_flat_val(root: Path, classes: tuple[str, ...]) -> Tree:
    """Open ImageNet's validation photographs as they are given out, in one folder without classes.
    The development kit has their labels.

    Raises:
        OSError: The development kit cannot be read.
        Refused: The development kit is not there, is damaged, or is of other classes than those of
            train or of another number of photographs.
    """
    if not (root / ilsvrc.DEVKIT).is_file():
        raise Refused(
            f"{root / 'val'}: its photographs lie in no class's folder; they must be in val/<class>/, "
            f"or, for ImageNet's, {ilsvrc.DEVKIT}, which has their labels, in {root}"
        )
    wnids, labels = ilsvrc.val_labels(root)
    if classes != wnids:
        raise Refused(
            f"{root / 'train'}: its folders are not the {len(wnids)} classes of {ilsvrc.DEVKIT}, whose labels val needs"
        )
    return Tree.of_flat(root / "val", classes, labels)


def _open_parquet(layout: Layout) -> dict[str, Store]:
    """Open the photographs of each part, by the part's name, in parquet files."""
    return {part: Shards.of(layout.shards(part)) for part in layout.parts}


def _open_tars(layout: Layout) -> dict[str, Store]:
    """Open the photographs of ``train`` and ``val``, by these names, in ImageNet's original tar
    files.
    """
    # Open val before train: its search takes seconds, and may find that the development kit is
    # missing, while the search of train takes minutes.
    val = ilsvrc.val_archive(layout.root)
    return {"train": ilsvrc.train_archive(layout.root / ilsvrc.TRAIN_TAR), "val": val}


def _open_prepared(layout: Layout) -> dict[str, Store]:
    """Open the photographs of each part, by the part's name, that ``data.prepare`` has written."""
    by_part: dict[str, Store] = {}
    for part in layout.parts:
        table = read_table(layout.root / f"{part}.arrow")
        count = table["part"][-1].as_py() + 1
        files = [layout.root / f"{part}-{number:05d}.tar" for number in range(count)]
        by_part[part] = Archive(tuple(files), table)
    return by_part
