"""What starts runs: the interface, and what is the same wherever they run.

A launcher starts runs, tells their state and stops them. The ledger is the runs' directories: a run is done when its record
exists, whoever trained it and whatever a process said when it ended; a run that another process trains is left to that one.
"""

import faulthandler
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Literal

from xceptlab.config.loading import dump
from xceptlab.config.schema import RunConfig
from xceptlab.errors import BAD_INPUT, INTERRUPTED, Refused
from xceptlab.files import write_atomically
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.leases import Watch
from xceptlab.runs.world import forget
from xceptlab.signals import PARENT
from xceptlab.text import say

State = Literal["waiting", "queued", "running", "done", "failed"]
"""queued: handed to a cluster, which has not started it yet."""
Main = Callable[[list[str]], int]

CHECKPOINT_SECONDS = 30.0
"""What a run gets for a checkpoint when it is stopped."""
ATTEMPTS = 2
"""Crashes after which a run has failed that came no further in between."""
LOST, LOSSES = -1000, 5
"""Code of a run whose machine was lost, and how often that may happen before it counts as the run's fault."""

MEMORY = "out of memory, perhaps: try fewer runs at a time (--jobs), a smaller train.batch_size or more memory"
NATIVE = (
    "a library crashed, not Python code: try another device (runtime.accelerator), train.threads 1 or another version of torch"
)
CRASHES = {
    signal.SIGKILL: MEMORY,
    signal.SIGBUS: "no room in /dev/shm or on the disk, perhaps: runtime.workers 0 needs no shared memory",
    signal.SIGILL: "a library was built for another CPU, perhaps: install torch anew on this machine",
    signal.SIGSEGV: NATIVE,
    signal.SIGABRT: NATIVE,
    signal.SIGFPE: NATIVE,
}
"""Signals by which a process ends that nobody has asked to, with what to try."""


@dataclass
class Job:
    """One run in a launcher's hands."""

    config: RunConfig
    state: State = "waiting"
    handle: Any = None
    """What the launcher knows the started run by."""
    crashes: int = 0
    """Since the run last came further, to ``reached`` epochs."""
    reached: float = 0.0
    not_before: float = 0.0
    directory: RunDirectory = field(init=False)
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.directory = RunDirectory.of(self.config.runtime.outputs, self.config.run_id)
        self.watch = Watch(self.directory.path)

    @property
    def log(self) -> Path:
        return self.directory.path / "log.txt"

    def prepare(self) -> list[str]:
        """Write the run's configuration; what ``xceptlab`` is to be called with."""
        self.directory.create()
        file = self.directory.path / "config.yaml"
        write_atomically(file, dump(self.config).encode())
        return ["train", "-c", str(file)]


class Launcher(ABC):
    """Starts runs, tells their state, stops them. One run's failure stops no other.

    Args:
        main: ``xceptlab``'s main function, which a run's process calls.
        jobs: Runs at a time; None for as many as there is room for.
    """

    pause: ClassVar[float] = 1.0
    """Seconds between two polls."""
    outlived: ClassVar[bool] = False
    """Whether runs go on when their coordinator is gone, and the next one finds them."""

    def __init__(self, main: Main, jobs: int | None) -> None:
        self.main, self.limit = main, jobs
        self.jobs: dict[str, Job] = {}
        self._told: set[str] = set()

    def start(self, configs: Sequence[RunConfig]) -> None:
        """Take these runs on; ``poll`` starts them.

        Raises:
            Refused: A run can never start here.
        """
        for config in configs:
            self.check(config)
        self.jobs |= {config.run_id: Job(config) for config in configs}

    def poll(self) -> dict[str, State]:
        """See what has ended, start what can start, and tell every run's state by its id."""
        codes = self.exit_codes([job for job in self.jobs.values() if job.state in ("queued", "running")])
        for run_id, code in codes.items():
            self._ended(self.jobs[run_id], code)
        ready = self._ready()
        room = self.limit and max(0, self.limit - sum(bool(job.handle) for job in self.jobs.values()))
        self.begin(itertools.islice(ready, room))
        return {run_id: job.state for run_id, job in self.jobs.items()}

    @abstractmethod
    def check(self, config: RunConfig) -> None:
        """Raise a Refused if the run can never start here."""

    @abstractmethod
    def begin(self, ready: Iterator[Job]) -> None:
        """Start of these runs, in their order, what can start now."""

    @abstractmethod
    def exit_codes(self, jobs: list[Job]) -> dict[str, int]:
        """Of the started runs those that have ended, by id: -signal where one ended it, -1 where no code is known."""

    @abstractmethod
    def stop(self) -> None:
        """End every run; they get some time for a checkpoint, and none when this is interrupted."""

    def _tell(self, why: str) -> None:
        """Say once why runs wait."""
        if why not in self._told:
            say(why)
            self._told.add(why)

    def _ready(self) -> Iterator[Job]:
        for job in self.jobs.values():
            if job.state != "waiting" or time.monotonic() < job.not_before:
                continue
            if job.directory.record():
                job.state = "done"
            elif job.watch.look():  # another process trains it
                job.not_before = time.monotonic() + 1
            else:
                yield job

    def _ended(self, job: Job, code: int) -> None:
        job.handle, job.state = None, "waiting"
        if job.directory.record():  # never the exit code
            job.state = "done"
        elif code == INTERRUPTED:  # or another process trains it
            job.not_before = time.monotonic() + 1
        else:
            if told := crash(code, job.log):
                with open(job.log, "a", encoding="utf-8") as log:
                    log.write(f"xceptlab: {told}\n")
            before, job.reached = (
                job.reached,
                job.directory.follow().progress(job.config.train.epochs).epoch,
            )
            job.crashes = 1 if job.reached > before else job.crashes + 1
            if code == BAD_INPUT or job.crashes >= (LOSSES if code == LOST else ATTEMPTS):
                job.state = "failed"
                note_failure(job.log)


def note_failure(log: Path) -> None:
    """Note in a run's directory why it failed: the last line of its log, which is there."""
    lines = log.read_text("utf-8", errors="replace").strip().splitlines() if log.exists() else []
    RunDirectory(log.parent).fail(lines[-1].removeprefix("xceptlab: ") if lines else "no output")


def crash(code: int, log: Path) -> str:
    """What to say of a process that a signal has ended, the exit code being -signal, or 128 + signal as in a shell; else nothing.

    Where it was is the last line of Python, if ``faulthandler`` has left that in the log: it cannot for SIGKILL.
    """
    number = -code if code < 0 else code - 128
    if number not in set(CRASHES):
        return ""
    name = signal.Signals(number)
    text = log.read_text("utf-8", errors="replace") if log.exists() and name != signal.SIGKILL else ""
    trace = text.rpartition("Fatal Python error: ")[2].partition("Current thread")[2]
    lines = re.findall(r'^  File "(.*)", line (\d+) in (\S+)', trace, re.M)
    where = f" in {lines[0][2]} ({lines[0][0]}, line {lines[0][1]})" if lines else ""
    return f"ended by {name.name}{where}; {CRASHES[name]}"


def check_one_node(config: RunConfig) -> None:
    """Raise a Refused for a run on several machines, whose processes only SLURM starts."""
    if config.runtime.num_nodes > 1:
        raise Refused(f"runtime.num_nodes: {config.runtime.num_nodes} is not allowed; it must be 1 unless launcher.name is slurm")


def check_gpus(config: RunConfig) -> None:
    """Raise a Refused for a run that would not get from a cluster the GPUs that it uses."""
    devices, gpus = config.runtime.devices, config.launcher.gpus
    allowed = {"cpu": [0], "gpu": [devices]}.get(config.runtime.accelerator, [0, devices])
    if gpus not in allowed:
        one = " or ".join(map(str, allowed))
        where = f"runtime.devices {devices} and runtime.accelerator {config.runtime.accelerator}"
        raise Refused(f"launcher.gpus: {gpus} is not allowed; it must be {one} with {where}")


def print_to(log: Path) -> None:
    """Let this process append to ``log`` all that it prints, and the lines of Python at which a native crash ends it."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable(2)


def execute(main: Main, argv: list[str], log: Path, *, fresh: bool) -> int:
    """Do in this process what ``xceptlab ARGV`` does, and print to ``log``.

    Args:
        fresh: In a new interpreter, which Lightning can execute again for each further device.
    """
    print_to(log)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    forget()  # in an allocation, or in another launcher's task, a run would wait for processes that nobody starts
    if not fresh:
        return main(argv)
    environment = os.environ | {PARENT: str(os.getpid()), "PYTHONFAULTHANDLER": "1"}
    process = subprocess.Popen([sys.executable, "-m", "xceptlab", *argv], stdin=subprocess.DEVNULL, env=environment)

    def forward(number: int, frame: FrameType | None) -> None:
        process.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    while True:  # Ray's request to stop is a SIGINT that Python only simulates: it wakes nobody who waits
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(0.5)
            return code if code >= 0 else 128 - code  # an exit code cannot be negative
