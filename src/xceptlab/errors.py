"""How a command ends: its exit codes, and the errors that mean something else than a defect of this program.

Every other exception keeps its traceback and ends with exit code 1.
"""

FAILED, BAD_INPUT, INTERRUPTED, CANCELLED = 1, 2, 75, 130
"""Exit codes: a run failed or the disk is full; it would fail again; the same command continues; Ctrl-C."""


class Refused(ValueError):
    """A configuration, a file or an argument that cannot be used; the message says what, where and what is allowed, in one line.

    The command line prints the message and ends with ``BAD_INPUT``. The ``ValueError`` of a library is none: nobody can mend a
    defect by another configuration.
    """

    def within(self, place: str) -> "Refused":
        """The same error with the place that it is in, such as a file's name, put before."""
        return Refused(f"{place}: {self}")


class Interrupted(BaseException):
    """A signal other than Ctrl-C's asked to stop; as Ctrl-C's, no error that a handler of errors may take for its own."""
