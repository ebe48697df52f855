"""The interface of a store of encoded photographs. There are three kinds of stores:

- ``tree.Tree``: a folder of files for each class;
- ``archive.Archive``: members of tar files;
- ``shards.Shards``: rows of parquet files.

A store of a million photographs takes some tens of megabytes of memory: names are one Arrow array,
never a list of strings.
"""

from collections.abc import Iterator
from typing import Protocol

from xceptlab.data.order import Indices


class Store(Protocol):
    """Encoded photographs of one part of a data set, which are read by their numbers."""

    labels: Indices
    """Labels (n,) of the photographs."""

    def read(self, i: int) -> bytes:
        """Return the bytes of the i-th photograph, encoded as it stands in its file.

        Raises:
            OSError: Its file cannot be read, such as one that was removed.
            Refused: The file is damaged, cut short or no regular one, its cell in a parquet file is
                empty, or its checksum differs.
        """

    def name(self, i: int) -> str:
        """Return the i-th photograph's name in messages: its file and, for a tar or parquet file,
        its place in it.
        """

    def files_and_sizes(self) -> Iterator[tuple[str, int]]:
        """Yield the names and sizes (bytes) of the photographs or, for parquet files, of the files;
        by them ``data.prepare`` recognises the originals without reading them.
        """
