"""Text that users write and text that they read: decoding their files, and the lines that are printed for them."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from xceptlab.errors import Refused

LENGTH = 1000
"""Characters of a line that is printed, at most."""

_UTF_16 = b"\xff\xfe", b"\xfe\xff"
"""How a file of Windows' "Unicode" begins."""


def read(file: str | os.PathLike[str]) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: It cannot be read.
        Refused: It is no such text; the line names the file.
    """
    data = Path(file).read_bytes()
    try:
        return decoded(data)
    except ValueError as error:
        raise Refused(f"{file}: {error}") from None


def decoded(data: bytes) -> str:
    """The text that the bytes of a file are in UTF-8, with or without a byte order mark.

    Raises:
        Refused: They are no such text; the line says where not.
    """
    if data.startswith(_UTF_16):
        raise Refused("UTF-16 text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"byte 0x{error.object[error.start]:02x} in line {error.object[: error.start].count(10) + 1}"
        raise Refused(f"not UTF-8 text: {place}") from None


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
