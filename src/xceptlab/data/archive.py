"""Photographs in tar files that are not unpacked: a table says where in the files they lie."""

import functools
import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xceptlab.data.order import Indices
from xceptlab.data.sources import reading
from xceptlab.data.stores import Store
from xceptlab.errors import Refused
from xceptlab.files import write_atomically

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Archive(Store):
    """Store of photographs that are members of tar files.

    Args:
        files: The tar files.
        table: One row a photograph: ``part`` (number of its file in ``files``, from 0), ``offset``
            and ``size`` (bytes), ``label``, ``name`` and, where ``data.prepare`` wrote it, ``crc``
            (its CRC-32).
    """

    files: tuple[Path, ...]
    table: "pyarrow.Table"

    @functools.cached_property
    def labels(self) -> Indices:  # type: ignore[override]
        return self.table["label"].to_numpy()

    def read(self, i: int) -> bytes:
        file = self.files[self._cell("part", i)]
        size = self._cell("size", i)
        # The file is opened for each photograph, since a thousand files cannot be kept open.
        with reading(file), open(file, "rb") as opened:
            opened.seek(self._cell("offset", i))
            data = opened.read(size)
        if len(data) < size:
            raise Refused(f"{file} is cut short")
        if "crc" in self.table.column_names and zlib.crc32(data) != self._cell("crc", i):
            raise Refused("its checksum is not the one it was written with")
        return data

    def name(self, i: int) -> str:
        return f"{self.files[self._cell('part', i)]}: {self._cell('name', i)}"

    def files_and_sizes(self) -> Iterator[tuple[str, int]]:
        return zip(self.table["name"].to_pylist(), self.table["size"].to_pylist(), strict=True)

    def _cell(self, column: str, i: int) -> Any:
        return self.table[column][int(i)].as_py()


def write_table(table: "pyarrow.Table", file: Path) -> None:
    """Write the table of an ``Archive``, whole or not at all, as a file that ``read_table`` can map
    into memory.
    """
    import pyarrow.feather

    buffer = io.BytesIO()
    pyarrow.feather.write_feather(table.combine_chunks(), buffer, compression="uncompressed")
    write_atomically(file, buffer.getvalue())


def read_table(file: Path) -> "pyarrow.Table":
    """Map the table of an ``Archive``, which ``write_table`` has written, into memory.

    Raises:
        OSError: The file cannot be read.
        Refused: It is damaged, lacks a column or has no rows.
    """
    import pyarrow
    import pyarrow.feather

    with reading(file, "damaged; remove it, and it is written again"):
        # The name of the file need not be UTF-8.
        table = pyarrow.feather.read_table(pyarrow.memory_map(os.fsencode(file)))
        # This raises where a column is missing.
        table.select(["part", "offset", "size", "label", "name"])
        if not len(table):
            raise Refused("it has no rows")
        return table
