"""Where encoded photographs lie: a tree of files, tar files, parquet shards. Three kinds, one interface.

A store of a million photographs takes some tens of megabytes: names are one Arrow array, never a list of strings.
"""

import contextlib
import functools
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from xceptlab.data.order import Indices
from xceptlab.records import write_atomically

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm")
PICTURE = ("img", "image")
"""What the hub's data sets call their column of images."""


class Store(Protocol):
    """The encoded photographs of one split."""

    labels: Indices
    """(n,)"""

    def read(self, i: int) -> bytes:
        """The file of the i-th photograph.

        Raises:
            OSError: It cannot be read.
            ValueError: It is not what it was when the store was made.
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

    @classmethod
    def of(cls, folder: Path, classes: tuple[str, ...]) -> "Tree":
        """The photographs of these classes, by their files' suffixes; others are left alone."""
        import pyarrow

        found = []
        for name in classes:
            images = sorted(file for file in _entries(folder / name) if file.lower().endswith(SUFFIXES))
            found.append(pyarrow.array(images, pyarrow.string()))
        labels = np.repeat(np.arange(len(classes)), [len(names) for names in found])
        return cls(folder, classes, labels, pyarrow.concat_arrays(found or [pyarrow.array([], pyarrow.string())]))

    def left_alone(self) -> Iterator[str]:
        """A line for each class folder with entries that are no images by their suffixes."""
        for name in self.classes:
            others = sorted(file for file in _entries(self.folder / name) if not file.lower().endswith(SUFFIXES))
            if others:
                more = f" and {len(others) - 3} more" if len(others) > 3 else ""
                yield f"{self.folder / name}: {', '.join(others[:3])}{more}: left alone, not {', '.join(SUFFIXES)}"

    def read(self, i: int) -> bytes:
        return Path(self.name(i)).read_bytes()

    def name(self, i: int) -> str:
        return os.path.join(self.folder, self.classes[self.labels[i]], self.files[int(i)].as_py())

    def files_and_sizes(self) -> Iterator[tuple[str, int]]:
        return ((file.as_py(), os.path.getsize(self.name(i))) for i, file in enumerate(self.files))


def _entries(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


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
        with open(self.files[part], "rb") as file:  # kept open, a thousand files would be more than a process may have
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise ValueError(f"{self.files[part]} is cut short")
        if "crc" in self.table.column_names and zlib.crc32(data) != self.table["crc"][int(i)].as_py():
            raise ValueError("its checksum is not the one it was written with")
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


@dataclass(frozen=True)
class Shards(Store):
    """Parquet files with a column ``image`` of ``{bytes, path}`` and a column ``label``, as the Hugging Face hub has them.

    A photograph is had by reading its whole row group, usually 100 of them: fine in their order, slow for training, where
    ``prepare`` helps.
    """

    files: tuple[Path, ...]
    labels: Indices
    groups: Indices
    """(g, 3): per row group its file, its number there, and the number of its first photograph."""

    @classmethod
    def of(cls, files: list[Path]) -> "Shards":
        """Raises: ValueError: A file is no parquet file, or lacks the columns."""
        labels, groups, start = [], [], 0
        for number, file in enumerate(files):
            parquet, _ = _opened(file, PICTURE)
            labels.append(column(file, ("label",)).to_numpy())
            for group in range(parquet.num_row_groups):
                groups.append((number, group, start))
                start += parquet.metadata.row_group(group).num_rows
        return cls(tuple(files), np.concatenate(labels).astype(np.int64), np.array(groups))

    def read(self, i: int) -> bytes:
        cell = self._cells(self._group(i)[0])[self._group(i)[1]].as_py()
        if not cell or not cell.get("bytes"):
            raise ValueError("the cell holds no bytes")
        return cell["bytes"]

    def name(self, i: int) -> str:
        group, row = self._group(i)
        return f"{self.files[self.groups[group, 0]]}: row {row} of row group {self.groups[group, 1]}"

    def files_and_sizes(self) -> Iterator[tuple[str, int]]:
        return ((file.name, file.stat().st_size) for file in self.files)

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
        parquet, name = _opened(file, PICTURE)
        with _corruption(f"{file}: row group {group}"):
            cells = parquet.read_row_group(group, columns=[name])[name]
    _kept[file, group] = cells
    while len(_kept) > 1 and sum(kept.nbytes for kept in _kept.values()) > _KEPT_BYTES:
        del _kept[next(iter(_kept))]
    return cells


def column(file: Path, names: tuple[str, ...]) -> "pyarrow.ChunkedArray":
    """The column of a parquet file by the first of its names that is there.

    Raises:
        ValueError: Not a parquet file, or none is there.
    """
    parquet, name = _opened(file, names)
    with _corruption(file):
        return parquet.read(columns=[name])[name]


@contextlib.contextmanager
def _corruption(where: object) -> Iterator[None]:
    """pyarrow tells wrong bytes as an error of the system, without a number and without the file.

    Raises:
        ValueError: With both.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{where}: corrupt ({error})") from None


def _opened(file: Path, names: tuple[str, ...]) -> "tuple[pyarrow.parquet.ParquetFile, str]":
    import pyarrow.parquet

    try:
        parquet = pyarrow.parquet.ParquetFile(file)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{file}: not a readable parquet file ({error})") from None
    present = parquet.schema_arrow.names
    for name in names:
        if name in present:
            return parquet, name
    raise ValueError(f"{file}: a column {' or '.join(names)} is needed; it has {', '.join(present)}")


def feature_names(file: Path, column: str) -> tuple[str, ...]:
    """The names of a column's classes, as the hub's files keep them in their schema; empty where this one has none."""
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_schema(file).metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        return tuple(map(str, feature["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def shards(root: Path, split: str) -> list[Path]:
    """The parquet files of a split, in the folder or in one below it; none where there are none.

    Raises:
        ValueError: They are of several folders, or some of them are missing.
    """
    files = sorted([*root.glob(f"{split}-*.parquet"), *root.glob(f"*/{split}-*.parquet")])
    if len(found := sorted({str(file.parent) for file in files})) > 1:
        raise ValueError(f"data.root: {root} holds several data sets, in {', '.join(found)}; name one of these folders")
    if files and (counted := re.search(r"-of-(\d+)\.parquet$", files[0].name)) and len(files) != int(counted[1]):
        raise ValueError(f"{files[0].parent}: {len(files)} of the {int(counted[1])} files {split}-*.parquet are there")
    return files
