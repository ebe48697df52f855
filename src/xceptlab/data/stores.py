"""What a store of encoded photographs is; three kinds have this interface:

- ``tree.Tree``: a folder of files for each class;
- ``archive.Archive``: members of tar files;
- ``shards.Shards``: rows of parquet files.

A store of a million photographs takes some tens of megabytes of memory: names are one Arrow array, never a list of strings.
"""

from collections.abc import Iterator
from typing import Protocol

from xceptlab.data.order import Indices


class Store(Protocol):
    """The encoded photographs of one part of a data set, by their numbers."""

    labels: Indices
    """(n,)"""

    def read(self, i: int) -> bytes:
        """The encoded i-th photograph, as it stands in its file.

        Raises:
            OSError: It cannot be read.
            Refused: It is not what it was when the store was made.
        """

    def name(self, i: int) -> str:
        """How messages name the i-th photograph: its file, and its place in that."""

    def files_and_sizes(self) -> Iterator[tuple[str, int]]:
        """Names of files and their bytes, by which ``prepare`` recognises the originals without reading them."""
