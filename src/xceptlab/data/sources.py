"""What all data sets need: the folder of their files, images in memory, hashes, locks, and errors
that name a file.
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
"""Beginning of ``data.root`` where it names a data set of the Hugging Face hub."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""Error numbers of flock on file systems that have no locks: some kinds of FUSE and Lustre, and NFS
for a folder, which cannot be opened for writing.
"""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images of one size in memory, with their labels."""

    images: NDArray[np.uint8]
    """Images (n, size, size, 3)."""
    labels: Indices
    """Labels (n,) of the images."""

    def fingerprint(self) -> str:
        """Return a hash of the images and labels, computed once since nobody changes them."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return digest(self.images, self.labels)


class Unsound(Refused):
    """Raised where a data set has faults with which it cannot be used. The message is the first
    fault and, if there are others, their number.

    Args:
        lines: The faults, one at least, a line each.
    """

    def __init__(self, lines: list[str]) -> None:
        message = lines[0]
        if len(lines) > 1:
            message += f" (and {len(lines) - 1} more faults: `xceptlab data check` lists them)"
        super().__init__(message)
        self.lines = lines


class Unreadable(Refused):
    """Raised where an image cannot be decoded, or its bytes are missing or damaged; the message
    names it.
    """


def digest(*arrays: NDArray) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the bytes of arrays, one after the
    other; their types and shapes do not count.
    """
    h = hashlib.sha256()
    for array in arrays:
        h.update(np.ascontiguousarray(array).data)
    return h.hexdigest()[:16]


class Source(Protocol):
    """Images with labels: ``Arrays``, or ``photographs.Photographs``."""

    def fingerprint(self) -> str:
        """Return a hash of all labels and of all images or, for photographs, of a few of them."""


def fingerprint(sources: Iterable[Source]) -> str:
    """Return the fingerprints of a data set's sources, of training, test and perhaps validation
    images, joined by hyphens in the order given. A source that is there twice, since it serves two
    splits, counts once.
    """
    distinct = {id(source): source for source in sources}
    return "-".join(source.fingerprint() for source in distinct.values())


def digest_of_files(files: Iterable[tuple[bytes, int]]) -> str:
    """Return the first 16 hexadecimal digits of a SHA-256 of files' names and sizes (bytes), each
    as (name, size). Their order counts.
    """
    h = hashlib.sha256()
    for name, size in files:
        h.update(b"%s\0%d\n" % (name, size))
    return h.hexdigest()[:16]


def folder(config: DataConfig) -> Path:
    """Return the folder of a data set's files: ``data.root``, which need not be there, or, where
    that begins with ``hf://``, a folder in the cache of the Hugging Face hub. With
    ``data.download`` what is missing in the cache is fetched.

    Raises:
        Refused: The data set of the hub is not in the cache or, with ``data.download``, cannot be
            fetched; or its name is not allowed.
    """
    if not config.root.startswith(HUB):
        return Path(config.root)
    evaluated = {"imagenet": ("validation",), "folder": ("validation", "test")}.get(
        config.name, ("test",)
    )
    try:
        return _snapshot(config.root, ("train", *evaluated), config.download)
    # All errors of the hub's library are of these kinds.
    except (OSError, ValueError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        hint = "" if config.download else "; --data.download true fetches it"
        raise Refused(f"data.root: {config.root} is not to be had here ({reason}){hint}") from None


@functools.cache
def _snapshot(root: str, splits: tuple[str, ...], download: bool) -> Path:
    """Return the folder of a data set in the cache of the Hugging Face hub. Unless the full hash of
    a commit is given as revision, tell the user which commit was found. The result is kept, so that
    each process asks the hub once for the same arguments.

    Args:
        root: ``data.root``: ``hf://``, the data set's name and, after an ``@``, a revision.
        splits: Names of the splits whose parquet files are wanted.
        download: Ask the hub, and fetch what is not in the cache; else only the cache is looked at.

    Raises:
        OSError, ValueError: The data set is not in the cache, cannot be fetched, or its name is not
            allowed.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = root.removeprefix(HUB).partition("@")
    patterns = []
    for folder in ("", "*/"):
        patterns += [f"{folder}{split}-*.parquet" for split in splits]
    here = snapshot_download(
        name,
        repo_type="dataset",
        revision=revision or None,
        allow_patterns=patterns,
        local_files_only=not download,
    )
    if Path(here).name != revision:
        say(f"{root} is at commit {Path(here).name}; {HUB}{name}@{Path(here).name} keeps to it")
    return Path(here)


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Make a folder and hold its lock until the block, or the process, ends. No other process gets
    the lock meanwhile.

    On a file system without locks a lease takes the lock's place: a file in the folder that names
    its holder and is renewed, as runs have it (``runs.leases``).

    Args:
        folder: The folder.
        wait: Wait while another process holds the lock, instead of raising.

    Raises:
        BlockingIOError: Another process holds the lock; only without ``wait``.
        OSError: The folder cannot be made, opened or locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        if _lock(lock, wait=wait):
            yield
        else:
            with _leased(folder, wait=wait):
                yield
    finally:
        os.close(lock)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open folder, and return whether it is locked: it is not where its file system has no
    locks.

    Raises:
        BlockingIOError: Another process holds the lock; only without ``wait``.
        OSError: The folder cannot be locked for another reason.
    """
    operation = fcntl.LOCK_EX
    if not wait:
        operation |= fcntl.LOCK_NB
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


@contextlib.contextmanager
def _leased(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold a lease (``runs.leases``) on a folder in the block, in place of a lock. With ``wait``,
    wait while another process holds it.

    Raises:
        BlockingIOError: Another process holds it; only without ``wait``.
    """
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
    """Turn whatever a library raises in the block, while it reads a user's file, into one
    ``Refused``. Nothing but the library's calls should be in the block.

    Parsers raise errors of every kind: struct.error, OverflowError, or MemoryError where a header
    claims a billion rows. An OSError with a number other than EINVAL, such as that of a disk that
    fails, says nothing about the file's content and passes.

    Args:
        where: The file, and the place in it, as the message names them.
        what: What is wrong with the file, as the message says it.

    Raises:
        Refused: The library raised an error about the file.
        OSError: The file is not there, or cannot be read.
    """
    try:
        yield
    except Exception as error:
        # EINVAL is an error about the file, which names a wrong offset.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Refused(f"{where}: {what} ({reason})") from None


def regular_bytes(file: str | Path) -> bytes:
    """Read the bytes of a file.

    Raises:
        OSError: It cannot be read.
        Refused: It is a pipe or a device, from which one may read for ever.
    """
    with open(file, "rb", opener=_without_waiting_for_a_writer) as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise Refused("it is no regular file")
        return opened.read()


def _without_waiting_for_a_writer(path: str, flags: int) -> int:
    """Open a file by its path and flags, and return its descriptor, as an ``opener`` of the
    built-in ``open`` does. Even a pipe that nobody writes to is opened at once.
    """
    return os.open(path, flags | os.O_NONBLOCK)


def printable(name: str) -> str:
    """Return a file's name as text that UTF-8 can encode: a byte that is no UTF-8, which Python
    keeps as a surrogate, becomes an escape such as ``\\xe9``. Control characters stay.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def missing(name: str, root: str | Path, looked_for: str, remedy: str) -> Refused:
    """Return the error for a data set that is not where it should be.

    Args:
        name: Name of the data set.
        root: Where it should be.
        looked_for: The files that were looked for, in words.
        remedy: What the user can do, in words.
    """
    return Refused(
        f"data.root: {name} is not in {os.path.realpath(root)}: looked for {looked_for}; {remedy}"
    )
