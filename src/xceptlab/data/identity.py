"""What the data are: by which a run knows again what it was trained on, without an image being decoded.

The digest of a data set is one of its files' names and sizes. It stays when the folder is moved, and changes when a file is
mended, added, renamed or put into another class. Of an own data set (``data.name: folder``) it is part of the science, as
``data.content``; of the known sets the record keeps it, to be compared before the record is trusted.
"""

import dataclasses
import functools
import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xceptlab.data import imagenet, sources
from xceptlab.data.sets import SETS
from xceptlab.records import Record
from xceptlab.schema import DataConfig, RunConfig

_DIGITS_ARE_MADE_BY = ("scikit-learn", "numpy", "pillow")
"""Packages: of equal versions of these the digits are equal."""


@dataclass(frozen=True)
class Contents:
    """What the files of a data set are."""

    content: str
    """The parts, the number of classes and the digest, such as ``train+val-3-0123456789abcdef``."""
    classes: tuple[str, ...]
    """The names of the classes, by label; empty where the files do not tell."""


def resolved(
    config: RunConfig, stand_in: Mapping[str, Any] | None = None, look: Callable[[DataConfig], Contents] | None = None
) -> RunConfig:
    """The run with all that its identity needs: of an own data set the content and the number of classes.

    Every command, and everything else that asks for a run's id, goes this way. Where the files are not at hand, ``data.content``
    or what was registered stands for them, which is said.

    Args:
        config: As it was loaded.
        stand_in: The science of the same run as a study has registered it.
        look: What is asked for the contents of the files, such as a cached ``contents`` for runs of the same data.

    Raises:
        ValueError: The files are not there and nothing stands for them, or they are others than ``data.content`` says.
    """
    data, registered = config.data, (stand_in or {}).get("data.content", "")
    if data.name != "folder":
        return config
    try:
        content = (look or contents)(dataclasses.replace(data, download=False)).content
        if registered not in ("", content):
            _say(f"{data.root}: holds other photographs, {content}, than the study was registered with, {registered}")
    except ValueError as error:
        content = data.content or registered
        if content:
            _say(f"{error}; {'data.content' if data.content else 'what the study has registered'}, {content}, stands for it")
        elif data.download:
            content = contents(data).content
        else:
            raise
    if data.content not in ("", content):
        raise ValueError(
            f"data.content: {data.content} is not what is in {data.root}, which is {content}: files were added, removed, renamed "
            "or changed since; put back what was there, or leave data.content out to train another run on what is there now"
        )
    classes = data.num_classes or int(content.split("-")[1])
    return dataclasses.replace(config, data=dataclasses.replace(data, content=content, num_classes=classes))


def contents(config: DataConfig) -> Contents:
    """What the files of an own data set are; of prepared photographs what they were prepared from.

    Raises:
        ValueError: They are not there, or are of fewer than two classes.
    """
    layout = imagenet.locate(config)
    if layout.kind == "prepared":
        note = imagenet.originals(layout.root)
        if "content" not in note:
            raise ValueError(
                f"{layout.root}: what these photographs were prepared from is not noted; "
                "`xceptlab data prepare` with the same options notes it"
            )
        return Contents(note["content"], tuple(note["classes"]))
    classes = imagenet.classes(layout)
    if len(classes) < 2:
        raise ValueError(f"{layout.root}: train holds {len(classes)} classes; at least 2 are needed")
    digest = sources.digest_of_files(imagenet.names_and_sizes(layout))
    return Contents(f"{'+'.join(layout.parts)}-{len(classes)}-{digest}", classes)


def class_names(config: DataConfig) -> tuple[str, ...]:
    """The names of the classes, by label, as far as the files tell; empty where they do not, or are not here."""
    try:
        return SETS[config.name].class_names(config)
    except (OSError, ValueError):
        return ()


def files(config: DataConfig) -> str:
    """How the files of a known data set lie and a digest of their names and sizes; empty for one that has none, or none here."""
    if config.name == "folder":  # data.content says it
        return ""
    try:
        return SETS[config.name].files(dataclasses.replace(config, download=False))
    except ValueError:  # not here
        return ""


def same(config: DataConfig, files: str, fingerprint: Callable[[], str], before: Mapping[str, str]) -> bool:
    """Whether the data are those that were seen before, in other files perhaps.

    The fingerprint decides, as it is of every image. Of ImageNet's it is of a few only, so that in an equal layout the files must
    be equal, too.

    Args:
        config: The data set.
        files: What ``files`` says of it now.
        fingerprint: Gives what ``fingerprint`` says of it now; asked only where it decides.
        before: Both, by these names, as they were.
    """
    equal_layout = files.partition("-")[0] == before["files"].partition("-")[0]
    if config.name == "imagenet" and equal_layout and files != before["files"]:
        return False
    return fingerprint() == before["fingerprint"]


def changed(config: DataConfig, record: Record, look: Callable[[DataConfig], str] = files) -> str:
    """In what way the data that are here are not those of a record, in words; empty where they are, or are not here.

    Of an own data set this is known from the run's id; here are the known ones, whose files, or else images, are compared.
    """
    if config.name == "digits":
        if all(record.versions.get(name) == importlib.metadata.version(name) for name in _DIGITS_ARE_MADE_BY):
            return ""  # without loading them, which takes a second
        here = _digits_fingerprint(config)
        if record.data_fingerprint in ("", here):
            return ""
        return f"digits has fingerprint {here} with the libraries that are here, not {record.data_fingerprint}"
    theirs = record.data_files
    before = {"files": theirs, "fingerprint": record.data_fingerprint}
    try:
        here = look(config)
        if not here or not theirs or here == theirs:
            return ""
        if same(config, here, lambda: fingerprint(config), before):
            return ""
    except (OSError, ValueError) as error:
        return f"the files of {config.name} in {config.root} cannot be read ({error})"
    return f"the files of {config.name} in {config.root} have other names or sizes"


def changes(runs: Iterable[tuple[RunConfig, Record | None]]) -> list[str]:
    """Of runs with their records all ways in which the data that are here are not those that they were trained on."""
    look = functools.cache(files)  # they share their data
    found = (changed(run.data, record, look) for run, record in runs if record)
    return list(dict.fromkeys(filter(None, found)))


def fingerprint(config: DataConfig) -> str:
    """A hash of the decoded images and labels, as the record keeps it.

    Raises:
        ValueError: The data set cannot be read.
    """
    return sources.fingerprint(SETS[config.name].load(config))


@functools.cache
def _digits_fingerprint(config: DataConfig) -> str:
    return fingerprint(config)


@functools.cache
def _say(line: str) -> None:
    """Once by a process, however many arms a study has."""
    print(f"xceptlab: {line}", file=sys.stderr)
