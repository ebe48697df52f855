"""ImageNet's original files: the tar files of ILSVRC 2012, read in place, and the labels in its
development kit.

A tar file is searched for its photographs once: a table of where in it they lie is kept in the
user's cache.
"""

import hashlib
import math
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xceptlab.data.archive import Archive, read_table, write_table
from xceptlab.data.cache import user_cache
from xceptlab.data.sources import locked, printable, reading
from xceptlab.errors import Refused
from xceptlab.text import say

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TARS = (TRAIN_TAR, VAL_TAR, DEVKIT)
SAY_SECONDS = 10
"""Seconds between two messages on the progress of a long search."""

Row = dict[str, Any]
"""The row of one photograph in the table of an ``archive.Archive``, by column: where in the tar
file the photograph lies, its label and its name.
"""


def require_devkit(root: Path) -> None:
    """Check that the development kit is in a folder.

    Raises:
        Refused: It is not.
    """
    if not (root / DEVKIT).is_file():
        raise Refused(f"{root}: {DEVKIT} is missing, which has the labels of {VAL_TAR}")


def train_archive(file: Path) -> Archive:
    """Open the training photographs, which are in a tar file that holds one tar file per class. The
    labels follow the order of the inner files' names.

    The places of the photographs in the file are read from the user's cache; at first they are
    searched for, which takes minutes, and kept there.

    Raises:
        OSError: The file cannot be read, or the cache cannot be written.
        Refused: The file or one in it is no whole tar file, there is no photograph, or what the
            cache keeps is damaged.
        RuntimeError: There is no place for a cache, since the user has no home.
    """
    return _indexed(file, _train_rows)


def val_archive(root: Path) -> Archive:
    """Open the validation photographs, which are in one tar file in the folder ``root``; their
    labels are in the development kit beside it. Both are read once, and what they tell is kept in
    the user's cache.

    Raises:
        OSError: A file cannot be read, such as a tar file that is not there, or the cache cannot be
            written.
        Refused: The development kit is missing, a file is damaged, or there are not as many labels
            as photographs.
        RuntimeError: There is no place for a cache, since the user has no home.
    """
    return _indexed(root / VAL_TAR, lambda file: _val_rows(file, root), labels_from=root / DEVKIT)


def _indexed(
    file: Path, search: Callable[[Path], Iterator[list[Row]]], labels_from: Path | None = None
) -> Archive:
    """Open the photographs in a tar file, sorted by label and name as in an unpacked tree of
    folders. Where they lie is read from the user's cache, or searched for and kept there.

    Args:
        file: The tar file.
        search: Yields the table rows of the photographs in a tar file, some at a time.
        labels_from: Another file that the labels depend on; None for none.

    Raises:
        OSError: The file cannot be read, or the table cannot be written.
        Refused: The search refuses the file or finds no photograph, or the kept table is damaged.
        RuntimeError: There is no place for a cache, since the user has no home.
    """
    import pyarrow

    table_file = user_cache() / f"{file.stem}-{_state_digest(file, labels_from)}.arrow"
    if not table_file.is_file():
        # Of several processes one searches, and the others find what it has written.
        with locked(table_file.parent):
            if not table_file.is_file():
                tables = [pyarrow.Table.from_pylist(rows) for rows in search(file) if rows]
                if not tables:
                    raise Refused(f"{file}: holds no photograph")
                table = pyarrow.concat_tables(tables)
                by_label_and_name = [("label", "ascending"), ("name", "ascending")]
                write_table(table.sort_by(by_label_and_name), table_file)
    return Archive((file,), read_table(table_file))


def _state_digest(*files: Path | None) -> str:
    """Return a digest of the paths, sizes and modification times of files, so that a table made of
    an earlier state of them is not used. None and files that are not there are left out.
    """
    states = []
    for file in files:
        if file is not None and file.exists():
            stat = file.stat()
            states.append((str(file.resolve()), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


def _train_rows(file: Path) -> Iterator[list[Row]]:
    """Yield the table rows of the training photographs, those of a class at a time, from a tar file
    that holds one tar file per class. Since reading 1.28 million headers takes minutes, the user is
    told from time to time how many classes are done.

    Raises:
        OSError: The file cannot be read.
        Refused: It or a tar file in it is damaged or cut short.
    """
    with _opened(file, file) as outer:
        classes = sorted(_files(outer, file), key=lambda member: member.name)
        said = time.monotonic()
        for label, member in enumerate(classes):
            if time.monotonic() >= said + SAY_SECONDS:
                said = time.monotonic()
                say(
                    f"{file}: finding its photographs, which is needed once: {label} of {len(classes)} classes"
                )
            where = f"{file}: {member.name}"
            with _opened(outer.extractfile(member), where) as inner:
                photographs = _files(inner, where)
            yield [_row(photograph, label, member.offset_data) for photograph in photographs]


def _val_rows(file: Path, root: Path) -> Iterator[list[Row]]:
    """Yield the table rows of all validation photographs at once; their labels are in the
    development kit in the folder ``root``.

    Raises:
        OSError: A file cannot be read.
        Refused: The development kit is missing, a file is damaged, or there are not as many labels
            as photographs.
    """
    _, labels = val_labels(root)
    with _opened(file, file) as tar:
        photographs = sorted(_files(tar, file), key=lambda member: member.name)
    if len(photographs) != len(labels):
        raise Refused(
            f"{file}: holds {len(photographs)} photographs; the development kit has labels of {len(labels)}"
        )
    yield [_row(photograph, label) for photograph, label in zip(photographs, labels, strict=True)]


def _row(member: tarfile.TarInfo, label: int, start: int = 0) -> Row:
    """Return the table row of one photograph.

    Args:
        member: The photograph's place in its tar file.
        label: Its label.
        start: Byte at which its tar file begins in an outer tar file; 0 where there is none.
    """
    return {
        "part": 0,
        "offset": start + member.offset_data,
        "size": member.size,
        "label": label,
        "name": printable(member.name),
    }


def _opened(file: Any, where: object) -> tarfile.TarFile:
    """Open an uncompressed tar file.

    Args:
        file: Its path, or an open file.
        where: Its name in errors.

    Raises:
        OSError: It is not there, or cannot be read.
        Refused: It is no tar file.
    """
    with reading(where, "not a tar file"):
        if isinstance(file, Path):
            return tarfile.open(file, "r:")
        return tarfile.open(fileobj=file, mode="r:")


def _files(tar: tarfile.TarFile, where: object) -> list[tarfile.TarInfo]:
    """List the regular files in a tar file, and check that it is complete; ``where`` is its name
    in errors.

    Raises:
        OSError: It cannot be read.
        Refused: It is damaged or cut short.
    """
    with reading(where, "not a whole tar file"):
        members = []
        end = 0
        for member in tar:
            # The tarfile of older Pythons would loop for ever (CVE-2025-8194).
            if member.size < 0:
                raise Refused(f"{member.name} has a negative size")
            members.append(member)
            blocks = math.ceil(member.size / tarfile.BLOCKSIZE)
            end = max(end, member.offset_data + blocks * tarfile.BLOCKSIZE)
        assert tar.fileobj is not None
        tar.fileobj.seek(end)
        closing_mark = tar.fileobj.read(tarfile.BLOCKSIZE)
    if closing_mark != bytes(tarfile.BLOCKSIZE):
        raise Refused(f"{where}: the tar file is cut short; it ends without its closing mark")
    return [member for member in members if member.isfile()]


def val_labels(root: Path) -> tuple[tuple[str, ...], list[int]]:
    """Read classes and validation labels from the development kit of ILSVRC 2012.

    Args:
        root: The folder with the development kit.

    Returns:
        The names of the classes (WordNet ids) by label, and the label of each validation
        photograph, from 0, in the order of the photographs' names.

    Raises:
        OSError: The development kit cannot be read.
        Refused: The development kit is not there, or is not that of ILSVRC 2012.
    """
    import gzip
    import io

    from scipy.io import loadmat

    require_devkit(root)
    kit = root / DEVKIT
    with reading(kit, "not the development kit of ILSVRC 2012"):
        # This verifies the checksum: SciPy crashes on a damaged .mat file.
        unpacked = gzip.decompress(kit.read_bytes())
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as tar:
            files = {
                Path(member.name).name: tar.extractfile(member)
                for member in tar.getmembers()
                if member.isfile()
            }
            meta = loadmat(io.BytesIO(files["meta.mat"].read()), squeeze_me=True)  # type: ignore[union-attr]
            truth = files["ILSVRC2012_validation_ground_truth.txt"].read().split()  # type: ignore[union-attr]
        # Classes are the synsets without children; those with children are their hypernyms.
        leaves = []
        for synset in meta["synsets"]:
            if int(synset["num_children"]) == 0:
                leaves.append((str(synset["WNID"]), int(synset["ILSVRC2012_ID"])))
        leaves.sort()
        label_of = {number: label for label, (_, number) in enumerate(leaves)}
        classes = tuple(wnid for wnid, _ in leaves)
        return classes, [label_of[int(number)] for number in truth]
