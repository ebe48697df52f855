"""The store of photographs that are single files, in a folder for each class or all in one folder.

It also lists, for messages about the data, what is ignored: other files in class folders, and
photographs outside of them.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xceptlab.data.order import Indices
from xceptlab.data.sources import printable, regular_bytes
from xceptlab.data.stores import Store
from xceptlab.errors import Refused

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm")
"""Suffixes, in lower case, of the files that are taken for photographs."""
_NAMED = 3
"""Largest number of a folder's ignored files that a message names; it only counts the others."""


@dataclass(frozen=True)
class Tree(Store):
    """Store of photographs that are files ``<folder>/<class>/<file>``, the layout of torchvision's
    ImageFolder, or all ``<folder>/<file>``. They are sorted by class, and by name within a class.
    """

    folder: Path
    classes: tuple[str, ...]
    """Names of the classes, which are also those of their folders, by label."""
    labels: Indices
    """Labels (n,) of the photographs."""
    files: "pyarrow.Array"
    """Names (n,) of the files as bytes, since they need not be UTF-8."""
    flat: bool = False
    """Whether the photographs lie in the folder itself, not in a folder for each class."""
    others: dict[str, list[str]] = field(default_factory=dict)
    """The names of what is ignored: by class, what its folder holds and is no photograph by its
    suffix; under "", the photographs that lie in no class's folder. Empty where ``flat`` is true.
    """

    @classmethod
    def of(cls, folder: Path, classes: tuple[str, ...]) -> "Tree":
        """Make the store of the photographs in the folders of some classes; a class without a
        folder has none. Files with other suffixes than ``SUFFIXES`` are ignored.

        Args:
            folder: The folder of the class folders.
            classes: Names of the classes, by label.
        """
        import pyarrow

        files = [pyarrow.array([], pyarrow.binary())]
        counts = []
        others = {"": photographs_in(folder)}
        for name in classes:
            entries = _entries(folder / name)
            photographs = [os.fsencode(entry) for entry in entries if is_photograph(entry)]
            files.append(pyarrow.array(photographs, pyarrow.binary()))
            counts.append(len(photographs))
            others[name] = [entry for entry in entries if not is_photograph(entry)]
        return cls(
            folder,
            classes,
            labels=np.repeat(np.arange(len(classes)), counts),
            files=pyarrow.concat_arrays(files),
            others={name: entries for name, entries in others.items() if entries},
        )

    @classmethod
    def of_flat(cls, folder: Path, classes: tuple[str, ...], labels: list[int]) -> "Tree":
        """Make the store of photographs that lie in one folder without class folders, in the same
        order as if each class had a folder of its own.

        Args:
            folder: The folder of the photographs.
            classes: Names of the classes, by label.
            labels: Labels of the photographs, in the order of the photographs' names.

        Raises:
            Refused: There are not as many photographs as labels.
        """
        import pyarrow

        names = photographs_in(folder)
        if len(names) != len(labels):
            raise Refused(
                f"{printable(str(folder))}: holds {len(names)} photographs; there are labels of {len(labels)}"
            )
        by_class = np.argsort(labels, kind="stable")
        files = [os.fsencode(names[i]) for i in by_class]
        return cls(
            folder,
            classes,
            np.array(labels)[by_class],
            pyarrow.array(files, pyarrow.binary()),
            flat=True,
        )

    def read(self, i: int) -> bytes:
        return regular_bytes(self._path(i))

    def name(self, i: int) -> str:
        return printable(self._path(i))

    def _path(self, i: int) -> str:
        """Return the path of the i-th photograph's file."""
        file = os.fsdecode(self.files[int(i)].as_py())
        if self.flat:
            return os.path.join(self.folder, file)
        return os.path.join(self.folder, self.classes[self.labels[i]], file)

    def files_and_sizes(self) -> Iterator[tuple[str, int]]:
        for i, file in enumerate(self.files):
            yield printable(os.fsdecode(file.as_py())), os.path.getsize(self._path(i))

    def left_alone(self) -> Iterator[str]:
        """Yield a line for each folder with ignored files: the names of the first of them, the
        number of the others, and the reason.
        """
        for name, entries in self.others.items():
            described = [self._described(name, entry) for entry in entries[:_NAMED]]
            shown = ", ".join(described)
            if len(entries) > _NAMED:
                shown += f" and {len(entries) - _NAMED} more"
            reason = f"not {', '.join(SUFFIXES)}" if name else "in no class's folder"
            yield f"{printable(str(self.folder / name))}: {shown}: left alone, {reason}"

    def _described(self, name: str, entry: str) -> str:
        """Return the name of an ignored ``entry`` in the folder of the class ``name`` for a
        message; if the entry is a folder, with the number of photographs in it and below it.
        """
        path = self.folder / name / entry
        if path.is_dir():
            return printable(f"{entry}/ ({_photographs_below(path)} photographs)")
        return printable(entry)

    def left_alone_in_short(self) -> str:
        """Return one line with the number of ignored files for each reason; empty where there are
        none. Of a folder below a class's only the photographs are counted.
        """
        nested = 0
        wrong_suffix = 0
        outside = len(self.others.get("", []))
        for name in self.others.keys() - {""}:
            for entry in self.others[name]:
                path = self.folder / name / entry
                if path.is_dir():
                    nested += _photographs_below(path)
                else:
                    wrong_suffix += 1
        total = nested + wrong_suffix + outside
        if not total:
            return ""
        counts = {
            "photographs in folders below a class's": nested,
            f"with other suffixes than {', '.join(SUFFIXES)}": wrong_suffix,
            "photographs in no class's folder": outside,
        }
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
        return f"{printable(str(self.folder))}: files left alone: {total:,} ({reasons}); `xceptlab data check` names them"


def left_alone(stores: Iterable[Store]) -> Iterator[str]:
    """Yield a line for each of the stores that is a tree of files of which some are ignored: how
    many these are, and why.
    """
    for store in stores:
        if not isinstance(store, Tree):
            continue
        line = store.left_alone_in_short()
        if line:
            yield line


def photographs_in(folder: Path) -> list[str]:
    """Return the sorted names of the photographs that lie in a folder itself; an empty list where
    there is no such folder.
    """
    return [name for name in _entries(folder) if is_photograph(name)]


def _entries(folder: Path) -> list[str]:
    """Return the sorted names of what is in a folder and not hidden; an empty list where there is
    no such folder.
    """
    if not folder.is_dir():
        return []
    return sorted(name for name in os.listdir(folder) if not is_hidden(name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, like those that other programs leave: macOS's
    ``._a.jpg``, ``.ipynb_checkpoints``.
    """
    return name.startswith(".")


def is_photograph(name: str) -> bool:
    """Whether a file is taken for a photograph by its name alone, since opening a million files
    would take an hour: it has one of ``SUFFIXES``, in upper or lower case, and is not hidden.
    """
    return name.lower().endswith(SUFFIXES) and not is_hidden(name)


def _photographs_below(folder: Path) -> int:
    """Return the number of photographs, by their suffix, in a folder and in all folders below it;
    hidden files and folders are left out.
    """
    count = 0
    for _, subfolders, names in os.walk(folder):
        # The walk goes on with the folders that are left in this list.
        subfolders[:] = [name for name in subfolders if not is_hidden(name)]
        count += sum(map(is_photograph, names))
    return count


def folders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, without hidden ones.

    Raises:
        OSError: The folder is not there, or cannot be read.
    """
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name)
    )
