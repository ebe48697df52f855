"""Start the runs that are missing on this machine, some at a time, one process each.

A run on one device is forked from a server process that has torch and Lightning loaded (0.2 s in place of some 8 s a run). A
run on several devices starts a fresh interpreter, which Lightning's own launcher then executes once per device. Either way the
process does what ``xceptlab train -c <its config.yaml>`` does, in a session of its own, and prints to the run's log.txt.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Literal

import yaml

from xceptlab.interruption import PARENT
from xceptlab.records import RunDirectory, write_atomically
from xceptlab.schema import RunConfig

State = Literal["waiting", "running", "done", "failed"]
Main = Callable[[list[str]], int]

ATTEMPTS = 2
PATIENCE = 5.0
"""Seconds that a run gets to end by itself when it is stopped."""
BAD_INPUT = 2
"""Exit code of a run that would fail again."""
INTERRUPTED = 75
"""Exit code of a run that is to be started again: it was interrupted, or another process is training it."""


@dataclass
class _Job:
    config: RunConfig
    state: State = "waiting"
    attempts: int = 0
    not_before: float = 0.0
    slot: int | None = None
    process: "multiprocessing.process.BaseProcess | subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory.of(self.config.runtime.outputs, self.config.run_id)

    def exit_code(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.poll()
        return self.process.exitcode if self.process else None


class Local:
    """Runs on this machine. A crashed run is tried once more; no run's failure stops another.

    Args:
        main: ``xceptlab``'s main function, which the processes call with their arguments.
        slots: Per run at a time the GPUs it gets, as CUDA_VISIBLE_DEVICES lists them; empty on CPUs.
    """

    def __init__(self, main: Main, slots: Sequence[str]) -> None:
        self.main, self.slots = main, list(slots)
        self.jobs: dict[str, _Job] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["xceptlab.launch.preload"])

    def start(self, configs: Sequence[RunConfig]) -> None:
        """Take these runs on; ``poll`` starts them as slots become free."""
        self.jobs |= {config.run_id: _Job(config) for config in configs}

    def poll(self) -> dict[str, State]:
        """See what has ended, start what can start, and tell every run's state by its id."""
        for job in self.jobs.values():
            if job.state == "running" and (code := job.exit_code()) is not None:
                self._ended(job, code)
        free = [slot for slot in range(len(self.slots)) if all(slot != job.slot for job in self.jobs.values())]
        ready = [job for job in self.jobs.values() if job.state == "waiting" and job.not_before <= time.monotonic()]
        for slot, job in zip(free, ready, strict=False):
            self._begin(job, slot)
        return {run_id: job.state for run_id, job in self.jobs.items()}

    def stop(self) -> None:
        """End every run: ask first, then kill; what they had checkpointed stays."""
        for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, 1.0)):
            running = [job for job in self.jobs.values() if job.process and job.exit_code() is None]
            for job in running:
                assert job.process is not None
                assert job.process.pid
                try:
                    os.killpg(job.process.pid, number)
                except ProcessLookupError:  # it has not made its own process group yet, or is gone
                    if isinstance(job.process, multiprocessing.process.BaseProcess):
                        job.process.kill()
            deadline = time.monotonic() + patience
            while running and time.monotonic() < deadline and any(job.exit_code() is None for job in running):
                time.sleep(0.05)

    def _begin(self, job: _Job, slot: int) -> None:
        job.directory.create()
        file = job.directory.path / "config.yaml"
        write_atomically(file, yaml.safe_dump(job.config.to_dict(), sort_keys=False).encode())
        argv, log = ["train", "-c", str(file)], job.directory.path / "log.txt"
        if job.config.runtime.devices * job.config.runtime.num_nodes == 1:
            process = self._context.Process(target=_forked, args=(self.main, argv, log, self.slots[slot]), name=job.config.run_id)
            process.start()  # the first one waits for the server to load; interrupted there, there is no process yet
            job.process = process
        else:
            environment = os.environ | _visible(self.slots[slot]) | {PARENT: str(os.getpid())}  # whom it must not outlive
            with open(log, "ab") as output:
                job.process = subprocess.Popen(
                    [sys.executable, "-m", "xceptlab", *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
        job.state, job.slot, job.attempts = "running", slot, job.attempts + 1

    def _ended(self, job: _Job, code: int) -> None:
        job.slot = job.process = None
        if job.directory.record():  # never the exit code
            job.state = "done"
        elif code == INTERRUPTED:
            job.state, job.attempts, job.not_before = "waiting", job.attempts - 1, time.monotonic() + 1
        else:
            job.state = "waiting" if code != BAD_INPUT and job.attempts < ATTEMPTS else "failed"


def _visible(gpus: str) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}


def _forked(main: Main, argv: list[str], log: Path, gpus: str) -> None:
    """A run's process, forked from the server."""
    os.setsid()
    os.environ |= _visible(gpus)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    sys.exit(main(argv))


def _die_with_parent() -> None:
    """A coordinator that is killed takes its runs along, so that the next one does not meet them."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
