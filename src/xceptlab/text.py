"""Lines that are printed for the user, and numbers that a user has written."""

import hashlib
import sys
from contextlib import suppress

LENGTH = 1000
"""The largest number of characters in a line that is printed."""


def counted(count: int, thing: str, things: str = "") -> str:
    """Return a count of things in words, such as ``1 run`` or ``1,200 runs``; ``things`` is the
    plural where it is not ``thing`` with an s.
    """
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def number(text: str) -> float:
    """Parse a number; unlike ``float`` this refuses ``92_0``, which is a slip in a file or a
    command line. Like ``float`` it takes ``nan`` and ``inf``.

    Raises:
        ValueError: The text is no number.
    """
    if "_" in text:
        raise ValueError(f"{text!r} is no number")
    return float(text)


def whole_number(text: str) -> int:
    """Parse a whole number; unlike ``int`` this refuses ``1_0``, which is a slip in a file or a
    command line.

    Raises:
        ValueError: The text is no whole number.
    """
    if "_" in text:
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def say(message: object, kind: str = "xceptlab") -> None:
    """Print one line on standard error, ``KIND: MESSAGE``; nothing where the terminal is gone."""
    with suppress(OSError):
        print(f"{kind}: {one_line(str(message))}", file=sys.stderr, flush=True)


def one_line(message: str) -> str:
    """Return a message as one line of at most ``LENGTH`` characters that is safe to print.

    White space is collapsed; what is not printable, such as an escape sequence for colours or a
    mark for text from right to left, is escaped.
    """
    words = " ".join(message.split())
    printable = "".join(map(_printable, words))
    return shortened(printable, LENGTH)


def shortened(text: str, length: int) -> str:
    """Return a text as it is if it has at most ``length`` characters. In a longer one replace the
    middle by dots, so that it has ``length`` characters: messages end with what is wrong.
    """
    if len(text) <= length:
        return text
    gap = " ... "
    end = (length - len(gap)) // 3
    start = length - len(gap) - end
    return f"{text[:start]}{gap}{text[-end:]}"


def short_name(name: str, length: int) -> str:
    """Return a name as it is if it has at most ``length`` characters, and else its beginning with a
    digest of the whole name: ``length`` characters, by which different names differ.
    """
    if len(name) <= length:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: length - 9]}-{digest}"


def _printable(character: str) -> str:
    """Return a character as it is if it can be printed, and else an escape such as ``\\x1b``."""
    if character.isprintable():
        return character
    # This is how Python keeps a byte of a file's name that is no UTF-8.
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
