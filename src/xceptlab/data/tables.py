"""Parquet files of images and labels, as the Hugging Face hub has them: what their columns must be.

Both columns' types are checked when a file is opened, before anything is read, so that what is no image or no label is one line
that says file, column, row, what was found and what is allowed.
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
"""What the hub's data sets call their column of images."""
LABELS = ("label",)
MAX_CLASSES = 1_000_000
"""A label from here on is no number of a class, but an id or wrong bytes."""


@dataclass(frozen=True)
class ImageTable:
    """A parquet file whose two columns were checked; ``open_table`` opens one."""

    file: Path
    parquet: "pyarrow.parquet.ParquetFile"
    image_column: str
    label_column: str
    sizes: tuple[int, ...]
    """Rows of each row group."""

    def labels(self, classes: int = MAX_CLASSES) -> Indices:
        """(n,), each from 0 to ``classes`` - 1.

        Raises:
            Refused: The first row whose label is none.
        """
        name = self.label_column
        with reading(self.file):
            column = self.parquet.read(columns=[name])[name]
            empty = column.is_null().to_numpy()
            values = column.fill_null(0).to_numpy()
        if len(values) != sum(self.sizes):
            raise Refused(f"{self.file}: a damaged file ({len(values)} labels of {sum(self.sizes)} rows)")
        wrong = empty | (values < 0) | (values >= classes)
        if wrong.any():
            row = int(wrong.argmax())
            found = "empty" if empty[row] else str(values[row])
            raise Refused(
                f"{self.file}: row {row} of the column {name} is {found}; it must be a whole number from 0 to {classes - 1}"
            )
        return values.astype(np.int64)

    def images(self, group: int) -> "pyarrow.ChunkedArray":
        """The encoded images of a row group; an empty cell is null.

        Raises:
            Refused: They cannot be read.
        """
        import pyarrow.compute
        import pyarrow.types

        name = self.image_column
        nested = pyarrow.types.is_struct(self.parquet.schema_arrow.field(name).type)
        with reading(f"{self.file}: row group {group}"):
            # the paths beside the bytes are not read: they need not be UTF-8
            cells = self.parquet.read_row_group(group, columns=[f"{name}.bytes" if nested else name])[name]
            cells = pyarrow.compute.struct_field(cells, "bytes") if nested else cells
        if len(cells) != self.sizes[group]:
            raise Refused(f"{self.file}: row group {group}: a damaged file ({len(cells)} images of {self.sizes[group]} rows)")
        return cells


def open_table(file: Path, labels: tuple[str, ...] = LABELS) -> ImageTable:
    """Open a parquet file and check its columns.

    Args:
        file: The file.
        labels: Names of the column of labels, of which the first that is there is taken.

    Raises:
        Refused: No parquet file, a column is missing, or it is not of images or of labels.
    """
    import pyarrow.parquet

    with reading(file, "not a readable parquet file"):
        parquet = pyarrow.parquet.ParquetFile(_regular(file))
        sizes = tuple(parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups))
        names = parquet.schema_arrow.names
    if min(sizes, default=0) < 0 or sum(sizes) != parquet.metadata.num_rows:
        raise Refused(f"{file}: a damaged file (row groups of {sum(sizes)} rows; it claims {parquet.metadata.num_rows})")
    table = ImageTable(file, parquet, _present(file, names, IMAGES), _present(file, names, labels), sizes)
    _check_images(table)
    _check_labels(table)
    return table


def feature_names(file: Path, column: str) -> tuple[str, ...]:
    """The names of a column's classes, as the hub's files keep them in their schema; empty where this one has none.

    Raises:
        Refused: No parquet file.
    """
    import pyarrow.parquet

    with reading(file, "not a readable parquet file"):
        metadata = pyarrow.parquet.read_schema(_regular(file)).metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        return tuple(map(str, feature["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def _regular(file: Path) -> "pyarrow.NativeFile":
    """Open a file, whose name need not be UTF-8; from a pipe or a device nobody may ever write."""
    import pyarrow

    if not file.is_file() and file.exists():
        raise Refused("it is no regular file")
    return pyarrow.OSFile(os.fsencode(file))


def _present(file: Path, names: list[str], wanted: tuple[str, ...]) -> str:
    for name in wanted:
        if names.count(name) > 1:
            raise Refused(f"{file}: the column {name} is there {names.count(name)} times")
        if name in names:
            return name
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    raise Refused(f"{file}: a column {' or '.join(wanted)} is needed; it has {', '.join(names[:10])}{more}")


def _check_images(table: ImageTable) -> None:
    """Raises: Refused: The column does not hold the bytes of images."""
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
    """Raises: Refused: The column does not hold whole numbers; its first row is shown."""
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
    raise Refused(f"{column} is of {str(found)[:80]}{example}; it must be of whole numbers, the classes' from 0")
