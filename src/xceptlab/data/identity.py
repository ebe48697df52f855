"""What the files are that a run depends on, by which it knows again what it was trained on; nothing is decoded.

The digest of a data set is one of its files' names and sizes. It stays when the folder is moved, and changes when a file is
mended, added, renamed or put into another class. Of an own data set (``data.name: folder``) it is part of the science, as
``data.content``; of the known sets the record keeps it, to be compared before the record is trusted. The digest of weights that a
training starts from (``model.weights``) is one of their file's bytes, and part of the science as ``model.weights_digest``.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xceptlab.data import cifar, digits, imagenet
from xceptlab.data.sources import printable
from xceptlab.data.stores import SUFFIXES, Shards, folders
from xceptlab.data.tables import feature_names
from xceptlab.records import Record
from xceptlab.schema import DataConfig, ModelConfig, RunConfig
from xceptlab.text import say

_SAVE_TIMMS = (
    "; timm's weights need one, by which they are known: "
    "torch.save(timm.create_model('{}', pretrained=True).state_dict(), 'legacy_xception.pth')"
)
_READERS = 16
"""Threads that ask for the sizes of files, which takes long over a network."""


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
        ValueError: The files are not there and nothing stands for them, or they are others than the configuration says.
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
    except ValueError:
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
    except ValueError as error:
        found = given or registered
        if not found:
            raise
        _say(f"{error}; {key if given else 'what the study has registered'}, {found}, stands for it")
    else:
        if registered not in ("", found):
            _say(f"{place}: holds other {kind}, {found}, than the study was registered with, {registered}")
    if given not in ("", found):
        raise ValueError(f"{key}: {given} is not what is in {place}, which is {found}: {mend}")
    return found


def weights_file(weights: str) -> Path:
    """The file that ``model.weights`` names: of a run's folder that of its evaluated weights.

    Raises:
        ValueError: There is no such file.
    """
    path = Path(weights)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        by_name = re.fullmatch(r"(legacy_)?xception(\.\w+)?", weights)
        raise ValueError(f"model.weights: {file}: no such file{_SAVE_TIMMS.format(weights) if by_name else ''}")
    return file


def _file_digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


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
    classes = _photographs_classes(layout)
    if len(classes) < 2:
        raise ValueError(f"{layout.root}: train holds {len(classes)} classes; at least 2 are needed")
    return Contents(f"{'+'.join(layout.parts)}-{len(classes)}-{_digest(_photographs_files(layout))}", classes)


def class_names(config: DataConfig) -> tuple[str, ...]:
    """The names of the classes, by label, as far as the files tell; empty where they do not."""
    if config.name == "digits":
        return tuple(map(str, range(10)))
    if config.name in ("cifar10", "cifar100"):
        return cifar.class_names(config)
    return _photographs_classes(imagenet.locate(config))


def files(config: DataConfig) -> str:
    """How the files of a known data set lie and a digest of their names and sizes; empty for one that has none, or none here."""
    config = dataclasses.replace(config, download=False)
    try:
        if config.name in ("cifar10", "cifar100"):
            found = [(os.fsencode(file.name), file.stat().st_size) for file in cifar.files(config)]
            return f"{'parquet' if found[0][0].endswith(b'.parquet') else 'torchvision'}-{_digest(found)}"
        if config.name == "imagenet":
            layout = imagenet.locate(config)
            return f"{layout.kind}-{_digest(_photographs_files(layout))}"
    except ValueError:  # not here
        return ""
    return ""


def changed(config: DataConfig, record: Record, look: Callable[[DataConfig], str] = files) -> str:
    """In what way the data that are here are not those of a record, in words; empty where they are, or are not here.

    Of an own data set this is known from the run's id; here are the known ones, whose files, or else images, are compared.
    """
    if config.name == "digits":
        here = _digits_fingerprint(config)
        same = record.data_fingerprint in ("", here)
        return "" if same else f"digits has fingerprint {here} with the libraries that are here, not {record.data_fingerprint}"
    here, theirs = look(config), record.data_files
    if not here or not theirs or here == theirs:
        return ""
    decided = config.name != "imagenet" or here.partition("-")[0] != theirs.partition("-")[0]
    if decided and fingerprint(config) == record.data_fingerprint:  # the same images in other files
        return ""
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
    modules: dict[str, Any] = {"digits": digits, "imagenet": imagenet, "folder": imagenet}
    return "-".join(source.fingerprint() for source in modules.get(config.name, cifar).load(config))


@functools.cache
def _digits_fingerprint(config: DataConfig) -> str:
    return fingerprint(config)


def _photographs_classes(layout: imagenet.Layout) -> tuple[str, ...]:
    if layout.kind == "tree":
        return tuple(map(printable, folders(layout.root / "train")))
    if layout.kind == "parquet":
        files = layout.shards("train")
        count = int(Shards.of(files).labels.max(initial=-1)) + 1
        names = feature_names(files[0], "label")
        return names if len(names) >= count else tuple(map(str, range(count)))
    return tuple(imagenet.originals(layout.root).get("classes", ()))


def _photographs_files(layout: imagenet.Layout) -> Iterator[tuple[bytes, int]]:
    """Names, relative to the data set's folder, and sizes."""
    if layout.kind == "tree":
        places = []
        for part in layout.parts:
            places += [f"{part}/{name}" for name in folders(layout.root / part)] or [part]  # ImageNet's flat val
        with ThreadPoolExecutor(_READERS) as threads:
            for found in threads.map(functools.partial(_class_folder, layout.root), places):
                yield from found
    elif layout.kind == "parquet":
        for part in layout.parts:
            for file in layout.shards(part):
                yield os.fsencode(f"{part}/{file.name}"), file.stat().st_size
    elif layout.kind == "tars":
        for name in imagenet.TARS:
            yield name.encode(), (layout.root / name).stat().st_size
    else:
        note = imagenet.originals(layout.root)
        yield json.dumps([note.get(part) for part in layout.parts], sort_keys=True).encode(), 0


def _class_folder(root: Path, place: str) -> list[tuple[bytes, int]]:
    with os.scandir(root / place) as entries:
        photographs = [entry for entry in entries if entry.name.lower().endswith(SUFFIXES)]
        return sorted((os.fsencode(f"{place}/{entry.name}"), entry.stat().st_size) for entry in photographs)


def _digest(files: Iterable[tuple[bytes, int]]) -> str:
    digest = hashlib.sha256()
    for name, size in files:
        digest.update(b"%s\0%d\n" % (name, size))
    return digest.hexdigest()[:16]


@functools.cache
def _say(line: str) -> None:
    """Once by a process, however many arms a study has."""
    say(line)
