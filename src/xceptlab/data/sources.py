"""What all data sets need: the folder of their files, images in memory, fingerprints, locks, and
errors that name a file.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xceptlab.config.schema import DataConfig
from xceptlab.data.order import Indices
from xceptlab.errors import Refused
from xceptlab.runs import leases
from xceptlab.text import say

HUB = "hf://"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""Errors of flock on file systems without locks: some of FUSE, Lustre and NFS (where a folder is
not open for writing).
"""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images in memory, which move to the device as a whole."""

    images: NDArray[np.uint8]
    """Images (n, size, size, 3)."""
    labels: Indices
    """Labels (n,) of the images."""

    def fingerprint(self) -> str:
        """Hash of the images and labels, computed once, since nobody changes them."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return digest(self.images, self.labels)


class Unsound(Refused):
    """Faults of a data set as a whole, a line each, the first of which is the error's message."""

    def __init__(self, lines: list[str]) -> None:
        message = lines[0]
        if len(lines) > 1:
            message += f" (and {len(lines) - 1} more faults: `xceptlab data check` lists them)"
        super().__init__(message)
        self.lines = lines


class Unreadable(Refused):
    """An image cannot be decoded; the message names it."""


def digest(*arrays: NDArray) -> str:
    """Hash of the bytes of arrays; their types and shapes do not count."""
    h = hashlib.sha256()
    for array in arrays:
        h.update(np.ascontiguousarray(array).data)
    return h.hexdigest()[:16]


class Source(Protocol):
    """Images with labels: ``Arrays``, or ``photographs.Photographs``."""

    def fingerprint(self) -> str:
        """A hash of images and labels."""


def fingerprint(sources: Iterable[Source]) -> str:
    """One hash for the sources of a data set: training, test and, where it is another than that of
    training, validation.
    """
    distinct = {id(source): source for source in sources}
    return "-".join(source.fingerprint() for source in distinct.values())


def digest_of_files(files: Iterable[tuple[bytes, int]]) -> str:
    """A hash of files' names and sizes; the files themselves are not read."""
    h = hashlib.sha256()
    for name, size in files:
        h.update(b"%s\0%d\n" % (name, size))
    return h.hexdigest()[:16]


def folder(config: DataConfig) -> Path:
    """The folder of a data set's files: ``data.root``, or one in the Hugging Face hub's cache,
    which ``data.download`` fills.

    Raises:
        Refused: The data set of the hub is not in the cache, or cannot be fetched.
    """
    if not config.root.startswith(HUB):
        return Path(config.root)
    evaluated = {"imagenet": ("validation",), "folder": ("validation", "test")}.get(
        config.name, ("test",)
    )
    try:
        return _snapshot(config.root, ("train", *evaluated), config.download)
    except (OSError, ValueError) as error:  # the hub's errors are of these kinds
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        hint = "" if config.download else "; --data.download true fetches it"
        raise Refused(f"data.root: {config.root} is not to be had here ({reason}){hint}") from None


@functools.cache
def _snapshot(root: str, splits: tuple[str, ...], download: bool) -> Path:
    """The folder of a data set in the hub's cache, named by its commit; the hub is asked once by
    each process.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = root.removeprefix(HUB).partition("@")
    files = [f"{folder}{split}-*.parquet" for folder in ("", "*/") for split in splits]
    here = snapshot_download(
        name,
        repo_type="dataset",
        revision=revision or None,
        allow_patterns=files,
        local_files_only=not download,
    )
    if Path(here).name != revision:
        say(f"{root} is at commit {Path(here).name}; {HUB}{name}@{Path(here).name} keeps to it")
    return Path(here)


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Make a folder and hold its lock until the block, or the process, ends; other processes that
    ask for it have to wait.

    On a file system without locks (ENOLCK, EOPNOTSUPP, ENOSYS) a lease takes its place, as runs
    have it.

    Raises:
        BlockingIOError: Another process holds the lock; only without ``wait``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        with (
            _leased(folder, wait=wait)
            if _has_no_locks(lock, wait=wait)
            else contextlib.nullcontext()
        ):
            yield
    finally:
        os.close(lock)


def _has_no_locks(descriptor: int, *, wait: bool) -> bool:
    """Lock an open folder; returns true, without a lock, if its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return True
    return False


@contextlib.contextmanager
def _leased(folder: Path, *, wait: bool) -> Iterator[None]:
    with contextlib.ExitStack() as lease:
        while True:
            try:
                lease.enter_context(leases.hold(folder))
                break
            except leases.Busy as error:
                if not wait:
                    raise BlockingIOError(str(error)) from None
            time.sleep(leases.HEARTBEAT / 20)
        yield


@contextlib.contextmanager
def reading(where: object, what: str = "a damaged file") -> Iterator[None]:
    """Turn whatever a library raises while it reads a user's file into one ``Refused``; keep the
    body to the library's calls.

    Parsers let through what they stumble over: struct.error, OverflowError, MemoryError by a header
    that claims a billion rows. An OSError with a number, such as that of a disk that fails, says
    nothing about the file and passes.

    Args:
        where: The file, and the place in it, as the message names them.
        what: What the message then says of the file.
    """
    try:
        yield
    except Exception as error:
        # EINVAL: the file names a wrong offset
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Refused(f"{where}: {what} ({reason})") from None


def regular_bytes(file: str | Path) -> bytes:
    """The bytes of a file; a pipe or a device, from which one may read for ever, is refused.

    Raises:
        OSError: It cannot be read.
        Refused: It is no regular file.
    """
    with open(file, "rb", opener=_without_waiting_for_a_writer) as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise Refused("it is no regular file")
        return opened.read()


def _without_waiting_for_a_writer(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def printable(name: str) -> str:
    """A file's name to print: bytes that are no UTF-8, which Python keeps as surrogates, are
    written as ``\\xe9``.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def missing(name: str, root: str | Path, looked_for: str, remedy: str) -> Refused:
    """The error for a data set that is not where it should be."""
    return Refused(
        f"data.root: {name} is not in {os.path.realpath(root)}: looked for {looked_for}; {remedy}"
    )
