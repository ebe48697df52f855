"""What a store of encoded photographs is; three kinds have this interface:

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
        """The encoded i-th photograph, as it stands in its file.

        Raises:
            OSError: It cannot be read.
            Refused: The photograph is not what it was when the store was made.
        """

    def name(self, i: int) -> str:
        """Name of the i-th photograph in messages: its file, and its place in the file."""

    def files_and_sizes(self) -> Iterator[tuple[str, int]]:
        """Names and sizes, in bytes, of the files, by which ``prepare`` recognises the originals
        without reading them.
        """
