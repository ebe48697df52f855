"""The signals that ask a process to stop, and the death of its parent."""

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
from typing import NoReturn

from xceptlab.errors import Interrupted
from xceptlab.text import say

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
"""What asks a run to stop: schedulers send the first two, a terminal that is gone the third, Ctrl-C the last."""

PARENT = "XCEPTLAB_PARENT"
"""Environment variable: the id of the process that a run must not outlive."""

_STARTER = os.getppid()  # asked at once: the parent may die while torch is loaded, which takes seconds


class StopSignals:
    """The signals that ask this process to stop, from entering to leaving.

    At once, by an exception; while ``deferred``, ``number`` remembers the signal for the training loop, which looks at it after
    each step. A process that was asked is on its way out: of later signals only Ctrl-C is heard, which stops it at once.

    Args:
        tells: Whether this process, of those of a run, tells the user what Ctrl-C does.
    """

    def __init__(self, *, tells: bool = True) -> None:
        self.number = 0
        self._tells = tells
        self._deferred = False

    def __enter__(self) -> "StopSignals":
        main = threading.current_thread() is threading.main_thread()  # only there Python lets signals be handled
        heard = [number for number in SIGNALS if main and signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._handle) for number in heard}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            mine = signal.getsignal(number) == self._handle  # not of one inside, which was asked and stays
            if mine and (number == signal.SIGINT or not self.number):
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Remember the first signal in ``number``; whoever looks at it calls ``stop``, and the end of the block does.

        Raises:
            Interrupted, KeyboardInterrupt: See ``stop``.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.number:
            self.stop(self.number)

    def stop(self, number: int) -> NoReturn:
        """Raise what the signal means.

        Raises:
            KeyboardInterrupt: The user asked to stop.
            Interrupted: Another signal did.
        """
        self.number = number  # which another process may have heard
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Interrupted(f"interrupted by {signal.Signals(number).name}; the same command continues")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.number = not self.number, self.number or number
        if (first and not self._deferred) or (not first and number == signal.SIGINT):
            self.stop(number)
        if first and number == signal.SIGINT and self._tells:
            say("stops after this step; Ctrl-C again stops at once")


def leave_signals_to_parent(*_: object) -> None:
    """For loader workers, which are often asked along with the run: they end with it, or its last step would lack its images."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def started_by_parent() -> bool:
    """Whether the process that started this one is a run's first process or a coordinator, which name themselves."""
    return os.environ.get(PARENT) == str(_STARTER)


def die_with_parent(started_by_torchrun: bool = False) -> None:
    """Let no process that another one started outlive it: ranks, and the runs of a coordinator that forked them or names itself.

    A process that dies by SIGKILL takes nobody along. NCCL would have the other ranks wait for it for minutes, and the next
    coordinator would meet the runs of the one before.
    """
    forked = multiprocessing.parent_process()  # from a server, which lives on
    if forked or started_by_torchrun or started_by_parent():
        _watch_parent(forked)


@functools.cache
def _watch_parent(forked: BaseProcess | None) -> None:
    threading.Thread(target=_outlive_no, args=(forked,), daemon=True).start()


def _outlive_no(forked: BaseProcess | None) -> None:
    if forked:
        forked.join()
    while not forked and os.getppid() == _STARTER:
        time.sleep(0.5)
    leads_a_group = os.getpgrp() == os.getpid()
    os.kill(0 if leads_a_group else os.getpid(), signal.SIGKILL)
