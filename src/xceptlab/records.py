"""A run's directory, ``outputs/runs/<run_id>/``: what it holds, and how it is written and read.

::

    config.yaml          the resolved configuration
    data.json            what the data were when the run began, by which it knows them again when it continues
    record.json          written at the very end; a run is done when, and only when, this file exists
    metrics.jsonl        the log: one flushed line per logged step and per evaluation
    model.safetensors    the weights that were evaluated
    test_correct.npy     one byte per test image, in the data set's order: 1 where top-1 was right
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
import secrets
import shutil
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xceptlab import leases
from xceptlab.errors import Refused
from xceptlab.schema import HASH, SCIENCE_VERSION, SHORT, RunConfig
from xceptlab.section import from_file, misfit
from xceptlab.text import decoded, read

SETTLED = 3_000_000_000
"""Nanoseconds after which a folder that has changed again has another time of its change, on any file system."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a finished run leaves behind."""

    run_id: str
    status: Literal["finished", "diverged"]
    """diverged: the loss was not finite at some step; there are no metrics then."""
    science: dict[str, Any]
    """The science configuration, by dotted key."""
    metrics: dict[str, float]
    """Every final metric, such as test/top1 (percent) and test/loss (nats)."""
    parameters: int
    """Trainable parameters."""
    macs: int
    """Multiply-accumulates of one image's forward pass."""
    test_images: int
    """Images of the test split."""
    steps: int
    """Optimizer steps done."""
    seconds: float
    """Time of the training, evaluation excluded, over all interruptions."""
    images_per_second: float
    """Throughput in that time, over all devices."""
    device: str
    world_size: int
    precision: str
    data_fingerprint: str
    """Hash of the decoded images and labels."""
    data_files: str = ""
    """Of a known data set how its files lie and a digest of their names and sizes; of an own one ``data.content`` says it."""
    classes: list[str] = dataclasses.field(default_factory=list)
    """The names of the classes, by label; empty where the files do not tell."""
    versions: dict[str, str]
    git: dict[str, str | bool]
    """Revision and dirty flag of the code; empty where it is not a checkout."""
    started: float
    """Unix time."""
    finished: float
    """Unix time."""
    train_images: int = 0
    """Images that were trained on, without those held out; 0 in records of older versions."""
    validation_images: int = 0
    """Images held out for validation; 0 also in records of older versions."""
    majority_class: dict[str, float] = field(default_factory=dict)
    """Percent that always answering with a split's majority class would score, by metric: test/top1, and val/top1 where there are
    images to validate on; empty in records of older versions."""
    host: str = ""
    """Name of the machine (of the first process); empty in records of older versions."""
    registrations: list[str] | None = None
    """Digests of the studies' registrations that stood before the run began; None in records of older versions."""
    weights: str = ""
    """Where the weights come from that the training started from (``model.weights``), in words; empty where they were drawn."""


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
        """The lines of metrics.jsonl: numbers by name; a last line that a kill cut short is left out.

        Raises:
            Refused: A line is something else.
        """
        try:
            lines = (self.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        lines = [line for line in lines if line.endswith(b"\n")]
        try:
            at_once = json.loads(b"[" + b",".join(lines) + b"]")  # a thousand logs are read in a third of the time
        except (RecursionError, ValueError):
            at_once = []
        if len(at_once) == len(lines) and all(map(_of_a_log, at_once)):
            return at_once
        return [self._parsed(number, line) for number, line in enumerate(lines, start=1)]

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            values = json.loads(line)
        except (RecursionError, ValueError):
            values = None
        if not _of_a_log(values):
            file = self.path / "metrics.jsonl"
            raise Refused(f"{file}: line {number} is no line of a log; remove it, or its folder to train anew")
        return dict(values)

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
            if wrong := misfit(dict[str, str], noted, "data"):
                raise Refused(wrong)
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
        log = self.path / "metrics.jsonl"
        begun = self.record() is not None or (log.exists() and log.stat().st_size > 0)
        if not begun and registration not in self.registrations():
            self.path.mkdir(parents=True, exist_ok=True)
            lines = [*self.registrations(), registration, ""]
            write_atomically(self.path / "registrations.txt", "\n".join(lines).encode())


def _of_a_log(values: Any) -> bool:
    """Whether they are what a line of a log holds: finite or not, numbers by name, step, time and epoch among them."""
    if not isinstance(values, dict) or not {"step", "time", "epoch"} <= values.keys():
        return False
    return all(type(value) is float or (type(value) is int and abs(value) < 2**63) for value in values.values())


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


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: beside the target, flushed to the disk, then renamed onto it.

    Raises:
        OSError: As from the system (disk full, no permission); the old file stands and the new one is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # what the caller asked for, which the system may not have named
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_once(path: Path, data: bytes) -> None:
    """Write a whole file unless there is one already: of several writers, on several machines perhaps, the first one wins."""
    own = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write_atomically(own, data)
    try:
        os.link(own, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not path.exists():
            os.replace(own, path)
    finally:
        own.unlink(missing_ok=True)


def final_metrics(log: list[dict[str, Any]]) -> dict[str, float]:
    """The last validation's metrics."""
    evaluated = [line for line in log if "val/loss" in line]
    return {name: value for name, value in evaluated[-1].items() if name.startswith("val/")} if evaluated else {}


def throughput(log: list[dict[str, Any]]) -> tuple[float, float]:
    """Seconds of training and images per second in them, over all interruptions; evaluation excluded."""
    timed = [line for line in log if "seconds" in line]
    seconds = sum(line["seconds"] for line in timed)
    return seconds, sum(line["images_per_second"] * line["seconds"] for line in timed) / seconds if seconds else 0.0


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


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a running run is, as its log tells."""

    epoch: float = 0.0
    """Epochs done."""
    top1: float | None = None
    """Latest validation (or else training) accuracy, percent."""
    images_per_second: float | None = None
    seconds_left: float | None = None
    """At the speed of the training so far; pauses and evaluations are not counted."""


class Follower:
    """Follows a run's log, reading only what it has gained since the last look; any machine that sees the folder can."""

    def __init__(self, directory: RunDirectory) -> None:
        self._file = directory.path / "metrics.jsonl"
        self._latest: dict[str, Any] = {}  # the last value under each name
        self._seconds = 0.0
        self._inode = self._read = 0

    def progress(self, epochs: int) -> Progress:
        """How far the run, of so many epochs, has come."""
        try:
            with open(self._file, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._read:  # the run was continued, or trained anew
                    self._latest, self._seconds, self._inode, self._read = {}, 0.0, status.st_ino, 0
                file.seek(self._read)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return Progress()
        for line in whole.splitlines():
            with suppress(RecursionError, ValueError):  # whoever judges the log will complain
                if _of_a_log(values := json.loads(line)):
                    self._latest |= values
                    self._seconds += values.get("seconds", 0.0)
        self._read += len(whole) + bool(whole)
        epoch = self._latest.get("epoch", 0.0)
        left = None
        if epoch and self._seconds:
            left = max(0.0, self._seconds / epoch * (epochs - epoch) - (time.time() - self._latest["time"]))
        return Progress(
            epoch=epoch,
            top1=self._latest.get("val/top1", self._latest.get("train/top1")),
            images_per_second=self._latest.get("images_per_second"),
            seconds_left=left,
        )
