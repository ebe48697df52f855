"""ImageNet, or other photographs in one of its layouts; the official validation set is the test split.

Read from ``data.root``, in the layout that is found there:

- the ImageFolder tree ``train/<class>/*`` and ``val/<class>/*``, for any photographs; of ImageNet ``val/*``, too, as it is given
  out, with ``ILSVRC2012_devkit_t12.tar.gz`` beside it;
- the hub's parquet shards ``train-*.parquet`` and ``validation-*.parquet``, in the folder or one below;
- the original ``ILSVRC2012_img_train.tar`` and ``ILSVRC2012_img_val.tar`` with ``ILSVRC2012_devkit_t12.tar.gz``, read in place;
- with ``data.short_side``, what ``xceptlab data prepare`` made of one of these.
"""

import hashlib
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xceptlab.data.sources import Unsound, folder, locked, missing, printable, reading
from xceptlab.data.stores import SUFFIXES, Archive, Shards, Store, Tree, folders, photographs_in, read_table, shards, write_table
from xceptlab.schema import DataConfig

if TYPE_CHECKING:
    from xceptlab.data.photographs import Photographs

_TRAIN, _VAL, _KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
SAY_SECONDS = 10
"""How often a long search says how far it is."""


def locate(config: DataConfig) -> None:
    """Check that the files are there.

    Raises:
        ValueError: What was looked for, where, and how to get it.
    """
    if config.short_side:
        if not all((prepared(config) / f"{split}.arrow").is_file() for split in ("train", "val")):
            raise ValueError(
                f"data.short_side: no photographs of {config.short_side} pixels are prepared in {prepared(config)}; "
                "`xceptlab data prepare` with the same options prepares them"
            )
        return
    _layout(config)


def prepared(config: DataConfig) -> Path:
    """Where the prepared photographs of this short side and quality are."""
    as_stored = "" if config.exif_orientation else "-as-stored"
    name = f"short{config.short_side}-quality{config.quality}{as_stored}"
    return Path(config.cache or folder(config) / "prepared") / name


def _layout(config: DataConfig) -> Callable[[Path], tuple[Store, Store]]:
    """How the files in ``data.root`` are read."""
    root = folder(config)
    if all((root / split).is_dir() for split in ("train", "val")):
        return _trees
    if shards(root, "train") and shards(root, "validation"):
        return lambda root: (Shards.of(shards(root, "train")), Shards.of(shards(root, "validation")))
    if (root / _TRAIN).is_file() and (root / _VAL).is_file():
        return _tars
    raise missing(
        config.name,
        root,
        f"the folders train/<class>/ and val/<class>/, or train-*.parquet and validation-*.parquet, or {_TRAIN} and {_VAL}",
        "ImageNet is given out at https://image-net.org after registration; set --data.root to its folder, "
        "or try the embedded images: -c configs/data/digits.yaml",
    )


def load(config: DataConfig) -> "tuple[Photographs, Photographs]":
    """Training and test photographs."""
    from xceptlab.data.photographs import Photographs

    locate(config)
    train, test = _sound(*_read_prepared(config), prepared(config), config) if config.short_side else stores(config)
    return Photographs(train, config), Photographs(test, config)


def stores(config: DataConfig) -> tuple[Store, Store]:
    """Training and test files as they were given out.

    Raises:
        Unsound: They are not of as many classes as configured, a class is empty, or one of val is not in train.
    """
    root = folder(config)
    return _sound(*_layout(config)(root), root, config)


def _sound(train: Store, test: Store, root: Path, config: DataConfig) -> tuple[Store, Store]:
    if faults := list(_faults(train, test, root, config)):
        raise Unsound(faults)
    return train, test


def _faults(train: Store, test: Store, root: Path, config: DataConfig) -> Iterator[str]:
    found = len(train.classes) if isinstance(train, Tree) else int(train.labels.max(initial=-1)) + 1
    empty = f"holds no image ({', '.join(SUFFIXES)})" if isinstance(train, Tree) else "holds no image"
    if found != config.classes:
        yield f"{root}: train holds {found} classes, {config.classes} were expected; see data.num_classes"
    for split, store in (("train", train), ("test", test)):
        if isinstance(store, Tree):
            for name in sorted(set(folders(store.folder)) - set(store.classes)):
                yield f"{store.folder}: the class {name} is not among those of train"
        if not len(store.labels):
            yield f"{root}: {split} {empty}"
        elif store.labels.min() < 0 or store.labels.max() >= found:
            yield f"{root}: labels {store.labels.min()} to {store.labels.max()} of {split} do not fit {found} classes"
    for label in np.setdiff1d(np.arange(found), train.labels):
        yield f"{train.folder / train.classes[label] if isinstance(train, Tree) else f'class {label}'}: {empty}"


def _trees(root: Path) -> tuple[Tree, Tree]:
    classes = tuple(folders(root / "train"))
    flat = photographs_in(root / "val") and not folders(root / "val")
    test = _flat_val(root, classes) if flat else Tree.of(root / "val", classes)
    return Tree.of(root / "train", classes), test


def _flat_val(root: Path, classes: tuple[str, ...]) -> Tree:
    """ImageNet's validation photographs as they are given out, in one folder without classes; the development kit has the labels.

    Raises:
        ValueError: It is not there, or is of other classes than those of train.
    """
    if not (root / _KIT).is_file():
        raise ValueError(
            f"{root / 'val'}: its photographs lie in no class's folder; they must be in val/<class>/, "
            f"or, for ImageNet's, {_KIT}, which has their labels, in {root}"
        )
    wnids, labels = _val_labels(root)
    if classes != wnids:
        raise ValueError(f"{root / 'train'}: its folders are not the {len(wnids)} classes of {_KIT}, whose labels val needs")
    return Tree.of_flat(root / "val", classes, labels)


def _read_prepared(config: DataConfig) -> tuple[Archive, Archive]:
    def read(split: str) -> Archive:
        table = read_table(prepared(config) / f"{split}.arrow")
        files = [prepared(config) / f"{split}-{part:05d}.tar" for part in range(table["part"][-1].as_py() + 1)]
        return Archive(tuple(files), table)

    return read("train"), read("val")


# The original tar files: members are found once, and where they lie is kept in the user's cache.


def _tars(root: Path) -> tuple[Archive, Archive]:
    return train_tar(root / _TRAIN), _indexed(root / _VAL, lambda file: _val_members(file, root), root / _KIT)


def train_tar(file: Path) -> Archive:
    """The photographs in a tar file of one tar file per class."""
    return _indexed(file, _train_members)


def _indexed(file: Path, members: Callable[[Path], Iterator[list[dict[str, Any]]]], *beside: Path) -> Archive:
    """The photographs in a tar file, sorted by label and name as in the unpacked tree."""
    import pyarrow

    states = [(str(one.resolve()), one.stat().st_size, one.stat().st_mtime_ns) for one in (file, *beside) if one.exists()]
    identity = hashlib.sha256(repr(states).encode()).hexdigest()[:16]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xceptlab"
    cache = caches / f"{file.stem}-{identity}.arrow"
    if not cache.is_file():
        with locked(caches):  # of several processes one searches, and the others find what it has written
            if not cache.is_file():
                tables = [pyarrow.Table.from_pylist(found) for found in members(file) if found]
                if not tables:
                    raise ValueError(f"{file}: holds no photograph")
                write_table(pyarrow.concat_tables(tables).sort_by([("label", "ascending"), ("name", "ascending")]), cache)
    return Archive((file,), read_table(cache))


def _train_members(file: Path) -> Iterator[list[dict[str, Any]]]:
    """Class by class, with a line on standard error now and then: reading 1.28 million headers takes minutes."""
    with _opened(file, file) as outer:
        classes = sorted(_files(outer, file), key=lambda member: member.name)
        said = time.monotonic()
        for label, member in enumerate(classes):
            if time.monotonic() >= said + SAY_SECONDS:
                said = time.monotonic()
                print(
                    f"xceptlab: {file}: finding its photographs, which is needed once: {label} of {len(classes)} classes",
                    file=sys.stderr,
                )
            where = f"{file}: {member.name}"
            with _opened(outer.extractfile(member), where) as inner:
                photographs = _files(inner, where)
            yield [_row(photograph, label, member.offset_data) for photograph in photographs]


def _row(member: tarfile.TarInfo, label: int, start: int = 0) -> dict[str, Any]:
    return {"part": 0, "offset": start + member.offset_data, "size": member.size, "label": label, "name": printable(member.name)}


def _val_members(file: Path, root: Path) -> Iterator[list[dict[str, Any]]]:
    _, labels = _val_labels(root)
    with _opened(file, file) as tar:
        photographs = sorted(_files(tar, file), key=lambda member: member.name)
    if len(photographs) != len(labels):
        raise ValueError(f"{file}: holds {len(photographs)} photographs; the development kit has labels of {len(labels)}")
    yield list(map(_row, photographs, labels))


def _opened(file: Any, where: object) -> tarfile.TarFile:
    """Raises: ValueError: It is no tar file."""
    with reading(where, "not a tar file"):
        return tarfile.open(file, "r:") if isinstance(file, Path) else tarfile.open(fileobj=file, mode="r:")


def _files(tar: tarfile.TarFile, where: object) -> list[tarfile.TarInfo]:
    """The files in a tar file, which must end as one does.

    Raises:
        ValueError: It is cut short.
    """
    with reading(where, "not a whole tar file"):
        members = []
        for member in tar:
            if member.size < 0:  # which getmembers() of Python up to 3.11.13 never comes to the end of
                raise ValueError(f"{member.name} has a negative size")
            members.append(member)
        assert tar.fileobj is not None
        tar.fileobj.seek(max((m.offset_data + -(-m.size // 512) * 512 for m in members), default=0))
        whole = tar.fileobj.read(512) == bytes(512)
    if not whole:
        raise ValueError(f"{where}: the tar file is cut short; it ends without its closing mark")
    return [member for member in members if member.isfile()]


def _val_labels(root: Path) -> tuple[tuple[str, ...], list[int]]:
    """The classes, and the labels of the validation photographs in the order of their names, from the development kit."""
    import gzip
    import io

    from scipy.io import loadmat

    kit = root / _KIT
    if not kit.is_file():
        raise ValueError(f"{root}: {_KIT} is missing, which has the labels of {_VAL}")
    with reading(kit, "not the development kit of ILSVRC 2012"):
        whole = gzip.decompress(kit.read_bytes())  # verifies the checksum: SciPy crashes on a damaged .mat file
        with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as tar:
            files = {Path(member.name).name: tar.extractfile(member) for member in tar.getmembers() if member.isfile()}
            synsets = loadmat(io.BytesIO(files["meta.mat"].read()), squeeze_me=True)["synsets"]  # type: ignore[union-attr]
            truth = files["ILSVRC2012_validation_ground_truth.txt"].read().split()  # type: ignore[union-attr]
        leaves = [(str(s["WNID"]), int(s["ILSVRC2012_ID"])) for s in synsets if int(s["num_children"]) == 0]
        label = {number: place for place, (_, number) in enumerate(sorted(leaves))}
        return tuple(wnid for wnid, _ in sorted(leaves)), [label[int(number)] for number in truth]
