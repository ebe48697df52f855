"""The command ``xceptlab data prepare``: photographs are reduced once, so that every later epoch
has fewer pixels to decode.

The result is tar files of at most 1,000 photographs (``train-00000.tar``, which any tool reads).
Each has a table of where its photographs lie, with their labels, names and CRC-32s
(``train-00000.arrow``), and each split has one table of all (``train.arrow``).

A tar file is written under another name, read back, compared and then renamed. So an interruption
loses at most the files in work, and the same command continues. The CRC-32 is compared whenever a
photograph is read; ``xceptlab data check --all`` reads them all.
"""

import dataclasses
import hashlib
import io
import json
import math
import multiprocessing
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
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
from xceptlab.signals import belong_to_parent
from xceptlab.text import say

MEMBERS = 1000
"""Largest number of photographs in a tar file."""
JPEG_SIDE = 65_500
"""Longest side, in pixels, of an image that libjpeg writes."""

TarKey = tuple[str, int]
"""Key of a tar file: its split, such as ``train``, and its number in the split, from 0."""
Written = tuple[int, list[str]]
"""Result of writing a tar file: the number of its photographs, and a line for each that could not
be decoded.
"""


def prepare(config: DataConfig, workers: int) -> Iterator[tuple[int, int]]:
    """Reduce the photographs of a data set to ``short_side`` and write them into tar files in the
    folder ``layouts.prepared_folder``. Tar files that are complete from an earlier call are kept.

    Args:
        config: The data set, with the ``short_side`` and ``quality`` wanted.
        workers: Number of further processes that do the work; with 0 this process does it.

    Yields:
        The number of photographs done and the number of all, at first and after each tar file.

    Raises:
        Refused: The originals are not there, or have faults as a data set; one cannot be decoded,
            or has too long a side for a JPEG, and ``on_corrupt`` is ``error`` (``skip`` names it
            and keeps its bytes as they are); the folder's photographs were prepared from others,
            or another process is preparing them; a process that writes them was killed; or the note
            on their originals, or the table of a tar file, is damaged.
        OSError: An original cannot be read, a file cannot be written (no space, no permission), or
            what was written is not what is read back.
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
            # What is written again may differ, so that the tables of what was there are void.
            for key in missing:
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
    """Note in a folder what its photographs are prepared from.

    Args:
        folder: The folder of the prepared photographs.
        splits: The originals, by split.
        given: The data set of the originals.

    Raises:
        OSError: The note cannot be written, or an original is not there any more.
        Refused: The folder's photographs were prepared from other originals, or the note on them is
            damaged.
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
    """Return what identifies the originals of a split, without reading the photographs: under
    ``images`` their number, under ``labels`` a hash of their labels, and under ``files`` one of the
    names and sizes of their files or, in tar files, of the members.
    """
    files = hashlib.sha256()
    for name, size in store.files_and_sizes():
        files.update(f"{name} {size}\n".encode())
    return {
        "images": len(store.labels),
        "labels": digest(store.labels),
        "files": files.hexdigest()[:16],
    }


class _TarFiles:
    """The tar files of prepared photographs, each with a table of where its photographs lie.

    Args:
        folder: The folder of the files.
        splits: The originals, by split.
        config: How they are prepared.
    """

    def __init__(self, folder: Path, splits: dict[str, Store], config: DataConfig) -> None:
        self.folder = folder
        self.splits = splits
        self.config = config
        self.all: list[TarKey] = []
        for split, store in splits.items():
            count = math.ceil(len(store.labels) / MEMBERS)
            self.all += [(split, number) for number in range(count)]

    def written(self, split: str, part: int) -> bool:
        """Whether a tar file and its table are there, and so complete."""
        return self._tar(split, part).is_file() and self.table(split, part).is_file()

    def size(self, key: TarKey) -> int:
        """Return the number of photographs in a tar file, whether it is there or not."""
        return len(self._members(*key))

    def _members(self, split: str, part: int) -> range:
        """Return the numbers of a tar file's photographs among the originals of the split."""
        end = min((part + 1) * MEMBERS, len(self.splits[split].labels))
        return range(part * MEMBERS, end)

    def _tar(self, split: str, part: int) -> Path:
        """Return the path of a split's tar file number ``part``, whether it is there or not."""
        return self.folder / f"{split}-{part:05d}.tar"

    def table(self, split: str, part: int) -> Path:
        """Return the path of the table of a split's tar file number ``part``, whether it is there
        or not.
        """
        return self.folder / f"{split}-{part:05d}.arrow"

    def write(self, key: TarKey) -> Written:
        """Write a tar file and its table; the table comes last, as the sign that both are complete.

        Returns:
            The number of photographs in the file, and a line for each of them that cannot be
            decoded or reduced, whose bytes are kept as they are.

        Raises:
            Refused: An original cannot be decoded or reduced, and ``on_corrupt`` is ``error``.
            OSError: An original cannot be read, a file cannot be written (no space, no permission),
                or what was written is not what is read back.
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

    def _write_tar(self, key: TarKey, path: Path) -> tuple[list[dict[str, Any]], list[str]]:
        """Write the photographs of a tar file.

        Args:
            key: The tar file's split and number.
            path: The file to write.

        Returns:
            The rows of the tar file's table, each by column, and a message for each photograph that
            cannot be decoded or reduced. The bytes of such a photograph are kept as they are; if
            the store refuses to read them, as damaged ones, its member of the tar file is empty.

        Raises:
            Refused: An original cannot be decoded or reduced, and ``on_corrupt`` is ``error``.
            OSError: An original cannot be read, or the file cannot be written.
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
                    except Refused as error:
                        unreadable.append(f"{store.name(i)}: no readable image ({error})")
                        if self.config.on_corrupt == "error":
                            raise Refused(unreadable[0]) from None
                    suffix = "jpg" if self.config.quality else "ppm"
                    member = tarfile.TarInfo(f"{label:04d}/{i:08d}.{suffix}")
                    member.size = len(data)
                    row = {
                        "part": part,
                        "offset": tar.offset + tarfile.BLOCKSIZE,
                        "size": len(data),
                        "crc": zlib.crc32(data),
                        "label": label,
                        "name": member.name,
                    }
                    rows.append(row)
                    tar.addfile(member, io.BytesIO(data))
            file.flush()
            os.fsync(file.fileno())
        return rows, unreadable

    def join(self, split: str) -> None:
        """Join the tables of a split's tar files to one table, ``<split>.arrow``, which is the sign
        that the split is complete. Where this is there already, do nothing.

        Raises:
            OSError: A table cannot be read, or the joined one cannot be written.
            Refused: A table is damaged.
        """
        import pyarrow

        whole = self.folder / f"{split}.arrow"
        if not whole.is_file():
            tables = [read_table(self.table(*key)) for key in self.all if key[0] == split]
            write_table(pyarrow.concat_tables(tables), whole)


def _write_all(files: _TarFiles, keys: Sequence[TarKey], workers: int) -> Iterator[Written]:
    """Write tar files; yields for each, in the order of the keys, the number of its photographs and
    a line for each that cannot be decoded.

    Args:
        files: All tar files.
        keys: Those to write.
        workers: Number of further processes that write; with 0 this process does.
    """
    if not workers:
        yield from map(files.write, keys)
        return
    before = multiprocessing.active_children()
    with ProcessPoolExecutor(workers, initializer=_begin_worker, initargs=(files,)) as pool:
        try:
            yield from pool.map(_write, keys)
        except BrokenProcessPool:
            raise Refused(
                "a process that prepares photographs was killed, as where the memory runs out; "
                "the same command continues, with fewer --runtime.workers perhaps"
            ) from None
        # Do not wait for the tar files in work: they are written anew the next time.
        except BaseException:
            for process in multiprocessing.active_children():
                if process not in before:
                    process.kill()
            raise


_files: _TarFiles
"""The tar files, as a worker process knows them. They are passed to it once, since the lists of
photographs in them are long.
"""


def _begin_worker(files: _TarFiles) -> None:
    """Initialise a worker process: keep the tar files for ``_write``, let the process end with its
    parent, leave signals to the parent, and let torch use one core.
    """
    import torch

    global _files
    _files = files
    belong_to_parent()
    torch.set_num_threads(1)


def _write(key: TarKey) -> Written:
    """Write a tar file and its table in a worker process that ``_begin_worker`` has initialised."""
    return _files.write(key)


def _reduced(data: bytes, config: DataConfig) -> bytes:
    """Reduce a photograph to the short side wanted; a smaller one is not enlarged.

    Args:
        data: The bytes of the photograph's file.
        config: The short side in pixels, and the JPEG quality.

    Returns:
        The bytes of a JPEG file or, with quality 0, of a PPM file.

    Raises:
        Refused: The photograph cannot be decoded; or a JPEG is to be written, and a side of the
            reduced photograph is longer than ``JPEG_SIDE``.
    """
    from torchvision.io import encode_jpeg
    from torchvision.transforms.v2.functional import resize

    image = decode(data, exif_orientation=config.exif_orientation, max_pixels=config.max_pixels)
    if min(image.shape[1:]) > config.short_side:
        image = resize(image, [config.short_side], antialias=True)
    height, width = image.shape[1:]
    if not config.quality:
        header = b"P6 %d %d 255\n" % (width, height)
        return header + image.permute(1, 2, 0).numpy().tobytes()
    # A longer side crashes torchvision 0.29.
    if max(height, width) > JPEG_SIDE:
        raise Refused(
            f"its longer side has {max(height, width)} pixels; a JPEG has at most {JPEG_SIDE}"
        )
    return encode_jpeg(image.contiguous(), config.quality).numpy().tobytes()
