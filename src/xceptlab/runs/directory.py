"""A run's directory, ``outputs/runs/<run_id>/``: the files in it, and how they are written and read.

::

    config.yaml          the resolved configuration
    data.json            fingerprint and files of the data when the run began, with which they are compared when it continues
    record.json          written at the very end; a run is done when, and only when, this file exists
    metrics.jsonl        the log: one flushed line per logged step and per evaluation
    model.safetensors    the weights that were evaluated; a run that diverged has neither these nor
                         test_*.npy
    test_*.npy           for each metric its values for the test images, in the data set's order, one byte each for an accuracy
                         (1 where it was right), else 4; ``runs/metrics.py`` has the names (``per_image_file``)
    studies.txt          the studies that use the run
    registrations.txt    the registrations of studies that stood before the run began
    log.txt              what the run printed, when a study started it
    failure.txt          why the run failed, when a launcher had started it; removed when it is started again
    lease.*              which process trains the run now
    checkpoints/         where to continue; dropped once the record exists
"""

import dataclasses
import json
import os
import re
import shutil
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xceptlab.config.field_types import type_error
from xceptlab.config.fields import from_values
from xceptlab.config.run_id import HASH, SCIENCE_VERSION, SHORT
from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.files import decoded, read, write_atomically
from xceptlab.runs import leases
from xceptlab.runs.log import Follower, read_log
from xceptlab.runs.record import Record

SETTLED = 3_000_000_000
"""Nanoseconds after which a further change of a folder is sure to change its modification time:
some file systems keep times in steps of 2 s.
"""


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run, with functions to read and write its files. It need not exist."""

    path: Path

    @classmethod
    def of(cls, outputs: str, run_id: str) -> "RunDirectory":
        """Return the directory of the run with an id; it need not exist.

        The hash at the id's end is the run's identity. Where no directory has the id as its name,
        one whose name ends with the same hash is returned: an older version of the package gave
        the run another readable part.

        Args:
            outputs: The folder that holds ``runs/`` (``runtime.outputs``).
            run_id: The run's id.
        """
        path = Path(outputs) / "runs" / run_id
        hashed = re.search(rf"(?:^|-)([0-9a-f]{{{HASH}}})$", run_id)
        if hashed and not path.exists():
            return cls(path.with_name(_names(path.parent).get(hashed[1], path.name)))
        return cls(path)

    @classmethod
    def find(
        cls, name: str | os.PathLike[str], outputs: str | os.PathLike[str]
    ) -> "RunDirectory | None":
        """Return the directory of a run that has begun, as its config.yaml tells; None where there
        is none.

        Args:
            name: The run's folder or, if that is no run's, the run's id; ``~`` is the home folder.
            outputs: The folder that holds ``runs/``, where the id is looked for.
        """
        folder = Path(os.path.expanduser(name))
        for path in (folder, cls.of(os.path.expanduser(outputs), str(name)).path):
            if (path / "config.yaml").is_file():
                return cls(path)
        return None

    @classmethod
    def around(cls, file: Path) -> "RunDirectory | None":
        """Return the directory of the run to which a file of weights or a checkpoint belongs: the
        file's folder or else the one above it, if it holds config.yaml. None where neither does,
        and for a path of no file, such as timm's name of a network.
        """
        if not file.exists():
            return None
        for folder in file.parents[:2]:
            if (folder / "config.yaml").is_file():
                return cls(folder)
        return None

    def create(self) -> None:
        """Make the directory, with checkpoints/ in it, for a run that starts or continues, and
        remove failure.txt.
        """
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        (self.path / "failure.txt").unlink(missing_ok=True)

    def fail(self, reason: str) -> None:
        """Write down, in failure.txt, why the run failed; no error is raised if the file cannot be
        written, as on a full disk. The directory is made where it is missing.

        Raises:
            OSError: The directory cannot be made.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # A full disk may be why the run failed, and the study goes on with other runs.
        with suppress(OSError):
            write_atomically(self.path / "failure.txt", reason.encode())

    def failure(self) -> str:
        """Return why the run failed, which a launcher has written into failure.txt; empty where
        there is no such file. The run has then not failed, was started again since, or was trained
        without a launcher; or the file could not be written.
        """
        file = self.path / "failure.txt"
        return file.read_text("utf-8", errors="replace") if file.is_file() else ""

    def record(self) -> Record | None:
        """Read the run's record; None while the run is not done.

        Raises:
            Refused: The file is damaged, or is not a record.
        """
        file = self.path / "record.json"
        try:
            written = file.read_bytes()
        except FileNotFoundError:
            return None
        try:
            values = json.loads(decoded(written))
        except (RecursionError, ValueError) as error:
            raise Refused(
                f"{file}: damaged, no whole JSON ({error}); remove its folder to train the run again"
            ) from None
        try:
            return from_values(Record, values)
        except (RecursionError, Refused) as error:
            raise Refused(
                f"{file}: not a record of this version ({error}); remove its folder to train the run again"
            ) from None

    def record_of_its_id(self) -> Record | None:
        """Read the run's record, and check that its run id ends with the same hash as the name of
        the directory; None while the run is not done.

        Earlier versions had ``train.compile`` and ``train.deterministic`` in ``runtime``, and not
        in a run's id, though they change what is learned.

        Raises:
            Refused: The file is damaged, is not a record or is another run's; or an earlier version
                trained the run with another value of one of these two keys than its default.
        """
        record = self.record()
        if record and record.run_id[-HASH:] != self.path.name[-HASH:]:
            remedy = "remove this folder to train the run anew"
            raise Refused(
                f"{self.path / 'record.json'}: is the record of another run, {record.run_id}; {remedy}"
            )
        if record is None or "train.compile" in record.science:
            return record
        runtime = self._runtime_section()
        for line in ("compile: true", "deterministic: false"):
            if line in runtime:
                raise Refused(
                    f"{self.path}: an earlier version trained this run with runtime.{line}, which its id does not tell; "
                    "remove this folder to train the run anew"
                )
        return record

    def _runtime_section(self) -> list[str]:
        """Return the lines of the section ``runtime`` in config.yaml, without their indentation;
        empty where the file or the section is missing.
        """
        file = self.path / "config.yaml"
        if not file.is_file():
            return []
        section = re.search(r"^runtime:\n((?:[ ]+.*\n?)*)", read(file), re.MULTILINE)
        return [line.strip() for line in section[1].splitlines()] if section else []

    def write_record(self, record: Record) -> None:
        """Write record.json; from then on the run counts as done.

        Raises:
            ValueError: A number in the record is not finite.
            OSError: The file cannot be written.
        """
        text = json.dumps(dataclasses.asdict(record), indent=2, allow_nan=False)
        write_atomically(self.path / "record.json", text.encode() + b"\n")

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the run's log, metrics.jsonl, each as numbers by name, such as
        ``train/loss``; empty where there is no log. A last line that was not written to its end is
        left out.

        Raises:
            Refused: A line is no JSON object of numbers with step, time and epoch among them.
        """
        return read_log(self.path / "metrics.jsonl")

    def follow(self) -> Follower:
        """Return an object whose ``progress`` tells how far the run is, by what is added to the
        run's log while it is trained.
        """
        return Follower(self.path / "metrics.jsonl")

    def began_with(self) -> dict[str, str]:
        """Read data.json, which describes the data when the run began; an empty dict where there is
        no such file.

        Returns:
            Under ``fingerprint`` a hash of the labels and the decoded images, of photographs of all
            labels and a few images only. Under ``files`` the layout of the data's files and a
            digest of their names and sizes, or an empty text (see ``Record.data_files``).

        Raises:
            Refused: The file is damaged, or holds something else.
        """
        file = self.path / "data.json"
        if not file.is_file():
            return {}
        try:
            data = json.loads(decoded(file.read_bytes()))
            if invalid := type_error(dict[str, str], data, "data"):
                raise invalid
            if not {"fingerprint", "files"} <= data.keys():
                raise Refused("it must have the keys fingerprint and files")
        except (RecursionError, ValueError) as error:
            raise Refused(
                f"{file}: not what the run began with ({error}); remove its folder to train the run anew"
            ) from None
        return data

    def begin_with(self, data: dict[str, str]) -> None:
        """Write into data.json which data the run begins with, so that continuing it later on other
        data can be refused.

        Args:
            data: Under ``fingerprint`` a hash of the labels and the decoded images. Of a data set
                of photographs, such as ImageNet, it covers all labels, but only a few of the
                images. Under ``files`` the layout of the data's files and a digest of their names
                and sizes, or an empty text (see ``Record.data_files``).
        """
        write_atomically(self.path / "data.json", json.dumps(data).encode())

    def locked(self) -> AbstractContextManager[None]:
        """Return a context manager within which this process alone trains the run. The directory
        must exist (``create``). Within it, this process exits when another has taken the run over,
        which happens only after this one has given no sign of life for ``leases.STALE`` seconds.

        Raises:
            Busy: On entering: another process is training the run. Whether one on another machine
                still lives takes up to ``leases.STALE`` seconds to tell.
            OSError: On entering: the lease cannot be written, as on a full disk.
        """
        return leases.hold(self.path)

    def tidy(self) -> None:
        """Remove what a run that was killed after it had written its record has left: checkpoints,
        and leases beside them. Only for a run that has a record, which is not checked.

        A run that another process trains is left alone. One look cannot tell whether a lease of
        another machine is stale, so such a run is left alone, too.
        """
        if not (self.path / "checkpoints").exists():
            return
        watch = leases.Watch(self.path)
        if watch.holders():
            return
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        for name in watch.stale:
            (self.path / name).unlink(missing_ok=True)

    def studies(self) -> list[str]:
        """Read the names of the studies that use the run; empty for a run outside of any study."""
        file = self.path / "studies.txt"
        return read(file).split() if file.exists() else []

    def join(self, study: str) -> None:
        """Add a study, by its name, to studies.txt, the list of the studies that use the run."""
        if study not in self.studies():
            self.path.mkdir(parents=True, exist_ok=True)
            lines = [*self.studies(), study, ""]
            write_atomically(self.path / "studies.txt", "\n".join(lines).encode())

    def registrations(self) -> list[str]:
        """Read registrations.txt, which holds the digest of each registration of a study that was
        made before the run began; empty where there is none. A registration is what a study claimed
        before its first run.
        """
        file = self.path / "registrations.txt"
        return read(file).split() if file.exists() else []

    def register(self, registration: str) -> None:
        """Write down, in registrations.txt, that a study was registered before the run began.

        Nothing is written for a run that has begun, that is, which has a record or a line in its
        log: whoever registered the study may have known its scores.

        Args:
            registration: The registration's digest.

        Raises:
            Refused: The run's record is damaged.
        """
        log = self.path / "metrics.jsonl"
        begun = self.record() is not None or (log.exists() and log.stat().st_size > 0)
        if not begun and registration not in self.registrations():
            self.path.mkdir(parents=True, exist_ok=True)
            lines = [*self.registrations(), registration, ""]
            write_atomically(self.path / "registrations.txt", "\n".join(lines).encode())


_listed: dict[Path, tuple[int, dict[str, str]]] = {}
"""Cache of ``_names``: for each folder of runs its time of change, in nanoseconds, when it was
listed, and what ``_names`` returned.
"""


def _names(runs: Path) -> dict[str, str]:
    """Return the names of the runs' directories in the folder ``runs``, by the hash at their end;
    empty where there is no such folder. Of several names with one hash the first in sorted order
    is returned.

    The folder is not listed again while it has not changed since a listing that was made more than
    ``SETTLED`` nanoseconds after its last change.
    """
    try:
        changed = runs.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return {}
    if runs in _listed and _listed[runs][0] == changed:
        return _listed[runs][1]
    names = {name[-HASH:]: name for name in sorted(os.listdir(runs), reverse=True)}
    if time.time_ns() - changed > SETTLED:
        _listed[runs] = changed, names
    return names


def weights_in(path_or_name: str | Path) -> str | Path:
    """Return the path of ``model.safetensors`` in a folder, which is where a run has its evaluated
    weights, whether there is such a file or not. Return anything but a folder, such as a file or
    the name of a network, as it is.
    """
    if Path(path_or_name).is_dir():
        return Path(path_or_name) / "model.safetensors"
    return path_or_name


def outdated(config: RunConfig) -> bool:
    """Whether a run was begun by an earlier version of this package, whose results differ: whether
    there is a folder with the id that the run has under an earlier ``SCIENCE_VERSION``.
    """
    older = (config.id_in(version) for version in range(1, SCIENCE_VERSION))
    return any(RunDirectory.of(config.runtime.outputs, run_id).path.exists() for run_id in older)


def refuse_other_versions(config: RunConfig, directory: RunDirectory) -> None:
    """Check that a run was trained with the present versions of the registered components, such as
    activations, that it uses. A run without a record passes.

    Args:
        config: The run's configuration, by which the present versions are found.
        directory: The run's directory, whose record has the versions with which it was trained.

    Raises:
        Refused: Versions differ, and the message names a component with both versions; or the
            run's record is damaged.
    """
    record = directory.record()
    trained: dict[str, int] = record.science.get("extensions", {}) if record else {}
    for name, version in config.registered_versions().items():
        if trained.get(name, version) != version:
            raise Refused(
                f"{directory.path}: trained with version {trained[name]} of {name}; here it is version {version}"
            )


def begun_on_other_files(config: RunConfig) -> str:
    """Find an unfinished run that differs from this one only in what the files of its data or
    weights hold, and return a clause about it for a message, such as ``outputs/runs/... was begun
    on other photographs``.

    The clause is empty where there is no such run, and for a run with registered components.

    Args:
        config: This run.
    """
    import yaml

    not_of_this_version = (AttributeError, KeyError, TypeError, ValueError, OSError, yaml.YAMLError)
    name, _, _ = config.run_id.rpartition("-")
    weights = config.model.weights_digest[:SHORT]
    if weights:
        name = name.replace(f"weights{weights}", "weights*")
    for file in Path(config.runtime.outputs).glob(f"runs/{name}-*/config.yaml"):
        if (file.parent / "record.json").exists():
            continue
        with suppress(*not_of_this_version):
            differing = _differing_contents(config, yaml.safe_load(file.read_text("utf-8")))
            if differing:
                return f"{file.parent} was begun on other {' and '.join(differing)}"
    return ""


CONTENTS = {"data.content": "photographs", "model.weights_digest": "weights"}
"""For each key of the science configuration that is a digest of files: what these files are."""


def _differing_contents(config: RunConfig, values: dict[str, Any]) -> list[str]:
    """Return the kinds of files, by the words of ``CONTENTS``, whose contents differ between a run
    and another one.

    Args:
        config: The run.
        values: The values in the other run's config.yaml.

    Returns:
        ``photographs``, ``weights`` or both; empty if the runs differ in anything else, or if one
        of them does not know a digest in which they differ. Another number of classes beside other
        photographs is no further difference. Empty also for a run that uses registered components,
        whose versions the values do not hold.

    Raises:
        AttributeError, KeyError, TypeError: The values lack what a config.yaml of this version has.
    """
    science = config.science()
    theirs = RunConfig().science() | {"seed": values["seed"]}
    for part in ("model", "data", "train"):
        theirs |= {f"{part}.{key}": value for key, value in values[part].items()}
    differing = {key for key in science if theirs.get(key) != science[key]}
    # A class that was added to the files since has changed the number of classes, too.
    if "data.content" in differing:
        differing.discard("data.num_classes")
    if not differing <= CONTENTS.keys():
        return []
    if not all(theirs[key] and science[key] for key in differing):
        return []
    return [CONTENTS[key] for key in sorted(differing)]
