"""Let only one process train a run: it holds a lease, a file in the run's directory, which every
machine that sees the directory respects, and which expires by itself.

A holder keeps a file of its own, ``lease.<random>``, with its host and process, and touches it
every HEARTBEAT seconds. To take a run is to create such a file and *then* to look: whoever finds
another one that is not stale withdraws. Of two processes at least one creates its file before the
other looks, so never both hold the run. A stale lease is removed by its successor; a holder that
was only asleep finds that out with its next heartbeat, and ends. All that the folder must offer is
that a listing shows the files that other machines have created before, which NFS does and locks on
it often do not.

A lease is stale when its process is gone, where that can be seen, or when its heartbeat has not
changed for STALE seconds of watching. No two machines' clocks are compared, and a file server that
was away for an hour makes nobody stale.

filelock's SoftFileLease was tried in its place (4.2.11 and 4.3.1). It takes a lease over by
exchanging two names in one step. Where a file system cannot do that, as NFS and SMB cannot, the
lease of a killed process stands forever; and 4.3.1 once took a lease from a holder that lived,
after both had been away from the file server.
"""

import json
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from xceptlab.config.fields import from_values
from xceptlab.errors import INTERRUPTED
from xceptlab.text import say

HEARTBEAT = 10.0
"""Seconds between two signs of life of the process that holds a run."""
STALE = 60.0
"""Seconds of watching without a sign of life, after which a holder whose process cannot be seen
from here, as on another machine, counts as gone.
"""


class Busy(Exception):
    """Raised where a run cannot be trained, since another process is training it."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a run, as the run's lease names it.

    The defaults are of a lease whose file cannot be read.
    """

    host: str = "another host"
    pid: int = 0
    machine: str = ""
    """Boot, process namespace and user, as text: where they are the same, processes see each other
    and ``pid`` tells them apart; empty where the system does not tell them.
    """
    started: str = ""
    """When the process started, in the kernel's ticks since boot; by it the process differs from a
    later one with the same pid. Empty where the system does not tell it.
    """

    @classmethod
    def this_process(cls) -> "Holder":
        """Return the current process as a holder, as it is written into a lease."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            started=_started(os.getpid()),
        )

    @property
    def here(self) -> bool:
        """Whether this process can see if the holder lives: both have the same boot, process
        namespace and user. False where the system does not tell them.
        """
        return bool(self.machine) and self.machine == _machine()

    @property
    def alive(self) -> bool:
        """Whether the holder's process lives; meaningless unless the holder is ``here``."""
        return _started(self.pid) == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Lease:
    """A lease as it was read from a run's directory."""

    holder: Holder
    heartbeat: int
    """Time of the holder's latest sign of life, in nanoseconds by the file server's clock."""


def read_leases(folder: Path) -> dict[str, Lease]:
    """Read the leases in a run's directory, and return them by file name, stale ones, too. A
    lease whose file does not name its holder, or not yet, gets a ``Holder`` of defaults.
    """
    found = {}
    for file in folder.glob("lease.*"):
        # Opening the file makes a network file system ask its server for what is new.
        with suppress(FileNotFoundError), open(file, "rb") as opened:
            heartbeat = os.fstat(opened.fileno()).st_mtime_ns
            try:
                holder = from_values(Holder, json.loads(opened.read()))
            except (RecursionError, ValueError):
                # The holder is about to write the file, or died before it could.
                holder = Holder()
            found[file.name] = Lease(holder, heartbeat)
    return found


class Watch:
    """Watches the leases of a run: repeated reading tells holders that live from those that are
    gone.

    Args:
        folder: The run's directory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.living: set[str] = set()
        """File names of leases whose holders were seen to live."""
        self.stale: set[str] = set()
        """File names of leases whose holders are gone."""
        self._heartbeats: dict[str, int] = {}
        """Latest heartbeat of each lease, by file name."""
        self._silent_since: dict[str, float] = {}
        """Time at which the latest heartbeat of each lease was first seen, by file name, in seconds
        on the monotonic clock.
        """
        self._last_read = 0.0
        """Time of the last call of ``holders``, in seconds on the monotonic clock."""

    def holders(self) -> dict[str, Holder]:
        """Read the leases now, and return who holds the run, by the lease's file name.

        There is one holder or none; more, for a moment, when several processes try to take the run
        at once. A holder whose process is seen to have ended is left out. One whose process cannot
        be seen from here, as on another machine, is returned until it has given no sign of life for
        STALE seconds of watching. Watching means to call this at least every HEARTBEAT seconds:
        after a longer pause it starts anew.
        """
        now = time.monotonic()
        # This process slept, or the file server did not answer: nobody was watched meanwhile.
        was_away = now - self._last_read > HEARTBEAT
        self._last_read = now
        leases = read_leases(self.folder)
        for name, lease in leases.items():
            latest = self._heartbeats.get(name, lease.heartbeat)
            has_beaten = lease.heartbeat != latest
            if was_away or has_beaten or name not in self._silent_since:
                self._silent_since[name] = now
            self._heartbeats[name] = lease.heartbeat
            if has_beaten or (lease.holder.here and lease.holder.alive):
                self.living.add(name)
            if self._is_gone(lease.holder, silent=now - self._silent_since[name]):
                self.stale.add(name)
        return {name: lease.holder for name, lease in leases.items() if name not in self.stale}

    @staticmethod
    def _is_gone(holder: Holder, silent: float) -> bool:
        """Whether a holder is gone: its process has ended or, where that cannot be seen, it has
        been ``silent`` for more than STALE seconds.
        """
        if holder.here:
            return not holder.alive
        return silent > STALE


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a run for this process within a ``with`` block.

    This process exits, with the exit code ``INTERRUPTED``, when it finds that its lease was
    removed: another process has taken the run over, which happens only after this one has given no
    sign of life for STALE seconds.

    Args:
        folder: The run's directory.

    Raises:
        Busy: Another process holds the run. Whether one on another machine still lives takes up to
            STALE seconds to tell.
        OSError: The lease cannot be written, as on a full disk.
    """
    file = _take(folder)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(file, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        file.unlink(missing_ok=True)


def _take(folder: Path) -> Path:
    """Take the run whose directory ``folder`` is, and return the file of this process's lease. Wait
    for up to STALE seconds where it cannot be seen whether another holder still lives.

    Raises:
        Busy: Another process holds the run.
        OSError: The lease cannot be written.
    """
    watch = Watch(folder)
    lease = folder / f"lease.{secrets.token_hex(4)}"
    while True:
        others = watch.holders()
        living = watch.living & others.keys()
        if living:
            raise Busy(f"{folder}: another process is training this run ({others[min(living)]})")
        if others:
            time.sleep(HEARTBEAT / 20)
            continue
        try:
            lease.write_text(json.dumps(asdict(Holder.this_process())), "utf-8")
            if watch.holders().keys() == {lease.name}:
                for name in watch.stale:
                    (folder / name).unlink(missing_ok=True)
                return lease
        except BaseException:
            lease.unlink(missing_ok=True)
            raise
        lease.unlink()
        # Two processes met. After waits of different lengths one of them will be alone.
        time.sleep(random.uniform(0, 0.2))


def _beat(file: Path, ended: threading.Event) -> None:
    """Touch the lease ``file`` every HEARTBEAT seconds until ``ended`` is set. Exit this process,
    with the exit code ``INTERRUPTED``, if the file is gone: another process has taken the run over.
    """
    while not ended.wait(HEARTBEAT):
        try:
            os.utime(file)
        except FileNotFoundError:
            say(f"{file.parent}: another process has taken this run over")
            # With this exit code the run is started again, and is then told who trains it.
            os._exit(INTERRUPTED)
        except OSError:
            # The file server is away, and so it is for everybody who might take the run.
            pass


def _machine() -> str:
    """Return boot, process namespace and user of this process, as text; empty where the system does
    not tell them.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        # The user is part of it, since /proc may hide other users' processes.
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {os.getuid()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process of this machine started, in the kernel's ticks since boot; empty where
    it does not live, or the system has no /proc.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    # Of a killed process the first thread ends at once, while others may still be ending, and hold
    # its files open.
    threads = int(fields[16])
    is_gone = state == "X" or (state == "Z" and threads <= 1)
    return "" if is_gone else fields[18]
