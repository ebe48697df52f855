"""Lines that are printed for the user."""

import sys
from contextlib import suppress

LENGTH = 1000
"""Characters of a line that is printed, at most."""


def say(message: object, kind: str = "xceptlab") -> None:
    """Print one line on standard error, ``KIND: MESSAGE``; nothing where the terminal is gone."""
    with suppress(OSError):
        print(f"{kind}: {one_line(str(message))}", file=sys.stderr, flush=True)


def one_line(message: str) -> str:
    """A message as one line of at most ``LENGTH`` characters that does nothing to a terminal.

    White space is collapsed; what is not printable, such as the beginning of a colour or of text from right to left, is escaped.
    """
    words = " ".join(message.split())
    return shortened("".join(character if character.isprintable() else _escaped(character) for character in words), LENGTH)


def shortened(text: str, length: int) -> str:
    """A text whose middle is left out where it has more characters: a message ends with what is wrong."""
    if len(text) <= length:
        return text
    end = (length - 5) // 3
    return f"{text[: length - 5 - end]} ... {text[-end:]}"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte of a file's name that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
