"""Files: reading text that users write, and writing whole files or nothing."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from xceptlab.errors import Refused

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""The byte order marks of UTF-16, which Windows calls "Unicode"."""


def read(file: str | os.PathLike[str]) -> str:
    """Return the text of a UTF-8 file, which may begin with a byte order mark.

    Raises:
        OSError: The file cannot be read.
        Refused: It is not UTF-8; the message names the file and the first wrong byte with its line,
            or says that it is UTF-16.
    """
    data = Path(file).read_bytes()
    try:
        return decoded(data)
    except Refused as error:
        raise error.within(str(file)) from None


def decoded(data: bytes) -> str:
    """Decode the bytes of a UTF-8 file, which may begin with a byte order mark.

    Raises:
        Refused: The bytes are not UTF-8; the message names the first wrong one and its line, or
            says that they are UTF-16.
    """
    if data.startswith(_UTF_16):
        raise Refused("UTF-16 text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        line = error.object[: error.start].count(b"\n") + 1
        raise Refused(f"not UTF-8 text: byte 0x{wrong:02x} in line {line}") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: the data go to a temporary file beside the target, which is
    flushed to the disk and then renamed onto the target.

    Raises:
        OSError: The file cannot be written (disk full, no permission): the old file stands and the
            temporary one is removed. Or only its folder cannot be flushed: the new file stands.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        # On a read-only file system unlink raises, too, even for a file that is not there.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            # The message should name the file that was asked for, not the temporary one.
            error.filename = str(path)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_once(path: Path, data: bytes) -> None:
    """Write a whole file, unless it exists already, which is no error.

    Of several writers, on several machines perhaps, the first one wins. On a file system without
    hard links the last one may win where two write at the same moment.

    Raises:
        OSError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_atomically(temporary, data)
    except OSError as error:
        error.filename = str(path)
        # Where only its folder could not be flushed, the file is there.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:
        # Most likely the file system has no hard links. Of two writers at the same moment the last
        # one may win then.
        if not path.exists():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
