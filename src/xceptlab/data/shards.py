"""Photographs in parquet files, as the Hugging Face hub has them: they are cut into several files,
shards, for each split.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xceptlab.data.order import Indices
from xceptlab.data.sources import printable
from xceptlab.data.stores import Store
from xceptlab.data.tables import open_table
from xceptlab.data.tree import is_hidden
from xceptlab.errors import Refused

if TYPE_CHECKING:
    import pyarrow


State = tuple[int, int]
"""Size of a file in bytes, and the time of its last change in nanoseconds."""


@dataclass(frozen=True)
class Shards(Store):
    """Store of photographs in parquet files with a column of encoded images and a column ``label``.

    To read one photograph is to read its whole row group, usually of 100 photographs: fast in their
    order, slow in the random order of training. ``xceptlab data prepare`` helps there.
    """

    files: tuple[Path, ...]
    states: tuple[State, ...]
    """State of each file when its labels were read."""
    labels: Indices
    """Labels (n,) of the photographs."""
    groups: Indices
    """Table (g, 3) of all row groups in their order: number of the file, number of the group in the
    file, number of the group's first photograph among all.
    """

    @classmethod
    def of(cls, files: list[Path]) -> "Shards":
        """Return the store of the photographs in parquet files, one file at least: their labels are
        read, and which of them are in which row group.

        Raises:
            OSError: A file is not there, or cannot be read.
            Refused: A file is no parquet file or is damaged; its column of encoded images (``img``
                or ``image``) or of labels (``label``) is missing, there twice or of another type;
                or a row holds no label from 0 to ``tables.MAX_CLASSES`` - 1.
        """
        # A file that is replaced while it is read has another state than is noted here.
        states = tuple(map(_state, files))
        labels: list[Indices] = []
        groups: list[tuple[int, int, int]] = []
        first = 0
        for number, file in enumerate(files):
            table = open_table(file)
            labels.append(table.labels())
            for group, size in enumerate(table.sizes):
                groups.append((number, group, first))
                first += size
        table_of_groups = np.array(groups).reshape(-1, 3)
        return cls(tuple(files), states, np.concatenate(labels), table_of_groups)

    def read(self, i: int) -> bytes:
        group, row = self._place(i)
        number, group_in_file, _ = self.groups[group]
        cells = _row_group(self.files[number], self.states[number], int(group_in_file))
        data = cells[row].as_py()
        if not data:
            raise Refused("the cell holds no bytes")
        return data

    def name(self, i: int) -> str:
        group, row = self._place(i)
        number, group_in_file, _ = self.groups[group]
        return f"{printable(str(self.files[number]))}: row {row} of row group {group_in_file}"

    def files_and_sizes(self) -> Iterator[tuple[str, int]]:
        return ((printable(file.name), file.stat().st_size) for file in self.files)

    def _place(self, i: int) -> tuple[int, int]:
        """Locate the i-th photograph, counted from 0 over all files.

        Returns:
            The index in ``self.groups`` of the parquet row group that holds the photograph, and the
            photograph's position within this row group, both from 0.
        """
        first = self.groups[:, 2]
        group = int(np.searchsorted(first, i, side="right")) - 1
        return group, int(i - first[group])


_CACHE_BYTES = 128 * 2**20
_cache: "dict[tuple[Path, State, int], pyarrow.ChunkedArray]" = {}
"""The encoded images of the row groups that this process has used last, by file, state of the file
when its labels were read, and number of the group in it: a store that is made after the file was
replaced does not get the old images. Together they have up to ``_CACHE_BYTES`` bytes; a single
larger group is kept, too. The group used last is the last in the dictionary's order.
"""


def _state(file: Path) -> State:
    """Return a file's size and the time of its last change, by which a file that has replaced it
    is recognised as another one.

    Raises:
        OSError: The file is not there.
    """
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _row_group(file: Path, state: State, group: int) -> "pyarrow.ChunkedArray":
    """Return the encoded images (n,) of a row group of a parquet file as bytes, null for an empty
    cell. The groups that were read last are kept in this process's memory.

    Args:
        file: The parquet file.
        state: Its state when its labels were read.
        group: Number of the row group in this file, from 0.

    Raises:
        OSError: The file is not there, or cannot be read.
        Refused: It is no parquet file with the needed columns, or is damaged.
    """
    key = (file, state, group)
    cells = _cache.pop(key, None)
    if cells is None:
        cells = open_table(file).images(group)
    _cache[key] = cells
    while len(_cache) > 1 and sum(kept.nbytes for kept in _cache.values()) > _CACHE_BYTES:
        oldest = next(iter(_cache))
        del _cache[oldest]
    return cells


def refuse_several_folders(root: Path, files: Iterable[Path]) -> None:
    """Refuse files below ``root`` that lie in several folders, since they may be of several data
    sets.
    """
    folders = sorted({str(file.parent) for file in files})
    if len(folders) > 1:
        raise Refused(
            f"data.root: {root} holds several data sets, in {', '.join(folders)}; name one of these folders"
        )


def find_shards(root: Path, split: str) -> list[Path]:
    """Find the parquet files of a split, sorted, in a folder or in one below it; returns an empty
    list where there are none.

    Args:
        root: The folder.
        split: Name of the split in the files' names, such as ``validation``.

    Raises:
        Refused: They are in several folders; or one of them is numbered, such as
            ``train-00001-of-00002.parquet``, and they are not all files of one set, each once.
    """
    pattern = f"{split}-*.parquet"
    in_subfolders = [file for file in root.glob(f"*/{pattern}") if not is_hidden(file.parent.name)]
    files = sorted([*root.glob(pattern), *in_subfolders])
    if not files:
        return []
    refuse_several_folders(root, files)
    if any(_NUMBERED.search(file.name) for file in files):
        _refuse_incomplete(files, pattern)
    return files


_NUMBERED = re.compile(r"-(\d+)-of-(\d+)(?:-[0-9a-f]{16})?\.parquet$")
"""End of a numbered file's name: its number, and how many there are. The hub's files of 2022 and
2023 have a hash behind these.
"""


def _refuse_incomplete(files: list[Path], pattern: str) -> None:
    """Refuse numbered parquet files of one folder unless each of one set is there, once.

    Args:
        files: The files.
        pattern: Pattern of their names, such as ``train-*.parquet``, for the errors.

    Raises:
        Refused: A file has no number, or the number of another; their names give different numbers
            of files, so that they are of several sets; or some are missing.
    """
    folder = files[0].parent
    by_number: dict[int, Path] = {}
    totals = set()
    for file in files:
        numbered = _NUMBERED.search(file.name)
        if not numbered:
            raise Refused(
                f"{folder}: {file.name} has no number, as the other files {pattern} have; remove it if it is a copy"
            )
        number, total = map(int, numbered.groups())
        totals.add(total)
        if len(totals) > 1:
            counts = " and of ".join(map(str, sorted(totals)))
            raise Refused(f"{folder}: the files {pattern} are of several sets, of {counts} files")
        if number in by_number:
            names = f"{by_number[number].name} and {file.name}"
            raise Refused(
                f"{folder}: number {number} of the files {pattern} is there twice: {names}"
            )
        by_number[number] = file
    # The hub counts from 0, and others from 1.
    first = 1 if total in by_number and 0 not in by_number else 0
    missing = next(number for number in itertools.count(first) if number not in by_number)
    if len(files) == total and missing == first + total:
        return
    hint = f"; number {missing} is missing" if missing < first + total else ""
    raise Refused(f"{folder}: {len(files)} of the {total} files {pattern} are there{hint}")
