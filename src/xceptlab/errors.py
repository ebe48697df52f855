"""What a user can mend, told apart from what is a defect of this program."""


class Refused(ValueError):
    """A configuration, a file or an argument that cannot be used; the message says what, where and what is allowed, in one line.

    The command line prints the message and ends with exit code 2. Every other exception keeps its traceback and exit code 1, the
    ``ValueError`` of a library, too: nobody can mend a defect by another configuration.
    """
