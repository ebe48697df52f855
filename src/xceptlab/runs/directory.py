"""A run's directory, ``outputs/runs/<run_id>/``: what it holds, and how it is written and read.

::

    config.yaml          the resolved configuration
    data.json            what the data were when the run began, by which it knows them again when it continues
    record.json          written at the very end; a run is done when, and only when, this file exists
    metrics.jsonl        the log: one flushed line per logged step and per evaluation
    model.safetensors    the weights that were evaluated
    test_correct.npy     one byte per test image, in the data set's order: 1 where top-1 was right
    test_top5.npy        the same of top-5, where there are more than 5 classes
    test_loss.npy        the loss of each test image, in nats, 4 bytes each
    studies.txt          the studies that use the run
    registrations.txt    the registrations of studies that stood before the run began
    log.txt              what the run printed, when a study started it
    failure.txt          why it failed, when a launcher had started it; gone when it is started again
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

from xceptlab.config.fields import from_file, type_error
from xceptlab.config.schema import HASH, SCIENCE_VERSION, SHORT, RunConfig
from xceptlab.errors import Refused
from xceptlab.files import decoded, read, write_atomically
from xceptlab.runs import leases
from xceptlab.runs.log import Follower, read_log
from xceptlab.runs.record import Record

SETTLED = 3_000_000_000
"""Nanoseconds after which a folder that has changed again has another time of its change, on any file system."""


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run; nothing exists until ``create``."""

    path: Path

    @classmethod
    def of(cls, outputs: str, run_id: str) -> "RunDirectory":
        """The directory of the run of this id, or the one whose name ends with the same hash: older names read otherwise."""
        path = Path(outputs) / "runs" / run_id
        hashed = re.search(rf"(?:^|-)([0-9a-f]{{{HASH}}})$", run_id)
        if hashed and not path.exists():
            return cls(path.with_name(_names(path.parent).get(hashed[1], run_id)))
        return cls(path)

    def create(self) -> None:
        """Make the directory for a run that starts or continues: it has not failed any more."""
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        (self.path / "failure.txt").unlink(missing_ok=True)

    def fail(self, reason: str) -> None:
        """Note why the run failed, for whoever looks at its directory."""
        self.path.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # a full disk may be the reason, and the study goes on with other runs
            write_atomically(self.path / "failure.txt", reason.encode())

    def failure(self) -> str:
        """Why the run failed; empty for one that did not, or that was started again."""
        file = self.path / "failure.txt"
        return file.read_text("utf-8", errors="replace") if file.is_file() else ""

    def record(self) -> Record | None:
        """The record, or None while the run is not done.

        Raises:
            Refused: The file is not a record.
        """
        file = self.path / "record.json"
        try:
            return from_file(Record, json.loads(decoded(file.read_bytes())))
        except FileNotFoundError:
            return None
        except (RecursionError, ValueError) as error:
            raise Refused(f"{file}: not a record of this version ({error}); remove its folder to train the run again") from None

    def write_record(self, record: Record) -> None:
        text = json.dumps(dataclasses.asdict(record), indent=2, allow_nan=False)
        write_atomically(self.path / "record.json", text.encode() + b"\n")

    def log(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; see ``read_log``."""
        return read_log(self.path / "metrics.jsonl")

    def follow(self) -> Follower:
        """Follow the log of a run that is trained."""
        return Follower(self.path / "metrics.jsonl")

    def began_with(self) -> dict[str, str]:
        """What the data were when the run began; empty where nobody has noted it.

        Raises:
            Refused: The file is no such note.
        """
        file = self.path / "data.json"
        if not file.is_file():
            return {}
        try:
            noted = json.loads(decoded(file.read_bytes()))
            if invalid := type_error(dict[str, str], noted, "data"):
                raise invalid
        except (RecursionError, ValueError) as error:
            raise Refused(f"{file}: not what the run began with ({error}); remove its folder to train the run anew") from None
        return noted

    def begin_with(self, data: dict[str, str]) -> None:
        """Note what the data are that the run begins with."""
        write_atomically(self.path / "data.json", json.dumps(data).encode())

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run for this process.

        Raises:
            Busy: Another process holds it.
        """
        return leases.held(self.path)

    def tidy(self) -> None:
        """Drop what a run left that was killed between its record and its end."""
        if (self.path / "checkpoints").exists() and not leases.Watch(self.path).look():
            shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
            for name in leases.leases(self.path):
                (self.path / name).unlink(missing_ok=True)

    def studies(self) -> list[str]:
        """The studies that use the run."""
        file = self.path / "studies.txt"
        return read(file).split() if file.exists() else []

    def join(self, study: str) -> None:
        """Remember that a study uses the run."""
        if study not in self.studies():
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "studies.txt", "\n".join([*self.studies(), study, ""]).encode())

    def registrations(self) -> list[str]:
        """The digests of the registrations that stood before the run began."""
        file = self.path / "registrations.txt"
        return read(file).split() if file.exists() else []

    def register(self, registration: str) -> None:
        """Remember that a study was registered, by the registration's digest, unless the run has begun and may be known."""
        file = self.path / "metrics.jsonl"
        begun = self.record() is not None or (file.exists() and file.stat().st_size > 0)
        if not begun and registration not in self.registrations():
            self.path.mkdir(parents=True, exist_ok=True)
            lines = [*self.registrations(), registration, ""]
            write_atomically(self.path / "registrations.txt", "\n".join(lines).encode())


_listed: dict[Path, tuple[int, dict[str, str]]] = {}


def _names(runs: Path) -> dict[str, str]:
    """The names of the runs' directories by the hash that they end with; listed again only when the folder has changed."""
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


def outdated(config: RunConfig) -> bool:
    """Whether the run was begun by an older version, whose results differ."""
    older = (config.id_in(version) for version in range(1, SCIENCE_VERSION))
    return any(RunDirectory.of(config.runtime.outputs, run_id).path.exists() for run_id in older)


def begun_on_other_files(config: RunConfig) -> str:
    """Which unfinished run differs from this one only in what its files hold, in words; empty where there is none."""
    import yaml

    unreadable = (AttributeError, KeyError, TypeError, ValueError, OSError, yaml.YAMLError)  # no configuration of this version
    kinds = {"data.content": "photographs", "model.weights_digest": "weights"}
    name, _, _ = config.run_id.rpartition("-")
    digits = config.model.weights_digest[:SHORT]
    name = name.replace(f"weights{digits}", "weights*") if digits else name
    science, defaults = config.science(), RunConfig().science()
    for file in Path(config.runtime.outputs).glob(f"runs/{name}-*/config.yaml"):
        if (file.parent / "record.json").exists():
            continue
        with suppress(*unreadable):
            values = yaml.safe_load(file.read_text("utf-8"))
            given = {f"{part}.{key}": value for part in ("model", "data", "train") for key, value in values[part].items()}
            theirs = defaults | given | {"seed": values["seed"]}
            other = {key for key in science if theirs[key] != science[key]}
            if "data.content" in other:
                other.discard("data.num_classes")  # which a class that was added since has changed, too
            if other and other <= kinds.keys() and all(theirs[key] and science[key] for key in other):
                return f"{file.parent} was begun on other {' and '.join(kinds[key] for key in sorted(other))}"
    return ""
