"""Parquet files of images and labels, as the Hugging Face hub has them, and what their columns must
be.

The types of both columns are checked when a file is opened, before anything is read. An error about
a column is one line that names the file, the column and perhaps the row, what was found and what is
allowed.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xceptlab.data.order import Indices
from xceptlab.data.sources import reading
from xceptlab.errors import Refused

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

IMAGES = ("img", "image")
"""Possible names of the column of images."""
LABELS = ("label",)
"""Possible names of the column of labels; the files of CIFAR-100 have others."""
MAX_CLASSES = 1_000_000
"""Largest number of classes; a larger label is no number of a class, but an id or wrong bytes."""


@dataclass(frozen=True)
class ImageTable:
    """An open parquet file with a column of images and one of labels, whose types have been
    checked. ``open_table`` makes one.
    """

    file: Path
    parquet: "pyarrow.parquet.ParquetFile"
    image_column: str
    label_column: str
    sizes: tuple[int, ...]
    """The number of rows in each row group."""

    def labels(self, classes: int = MAX_CLASSES) -> Indices:
        """Read the labels (n,) of all rows, each from 0 to ``classes`` - 1.

        Raises:
            OSError: The file cannot be read.
            Refused: The file is damaged, or a row holds no such label; the message names the first
                such row.
        """
        name = self.label_column
        with reading(self.file):
            column = self.parquet.read(columns=[name])[name]
            empty = column.is_null().to_numpy()
            values = column.fill_null(0).to_numpy()
        if len(values) != sum(self.sizes):
            raise Refused(
                f"{self.file}: a damaged file ({len(values)} labels of {sum(self.sizes)} rows)"
            )
        wrong = empty | (values < 0) | (values >= classes)
        if wrong.any():
            row = int(wrong.argmax())
            found = "empty" if empty[row] else str(values[row])
            raise Refused(
                f"{self.file}: row {row} of the column {name} is {found}; it must be a whole number from 0 to {classes - 1}"
            )
        return values.astype(np.int64)

    def images(self, group: int) -> "pyarrow.ChunkedArray":
        """Read the encoded images (n,) of a row group, given by its number from 0, as bytes; an
        empty cell is null.

        Raises:
            OSError: The file cannot be read.
            Refused: The file is damaged.
        """
        import pyarrow.compute
        import pyarrow.types

        name = self.image_column
        nested = pyarrow.types.is_struct(self.parquet.schema_arrow.field(name).type)
        with reading(f"{self.file}: row group {group}"):
            if nested:
                # The paths beside the bytes are not read, since they need not be UTF-8.
                structs = self.parquet.read_row_group(group, columns=[f"{name}.bytes"])[name]
                cells = pyarrow.compute.struct_field(structs, "bytes")
            else:
                cells = self.parquet.read_row_group(group, columns=[name])[name]
        if len(cells) != self.sizes[group]:
            raise Refused(
                f"{self.file}: row group {group}: a damaged file ({len(cells)} images of {self.sizes[group]} rows)"
            )
        return cells


def open_table(file: Path, labels: tuple[str, ...] = LABELS) -> ImageTable:
    """Open a parquet file and check its columns.

    Args:
        file: The file.
        labels: Possible names of the column of labels; the first one that is there is taken.

    Raises:
        OSError: The file is not there, or cannot be read.
        Refused: It is no parquet file, or a damaged one; a column is missing or there twice; or a
            column is not of encoded images or of whole numbers.
    """
    import pyarrow.parquet

    with reading(file, "not a readable parquet file"):
        parquet = pyarrow.parquet.ParquetFile(_open_regular(file))
        sizes = tuple(
            parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)
        )
        names = parquet.schema_arrow.names
    if min(sizes, default=0) < 0 or sum(sizes) != parquet.metadata.num_rows:
        raise Refused(
            f"{file}: a damaged file (row groups of {sum(sizes)} rows; it claims {parquet.metadata.num_rows})"
        )
    table = ImageTable(
        file, parquet, _present(file, names, IMAGES), _present(file, names, labels), sizes
    )
    _check_images(table)
    _check_labels(table)
    return table


def feature_names(file: Path, column: str) -> tuple[str, ...]:
    """Read the names of the classes, by label, that the hub's files keep in their schema for a
    column of labels; returns an empty tuple where the file has none.

    Raises:
        OSError: The file is not there, or cannot be read.
        Refused: It is no parquet file, or a damaged one.
    """
    import pyarrow.parquet

    with reading(file, "not a readable parquet file"):
        metadata = pyarrow.parquet.read_schema(_open_regular(file)).metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        return tuple(map(str, feature["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def _open_regular(file: Path) -> "pyarrow.NativeFile":
    """Open a parquet file for pyarrow, also one whose name is not UTF-8.

    Raises:
        OSError: It is not there, or cannot be read.
        Refused: It is no regular file: a folder, or a pipe or a device, on which a reader may wait
            for ever.
    """
    import pyarrow

    if not file.is_file() and file.exists():
        raise Refused("it is no regular file")
    return pyarrow.OSFile(os.fsencode(file))


def _present(file: Path, names: list[str], wanted: tuple[str, ...]) -> str:
    """Return the first of the ``wanted`` columns that is among a file's ``names``.

    Raises:
        Refused: None of them is there, or the first that is there is there several times.
    """
    for name in wanted:
        if names.count(name) > 1:
            raise Refused(f"{file}: the column {name} is there {names.count(name)} times")
        if name in names:
            return name
    there = ", ".join(names[:10])
    if len(names) > 10:
        there += f" and {len(names) - 10} more"
    raise Refused(f"{file}: a column {' or '.join(wanted)} is needed; it has {there}")


def _check_images(table: ImageTable) -> None:
    """Check that a table's column of images is of bytes, or of structs with a field ``bytes`` of
    them.

    Raises:
        Refused: It is of another type.
    """
    import pyarrow.types

    found = table.parquet.schema_arrow.field(table.image_column).type
    content = found
    if pyarrow.types.is_struct(found):
        position = found.get_field_index("bytes")
        content = found.field(position).type if position >= 0 else None
    if str(content) not in ("binary", "large_binary", "binary_view"):
        raise Refused(
            f"{table.file}: the column {table.image_column} is of {str(found)[:80]}; it must be of the bytes of encoded images "
            "(binary, or a struct of bytes and path), not of paths, URLs or pixels"
        )


def _check_labels(table: ImageTable) -> None:
    """Check that a table's column of labels is of whole numbers.

    Raises:
        Refused: It is of another type; the message shows the first row's value, if there is one.
    """
    import pyarrow.types

    found = table.parquet.schema_arrow.field(table.label_column).type
    if pyarrow.types.is_integer(found):
        return
    example = ""
    if sum(table.sizes):
        with reading(table.file):
            first = next(table.parquet.iter_batches(batch_size=1, columns=[table.label_column]))
            example = f", in row 0 {first.column(0)[0].as_py()!r:.40}"
    column = f"{table.file}: the column {table.label_column}"
    raise Refused(
        f"{column} is of {str(found)[:80]}{example}; it must be of whole numbers, the classes' from 0"
    )
