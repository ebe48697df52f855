"""``xceptlab data prepare``: photographs once reduced, so that every later epoch decodes a quarter
of the pixels.

The result is tar files of at most 1,000 photographs (``train-00000.tar``, which any tool reads),
each with a table of where they lie, their labels, names and CRC-32s (``train-00000.arrow``), and
per split one table of all (``train.arrow``). Each tar file is written beside its place, read back,
compared and moved there, so that an interruption loses at most the ones in work; the same command
continues. The checksums are compared whenever a photograph is read; ``xceptlab data check --all``
reads them all.
"""

import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from xceptlab.config.schema import DataConfig
from xceptlab.data import imagenet, layouts
from xceptlab.data.archive import read_table, write_table
from xceptlab.data.identity import class_names, contents
from xceptlab.data.photographs import decode
from xceptlab.data.sources import digest, locked
from xceptlab.data.stores import Store
from xceptlab.data.tree import left_alone
from xceptlab.errors import Refused
from xceptlab.files import write_atomically
from xceptlab.signals import die_with_parent, leave_signals_to_parent
from xceptlab.text import say

MEMBERS = 1000
"""Largest number of photographs in a tar file."""
JPEG_SIDE = 65_500
"""Longest side, in pixels, of an image that libjpeg writes."""

Key = tuple[str, int]
"""Key of a tar file: its split and its number."""
Written = tuple[int, list[str]]
"""Result of writing a tar file: the number of its photographs, and a line for each that could not
be decoded.
"""


def prepare(config: DataConfig, workers: int) -> Iterator[tuple[int, int]]:
    """Prepare the photographs that are missing; yields (photographs done, photographs in all),
    first and after each tar file.

    Args:
        config: The data set, with the ``short_side`` and ``quality`` wanted.
        workers: Number of further processes that do the work; with 0 this process does it.

    Raises:
        Refused: An original cannot be decoded and ``on_corrupt`` is ``error`` (``skip`` names it
            and keeps its bytes as they are); the folder is of other originals, or another process
            is at it.
        OSError: A file cannot be written: no space, no permission.
    """
    folder = layouts.prepared_folder(config)
    given = dataclasses.replace(config, short_side=0)
    splits = imagenet.stores(given)
    for line in left_alone(splits.values()):
        say(line)
    try:
        with locked(folder, wait=False):
            _claim(folder, splits, given)
            for leftover in (*folder.glob("*.part"), *folder.glob(".*.tmp")):
                leftover.unlink()
            files = _TarFiles(folder, splits, config)
            missing = [key for key in files.all if not files.written(*key)]
            for key in missing:  # what is written again may differ
                (folder / f"{key[0]}.arrow").unlink(missing_ok=True)
                files.table(*key).unlink(missing_ok=True)
            total = sum(map(files.size, files.all))
            done = total - sum(map(files.size, missing))
            yield done, total
            for photographs, unreadable in _write_all(files, missing, workers):
                for line in unreadable:
                    say(f"{line}; its bytes are kept as they are")
                done += photographs
                yield done, total
            for split in splits:
                files.join(split)
    except BlockingIOError:
        raise Refused(f"{folder}: another process is preparing photographs there") from None


def _claim(folder: Path, splits: dict[str, Store], given: DataConfig) -> None:
    """Record in the folder what its photographs are prepared from.

    Raises:
        Refused: The folder's were prepared from other originals.
    """
    originals = {split: _identity(store) for split, store in splits.items()}
    noted = layouts.originals(folder)
    noted_originals = {part: noted[part] for part in layouts.PARTS if part in noted}
    if (folder / layouts.NOTE).is_file() and noted_originals != originals:
        raise Refused(
            f"data.cache: {folder} holds photographs of other originals; remove it, or name another folder"
        )
    note: dict[str, Any] = originals | {"classes": list(class_names(given))}
    if given.name == "folder":
        note["content"] = contents(given).content
    if note != noted:
        write_atomically(folder / layouts.NOTE, json.dumps(note).encode())


def _identity(store: Store) -> dict[str, Any]:
    files = hashlib.sha256()
    for name, size in store.files_and_sizes():
        files.update(f"{name} {size}\n".encode())
    return {
        "images": len(store.labels),
        "labels": digest(store.labels),
        "files": files.hexdigest()[:16],
    }


class _TarFiles:
    """The tar files of prepared photographs, known by split and number, with a table beside each."""

    def __init__(self, folder: Path, splits: dict[str, Store], config: DataConfig) -> None:
        self.folder, self.splits, self.config = folder, splits, config
        self.all: list[Key] = []
        for split, store in splits.items():
            count = -(-len(store.labels) // MEMBERS)
            self.all += [(split, number) for number in range(count)]

    def written(self, split: str, part: int) -> bool:
        return self._tar(split, part).is_file() and self.table(split, part).is_file()

    def size(self, key: tuple[str, int]) -> int:
        return len(self._members(*key))

    def _members(self, split: str, part: int) -> range:
        return range(part * MEMBERS, min((part + 1) * MEMBERS, len(self.splits[split].labels)))

    def _tar(self, split: str, part: int) -> Path:
        return self.folder / f"{split}-{part:05d}.tar"

    def table(self, split: str, part: int) -> Path:
        return self.folder / f"{split}-{part:05d}.arrow"

    def write(self, key: Key) -> Written:
        """Write a tar file and its table.

        Raises:
            Refused: An original cannot be decoded, and ``on_corrupt`` is ``error``.
            OSError: What was written is not what is read back; no space, no permission.
        """
        import pyarrow

        target = self._tar(*key)
        beside = target.with_suffix(".part")
        rows, unreadable = self._write_tar(key, beside)
        with open(beside, "rb") as file:
            for row in rows:
                file.seek(row["offset"])
                if zlib.crc32(file.read(row["size"])) != row["crc"]:
                    raise OSError(f"{target}: {row['name']} was not written as it was meant to be")
        beside.replace(target)
        write_table(pyarrow.Table.from_pylist(rows), self.table(*key))
        return len(rows), unreadable

    def _write_tar(self, key: Key, path: Path) -> tuple[list[dict[str, Any]], list[str]]:
        """Write the photographs of a tar file; returns the rows of its table, and a line for each
        that cannot be decoded.
        """
        split, part = key
        store = self.splits[split]
        rows: list[dict[str, Any]] = []
        unreadable = []
        with open(path, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
                for i in self._members(split, part):
                    data, label = b"", int(store.labels[i])
                    try:
                        data = store.read(i)
                        data = _reduced(data, self.config)
                    except ValueError as error:
                        unreadable.append(f"{store.name(i)}: no readable image ({error})")
                        if self.config.on_corrupt == "error":
                            raise Refused(unreadable[0]) from None
                    member = tarfile.TarInfo(
                        f"{label:04d}/{i:08d}.{'jpg' if self.config.quality else 'ppm'}"
                    )
                    member.size = len(data)
                    place = {
                        "part": part,
                        "offset": tar.offset + tarfile.BLOCKSIZE,
                        "size": len(data),
                    }
                    rows.append(
                        {**place, "crc": zlib.crc32(data), "label": label, "name": member.name}
                    )
                    tar.addfile(member, io.BytesIO(data))
            file.flush()
            os.fsync(file.fileno())
        return rows, unreadable

    def join(self, split: str) -> None:
        """Write one table of all tar files of a split, which is the sign that the split is
        complete.
        """
        import pyarrow

        whole = self.folder / f"{split}.arrow"
        if not whole.is_file():
            tables = [read_table(self.table(*key)) for key in self.all if key[0] == split]
            write_table(pyarrow.concat_tables(tables), whole)


def _write_all(files: _TarFiles, keys: Sequence[Key], workers: int) -> Iterator[Written]:
    """Write tar files, in this process (0 workers) or in so many others; yields in the order of the
    keys.
    """
    if not workers:
        yield from map(files.write, keys)
        return
    before = multiprocessing.active_children()
    with ProcessPoolExecutor(workers, initializer=_begin_worker, initargs=(files,)) as pool:
        try:
            yield from pool.map(_write, keys)
        except (
            BaseException
        ):  # do not wait for the tar files in work, which are written anew the next time
            for process in multiprocessing.active_children():
                if process not in before:
                    process.kill()
            raise


_files: _TarFiles
"""The tar files that a worker process writes; passed to it once, as the lists of photographs are
long.
"""


def _begin_worker(files: _TarFiles) -> None:
    """Initialise a worker process: it ends with its parent, leaves signals to it, and uses one
    core.
    """
    import torch

    global _files
    _files = files
    die_with_parent()
    leave_signals_to_parent()
    torch.set_num_threads(1)


def _write(key: Key) -> Written:
    return _files.write(key)


def _reduced(data: bytes, config: DataConfig) -> bytes:
    """Reduce a photograph to the short side wanted, never enlarging it; returns a JPEG or, with
    quality 0, a PPM file.

    Raises:
        Refused: The photograph cannot be decoded, or has a side that no JPEG can have.
    """
    from torchvision.io import encode_jpeg
    from torchvision.transforms.v2.functional import resize

    image = decode(data, exif_orientation=config.exif_orientation, max_pixels=config.max_pixels)
    if min(image.shape[1:]) > config.short_side:
        image = resize(image, [config.short_side], antialias=True)
    if config.quality:
        if max(image.shape[1:]) > JPEG_SIDE:  # torchvision 0.29 crashes
            raise Refused(
                f"its longer side has {max(image.shape[1:])} pixels; a JPEG has at most {JPEG_SIDE}"
            )
        return encode_jpeg(image.contiguous(), config.quality).numpy().tobytes()
    return (
        b"P6 %d %d 255\n" % (image.shape[2], image.shape[1])
        + image.permute(1, 2, 0).numpy().tobytes()
    )
