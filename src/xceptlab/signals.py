"""The signals that ask a process to stop, and the end of its parent.

``StopSignals`` turns a signal into ``errors.Interrupted``, and Ctrl-C into a ``KeyboardInterrupt``;
``cli.main`` turns these into the exit codes of ``errors``. Other modules handle signals and exit
codes where a run has several processes, or a launcher:

- ``training.checkpoints``: all processes of a run agree on a signal after a step; the exit code of
the first one tells of it.
- ``training.lightning``: gives Ctrl-C back that Lightning has turned into a ``SystemExit``.
- ``runs.leases``: ends a process whose run another one has taken over.
- ``runs.world``: ends torchrun's other processes once the first one has said what is wrong.
- ``launch.child``: passes signals on to a run in a new interpreter, and its exit code back.
- ``launch.launcher``: turns a run's exit code into its state: done, waiting to go on, or failed.
- ``launch.local``: stops runs by SIGTERM and, after some time for a checkpoint, by SIGKILL.
- ``launch.ray``: stops runs by cancelling Ray's tasks.
- ``launch.slurm``: stops runs by scancel; in a job, turns SLURM's notice into SIGTERM, and puts a
job that was interrupted back into the queue.
- ``launch.failures``: says what a signal that has ended a run may mean.

Those that only enter ``StopSignals``, or bind workers to their parent, are not listed.
"""

import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NoReturn

from xceptlab.errors import Interrupted
from xceptlab.text import say

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
"""The signals that ask a run to stop: schedulers send the first two, a terminal that closes the
third, Ctrl-C the last.
"""

PARENT = "XCEPTLAB_PARENT"
"""Environment variable with the id of the process that a run must not outlive."""

# Read at import, since the parent may die while torch is loaded, which takes seconds.
_PARENT_AT_START = os.getppid()


class StopSignals:
    """While entered, a signal that asks this process to stop raises an exception at once or, while
    ``deferred``, later: ``KeyboardInterrupt`` for Ctrl-C, ``Interrupted`` for any other signal.

    While ``deferred``, the signal is kept in ``number`` for the training loop, which looks at it
    after each step. Once a process has been asked to stop, only Ctrl-C is still heard, and stops it
    at once. Signals that the process ignored before are ignored still, and in another thread than
    the main one nothing changes.

    Args:
        explain: Whether to tell the user, on a first Ctrl-C while ``deferred``, that the run stops
            after this step; false in all processes of a run but one, so that it is told once.
    """

    def __init__(self, *, explain: bool = True) -> None:
        self.number = 0
        """Number of the signal that asked to stop; 0 before there is any. After a second one, which
        is heard only if it is Ctrl-C, it is the number of that.
        """
        self._explain = explain
        self._deferred = False

    def __enter__(self) -> "StopSignals":
        self._handlers_before: dict[int, Any] = {}
        # Python lets signals be handled in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._handlers_before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the earlier handlers; a process that has been asked to stop restores only that of
        Ctrl-C, and goes on ignoring the other signals.
        """
        asked_to_stop = self.number != 0
        for number, handler in self._handlers_before.items():
            # Another handler is one of StopSignals entered inside, which was asked to stop.
            replaced = signal.getsignal(number) != self._handle
            if not replaced and (number == signal.SIGINT or not asked_to_stop):
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within a ``with`` block, keep the first signal that asks to stop in ``number``; raise its
        exception at the end of the block. Ctrl-C after that signal raises an exception at once.

        Raises:
            KeyboardInterrupt: The user pressed Ctrl-C.
            Interrupted: Another signal asked to stop.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.number:
            self.stop(self.number)

    def stop(self, number: int) -> NoReturn:
        """Set ``number`` to a signal's number, and raise the exception that the signal stands for.

        Raises:
            KeyboardInterrupt: The signal is SIGINT, that of Ctrl-C.
            Interrupted: It is another one.
        """
        # The signal may have reached another process of the run only.
        self.number = number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Interrupted(
            f"interrupted by {signal.Signals(number).name}; the same command continues"
        )

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Raise the exception of the first signal or, while ``deferred``, keep its number. Of later
        signals only Ctrl-C is heard.
        """
        asked_to_stop_before = self.number != 0
        if asked_to_stop_before:
            if number == signal.SIGINT:
                self.stop(number)
            return
        self.number = number
        if not self._deferred:
            self.stop(number)
        if number == signal.SIGINT and self._explain:
            say("stops after this step; Ctrl-C again stops at once")


def started_by_parent() -> bool:
    """Whether this process was started by a run's first process or a launcher, which put their ids
    into the environment.
    """
    return os.environ.get(PARENT) == str(_PARENT_AT_START)


def die_with_parent(started_by_torchrun: bool = False) -> None:
    """Have this process killed, by SIGKILL, as soon as the one that started it has ended: a
    launcher, torchrun, the run's first process or the process that a worker works for. A process
    that leads a process group is killed with its group. Nothing happens to a process that a user
    has started.

    A process that SIGKILL ends cannot stop those that it has started. With NCCL other ranks would
    wait for it for minutes, and the next launcher would meet the runs of the one before.

    Args:
        started_by_torchrun: Whether torchrun has started this process.
    """
    # To the system a forked run's parent is the fork server, which outlives the launcher.
    launcher = multiprocessing.parent_process()
    if launcher or started_by_torchrun or started_by_parent():
        _watch(launcher)


@functools.cache
def _watch(launcher: BaseProcess | None) -> None:
    """Start the thread that kills this process when ``launcher`` or, for None, its parent has
    ended. A second call with the same argument does nothing.
    """
    threading.Thread(target=_die_with, args=(launcher,), daemon=True).start()


def _die_with(launcher: BaseProcess | None) -> None:
    """Wait for the end of ``launcher`` or, where that is None, of this process's parent; then kill
    this process, and its group if it leads one.
    """
    if launcher:
        launcher.join()
    else:
        while os.getppid() == _PARENT_AT_START:
            time.sleep(0.5)
    leads_a_group = os.getpgrp() == os.getpid()
    os.kill(0 if leads_a_group else os.getpid(), signal.SIGKILL)


def belong_to_parent(*_: object) -> None:
    """Bind a worker process, such as one of a ``DataLoader``, to the process that it works for. Any
    arguments, such as the worker's number that a ``worker_init_fn`` is given, have no effect.

    The worker ignores the signals that ask to stop: its parent gets them too, and still needs
    images for its last step. It is killed as soon as the parent has ended. torch's workers look for
    their parent themselves, but not if it was killed while they started.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
