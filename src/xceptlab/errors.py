"""How a command ends: its exit codes, and the errors that mean something else than a defect of this
program.

``cli.main`` turns errors into exit codes, also those of the operating system and
``runs.leases.Busy``. An exception that it does not catch is a defect: it keeps its traceback and
ends with exit code 1.
"""

FAILED = 1
"""Exit code: a run failed; a report could not be written; the operating system raised an error that
is none of ``cli.MENDABLE``, such as for a full disk; or the program has a defect.
"""
BAD_INPUT = 2
"""Exit code: the same command would fail again; the user has to mend something."""
INTERRUPTED = 75
"""Exit code: a signal asked to stop, or another process is at the run; the same command continues.
"""
CANCELLED = 130
"""Exit code: Ctrl-C."""


class Refused(ValueError):
    """A configuration, a file or an argument that cannot be used; the message says what, where and
    what is allowed, in one line.

    The command line prints the message and ends with ``BAD_INPUT``. Any other ``ValueError`` is a
    defect, which no other configuration can mend.
    """

    def within(self, place: str) -> "Refused":
        """Return an error with this one's message and, before it, a place such as a file's name."""
        return Refused(f"{place}: {self}")


class Interrupted(BaseException):
    """Raised where a signal other than SIGINT, that of Ctrl-C, has asked this process to stop.

    Like ``KeyboardInterrupt`` it is no ``Exception``, so that no ``except Exception`` catches it.
    """
