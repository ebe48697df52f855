"""ImageNet, and photographs of one's own (``data.name: folder``), in whichever layout is found in ``data.root``:

- the ImageFolder tree ``train/<class>/*`` and ``val/<class>/*``; of ImageNet ``val/*``, too, as it is given out, with
  ``ILSVRC2012_devkit_t12.tar.gz`` beside it;
- the hub's parquet shards ``train-*.parquet`` and ``validation-*.parquet``, in the folder or one below;
- of ImageNet the original ``ILSVRC2012_img_train.tar`` and ``ILSVRC2012_img_val.tar`` with ``ILSVRC2012_devkit_t12.tar.gz``, read
  in place;
- with ``data.short_side``, what ``xceptlab data prepare`` made of one of these.

ImageNet's official validation set is the test split. An own data set has a part ``val``, or ``test``, or both: of two parts the
second one is the test split; of three ``val`` is the validation split.
"""

import functools
import hashlib
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xceptlab.config.schema import DataConfig
from xceptlab.data.cache import user_cache
from xceptlab.data.sources import Unsound, digest_of_files, folder, locked, missing, printable, reading
from xceptlab.data.stores import (
    SUFFIXES,
    Archive,
    Shards,
    Store,
    Tree,
    folders,
    is_photograph,
    photographs_in,
    read_table,
    shards,
    write_table,
)
from xceptlab.data.tables import feature_names
from xceptlab.errors import Refused
from xceptlab.text import say

if TYPE_CHECKING:
    from xceptlab.data.photographs import Photographs

PARTS = ("train", "val", "test")
_SHARDS = {"train": "train", "val": "validation", "test": "test"}
"""What the hub calls the parts."""
TARS = _TRAIN, _VAL, _KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
NOTE = "originals.json"
"""Beside prepared photographs: what they were prepared from."""
_READERS = 16
"""Threads that ask for the sizes of files, which takes long over a network."""
SAY_SECONDS = 10
"""How often a long search says how far it is."""


@dataclass(frozen=True)
class Layout:
    """How the files of a data set lie, and which of the parts train, val and test are there."""

    kind: Literal["tree", "parquet", "tars", "prepared"]
    root: Path
    parts: tuple[str, ...]

    def whole(self) -> bool:
        """Whether there is something to train on and something to evaluate on."""
        return "train" in self.parts and len(self.parts) > 1

    def shards(self, part: str) -> list[Path]:
        """The parquet files of a part."""
        return shards(self.root, _SHARDS[part])


def locate(config: DataConfig) -> Layout:
    """Check that the files are there, and see how they lie.

    Raises:
        Refused: What was looked for, where, and how to get it.
    """
    wanted = PARTS if config.name == "folder" else ("train", "val")
    if config.short_side:
        return _locate_prepared(config)
    root = folder(config)
    tree = Layout("tree", root, tuple(part for part in wanted if (root / part).is_dir()))
    if tree.whole():
        return tree
    parquet = Layout("parquet", root, tuple(part for part in wanted if shards(root, _SHARDS[part])))
    if parquet.whole():
        return parquet
    if config.name == "folder":
        raise missing(
            "a data set of one's own",
            root,
            "the folders train/<class>/ with val/<class>/, test/<class>/ or both, or train-*.parquet with validation-*.parquet, "
            "test-*.parquet or both",
            "set --data.root to the folder that holds them",
        )
    if (root / _TRAIN).is_file() and (root / _VAL).is_file():
        return Layout("tars", root, wanted)
    raise missing(
        config.name,
        root,
        f"the folders train/<class>/ and val/<class>/, or train-*.parquet and validation-*.parquet, or {_TRAIN} and {_VAL}",
        "ImageNet is given out at https://image-net.org after registration; set --data.root to its folder, "
        "or try the embedded images: -c configs/data/digits.yaml",
    )


def _locate_prepared(config: DataConfig) -> Layout:
    root = prepared(config)
    parts = tuple(part for part in PARTS if part in originals(root)) or ("train", "val")
    if not all((root / f"{part}.arrow").is_file() for part in parts):
        raise Refused(
            f"data.short_side: no photographs of {config.short_side} pixels are prepared in {root}; "
            "`xceptlab data prepare` with the same options prepares them"
        )
    return Layout("prepared", root, parts)


def prepared(config: DataConfig) -> Path:
    """Where the prepared photographs of this short side and quality are."""
    as_stored = "" if config.exif_orientation else "-as-stored"
    name = f"short{config.short_side}-quality{config.quality}{as_stored}"
    return Path(config.cache or folder(config) / "prepared") / name


def originals(root: Path) -> dict[str, Any]:
    """What the photographs in a folder were prepared from, as ``prepare`` has noted it; empty where it has not.

    Raises:
        Refused: The note is damaged.
    """
    file = root / NOTE
    if not file.is_file():
        return {}
    with reading(file, "damaged; remove its folder, or name another one by data.cache"):
        return dict(json.loads(file.read_bytes()))


def class_names(config: DataConfig) -> tuple[str, ...]:
    """The names of the classes, by label; empty where the files do not tell."""
    return classes(locate(config))


def files(config: DataConfig) -> str:
    """How the files lie and a digest of their names and sizes.

    Raises:
        Refused: They are not there.
    """
    layout = locate(config)
    return f"{layout.kind}-{digest_of_files(names_and_sizes(layout))}"


def classes(layout: Layout) -> tuple[str, ...]:
    """The names of the classes, by label; empty where the files do not tell."""
    if layout.kind == "tree":
        return tuple(map(printable, folders(layout.root / "train")))
    if layout.kind == "parquet":
        files = layout.shards("train")
        count = int(Shards.of(files).labels.max(initial=-1)) + 1
        names = feature_names(files[0], "label")
        return names if len(names) >= count else tuple(map(str, range(count)))
    return tuple(originals(layout.root).get("classes", ()))


def names_and_sizes(layout: Layout) -> Iterator[tuple[bytes, int]]:
    """Names, relative to the data set's folder, and sizes of the files; of prepared photographs the note of their originals."""
    if layout.kind == "tree":
        places = []
        for part in layout.parts:
            places += [f"{part}/{name}" for name in folders(layout.root / part)] or [part]  # ImageNet's flat val
        with ThreadPoolExecutor(_READERS) as threads:
            for found in threads.map(functools.partial(_names_and_sizes_in, layout.root), places):
                yield from found
    elif layout.kind == "parquet":
        for part in layout.parts:
            for file in layout.shards(part):
                yield os.fsencode(f"{part}/{file.name}"), file.stat().st_size
    elif layout.kind == "tars":
        for name in TARS:
            yield name.encode(), (layout.root / name).stat().st_size
    else:
        note = originals(layout.root)
        yield json.dumps([note.get(part) for part in layout.parts], sort_keys=True).encode(), 0


def _names_and_sizes_in(root: Path, place: str) -> list[tuple[bytes, int]]:
    with os.scandir(root / place) as entries:
        photographs = [entry for entry in entries if is_photograph(entry.name)]
        return sorted((os.fsencode(f"{place}/{entry.name}"), entry.stat().st_size) for entry in photographs)


def load(config: DataConfig) -> "tuple[Photographs, ...]":
    """Training and test photographs and, where they are a part of their own, those to validate on."""
    from xceptlab.data.photographs import Photographs

    found = stores(config)
    tested = "test" if "test" in found else "val"
    order = ["train", tested, *(part for part in found if part not in ("train", tested))]
    return tuple(Photographs(found[part], config) for part in order)


def stores(config: DataConfig) -> dict[str, Store]:
    """The files of each part.

    Raises:
        Unsound: They are not of as many classes as configured, a class is empty, or one of another part is not in train.
    """
    layout = locate(config)
    read = {"tree": _trees, "parquet": _shards, "tars": _tars, "prepared": _prepared}[layout.kind]
    found = read(layout)
    if faults := list(_faults(found, layout.root, config)):
        raise Unsound(faults)
    return found


def _faults(stores: Mapping[str, Store], root: Path, config: DataConfig) -> Iterator[str]:
    train = stores["train"]
    found = len(train.classes) if isinstance(train, Tree) else int(train.labels.max(initial=-1)) + 1
    empty = f"holds no image ({', '.join(SUFFIXES)})" if isinstance(train, Tree) else "holds no image"
    expected = config.num_classes or config.CLASSES.get(config.name, found)
    if found != expected:
        hint = "see data.num_classes" if config.name == "folder" else "photographs of one's own are data.name: folder"
        yield f"{root}: train holds {found} classes, {expected} were expected; {hint}"
    for part, store in stores.items():
        if isinstance(store, Tree):
            for name in sorted(set(folders(store.folder)) - set(store.classes)):
                yield f"{store.folder}: the class {name} is not among those of train"
        if not len(store.labels):
            yield f"{root}: {part} {empty}"
        elif store.labels.min() < 0 or store.labels.max() >= found:
            yield f"{root}: labels {store.labels.min()} to {store.labels.max()} of {part} do not fit {found} classes"
    for label in np.setdiff1d(np.arange(found), train.labels):
        yield f"{train.folder / train.classes[label] if isinstance(train, Tree) else f'class {label}'}: {empty}"


def _trees(layout: Layout) -> dict[str, Store]:
    root = layout.root
    classes = tuple(folders(root / "train"))
    stores: dict[str, Store] = {}
    for part in layout.parts:
        flat = part == "val" and photographs_in(root / part) and not folders(root / part)
        stores[part] = _flat_val(root, classes) if flat else Tree.of(root / part, classes)
    return stores


def _flat_val(root: Path, classes: tuple[str, ...]) -> Tree:
    """ImageNet's validation photographs as they are given out, in one folder without classes; the development kit has the labels.

    Raises:
        Refused: It is not there, or is of other classes than those of train.
    """
    if not (root / _KIT).is_file():
        raise Refused(
            f"{root / 'val'}: its photographs lie in no class's folder; they must be in val/<class>/, "
            f"or, for ImageNet's, {_KIT}, which has their labels, in {root}"
        )
    wnids, labels = _val_labels(root)
    if classes != wnids:
        raise Refused(f"{root / 'train'}: its folders are not the {len(wnids)} classes of {_KIT}, whose labels val needs")
    return Tree.of_flat(root / "val", classes, labels)


def _shards(layout: Layout) -> dict[str, Store]:
    return {part: Shards.of(layout.shards(part)) for part in layout.parts}


def _prepared(layout: Layout) -> dict[str, Store]:
    def read(part: str) -> Archive:
        table = read_table(layout.root / f"{part}.arrow")
        files = [layout.root / f"{part}-{number:05d}.tar" for number in range(table["part"][-1].as_py() + 1)]
        return Archive(tuple(files), table)

    return {part: read(part) for part in layout.parts}


# The original tar files: members are found once, and where they lie is kept in the user's cache.


def _tars(layout: Layout) -> dict[str, Store]:
    root = layout.root
    val = _indexed(root / _VAL, lambda file: _val_members(file, root), root / _KIT)
    return {"train": train_tar(root / _TRAIN), "val": val}


def train_tar(file: Path) -> Archive:
    """The photographs in a tar file of one tar file per class."""
    return _indexed(file, _train_members)


def _indexed(file: Path, members: Callable[[Path], Iterator[list[dict[str, Any]]]], *beside: Path) -> Archive:
    """The photographs in a tar file, sorted by label and name as in the unpacked tree."""
    import pyarrow

    states = [(str(one.resolve()), one.stat().st_size, one.stat().st_mtime_ns) for one in (file, *beside) if one.exists()]
    identity = hashlib.sha256(repr(states).encode()).hexdigest()[:16]
    cache = user_cache() / f"{file.stem}-{identity}.arrow"
    if not cache.is_file():
        with locked(cache.parent):  # of several processes one searches, and the others find what it has written
            if not cache.is_file():
                tables = [pyarrow.Table.from_pylist(found) for found in members(file) if found]
                if not tables:
                    raise Refused(f"{file}: holds no photograph")
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
                say(f"{file}: finding its photographs, which is needed once: {label} of {len(classes)} classes")
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
        raise Refused(f"{file}: holds {len(photographs)} photographs; the development kit has labels of {len(labels)}")
    yield list(map(_row, photographs, labels))


def _opened(file: Any, where: object) -> tarfile.TarFile:
    """Raises: Refused: It is no tar file."""
    with reading(where, "not a tar file"):
        return tarfile.open(file, "r:") if isinstance(file, Path) else tarfile.open(fileobj=file, mode="r:")


def _files(tar: tarfile.TarFile, where: object) -> list[tarfile.TarInfo]:
    """The files in a tar file, which must end as one does.

    Raises:
        Refused: It is cut short.
    """
    with reading(where, "not a whole tar file"):
        members = []
        for member in tar:
            if member.size < 0:  # which getmembers() of Python up to 3.11.13 never comes to the end of
                raise Refused(f"{member.name} has a negative size")
            members.append(member)
        assert tar.fileobj is not None
        tar.fileobj.seek(max((m.offset_data + -(-m.size // 512) * 512 for m in members), default=0))
        whole = tar.fileobj.read(512) == bytes(512)
    if not whole:
        raise Refused(f"{where}: the tar file is cut short; it ends without its closing mark")
    return [member for member in members if member.isfile()]


def _val_labels(root: Path) -> tuple[tuple[str, ...], list[int]]:
    """The classes, and the labels of the validation photographs in the order of their names, from the development kit."""
    import gzip
    import io

    from scipy.io import loadmat

    kit = root / _KIT
    if not kit.is_file():
        raise Refused(f"{root}: {_KIT} is missing, which has the labels of {_VAL}")
    with reading(kit, "not the development kit of ILSVRC 2012"):
        whole = gzip.decompress(kit.read_bytes())  # verifies the checksum: SciPy crashes on a damaged .mat file
        with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as tar:
            files = {Path(member.name).name: tar.extractfile(member) for member in tar.getmembers() if member.isfile()}
            synsets = loadmat(io.BytesIO(files["meta.mat"].read()), squeeze_me=True)["synsets"]  # type: ignore[union-attr]
            truth = files["ILSVRC2012_validation_ground_truth.txt"].read().split()  # type: ignore[union-attr]
        leaves = [(str(s["WNID"]), int(s["ILSVRC2012_ID"])) for s in synsets if int(s["num_children"]) == 0]
        label = {number: place for place, (_, number) in enumerate(sorted(leaves))}
        return tuple(wnid for wnid, _ in sorted(leaves)), [label[int(number)] for number in truth]
