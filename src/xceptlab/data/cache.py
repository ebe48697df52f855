"""The user's cache folder, and in it the decoded images of small data sets: one run decodes them,
later runs map them into memory.

The name of a file of images says what it was decoded from. The file is checked as a whole whenever
it is read, and is written whole or not at all. It may be removed at any time; it is then written
again.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xceptlab.data.sources import Arrays, fingerprint, locked, reading
from xceptlab.errors import Refused
from xceptlab.files import write_atomically
from xceptlab.text import say


def user_cache() -> Path:
    """Return the folder for files that can be made again: ``xceptlab`` in ``$XDG_CACHE_HOME`` or,
    where that is not set or empty, in ``~/.cache``. It need not be there.

    Raises:
        RuntimeError: ``$XDG_CACHE_HOME`` is not set or empty, and the user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xceptlab"


def cached(
    name: str, origin: str, decode: Callable[[], tuple[Arrays, Arrays]]
) -> tuple[Arrays, Arrays]:
    """Return a data set's training and test images: mapped from the user's cache, or else decoded
    and kept there.

    Of several processes that begin at once, one decodes and the others wait for its file. Where the
    file is damaged or cannot be read, the images are decoded anew, and the user is told. Where they
    cannot be kept, such as on a full disk, the user is told, too. Where there is no place for a
    cache, since the user has no home, each call decodes them.

    Args:
        name: Name of the data set, with which the file's name begins.
        origin: A digest of all that determines what ``decode`` returns.
        decode: Decodes the training and the test images; called where they are not in the cache.
    """
    try:
        file = user_cache() / f"{name}-{origin}.safetensors"
    except RuntimeError:
        return decode()
    # A fault of the file is reported below, by the one process that then decodes the images.
    with contextlib.suppress(OSError, Refused):
        images = _read(file, origin)
        if images:
            return images
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(locked(file.parent))
        except OSError as error:
            _say_not_kept(file, error)
            return decode()
        try:
            images = _read(file, origin)
            # Another process may have decoded them meanwhile.
            if images:
                return images
        except (OSError, Refused) as error:
            say(f"{error}; its images are decoded anew")
        images = decode()
        try:
            _write(file, origin, images)
        except OSError as error:
            _say_not_kept(file, error)
        return images


def _say_not_kept(file: Path, error: OSError) -> None:
    """Tell the user that decoded images cannot be kept in a file of the cache, and why."""
    say(f"{file}: decoded images cannot be kept ({error.strerror}); every run decodes them")


def _write(file: Path, origin: str, images: tuple[Arrays, Arrays]) -> None:
    """Write training and test images to a file, whole or not at all.

    Args:
        file: The file.
        origin: Digest of all that determines the images, which the file keeps.
        images: The training and the test images.

    Raises:
        OSError: The file cannot be written, such as on a full disk.
    """
    from safetensors.numpy import save

    train, test = images
    arrays: dict[str, NDArray] = {
        "train.images": train.images,
        "train.labels": train.labels,
        "test.images": test.images,
        "test.labels": test.labels,
    }
    write_atomically(file, save(arrays, {"origin": origin, "fingerprint": fingerprint(images)}))


def _read(file: Path, origin: str) -> tuple[Arrays, Arrays] | None:
    """Map into memory the training and test images that ``_write`` has written to a file; returns
    None where there is no file. Changing the arrays does not change the file.

    Raises:
        OSError: The file cannot be read.
        Refused: The file is damaged, or its images were decoded from something else.
    """
    from safetensors import safe_open

    # Path.is_file would raise where the folder may not be read.
    if not os.path.isfile(file):
        return None
    # The framework "pt" of safetensors maps the file, while "numpy" copies it.
    with reading(file), safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()

        def arrays(split: str) -> Arrays:
            images = opened.get_tensor(f"{split}.images")
            labels = opened.get_tensor(f"{split}.labels")
            return Arrays(images.numpy(), labels.numpy())

        train, test = arrays("train"), arrays("test")
        sound = (
            _has_right_shape(train)
            and _has_right_shape(test)
            and fingerprint((train, test)) == metadata["fingerprint"]
        )
        if not sound or metadata["origin"] != origin:
            raise Refused("it does not hold what was written")
    return train, test


def _has_right_shape(arrays: Arrays) -> bool:
    """Whether the arrays have the types and shapes of images with labels. The fingerprint does not
    show that, since it is a hash of their bytes alone.
    """
    images, labels = arrays.images, arrays.labels
    are_images = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
    are_labels = labels.dtype == np.int64 and labels.shape == images.shape[:1]
    return are_images and are_labels
