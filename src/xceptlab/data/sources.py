"""What a data set is to the rest: numbered images with labels."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Indices = NDArray[np.int64]


class Source(Protocol):
    """The images of one split."""

    labels: Indices
    """(n,)"""

    def read(self, index: Indices, draws: NDArray[np.float32] | None) -> Images:
        """Images (B, size, size, 3) of the numbers (B,); ``draws`` (B, DRAWS) where a random crop is cut while decoding."""

    def fingerprint(self) -> str:
        """A hash that differs where decoded images or labels do."""


@dataclass(frozen=True)
class Arrays:
    """Images in memory: (n, size, size, 3) with labels (n,)."""

    images: Images
    labels: Indices

    def read(self, index: Indices, draws: NDArray[np.float32] | None) -> Images:
        return self.images[index]

    def fingerprint(self) -> str:
        return digest(self.images, self.labels)


def digest(*arrays: NDArray) -> str:
    """A hash of arrays' bytes."""
    h = hashlib.sha256()
    for array in arrays:
        h.update(np.ascontiguousarray(array).data)
    return h.hexdigest()[:16]


def missing(name: str, root: str | Path, looked_for: str, remedy: str) -> ValueError:
    """The error for a data set that is not where it should be."""
    return ValueError(f"data.root: {name} is not in {Path(root).resolve()}: looked for {looked_for}; {remedy}")
