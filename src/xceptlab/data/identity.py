"""What the files are that a run depends on, by which it knows again what it was trained on; nothing is decoded.

The digest of a data set is one of its files' names and sizes. It stays when the folder is moved, and changes when a file is
mended, added, renamed or put into another class. Of an own data set (``data.name: folder``) it is part of the science, as
``data.content``; of the known sets the record keeps it, to be compared before the record is trusted. The digest of weights that a
training starts from (``model.weights``) is one of their file's bytes, and part of the science as ``model.weights_digest``.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xceptlab.config.schema import DataConfig, ModelConfig, RunConfig
from xceptlab.data import imagenet, sources
from xceptlab.data.sets import SETS
from xceptlab.errors import Refused
from xceptlab.runs.record import Record
from xceptlab.text import say

_SAVE_TIMMS = (
    "; timm's weights need one, by which they are known: "
    "torch.save(timm.create_model('{}', pretrained=True).state_dict(), 'legacy_xception.pth')"
)
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
    """The run with all that its identity needs: what its own data set and the weights are that it starts from.

    Every command, and everything else that asks for a run's id, goes this way. Where the files are not at hand, the digest that
    the configuration has, or else what was registered, stands for them, which is said.

    Args:
        config: As it was loaded.
        stand_in: The science of the same run as a study has registered it.
        look: What is asked for the contents of the data's files, such as a cached ``contents`` for runs of the same data.

    Raises:
        Refused: The files are not there and nothing stands for them, or they are others than the configuration says.
    """
    registered = stand_in or {}
    model = _resolved_weights(config.model, registered.get("model.weights_digest", ""))
    data = resolved_data(config.data, registered.get("data.content", ""), look)
    return dataclasses.replace(config, model=model, data=data)


def resolved_data(data: DataConfig, registered: str = "", look: Callable[[DataConfig], Contents] | None = None) -> DataConfig:
    """The data with the content and the number of classes of an own data set; other arguments and errors as of ``resolved``.

    Enough for what trains nothing, such as an evaluation, which has weights.
    """
    if data.name != "folder":
        return data
    try:
        content = _agreed(
            key="data.content",
            given=data.content,
            registered=registered,
            place=data.root,
            kind="photographs",
            look=lambda: (look or contents)(dataclasses.replace(data, download=False)).content,
            mend="files were added, removed, renamed or changed since; put back what was there, or leave data.content out to "
            "train another run on what is there now",
        )
    except Refused:
        if data.content or not data.download:
            raise
        content = contents(data).content
    classes = data.num_classes or int(content.split("-")[1])
    return dataclasses.replace(data, content=content, num_classes=classes)


def _resolved_weights(model: ModelConfig, registered: str) -> ModelConfig:
    if not model.weights:
        return model
    digest = _agreed(
        key="model.weights_digest",
        given=model.weights_digest,
        registered=registered,
        place=model.weights,
        kind="weights",
        look=lambda: _file_digest(weights_file(model.weights)),
        mend="the file was changed since; put back what was there, or leave model.weights_digest out to train another run from "
        "what is there now",
    )
    return dataclasses.replace(model, weights_digest=digest)


def _agreed(*, key: str, given: str, registered: str, place: str, kind: str, look: Callable[[], str], mend: str) -> str:
    """The digest of files: the one that is found or, where they are not at hand, what stands for it.

    Args:
        key: The field that keeps the digest.
        given: Its value in the configuration; empty before it was filled in.
        registered: Its value in a study's registration; empty without one.
        place: Where the files are looked for.
        kind: What they are, in words.
        look: Looks at the files.
        mend: What may have happened to files that are others than ``given``, and what to do.
    """
    try:
        found = look()
    except Refused as error:
        found = given or registered
        if not found:
            raise
        _say(f"{error}; {key if given else 'what the study has registered'}, {found}, stands for it")
    else:
        if registered not in ("", found):
            _say(f"{place}: holds other {kind}, {found}, than the study was registered with, {registered}")
    if given not in ("", found):
        raise Refused(f"{key}: {given} is not what is in {place}, which is {found}: {mend}")
    return found


def weights_file(weights: str) -> Path:
    """The file that ``model.weights`` names: of a run's folder that of its evaluated weights.

    Raises:
        Refused: There is no such file.
    """
    path = Path(weights)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        by_name = re.fullmatch(r"(legacy_)?xception(\.\w+)?", weights)
        raise Refused(f"model.weights: {file}: no such file{_SAVE_TIMMS.format(weights) if by_name else ''}")
    return file


def _file_digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def contents(config: DataConfig) -> Contents:
    """What the files of an own data set are; of prepared photographs what they were prepared from.

    Raises:
        Refused: They are not there, or are of fewer than two classes.
    """
    layout = imagenet.locate(config)
    if layout.kind == "prepared":
        note = imagenet.originals(layout.root)
        if "content" not in note:
            raise Refused(
                f"{layout.root}: what these photographs were prepared from is not noted; "
                "`xceptlab data prepare` with the same options notes it"
            )
        return Contents(note["content"], tuple(note["classes"]))
    classes = imagenet.classes(layout)
    if len(classes) < 2:
        raise Refused(f"{layout.root}: train holds {len(classes)} classes; at least 2 are needed")
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
    except Refused:  # not here
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
        Refused: The data set cannot be read.
    """
    return sources.fingerprint(SETS[config.name].load(config))


@functools.cache
def _digits_fingerprint(config: DataConfig) -> str:
    return fingerprint(config)


@functools.cache
def _say(line: str) -> None:
    """Once by a process, however many arms a study has."""
    say(line)
