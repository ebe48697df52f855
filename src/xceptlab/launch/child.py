"""The body of a process that a launcher has started for a run: it prints to the run's log, calls
``xceptlab`` and passes signals on.
"""

import faulthandler
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from xceptlab.errors import FAILED
from xceptlab.runs.world import forget
from xceptlab.signals import PARENT


def print_to(log: Path) -> None:
    """Append all that this process prints to ``log``, and the Python traceback of a crash in native
    code.
    """
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable(2)


def execute(main: Callable[[list[str]], int], argv: list[str], log: Path, *, fresh: bool) -> int:
    """Do what ``xceptlab ARGV`` does, print to ``log``, and return the exit code, which is not
    negative.

    Args:
        main: ``xceptlab``'s main function; not used with ``fresh``.
        argv: Arguments of ``xceptlab``.
        log: File of the run's output.
        fresh: Whether to run in a new interpreter, whose command Lightning can execute again for
            each further device, rather than in this process.
    """
    print_to(log)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # With the variables of an allocation or of another launcher's task, a run would wait for
    # processes that nobody starts.
    forget()
    if not fresh:
        return call(main, argv)
    return _execute_in_new_interpreter(argv)


def call(main: Callable[[list[str]], int], argv: list[str]) -> int:
    """Call ``main`` and return its exit code; ``FAILED`` where it raises an exception. That is a
    defect of the program: its traceback is printed, so that it stands in the run's log whatever a
    launcher does with it.
    """
    try:
        return main(argv)
    except Exception:
        traceback.print_exc()
        return FAILED


def _execute_in_new_interpreter(argv: list[str]) -> int:
    """Execute ``xceptlab ARGV`` in a new interpreter, pass SIGTERM and SIGINT on to it, both as
    SIGTERM, and return its exit code: 128 + signal where a signal has ended it.
    """
    environment = os.environ | {PARENT: str(os.getpid()), "PYTHONFAULTHANDLER": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "xceptlab", *argv], stdin=subprocess.DEVNULL, env=environment
    )

    def forward(number: int, frame: FrameType | None) -> None:
        process.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    # Ray stops a task by a SIGINT that Python only simulates. It wakes no process that waits, so
    # this one waits in short turns.
    while True:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(0.5)
            # A process cannot exit with a negative code; a shell uses 128 + signal.
            return code if code >= 0 else 128 - code
