"""Say why a run failed, and what to try, by its process's exit code and its log."""

import re
import signal
from pathlib import Path

from xceptlab.runs.directory import RunDirectory

MEMORY = "out of memory, perhaps: try fewer runs at a time (--jobs), a smaller train.batch_size or more memory"
NATIVE = (
    "a library crashed, not Python code: try another device (runtime.accelerator), "
    "train.threads 1 or another version of torch"
)
CRASHES = {
    signal.SIGKILL: MEMORY,
    signal.SIGBUS: "no room in /dev/shm or on the disk, perhaps: runtime.workers 0 needs no shared memory",
    signal.SIGILL: "a library was built for another CPU, perhaps: install torch anew on this machine",
    signal.SIGSEGV: NATIVE,
    signal.SIGABRT: NATIVE,
    signal.SIGFPE: NATIVE,
}
"""What to try, by the signal that has ended a process which nobody asked to stop."""


def describe_crash(code: int, log: Path) -> str:
    """Return in words why a process crashed, and what to try; empty unless one of the signals in
    ``CRASHES`` has ended it.

    Args:
        code: Exit code of the process: -signal, or 128 + signal as in a shell.
        log: File of its output.
    """
    number = -code if code < 0 else code - 128
    if number not in CRASHES:
        return ""
    ended_by = signal.Signals(number)
    # SIGKILL leaves a process no time to write where it was.
    where = "" if ended_by == signal.SIGKILL else _last_python_line(log)
    return f"ended by {ended_by.name}{where}; {CRASHES[ended_by]}"


def _last_python_line(log: Path) -> str:
    """Return the innermost place in the latest traceback that ``faulthandler`` has written into a
    log, as text after a leading space such as `` in f (file.py, line 3)``; empty where there is no
    log, or no such traceback in it.
    """
    if not log.exists():
        return ""
    text = log.read_text("utf-8", errors="replace")
    last_error = text.rpartition("Fatal Python error: ")[2]
    trace = last_error.partition("Current thread")[2]
    line = re.search(r'^  File "(.*)", line (\d+) in (\S+)', trace, re.M)
    if not line:
        return ""
    file, number, function = line.groups()
    return f" in {function} ({file}, line {number})"


def note_failure(log: Path) -> None:
    """Write why a run failed into failure.txt, beside its ``log`` in the run's directory: the last
    line of the log that is not blank, without ``xceptlab:`` at its beginning, or ``no output``.
    """
    text = log.read_text("utf-8", errors="replace") if log.exists() else ""
    lines = text.strip().splitlines()
    reason = lines[-1].removeprefix("xceptlab: ") if lines else "no output"
    RunDirectory(log.parent).fail(reason)
