"""Digests of the files that a run depends on, by which it recognises what it was trained on.

The digest of a data set is one of its files' names and sizes; nothing is decoded. It stays when the
folder is moved, and changes when a file is added, removed, renamed, put into another class or
replaced by one of another size. For a user's data set (``data.name: folder``) it is part of the
run's id, as ``data.content``. For a known data set the run's record keeps it, and it is compared
before the record is trusted.

The digest of weights that a training starts from (``model.weights``) is one of their file's bytes.
It is part of the run's id, as ``model.weights_digest``.
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
from xceptlab.runs.directory import weights_in
from xceptlab.runs.record import Record
from xceptlab.text import counted, say

_SAVE_TIMMS = (
    "; timm's weights need one, by which they are known: "
    "torch.save(timm.create_model('{}', pretrained=True).state_dict(), 'legacy_xception.pth')"
)
"""End of the error where ``model.weights`` names a model of timm's in place of a file."""
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
"""Type of the function ``contents``, and of caches of it for runs that share their data."""


def resolved(
    config: RunConfig,
    registered: Mapping[str, Any] | None = None,
    read_contents: ReadContents | None = None,
) -> RunConfig:
    """Return a run's configuration with what its id needs: the digest and the number of classes of
    a user's data set, and the digest of the weights that the run starts from.

    Whatever asks for a run's id calls this first. Where the files are not at hand, the digest in
    the configuration is used, or else the registered one, and the user is told.

    Args:
        config: The configuration as it was loaded.
        registered: The science fields of the same run, by dotted key, as a study has registered
            them; None without a registration.
        read_contents: Reads the contents of the data's files; None for ``contents``.

    Raises:
        OSError: A file or folder cannot be read.
        Refused: The files are not there or damaged and there is no digest to use instead; or they
            are others than the configuration says, or do not go with its other keys.
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
    """Return the data configuration of a user's data set with ``content`` and, where it is 0,
    ``num_classes`` filled in; that of another data set is returned as it is.

    This is enough for commands that train nothing, such as an evaluation of given weights. Missing
    files are fetched with ``data.download``, but only where no content is known without them.

    Args:
        data: The configuration of the data as it was loaded.
        registered: The content that a study has registered; empty without a registration.
        read_contents: Reads the contents of the data's files; None for ``contents``.
        study: Name of the study that started the run, and has filled the content in; empty without
            one.

    Raises:
        OSError: A file or folder cannot be read.
        Refused: The files are not there or damaged and there is no content to use instead; or they
            are others than the configuration says, or do not go with its other keys.
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
    """Return a model configuration with the digest of the weights that a training starts from; one
    without such weights is returned as it is.

    Args:
        model: The configuration of the model as it was loaded.
        registered: The digest that a study has registered; empty without a registration.
        study: Name of the study that started the run, and has filled the digest in; empty without
            one.

    Raises:
        OSError: The file cannot be read.
        Refused: The file is not there and no digest is known, or its digest is not the configured
            one.
    """
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
    """Return the digest of files. Where they are not at hand or are damaged, return the configured
    digest or else the registered one, and tell the user. Where files at hand are not the registered
    ones, the user is only told.

    Args:
        key: The field of the configuration that keeps the digest.
        configured: The field's value; empty before it was filled in.
        registered: The field's value in a study's registration; empty without one.
        place: Where the files are looked for, for messages.
        kind: Kind of the files, for messages: ``photographs`` or ``weights``.
        read: Reads the files' digest; raises ``Refused`` where they are not at hand or are damaged.
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
    """Return the file that ``model.weights`` names. For a run's folder it is the file of the run's
    evaluated weights.

    Raises:
        Refused: There is no such file.
    """
    file = Path(weights_in(weights))
    if not file.is_file():
        hint = ""
        if re.fullmatch(r"(legacy_)?xception(\.\w+)?", weights):
            hint = _SAVE_TIMMS.format(weights)
        elif re.fullmatch(r"[^/]+-[0-9a-f]{10}", weights):
            hint = f"; a run is named by its folder, outputs/runs/{weights}"
        raise Refused(f"model.weights: {file}: no such file{hint}")
    return file


def _file_digest(file: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a file's bytes."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def contents(config: DataConfig) -> Contents:
    """Read the identity and the classes of a user's data set from its files, without decoding any,
    or from the note beside prepared photographs on what they were prepared from. With
    ``data.download`` a data set of the Hugging Face hub that is not in its cache is fetched, unless
    prepared photographs are looked for in ``data.cache``.

    Raises:
        OSError: A file or folder cannot be read.
        Refused: The files are not there, are damaged, or are of fewer than two classes; or what
            photographs were prepared from is not noted, or has changed since.
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
    """Check that the originals of prepared photographs, where they are at hand, are the same as
    when the photographs were prepared.

    Args:
        config: The data set, with ``data.short_side``.
        prepared: The folder of the prepared photographs, for the error.
        noted: ``data.content`` of the originals then.

    Raises:
        Refused: The originals have changed.
    """
    try:
        now = contents(dataclasses.replace(config, short_side=0, download=False)).content
    # The originals are not at hand, or are no data set any more.
    except Refused:
        return
    if now != noted:
        remedy = f"remove {prepared} and prepare them again, or put back what was there"
        raise Refused(
            f"{prepared}: prepared from other photographs than are in {config.root} now; {remedy}"
        )


def class_names(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes, by label; empty where the files do not tell, are not at hand
    or cannot be read.
    """
    try:
        return data_set(config.name).class_names(config)
    except (OSError, Refused):
        return ()


def other_classes(here: Sequence[str], before: Sequence[str]) -> str:
    """Return in words how the classes of data differ from earlier ones.

    Args:
        here: Names of the classes now, by label; empty where they are not known.
        before: Names of the classes then, likewise.

    Returns:
        A part of a sentence; empty where the names are equal, or either are not known.
    """
    if not here or not before or [*here] == [*before]:
        return ""
    return f"of other classes: {', '.join(here)[:100]} in place of {', '.join(before)[:100]}, by their order"


def files(config: DataConfig) -> str:
    """Return the layout of a known data set's files and a digest of their names and sizes, such as
    ``parquet-0123456789abcdef``.

    It is empty for a user's data set, whose digest is ``data.content``, for a set without files of
    its own, and where the files are not there or are seen to be incomplete or damaged. Of
    torchvision's files of CIFAR, those that are missing are only left out of the digest. Nothing is
    downloaded.

    Raises:
        OSError: A file or folder cannot be read.
    """
    if config.name == "folder":
        return ""
    try:
        return data_set(config.name).files(dataclasses.replace(config, download=False))
    except Refused:
        return ""


def same(
    config: DataConfig, files: str, fingerprint: Callable[[], str], before: Mapping[str, str]
) -> bool:
    """Whether a data set has the same images as before, even if in other files.

    The fingerprint, a hash of the labels and the decoded images, decides. That of photographs is of
    a few images only. So ImageNet's files must have the same names and sizes, too, if they lie in
    the same layout; a user's data set is known by ``data.content``, which is not compared here.

    Args:
        config: The data set.
        files: Layout and digest of its files now, as the function ``files`` returns them.
        fingerprint: Returns the fingerprint of the data now. That takes reading the images, so it
            is called only where it decides.
        before: The earlier values of both, under the keys ``files`` and ``fingerprint``.
    """
    equal_layout = files.partition("-")[0] == before["files"].partition("-")[0]
    if config.name == "imagenet" and equal_layout and files != before["files"]:
        return False
    return fingerprint() == before["fingerprint"]


def changed(
    config: DataConfig, record: Record, read_files: Callable[[DataConfig], str] = files
) -> str:
    """Return in words how the data at hand differ from those that a run was trained on; empty where
    they do not, where they are not at hand, and where the record does not tell. Files that cannot
    be read are a difference.

    This is for known data sets, since a user's data set is part of the run's id, and a registered
    one has no files: for both the result is empty. Names and sizes of the files are compared and,
    where these differ, the images. ImageNet's images are compared only where its files lie in
    another layout than before: in the same layout other names or sizes are a difference. The
    digits, which have no files, are compared where the libraries that make them have other versions
    than in the record.

    Args:
        config: The data set.
        record: The record of a run that was trained on it.
        read_files: The function ``files``, or a cache of it for runs of the same data.
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
    except (OSError, Refused) as error:
        return f"the files of {config.name} in {config.root} cannot be read ({error})"
    return f"the files of {config.name} in {config.root} have other names or sizes"


def _changed_digits(config: DataConfig, record: Record) -> str:
    """Return in words that the digits' images are others than those that a run was trained on;
    empty where they are equal, or the record has no fingerprint. If the libraries that make them
    have the versions of the record, they are taken to be equal without a comparison.
    """
    here = {name: importlib.metadata.version(name) for name in _DIGITS_ARE_MADE_BY}
    then = {name: record.versions.get(name) for name in _DIGITS_ARE_MADE_BY}
    # Loading the digits to compare them takes a second.
    if then == here:
        return ""
    now = _digits_fingerprint(config)
    if record.data_fingerprint in ("", now):
        return ""
    return f"digits has fingerprint {now} with the libraries that are here, not {record.data_fingerprint}"


def changes(runs: Iterable[tuple[RunConfig, Record | None]]) -> list[str]:
    """Return in words how the data at hand differ from those that runs were trained on, each
    difference once.

    Args:
        runs: Runs with their records; None for a run that has none, which is passed over.
    """
    # The runs of a study share their data: look at the files once.
    read_files = functools.cache(files)
    differences = []
    for run, record in runs:
        if record:
            differences.append(changed(run.data, record, read_files))
    return list(dict.fromkeys(difference for difference in differences if difference))


def fingerprint(config: DataConfig) -> str:
    """Load a data set and return a hash of its labels and decoded images, as a run's record keeps
    it. Of photographs it is of all labels, but of only up to 16 images of each source.

    Raises:
        OSError: A file cannot be read.
        Refused: The data set is not there, is damaged, or has faults as a whole.
        RuntimeError: ImageNet's tar files need a cache, and the user has no home for one.
    """
    return sources.fingerprint(data_set(config.name).load(config))


@functools.cache
def _digits_fingerprint(config: DataConfig) -> str:
    """Return the fingerprint of the digits, computed once in this process for a configuration."""
    return fingerprint(config)


@functools.cache
def _say_once(line: str) -> None:
    """Tell the user a line, once in this process, however many runs of a study cause it."""
    say(line)
