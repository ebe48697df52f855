"""The interface of launchers, which start runs, report their states and stop them; and what is the
same in all of them: on this machine, on SLURM and on Ray.

What is done stands in the runs' directories: a run is done when its file record.json exists,
whoever trained it and whatever exit code a process left. A run that another process trains is left
to that one.
"""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from xceptlab.config import strict_yaml
from xceptlab.config.loading import dump_run
from xceptlab.config.schema import RunConfig
from xceptlab.errors import BAD_INPUT, INTERRUPTED, Refused
from xceptlab.files import write_atomically
from xceptlab.launch.failures import describe_crash, note_failure
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.leases import Watch
from xceptlab.text import say

State = Literal["waiting", "queued", "running", "done", "failed"]
"""State of a run that a launcher has accepted. ``waiting``: the launcher is to start it, for the
first time or again; ``queued``: a cluster has it, and has not started it yet.
"""
Main = Callable[[list[str]], int]
"""``xceptlab``'s main function: from the arguments to the exit code."""

CHECKPOINT_SECONDS = 30.0
"""Seconds that a run on this machine or on Ray gets to write its checkpoint when it is stopped."""
MAX_CRASHES = 2
"""Number of crashes, without progress in between, after which a run has failed. Earlier losses of
its machine count as crashes.
"""
LOST = -1000
"""Exit code by which a launcher says that a run's machine was lost; no process can exit with it."""
MAX_LOSSES = 5
"""Number of crashes, without progress in between, after which a run has failed if its machine was
lost at the last one.
"""
RETRY_SECONDS = 1.0
"""Seconds after which a waiting run is tried again, because it was interrupted or because another
process trains it.
"""


@dataclass
class Job:
    """One run that a launcher has accepted."""

    config: RunConfig
    state: State = "waiting"
    handle: Any = None
    """What the launcher knows the started or queued run by: its process with the cores or GPUs that
    it was given, its task of Ray, or the number of its job of SLURM. None while the run is waiting,
    and once it has ended.
    """
    crashes: int = 0
    """Number of crashes since the run last made progress."""
    reached: float = 0.0
    """Epochs, in fractions, that were trained at the last crash; more at the next one is progress.
    """
    not_before: float = 0.0
    """Time, on the monotonic clock, before which the run is not started."""
    directory: RunDirectory = field(init=False)
    watch: Watch = field(init=False)
    """Tells whether another process trains the run."""

    def __post_init__(self) -> None:
        self.directory = RunDirectory.of(self.config.runtime.outputs, self.config.run_id)
        self.watch = Watch(self.directory.path)

    @property
    def log(self) -> Path:
        """File to which the run's processes print."""
        return self.directory.path / "log.txt"

    def write_config(self) -> list[str]:
        """Write the run's configuration into its directory, and return the arguments with which
        ``xceptlab`` trains the run.

        The directory is made where it is missing, and failure.txt is removed.
        """
        self.directory.create()
        file = self.directory.path / "config.yaml"
        write_atomically(file, dump_run(self.config).encode())
        arguments = ["train", "-c", str(file)]
        # The file never names code to be executed, so the extensions are an argument.
        if self.config.extensions:
            arguments.append(f"--extensions={strict_yaml.as_json(self.config.extensions)}")
        return arguments


def cores_of_a_process(config: RunConfig) -> int:
    """Return the number of CPU cores that a run's process on one device needs: one for each of its
    threads and of its data loader's workers.
    """
    return config.train.threads + config.runtime.workers


class Launcher(ABC):
    """Starts runs, reports their states, stops them. One run's failure stops no other.

    Args:
        main: ``xceptlab``'s main function, which a run's process calls.
        max_jobs: Largest number of runs at a time; None for as many as there is room for.
    """

    pause: ClassVar[float] = 1.0
    """Seconds between two polls."""
    outlived: ClassVar[bool] = False
    """Whether runs outlive the process that coordinates them, so that the next one finds them
    running.
    """

    def __init__(self, main: Main, max_jobs: int | None) -> None:
        self.main = main
        self.max_jobs = max_jobs
        self.jobs: dict[str, Job] = {}
        """The accepted runs, by id."""
        self._said: set[str] = set()
        """The reasons to wait that the user was told."""

    def accept(self, configs: Sequence[RunConfig]) -> None:
        """Accept runs, which ``poll`` starts later; nothing is started yet.

        Raises:
            Refused: One of the runs can never start here.
        """
        for config in configs:
            self.check(config)
        self.jobs |= {config.run_id: Job(config) for config in configs}

    def poll(self) -> dict[str, State]:
        """Find out which runs have ended, start those that can start, and return the state of every
        accepted run by its id.

        Raises:
            Refused: The record of a run is damaged, or the cluster accepts no job of the study.
        """
        started = [job for job in self.jobs.values() if job.state in ("queued", "running")]
        for run_id, code in self.exit_codes(started).items():
            self._settle(self.jobs[run_id], code)
        self.begin(itertools.islice(self._ready(), self._free_slots()))
        return {run_id: job.state for run_id, job in self.jobs.items()}

    @abstractmethod
    def check(self, config: RunConfig) -> None:
        """Check that a run can start here, now or later.

        Raises:
            Refused: It never can.
        """

    @abstractmethod
    def begin(self, ready: Iterator[Job]) -> None:
        """Start as many of the ready runs, in their order, as can start now; on a cluster, put them
        into its queue.

        Raises:
            Refused: The cluster accepts none of them, though it has no other run of this study.
        """

    @abstractmethod
    def exit_codes(self, jobs: list[Job]) -> dict[str, int]:
        """Return the exit codes of those runs that have ended, by id. Of the others set the state
        to ``queued`` or ``running``, unless the cluster does not answer.

        Args:
            jobs: Runs that were started, or are in a cluster's queue.

        Returns:
            By the run's id its exit code: -signal, or 128 + signal as in a shell, where a signal
            has ended it; ``LOST`` where its machine was lost; -1 where no exit code is known.
        """

    @abstractmethod
    def stop(self) -> None:
        """Stop every run that was started or is in a cluster's queue. Runs get some time to write a
        checkpoint, and are killed then, or at once when this function is interrupted.
        """

    def _say_once(self, why: str) -> None:
        """Tell the user why runs wait, once for each reason."""
        if why not in self._said:
            say(why)
            self._said.add(why)

    def _free_slots(self) -> int | None:
        """Return how many more runs ``max_jobs`` allows now; None where there is no such limit."""
        if self.max_jobs is None:
            return None
        started = sum(bool(job.handle) for job in self.jobs.values())
        return max(0, self.max_jobs - started)

    def _ready(self) -> Iterator[Job]:
        """Yield the waiting runs that can start as soon as there is room. A run that has a record
        is set to done, and one that another process trains goes on waiting.
        """
        for job in self.jobs.values():
            if job.state != "waiting" or time.monotonic() < job.not_before:
                continue
            if job.directory.record():
                job.state = "done"
            elif job.watch.holders():
                # Another process trains the run.
                job.not_before = time.monotonic() + RETRY_SECONDS
            else:
                yield job

    def _settle(self, job: Job, code: int) -> None:
        """Decide what becomes of a run whose process has ended with this exit code: it is done,
        waits to go on, or has failed.
        """
        job.handle = None
        job.state = "waiting"
        # The record decides, never the exit code.
        if job.directory.record():
            job.state = "done"
        elif code == INTERRUPTED:
            # The run was asked to stop, or another process trains it.
            job.not_before = time.monotonic() + RETRY_SECONDS
        else:
            self._count_crash(job, code)

    def _count_crash(self, job: Job, code: int) -> None:
        """Count a crash of a run, and describe it in the run's log where a signal tells why.

        The run has failed if the exit code is ``BAD_INPUT``, or after too many crashes without
        progress: ``MAX_CRASHES``, or ``MAX_LOSSES`` if its machine was lost now. Else it goes on
        waiting, to be tried again.
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
    """Check that a run is on one machine.

    Raises:
        Refused: It is on several; of the launchers only SLURM starts their processes.
    """
    if config.runtime.num_nodes > 1:
        raise Refused(
            f"runtime.num_nodes: {config.runtime.num_nodes} is not allowed; it must be 1 unless launcher.name is slurm"
        )


def check_gpus(config: RunConfig) -> None:
    """Check that a run asks its cluster for the GPUs that it uses.

    Raises:
        Refused: ``launcher.gpus`` does not fit ``runtime.devices`` and ``runtime.accelerator``.
    """
    devices = config.runtime.devices
    gpus = config.launcher.gpus
    accelerator = config.runtime.accelerator
    allowed = {"cpu": [0], "gpu": [devices]}.get(accelerator, [0, devices])
    if gpus not in allowed:
        choice = " or ".join(map(str, allowed))
        where = f"runtime.devices {devices} and runtime.accelerator {accelerator}"
        raise Refused(f"launcher.gpus: {gpus} is not allowed; it must be {choice} with {where}")
