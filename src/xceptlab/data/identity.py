"""Which files a run depends on, by digests, so that it recognises what it was trained on; nothing
is decoded.

The digest of a data set is one of its files' names and sizes. It stays when the folder is moved,
and changes when a file is mended, added, renamed or put into another class. Of an own data set
(``data.name: folder``) it is part of the science, as ``data.content``; of the known sets the record
keeps it, to be compared before the record is trusted. The digest of weights that a training starts
from (``model.weights``) is one of their file's bytes, and part of the science as
``model.weights_digest``.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xceptlab.config.schema import DataConfig, ModelConfig, RunConfig
from xceptlab.data import layouts, sources
from xceptlab.data.sets import data_set
from xceptlab.errors import Refused
from xceptlab.runs.record import Record
from xceptlab.text import counted, say

_SAVE_TIMMS = (
    "; timm's weights need one, by which they are known: "
    "torch.save(timm.create_model('{}', pretrained=True).state_dict(), 'legacy_xception.pth')"
)
_DIGITS_ARE_MADE_BY = ("scikit-learn", "numpy", "pillow")
"""Packages that determine the digits' images: with equal versions of these the images are equal."""


@dataclass(frozen=True)
class Contents:
    """Identity of a data set's files, and the names of its classes."""

    content: str
    """Value of ``data.content``: parts, number of classes and digest, such as
    ``train+val-3-0123456789abcdef``.
    """
    classes: tuple[str, ...]
    """The names of the classes, by label; empty where the files do not tell."""


ReadContents = Callable[[DataConfig], Contents]
"""Type of ``contents``, and of a cache of it for runs that share their data."""


def resolved(
    config: RunConfig,
    registered: Mapping[str, Any] | None = None,
    read_contents: ReadContents | None = None,
) -> RunConfig:
    """Fill in what a run's identity needs: the digests of its own data set and of the weights that
    it starts from.

    Every command, and everything else that asks for a run's id, goes this way. Where the files are
    not at hand, the digest in the configuration is used, or else the registered one, and the user
    is told.

    Args:
        config: The configuration as it was loaded.
        registered: The science of the same run as a study has registered it.
        read_contents: Reads the contents of the data's files; ``contents`` by default.

    Raises:
        Refused: The files are not there and there is no digest to use instead, or they are others
            than the configuration says.
    """
    digests = registered or {}
    model = _resolved_weights(
        config.model, digests.get("model.weights_digest", ""), config.runtime.study
    )
    data = resolved_data(
        config.data, digests.get("data.content", ""), read_contents, study=config.runtime.study
    )
    return dataclasses.replace(config, model=model, data=data)


def resolved_data(
    data: DataConfig,
    registered: str = "",
    read_contents: ReadContents | None = None,
    study: str = "",
) -> DataConfig:
    """Fill in the content and the number of classes of an own data set; other data sets stay as
    they are.

    This is enough for commands that train nothing, such as an evaluation of given weights.

    Args:
        data: The configuration of the data as it was loaded.
        registered: The content that a study has registered; empty without one.
        read_contents: Reads the contents of the data's files; ``contents`` by default.
        study: Name of the study that started the run, and has filled the content in; empty without
            one.

    Raises:
        Refused: The files are not there and there is no content to use instead, or they are others
            than the configuration says.
    """
    if data.name != "folder":
        return data
    read = read_contents or contents
    try:
        content = _agreed_digest(
            key="data.content",
            configured=data.content,
            registered=registered,
            place=data.root,
            kind="photographs",
            read=lambda: read(dataclasses.replace(data, download=False)).content,
            changed="files were added, removed, renamed or changed since",
            study=study,
        )
    except Refused:
        if data.content or not data.download:
            raise
        content = contents(data).content
    classes = data.num_classes or int(content.split("-")[1])
    return dataclasses.replace(data, content=content, num_classes=classes)


def _resolved_weights(model: ModelConfig, registered: str, study: str) -> ModelConfig:
    if not model.weights:
        return model
    digest = _agreed_digest(
        key="model.weights_digest",
        configured=model.weights_digest,
        registered=registered,
        place=model.weights,
        kind="weights",
        read=lambda: _file_digest(weights_file(model.weights)),
        changed="the file was changed since",
        study=study,
    )
    return dataclasses.replace(model, weights_digest=digest)


def _agreed_digest(
    *,
    key: str,
    configured: str,
    registered: str,
    place: str,
    kind: str,
    read: Callable[[], str],
    changed: str,
    study: str,
) -> str:
    """The digest of files, or where they are not at hand the configured or registered digest, which
    the user is told.

    Args:
        key: The field that keeps the digest.
        configured: Its value in the configuration; empty before it was filled in.
        registered: Its value in a study's registration; empty without one.
        place: Where the files are looked for.
        kind: Kind of the files, in words: ``photographs`` or ``weights``.
        read: Reads the files' digest.
        changed: What may have happened to files whose digest is not the configured one, in words.
        study: Name of the study that has filled the digest in; empty where the user has.

    Raises:
        Refused: The files are not there and no digest is known, or theirs is not the configured
            one.
    """
    try:
        digest = read()
    except Refused as error:
        digest = configured or registered
        if not digest:
            raise
        known_from = key if configured else "what the study has registered"
        _say_once(f"{error}; {known_from}, {digest}, stands for it")
    else:
        if registered not in ("", digest):
            _say_once(
                f"{place}: holds other {kind}, {digest}, than the study was registered with, {registered}"
            )
    if configured not in ("", digest):
        anew = f"leave {key} out to train another run on what is there now"
        if study:
            anew = f"run the study {study} again, which begins anew on what is there now"
        remedy = f"{changed}; put back what was there, or {anew}"
        raise Refused(f"{key}: {configured} is not what is in {place}, which is {digest}: {remedy}")
    return digest


def weights_file(weights: str) -> Path:
    """The file that ``model.weights`` names; for a run's folder the file of the run's evaluated
    weights.

    Raises:
        Refused: There is no such file.
    """
    file = Path(weights)
    if file.is_dir():
        file = file / "model.safetensors"
    if not file.is_file():
        hint = ""
        if re.fullmatch(r"(legacy_)?xception(\.\w+)?", weights):
            hint = _SAVE_TIMMS.format(weights)
        elif re.fullmatch(r"[^/]+-[0-9a-f]{10}", weights):
            hint = f"; a run is named by its folder, outputs/runs/{weights}"
        raise Refused(f"model.weights: {file}: no such file{hint}")
    return file


def _file_digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def contents(config: DataConfig) -> Contents:
    """Identify the files of an own data set; prepared photographs by the note of what they were
    prepared from.

    Raises:
        Refused: They are not there, or are of fewer than two classes.
    """
    layout = layouts.find_layout(config)
    if layout.kind == "prepared":
        note = layouts.originals(layout.root)
        if "content" not in note:
            raise Refused(
                f"{layout.root}: what these photographs were prepared from is not noted; "
                "`xceptlab data prepare` with the same options notes it"
            )
        _refuse_other_originals(config, layout.root, note["content"])
        return Contents(note["content"], tuple(note["classes"]))
    classes = layouts.classes(layout)
    if len(classes) < 2:
        raise Refused(
            f"{layout.root}: train holds {counted(len(classes), 'class', 'classes')}; at least 2 are needed"
        )
    digest = sources.digest_of_files(layouts.names_and_sizes(layout))
    return Contents(f"{'+'.join(layout.parts)}-{len(classes)}-{digest}", classes)


def _refuse_other_originals(config: DataConfig, prepared: Path, noted: str) -> None:
    """Refuse prepared photographs whose originals, where they are at hand, have changed since.

    Raises:
        Refused: The originals have changed.
    """
    try:
        now = contents(dataclasses.replace(config, short_side=0, download=False)).content
    except Refused:  # they are not here, or no data set any more
        return
    if now != noted:
        remedy = f"remove {prepared} and prepare them again, or put back what was there"
        raise Refused(
            f"{prepared}: prepared from other photographs than are in {config.root} now; {remedy}"
        )


def class_names(config: DataConfig) -> tuple[str, ...]:
    """The names of the classes, by label, as far as the files tell; empty where they do not, or are
    not here.
    """
    try:
        return data_set(config.name).class_names(config)
    except (OSError, ValueError):
        return ()


def other_classes(here: Sequence[str], before: Sequence[str]) -> str:
    """How the names of classes, by label, differ from earlier ones, in words; empty where they do
    not, or either is unknown.
    """
    if not here or not before or [*here] == [*before]:
        return ""
    return f"of other classes: {', '.join(here)[:100]} in place of {', '.join(before)[:100]}, by their order"


def files(config: DataConfig) -> str:
    """Layout of a known data set's files and a digest of their names and sizes; empty where there
    are no files.
    """
    if config.name == "folder":  # its content is data.content, a part of the run's id
        return ""
    try:
        return data_set(config.name).files(dataclasses.replace(config, download=False))
    except Refused:  # the files are not on this machine
        return ""


def same(
    config: DataConfig, files: str, fingerprint: Callable[[], str], before: Mapping[str, str]
) -> bool:
    """Whether the data are those that were seen before, in other files perhaps.

    The fingerprint decides, since it is of every image. Only ImageNet's is of a few images: in an
    equal layout its files must be equal, too.

    Args:
        config: The data set.
        files: The result of ``files`` now.
        fingerprint: Gives the result of ``fingerprint`` now, which takes reading the images; called
            only where it decides.
        before: The earlier results, under the keys ``files`` and ``fingerprint``.
    """
    equal_layout = files.partition("-")[0] == before["files"].partition("-")[0]
    if config.name == "imagenet" and equal_layout and files != before["files"]:
        return False
    return fingerprint() == before["fingerprint"]


def changed(
    config: DataConfig, record: Record, read_files: Callable[[DataConfig], str] = files
) -> str:
    """How the data at hand differ from those of a record, in words; empty where they do not, or are
    not at hand.

    An own data set is part of the run's id, so that this is for known data sets: their files, or
    else their images, are compared.

    Args:
        config: The data set.
        record: The record of a run that was trained on it.
        read_files: ``files``, or a cache of it for runs of the same data.
    """
    if config.name == "digits":
        return _changed_digits(config, record)
    before = {"files": record.data_files, "fingerprint": record.data_fingerprint}
    try:
        now = read_files(config)
        if not now or not before["files"] or now == before["files"]:
            return ""
        if same(config, now, lambda: fingerprint(config), before):
            return ""
    except (OSError, ValueError) as error:
        return f"the files of {config.name} in {config.root} cannot be read ({error})"
    return f"the files of {config.name} in {config.root} have other names or sizes"


def _changed_digits(config: DataConfig, record: Record) -> str:
    if all(
        record.versions.get(name) == importlib.metadata.version(name)
        for name in _DIGITS_ARE_MADE_BY
    ):
        return ""  # known without loading the digits, which takes a second
    now = _digits_fingerprint(config)
    if record.data_fingerprint in ("", now):
        return ""
    return f"digits has fingerprint {now} with the libraries that are here, not {record.data_fingerprint}"


def changes(runs: Iterable[tuple[RunConfig, Record | None]]) -> list[str]:
    """All differences, in words, between the data at hand and those that runs were trained on, by
    the runs' records.
    """
    read_files = functools.cache(files)  # runs of a study share their data
    differences = []
    for run, record in runs:
        if record:
            differences.append(changed(run.data, record, read_files))
    return list(dict.fromkeys(difference for difference in differences if difference))


def fingerprint(config: DataConfig) -> str:
    """A hash of the decoded images and labels, as the record keeps it.

    Raises:
        Refused: The data set cannot be read.
    """
    return sources.fingerprint(data_set(config.name).load(config))


@functools.cache
def _digits_fingerprint(config: DataConfig) -> str:
    return fingerprint(config)


@functools.cache
def _say_once(line: str) -> None:
    """Tell the user a line once in this process, however many arms of a study cause it."""
    say(line)
