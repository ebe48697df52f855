"""What starts runs: the interface, and what is the same wherever they run.

A launcher starts runs, reports their state and stops them. What is done stands in the runs'
directories: a run is done when its record exists, whoever trained it and whatever exit code a
process left; a run that another process trains is left to that one.
"""

import itertools
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from xceptlab.config.loading import dump_run
from xceptlab.config.schema import RunConfig
from xceptlab.errors import BAD_INPUT, INTERRUPTED, Refused
from xceptlab.files import write_atomically
from xceptlab.launch.failures import describe_crash, note_failure
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.leases import Watch
from xceptlab.text import say

State = Literal["waiting", "queued", "running", "done", "failed"]
"""State of a run in a launcher's hands; ``queued``: handed to a cluster, which has not started it
yet.
"""
Main = Callable[[list[str]], int]
"""``xceptlab``'s main function: from the arguments to the exit code."""

CHECKPOINT_SECONDS = 30.0
"""Seconds that a run gets to write its checkpoint when it is stopped."""
MAX_CRASHES = 2
"""Number of crashes, without progress in between, after which a run has failed."""
LOST = -1000
"""Exit code, of our own making, of a run whose machine was lost."""
MAX_LOSSES = 5
"""Number of losses of a run's machine, without progress in between, after which the run has failed.
"""
RETRY_SECONDS = 1.0
"""Seconds between two looks at a run that another process trains."""


@dataclass
class Job:
    """One run that a launcher has taken on."""

    config: RunConfig
    state: State = "waiting"
    handle: Any = None
    """Handle of the started run: a process, a task or the number of a job; None while the run is
    not started.
    """
    crashes: int = 0
    """Number of crashes since the run last made progress."""
    reached: float = 0.0
    """Epochs trained when the run last made progress, in fractions."""
    not_before: float = 0.0
    """Time, on the monotonic clock, before which the run is not started."""
    directory: RunDirectory = field(init=False)
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.directory = RunDirectory.of(self.config.runtime.outputs, self.config.run_id)
        self.watch = Watch(self.directory.path)

    @property
    def log(self) -> Path:
        return self.directory.path / "log.txt"

    def write_config(self) -> list[str]:
        """Write the run's configuration into its directory; returns the arguments to call
        ``xceptlab`` with.
        """
        self.directory.create()
        file = self.directory.path / "config.yaml"
        write_atomically(file, dump_run(self.config).encode())
        arguments = ["train", "-c", str(file)]
        if self.config.extensions:  # which a run's folder does not name
            arguments.append(f"--extensions={json.dumps(self.config.extensions)}")
        return arguments


class Launcher(ABC):
    """Starts runs, reports their states, stops them. One run's failure stops no other.

    Args:
        main: ``xceptlab``'s main function, which a run's process calls.
        jobs: Largest number of runs at a time; None for as many as there is room for.
    """

    pause: ClassVar[float] = 1.0
    """Seconds between two polls."""
    outlived: ClassVar[bool] = False
    """Whether runs outlive the process that coordinates them, so that the next one finds them
    running.
    """

    def __init__(self, main: Main, jobs: int | None) -> None:
        self.main = main
        self.limit = jobs
        self.jobs: dict[str, Job] = {}
        """The runs taken on, by id."""
        self._said: set[str] = set()

    def start(self, configs: Sequence[RunConfig]) -> None:
        """Take on runs, which ``poll`` then starts.

        Raises:
            Refused: One of the runs can never start here.
        """
        for config in configs:
            self.check(config)
        self.jobs |= {config.run_id: Job(config) for config in configs}

    def poll(self) -> dict[str, State]:
        """Settle the runs that have ended, and start those that can start; returns every run's
        state by its id.
        """
        started = [job for job in self.jobs.values() if job.state in ("queued", "running")]
        for run_id, code in self.exit_codes(started).items():
            self._settle(self.jobs[run_id], code)
        self.begin(itertools.islice(self._ready(), self._room()))
        return {run_id: job.state for run_id, job in self.jobs.items()}

    @abstractmethod
    def check(self, config: RunConfig) -> None:
        """Raise a ``Refused`` if a run can never start here."""

    @abstractmethod
    def begin(self, ready: Iterator[Job]) -> None:
        """Start as many of the ready runs, in their order, as can start now."""

    @abstractmethod
    def exit_codes(self, jobs: list[Job]) -> dict[str, int]:
        """Exit codes of those of the started runs that have ended, by id: -signal where one ended
        it, -1 where none is known.
        """

    @abstractmethod
    def stop(self) -> None:
        """End every run; they get some time for a checkpoint, and none when this is interrupted."""

    def _say_once(self, why: str) -> None:
        """Tell the user why runs wait, once for each reason."""
        if why not in self._said:
            say(why)
            self._said.add(why)

    def _room(self) -> int | None:
        """Number of runs that may be started now under the limit of jobs; None without a limit."""
        if not self.limit:
            return self.limit
        started = sum(bool(job.handle) for job in self.jobs.values())
        return max(0, self.limit - started)

    def _ready(self) -> Iterator[Job]:
        """Waiting runs that can start as soon as there is room; runs that another process trains or
        has finished are left out.
        """
        for job in self.jobs.values():
            if job.state != "waiting" or time.monotonic() < job.not_before:
                continue
            if job.directory.record():
                job.state = "done"
            elif job.watch.holders():  # another process trains it
                job.not_before = time.monotonic() + RETRY_SECONDS
            else:
                yield job

    def _settle(self, job: Job, code: int) -> None:
        """Decide what becomes of a run whose process has ended with this exit code: it is done,
        waits to go on, or has failed.
        """
        job.handle = None
        job.state = "waiting"
        if job.directory.record():  # the record decides, never the exit code
            job.state = "done"
        elif code == INTERRUPTED:  # it was asked to stop, or another process trains it
            job.not_before = time.monotonic() + RETRY_SECONDS
        else:
            self._count_crash(job, code)

    def _count_crash(self, job: Job, code: int) -> None:
        """Note a crash in the run's log; the run has failed if another try would come to the same
        end.
        """
        description = describe_crash(code, job.log)
        if description:
            with open(job.log, "a", encoding="utf-8") as log:
                log.write(f"xceptlab: {description}\n")
        reached_before = job.reached
        job.reached = job.directory.follow().progress(job.config.train.epochs).epoch
        job.crashes = 1 if job.reached > reached_before else job.crashes + 1
        allowed = MAX_LOSSES if code == LOST else MAX_CRASHES
        if code == BAD_INPUT or job.crashes >= allowed:
            job.state = "failed"
            note_failure(job.log)


def check_one_node(config: RunConfig) -> None:
    """Refuse a run on several machines, whose processes only SLURM starts."""
    if config.runtime.num_nodes > 1:
        raise Refused(
            f"runtime.num_nodes: {config.runtime.num_nodes} is not allowed; it must be 1 unless launcher.name is slurm"
        )


def check_gpus(config: RunConfig) -> None:
    """Refuse a run that would not get from a cluster the GPUs that it uses."""
    devices = config.runtime.devices
    gpus = config.launcher.gpus
    accelerator = config.runtime.accelerator
    allowed = {"cpu": [0], "gpu": [devices]}.get(accelerator, [0, devices])
    if gpus not in allowed:
        choice = " or ".join(map(str, allowed))
        where = f"runtime.devices {devices} and runtime.accelerator {accelerator}"
        raise Refused(f"launcher.gpus: {gpus} is not allowed; it must be {choice} with {where}")
