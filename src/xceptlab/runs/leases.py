"""Who trains a run: a lease in its directory, which every machine that sees the folder respects and which goes stale by itself.

A holder keeps a file of its own, ``lease.<random>``, with its host and process, and touches it every HEARTBEAT seconds. To take
a run is to create such a file and *then* to look: whoever finds another one that is not stale withdraws. Of two processes at
least one creates its file before the other looks, so never both hold the run. A stale lease is removed by its successor; a
holder that was only asleep finds that out with its next heartbeat, and ends. All that the folder must offer is that a listing
shows the files that other machines have created before, which NFS does and locks on it often do not.

A lease is stale when its process is gone, where that can be seen, or when its heartbeat has not changed for STALE seconds of
watching. No two machines' clocks are compared, and a file server that was away for an hour makes nobody stale.
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

from xceptlab.config.fields import from_file
from xceptlab.errors import INTERRUPTED
from xceptlab.text import say

HEARTBEAT = 10.0
"""Seconds between two signs of life of a holder."""
STALE = 60.0
"""Seconds of watching without a sign of life after which a holder on another machine counts as gone."""


class Busy(Exception):
    """Another process is training the run."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that a lease names."""

    host: str = "another host"
    pid: int = 0
    machine: str = ""
    """Boot, process namespace and user for which the process's number means something; empty where that cannot be told."""
    started: str = ""
    """When the process started, in the kernel's ticks: its number may be used again."""

    @classmethod
    def this_process(cls) -> "Holder":
        return cls(host=socket.gethostname(), pid=os.getpid(), machine=_machine(), started=_started(os.getpid()))

    @property
    def here(self) -> bool:
        """Whether this process can see whether that one lives."""
        return bool(self.machine) and self.machine == _machine()

    @property
    def alive(self) -> bool:
        return _started(self.pid) == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def leases(folder: Path) -> dict[str, tuple[Holder, int]]:
    """The leases in a run's directory: by file name who holds it, and the heartbeat (a time of the file server, ns)."""
    found = {}
    for file in folder.glob("lease.*"):
        with suppress(FileNotFoundError), open(file, "rb") as opened:  # opening asks a network file system for what is new
            beat = os.fstat(opened.fileno()).st_mtime_ns
            try:
                holder = from_file(Holder, json.loads(opened.read()))
            except (RecursionError, ValueError):  # its process is about to write it, or died before it could
                holder = Holder()
            found[file.name] = holder, beat
    return found


class Watch:
    """Looks at the leases of a run again and again, and so tells holders that live from those that are gone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.living: set[str] = set()
        """Leases whose holders were seen to live."""
        self.stale: set[str] = set()
        """Leases whose holders are gone."""
        self._beats: dict[str, tuple[int, float]] = {}  # per lease its last heartbeat, and since when it stands
        self._looked = 0.0

    def look(self) -> dict[str, Holder]:
        """Who holds the run, by lease: one holder or none, more for a moment when they meet. Stale leases are left out."""
        now = time.monotonic()
        away, self._looked = now - self._looked > HEARTBEAT, now  # this process, or the file server
        found = leases(self.folder)
        for name, (holder, beat) in found.items():
            last, since = self._beats.get(name, (beat, now))
            if away or beat != last:
                since = now
            self._beats[name] = beat, since
            if beat != last or (holder.here and holder.alive):
                self.living.add(name)
            if not holder.alive if holder.here else now - since > STALE:
                self.stale.add(name)
        return {name: holder for name, (holder, _) in found.items() if name not in self.stale}


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the run of this directory for this process.

    Raises:
        Busy: Another process holds it. Whether one on another machine still lives takes up to STALE seconds to tell.
    """
    file = _take(folder)
    over = threading.Event()
    beats = threading.Thread(target=_beat, args=(file, over), daemon=True)
    beats.start()
    try:
        yield
    finally:
        over.set()
        beats.join()
        file.unlink(missing_ok=True)


def _take(folder: Path) -> Path:
    watch = Watch(folder)
    own = folder / f"lease.{secrets.token_hex(4)}"
    while True:
        others = watch.look()
        if living := watch.living & others.keys():
            raise Busy(f"{folder}: another process is training this run ({others[min(living)]})")
        if others:
            time.sleep(HEARTBEAT / 20)
            continue
        try:
            own.write_text(json.dumps(asdict(Holder.this_process())), "utf-8")
            if watch.look().keys() == {own.name}:
                for name in watch.stale:
                    (folder / name).unlink(missing_ok=True)
                return own
        except BaseException:
            own.unlink(missing_ok=True)
            raise
        own.unlink()
        time.sleep(random.uniform(0, 0.2))  # they met; one of them will be alone next time


def _beat(file: Path, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT):
        try:
            os.utime(file)
        except FileNotFoundError:
            say(f"{file.parent}: another process has taken this run over")
            os._exit(INTERRUPTED)  # started again, it is told who trains the run
        except OSError:
            pass  # the file server is away, for everybody


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {os.getuid()}"  # /proc may hide other users' processes
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process of this machine started, in the kernel's ticks; empty when it does not live."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in ("Z", "X") else fields[18]
