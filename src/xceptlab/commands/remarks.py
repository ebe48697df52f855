"""Warnings that several commands print, such as those of data sets that lack images."""

import dataclasses
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from xceptlab.config.schema import DataConfig
from xceptlab.errors import Refused
from xceptlab.text import counted, say

if TYPE_CHECKING:
    from xceptlab.data.check import AbsentClasses


def warn(lines: Iterable[object]) -> None:
    """Print each line as a warning on standard error."""
    for line in lines:
        say(line, "Warning")


def few_images(data: DataConfig) -> list[str]:
    """Return a line such as ``5 test images for 10 classes`` for each split that is known to have
    fewer images than there are classes, but at least one.

    Raises:
        Refused: The number of classes is needed and not known: it is that of a user's data set
            whose files nobody has read yet (``xceptlab.data.resolved`` does).
    """
    lines = []
    for split, count in zip(("training", "validation", "test"), data.images(), strict=True):
        if 0 < count < data.classes:
            lines.append(f"{counted(count, f'{split} image')} for {data.classes} classes")
    return lines


def absent_classes(data: DataConfig) -> "list[AbsentClasses]":
    """Find the classes of which a split of a user's data set (``data.name: folder``) has no image,
    without downloading it. A split without any image is passed over. The list is empty for any
    other data set, and where the files are not here or cannot be used.
    """
    from xceptlab.data import check

    if data.name != "folder":
        return []
    with suppress(Refused, OSError):
        return list(check.absent_classes(dataclasses.replace(data, download=False)))
    return []
