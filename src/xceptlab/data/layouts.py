"""The four layouts in which the files of ImageNet or of a user's data set may lie in ``data.root``:

- ``tree``: torchvision's ImageFolder, ``train/<class>/*`` and ``val/<class>/*``; ImageNet may also
  have ``val/*``, as it is given out, with ``ILSVRC2012_devkit_t12.tar.gz`` beside ``val``;
- ``parquet``: files of the Hugging Face hub, ``train-*.parquet`` and ``validation-*.parquet``, in
  the folder or in one below it;
- ``tars``: ImageNet's original ``ILSVRC2012_img_train.tar`` and ``ILSVRC2012_img_val.tar``, with
  ``ILSVRC2012_devkit_t12.tar.gz``; they are not unpacked;
- ``prepared``: with ``data.short_side``, what ``xceptlab data prepare`` made of one of the others.

A user's data set may have ``test`` (``test-*.parquet``) beside or in place of ``val``.
"""

import functools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from xceptlab.config.schema import DataConfig
from xceptlab.data.ilsvrc import TARS, TRAIN_TAR, VAL_TAR, require_devkit
from xceptlab.data.shards import Shards, find_shards, refuse_several_folders
from xceptlab.data.sources import folder, missing, printable, reading
from xceptlab.data.tables import feature_names
from xceptlab.data.tree import folders, is_photograph
from xceptlab.errors import Refused

PARTS = ("train", "val", "test")
"""Names of the parts that a data set's files may have; ``train`` and one other must be there."""
_SPLITS_OF_THE_HUB = {"train": "train", "val": "validation", "test": "test"}
"""By part, how the file names of the Hugging Face hub call it."""
NOTE = "originals.json"
"""Name of the file beside prepared photographs that says what they were prepared from."""
_READERS = 16
"""Number of threads that ask for the sizes of files; over a network each answer takes long."""


@dataclass(frozen=True)
class Layout:
    """How and where the files of a data set lie."""

    kind: Literal["tree", "parquet", "tars", "prepared"]
    root: Path
    """The folder of the files."""
    parts: tuple[str, ...]
    """Those of ``PARTS`` that are there."""

    def is_complete(self) -> bool:
        """Whether the data set has a part to train on and a part to evaluate on."""
        return "train" in self.parts and len(self.parts) > 1

    def shards(self, part: str) -> list[Path]:
        """Return the parquet files of one of ``PARTS``, sorted; empty where there are none.

        Raises:
            Refused: Some of them are missing, or they lie in several folders.
        """
        return find_shards(self.root, _SPLITS_OF_THE_HUB[part])


def find_layout(config: DataConfig) -> Layout:
    """Find out in which layout the files of ImageNet or of a user's data set lie. With
    ``data.short_side`` only prepared photographs are looked for. With ``data.download`` a data set
    of the Hugging Face hub that is not in its cache is fetched, unless prepared photographs are
    looked for in ``data.cache``.

    Raises:
        OSError: The note on the originals of prepared photographs cannot be read.
        Refused: The files are not there, and the message says what was looked for, where, and how
            to get it; or some parquet files are missing, or they lie in several folders; or the
            note on the originals of prepared photographs is damaged.
    """
    if config.short_side:
        return _find_prepared(config)
    root = folder(config)
    known = config.name == "imagenet"
    parts = ("train", "val") if known else PARTS
    folders_there = tuple(part for part in parts if (root / part).is_dir())
    tree = Layout("tree", root, folders_there)
    if tree.is_complete():
        return tree
    shards_there = tuple(part for part in parts if find_shards(root, _SPLITS_OF_THE_HUB[part]))
    parquet = Layout("parquet", root, shards_there)
    if parquet.is_complete():
        refuse_several_folders(root, chain.from_iterable(map(parquet.shards, parquet.parts)))
        return parquet
    if not known:
        raise missing(
            "a data set of one's own",
            root,
            "the folders train/<class>/ with val/<class>/, test/<class>/ or both, or train-*.parquet with validation-*.parquet, "
            "test-*.parquet or both",
            "set --data.root to the folder that holds them",
        )
    if (root / TRAIN_TAR).is_file() and (root / VAL_TAR).is_file():
        require_devkit(root)
        return Layout("tars", root, parts)
    raise missing(
        config.name,
        root,
        f"the folders train/<class>/ and val/<class>/, or train-*.parquet and validation-*.parquet, or {TRAIN_TAR} and {VAL_TAR}",
        "ImageNet is given out at https://image-net.org after registration; set --data.root to its folder, "
        "or try the embedded images: -c configs/data/digits.yaml",
    )


def _find_prepared(config: DataConfig) -> Layout:
    """Find the photographs that were prepared with a configuration's ``short_side`` and other
    options.

    Raises:
        OSError: The note on their originals cannot be read.
        Refused: They are not there, a part of them is not complete, or the note is damaged; or they
            would lie below a data set of the Hugging Face hub that is not in its cache or cannot be
            fetched.
    """
    root = prepared_folder(config)
    noted = originals(root)
    parts = tuple(part for part in PARTS if part in noted) or ("train", "val")
    if not all((root / f"{part}.arrow").is_file() for part in parts):
        raise Refused(
            f"data.short_side: no photographs of {config.short_side} pixels are prepared in {root}; "
            "`xceptlab data prepare` with the same options prepares them"
        )
    return Layout("prepared", root, parts)


def prepared_folder(config: DataConfig) -> Path:
    """Return the folder, which need not be there, of the photographs that are prepared as a
    configuration says. It lies in ``data.cache`` or else in ``prepared`` below the data set's
    folder, and is named by short side and quality and, where they are not the defaults, orientation
    and largest number of pixels.

    Where ``data.cache`` is empty and ``data.root`` names a data set of the Hugging Face hub, the
    data set's folder is in the hub's cache. With ``data.download`` what is missing there is
    fetched.

    Raises:
        Refused: That data set of the hub is not in the hub's cache, or cannot be fetched.
    """
    name = f"short{config.short_side}-quality{config.quality}"
    if not config.exif_orientation:
        name += "-as-stored"
    # What is larger was left as it was.
    if config.max_pixels != DataConfig.max_pixels:
        name += f"-max{config.max_pixels}"
    parent = Path(config.cache) if config.cache else folder(config) / "prepared"
    return parent / name


def originals(root: Path) -> dict[str, Any]:
    """Read what ``data.prepare`` has noted in a folder on the originals of its photographs; returns
    an empty mapping where there is no note.

    Its keys are the parts, each with the number of images and hashes of labels and files;
    ``classes``, the names of the classes by label; and, for a user's data set, ``content``, the
    ``data.content`` of the originals.

    Raises:
        OSError: The note cannot be read.
        Refused: The note is damaged.
    """
    file = root / NOTE
    if not file.is_file():
        return {}
    with reading(file, "damaged; remove its folder, or name another one by data.cache"):
        return dict(json.loads(file.read_bytes()))


def classes(layout: Layout) -> tuple[str, ...]:
    """Return the names of the classes, by label: those of the folders, of the parquet files'
    metadata or of the note on prepared photographs. For parquet files without names, or with too
    few, they are the labels as text. The result is empty for ImageNet's tar files and what was
    prepared from them.

    Raises:
        OSError: A file or folder cannot be read.
        Refused: A parquet file or the note on prepared photographs is damaged.
    """
    if layout.kind == "tree":
        return tuple(map(printable, folders(layout.root / "train")))
    if layout.kind == "parquet":
        files = layout.shards("train")
        count = int(Shards.of(files).labels.max(initial=-1)) + 1
        names = feature_names(files[0], "label")
        if len(names) >= count:
            return names
        return tuple(map(str, range(count)))
    return tuple(originals(layout.root).get("classes", ()))


def names_and_sizes(layout: Layout) -> Iterator[tuple[bytes, int]]:
    """Yield the name and the size in bytes of each file by which the data set is identified.

    A name is ``<part>/<class>/<file>`` for a photograph in a tree (``val/<file>`` for ImageNet's
    validation photographs without class folders), ``<part>/<file>`` for a parquet file, and the
    file's name for a tar file. Prepared photographs are identified by their originals: for them a
    single name is yielded, the JSON of what the note beside them says of the originals of each
    part, with size 0.
    """
    if layout.kind == "tree":
        yield from _names_and_sizes_of_tree(layout)
    elif layout.kind == "parquet":
        for part in layout.parts:
            for file in layout.shards(part):
                yield os.fsencode(f"{part}/{file.name}"), file.stat().st_size
    elif layout.kind == "tars":
        for name in TARS:
            yield name.encode(), (layout.root / name).stat().st_size
    else:
        note = originals(layout.root)
        noted = [note.get(part) for part in layout.parts]
        yield json.dumps(noted, sort_keys=True).encode(), 0


def _names_and_sizes_of_tree(layout: Layout) -> Iterator[tuple[bytes, int]]:
    """Yield the name, relative to the layout's root, and the size in bytes of each photograph in
    the class folders of a tree or, of a part without class folders, in the part's folder.
    """
    subfolders = []
    for part in layout.parts:
        of_classes = [f"{part}/{name}" for name in folders(layout.root / part)]
        # ImageNet's val may be one folder without classes.
        subfolders += of_classes or [part]
    list_one = functools.partial(_names_and_sizes_in, layout.root)
    with ThreadPoolExecutor(_READERS) as threads:
        for files in threads.map(list_one, subfolders):
            yield from files


def _names_and_sizes_in(root: Path, subfolder: str) -> list[tuple[bytes, int]]:
    """List the photographs in a subfolder of ``root``, sorted by name: the name of each, relative
    to ``root``, and its size in bytes.
    """
    with os.scandir(root / subfolder) as entries:
        photographs = [entry for entry in entries if is_photograph(entry.name)]
        return sorted(
            (os.fsencode(f"{subfolder}/{entry.name}"), entry.stat().st_size)
            for entry in photographs
        )
