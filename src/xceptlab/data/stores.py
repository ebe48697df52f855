"""Where encoded photographs lie: a tree of files, tar files, parquet shards. Three kinds, one interface.

A store of a million photographs takes some tens of megabytes: names are one Arrow array, never a list of strings.
"""

import functools
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from xceptlab.data.order import Indices
from xceptlab.data.sources import printable, reading, regular_bytes
from xceptlab.data.tables import open_table
from xceptlab.errors import Refused
from xceptlab.files import write_atomically

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm")


class Store(Protocol):
    """The encoded photographs of one split."""

    labels: Indices
    """(n,)"""

    def read(self, i: int) -> bytes:
        """The file of the i-th photograph.

        Raises:
            OSError: It cannot be read.
            Refused: It is not what it was when the store was made.
        """

    def name(self, i: int) -> str:
        """What messages call it."""

    def files_and_sizes(self) -> Iterator[tuple[str, int]]:
        """Names and bytes, by which ``prepare`` knows the originals again without reading them."""


@dataclass(frozen=True)
class Tree(Store):
    """``<folder>/<class>/<file>``, the layout of torchvision's ImageFolder, in the order of the sorted names."""

    folder: Path
    classes: tuple[str, ...]
    labels: Indices
    files: "pyarrow.Array"
    """(n,), names as bytes: they need not be UTF-8."""
    flat: bool = False
    """The photographs lie in the folder itself."""
    others: dict[str, list[str]] = field(default_factory=dict)
    """By class, what lies in its folder and is no photograph by its suffix; under "" the photographs that lie in no class."""

    @classmethod
    def of(cls, folder: Path, classes: tuple[str, ...]) -> "Tree":
        """The photographs of these classes, by their files' suffixes; others are left alone."""
        import pyarrow

        found = [pyarrow.array([], pyarrow.binary())]
        others = {"": photographs_in(folder)}
        for name in classes:
            entries = _entries(folder / name)
            photographs = [os.fsencode(entry) for entry in entries if is_photograph(entry)]
            found.append(pyarrow.array(photographs, pyarrow.binary()))
            others[name] = [entry for entry in entries if not is_photograph(entry)]
        labels = np.repeat(np.arange(len(classes)), [len(names) for names in found[1:]])
        others = {name: entries for name, entries in others.items() if entries}
        return cls(folder, classes, labels, pyarrow.concat_arrays(found), others=others)

    @classmethod
    def of_flat(cls, folder: Path, classes: tuple[str, ...], labels: list[int]) -> "Tree":
        """The photographs in a folder itself, whose labels are given in the order of their names; numbered as in a tree.

        Raises:
            Refused: There are not as many photographs as labels.
        """
        import pyarrow

        names = photographs_in(folder)
        if len(names) != len(labels):
            raise Refused(f"{printable(str(folder))}: holds {len(names)} photographs; there are labels of {len(labels)}")
        order = np.argsort(labels, kind="stable")
        files = pyarrow.array([os.fsencode(names[i]) for i in order], pyarrow.binary())
        return cls(folder, classes, np.array(labels)[order], files, flat=True)

    def left_alone(self) -> Iterator[str]:
        """A line for each folder with entries that are left alone, and why."""
        for name, entries in self.others.items():
            shown = [self._described(name, entry) for entry in entries[:3]]
            more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
            reason = f"not {', '.join(SUFFIXES)}" if name else "in no class's folder"
            yield f"{printable(str(self.folder / name))}: {', '.join(shown)}{more}: left alone, {reason}"

    def _described(self, name: str, entry: str) -> str:
        path = self.folder / name / entry
        return printable(f"{entry}/ ({_photographs_below(path)} photographs)" if path.is_dir() else entry)

    def left_alone_in_short(self) -> str:
        """One line that counts the files that are left alone by the reason; empty where there are none."""
        nested = wrong_suffix = 0
        outside = len(self.others.get("", []))
        for name in self.others.keys() - {""}:
            for entry in self.others[name]:
                path = self.folder / name / entry
                if path.is_dir():
                    nested += _photographs_below(path)
                else:
                    wrong_suffix += 1
        reasons = {
            "photographs in folders below a class's": nested,
            f"with other suffixes than {', '.join(SUFFIXES)}": wrong_suffix,
            "photographs in no class's folder": outside,
        }
        counted = [f"{count:,} {reason}" for reason, count in reasons.items() if count]
        if not counted:
            return ""
        total = nested + wrong_suffix + outside
        return (
            f"{printable(str(self.folder))}: files left alone: {total:,} ({'; '.join(counted)}); `xceptlab data check` names them"
        )

    def read(self, i: int) -> bytes:
        return regular_bytes(self._path(i))

    def name(self, i: int) -> str:
        return printable(self._path(i))

    def _path(self, i: int) -> str:
        between = "" if self.flat else self.classes[self.labels[i]]
        return os.path.join(self.folder, between, os.fsdecode(self.files[int(i)].as_py()))

    def files_and_sizes(self) -> Iterator[tuple[str, int]]:
        for i, file in enumerate(self.files):
            yield printable(os.fsdecode(file.as_py())), os.path.getsize(self._path(i))


def left_alone(stores: Iterable[Store]) -> Iterator[str]:
    """A line for each tree of files in which some are left alone."""
    for store in stores:
        if isinstance(store, Tree) and (line := store.left_alone_in_short()):
            yield line


def photographs_in(folder: Path) -> list[str]:
    """The names of the photographs that lie in a folder itself, sorted."""
    return [name for name in _entries(folder) if is_photograph(name)]


def _entries(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not is_hidden(name)) if folder.is_dir() else []


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: macOS leaves ``._a.jpg``, Jupyter ``.ipynb_checkpoints`` beside theirs."""
    return name.startswith(".")


def is_photograph(name: str) -> bool:
    """By its suffix: opening a million files would take an hour."""
    return name.lower().endswith(SUFFIXES) and not is_hidden(name)


def _photographs_below(folder: Path) -> int:
    found = 0
    for _, below, names in os.walk(folder):
        below[:] = [name for name in below if not is_hidden(name)]
        found += sum(map(is_photograph, names))
    return found


def folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name))


@dataclass(frozen=True)
class Archive(Store):
    """Members of tar files, read in place.

    Args:
        files: The tar files.
        table: Per photograph: ``part`` (which file), ``offset`` and ``size`` (bytes), ``label``, ``name`` and, where it was
            written by ``prepare``, its ``crc``.
    """

    files: tuple[Path, ...]
    table: "pyarrow.Table"

    @functools.cached_property
    def labels(self) -> Indices:  # type: ignore[override]
        return self.table["label"].to_numpy()

    def read(self, i: int) -> bytes:
        part, offset, size = (self.table[column][int(i)].as_py() for column in ("part", "offset", "size"))
        with reading(self.files[part]), open(self.files[part], "rb") as file:  # a thousand of them cannot be kept open
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise Refused(f"{self.files[part]} is cut short")
        if "crc" in self.table.column_names and zlib.crc32(data) != self.table["crc"][int(i)].as_py():
            raise Refused("its checksum is not the one it was written with")
        return data

    def name(self, i: int) -> str:
        return f"{self.files[self.table['part'][int(i)].as_py()]}: {self.table['name'][int(i)]}"

    def files_and_sizes(self) -> Iterator[tuple[str, int]]:
        return zip(self.table["name"].to_pylist(), self.table["size"].to_pylist(), strict=True)


def write_table(table: "pyarrow.Table", file: Path) -> None:
    """The table of an archive, as a file that is mapped into memory when it is read; written whole or not at all."""
    import pyarrow.feather

    buffer = io.BytesIO()
    pyarrow.feather.write_feather(table.combine_chunks(), buffer, compression="uncompressed")
    write_atomically(file, buffer.getvalue())


def read_table(file: Path) -> "pyarrow.Table":
    """What ``write_table`` has written, mapped into memory.

    Raises:
        Refused: It is damaged.
    """
    import pyarrow
    import pyarrow.feather

    with reading(file, "damaged; remove it, and it is written again"):
        table = pyarrow.feather.read_table(pyarrow.memory_map(os.fsencode(file)))  # a name need not be UTF-8
        table.select(["part", "offset", "size", "label", "name"])  # refuses where one is missing
        if not len(table):
            raise Refused("it has no rows")
        return table


@dataclass(frozen=True)
class Shards(Store):
    """Parquet files with a column of encoded images and a column ``label``, as the Hugging Face hub has them.

    A photograph is had by reading its whole row group, usually 100 of them: fine in their order, slow for training, where
    ``prepare`` helps.
    """

    files: tuple[Path, ...]
    labels: Indices
    groups: Indices
    """(g, 3): per row group its file, its number there, and the number of its first photograph."""

    @classmethod
    def of(cls, files: list[Path]) -> "Shards":
        """Raises: Refused: A file is no parquet file, or its columns are not as ``tables`` says."""
        labels: list[Indices] = []
        groups: list[tuple[int, int, int]] = []
        start = 0
        for number, file in enumerate(files):
            table = open_table(file)
            labels.append(table.labels())
            for group, size in enumerate(table.sizes):
                groups.append((number, group, start))
                start += size
        return cls(tuple(files), np.concatenate(labels), np.array(groups).reshape(-1, 3))

    def read(self, i: int) -> bytes:
        group, row = self._group(i)
        data = self._cells(group)[row].as_py()
        if not data:
            raise Refused("the cell holds no bytes")
        return data

    def name(self, i: int) -> str:
        group, row = self._group(i)
        return f"{printable(str(self.files[self.groups[group, 0]]))}: row {row} of row group {self.groups[group, 1]}"

    def files_and_sizes(self) -> Iterator[tuple[str, int]]:
        return ((printable(file.name), file.stat().st_size) for file in self.files)

    def _group(self, i: int) -> tuple[int, int]:
        group = int(np.searchsorted(self.groups[:, 2], i, side="right")) - 1
        return group, int(i - self.groups[group, 2])

    def _cells(self, group: int) -> "pyarrow.ChunkedArray":
        number, group_in_file, _ = map(int, self.groups[group])
        return _row_group(self.files[number], group_in_file)


_KEPT_BYTES = 128 * 2**20
_kept: "dict[tuple[Path, int], pyarrow.ChunkedArray]" = {}
"""The row groups that this process has read last, up to ``_KEPT_BYTES`` or one; some files have gigabytes in one."""


def _row_group(file: Path, group: int) -> "pyarrow.ChunkedArray":
    cells = _kept.pop((file, group), None)
    if cells is None:
        cells = open_table(file).images(group)
    _kept[file, group] = cells
    while len(_kept) > 1 and sum(kept.nbytes for kept in _kept.values()) > _KEPT_BYTES:
        del _kept[next(iter(_kept))]
    return cells


def shards(root: Path, split: str) -> list[Path]:
    """The parquet files of a split, in the folder or in one below it; none where there are none.

    Raises:
        Refused: They are of several folders, or some of them are missing.
    """
    below = [file for file in root.glob(f"*/{split}-*.parquet") if not is_hidden(file.parent.name)]
    files = sorted([*root.glob(f"{split}-*.parquet"), *below])
    if len(found := sorted({str(file.parent) for file in files})) > 1:
        raise Refused(f"data.root: {root} holds several data sets, in {', '.join(found)}; name one of these folders")
    if files and (counted := re.search(r"-of-(\d+)\.parquet$", files[0].name)) and len(files) != int(counted[1]):
        raise Refused(f"{files[0].parent}: {len(files)} of the {int(counted[1])} files {split}-*.parquet are there")
    return files
