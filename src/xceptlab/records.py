"""A run's directory, ``outputs/runs/<run_id>/``: what it holds, and how it is written and read.

::

    config.yaml          the resolved configuration
    record.json          written at the very end; a run is done when, and only when, this file exists
    metrics.jsonl        the log: one flushed line per logged step and per evaluation
    model.safetensors    the weights that were evaluated
    test_correct.npy     one byte per test image, in the data set's order: 1 where top-1 was right
    studies.txt          the studies that use the run
    log.txt              what the run printed, when a study started it
    checkpoints/         where to continue; dropped once the record exists
"""

import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

LOCK_PATIENCE = 6.0
"""Seconds to wait for a run that another process holds."""


class Busy(Exception):
    """Another process is training the run."""


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
    versions: dict[str, str]
    git: dict[str, Any]
    """Revision and dirty flag of the code; empty where it is not a checkout."""
    started: float
    """Unix time."""
    finished: float
    """Unix time."""


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run; nothing exists until ``create``."""

    path: Path

    @classmethod
    def of(cls, outputs: str, run_id: str) -> "RunDirectory":
        return cls(Path(outputs) / "runs" / run_id)

    def create(self) -> None:
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)

    def record(self) -> Record | None:
        """The record, or None while the run is not done.

        Raises:
            ValueError: The file is not a record.
        """
        file = self.path / "record.json"
        try:
            return Record(**json.loads(file.read_text()))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{file}: not a record of this version ({error}); remove its folder to train the run again"
            ) from None

    def write_record(self, record: Record) -> None:
        text = json.dumps(dataclasses.asdict(record), indent=2, allow_nan=False)
        write_atomically(self.path / "record.json", text.encode() + b"\n")

    def log(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        lines = [line for line in lines if line.endswith(b"\n")]
        try:
            at_once = json.loads(b"[" + b",".join(lines) + b"]")  # a thousand logs are read in a third of the time
        except ValueError:
            at_once = []
        if len(at_once) == len(lines) and all(isinstance(line, dict) for line in at_once):
            return at_once
        return [self._parsed(number, line) for number, line in enumerate(lines, start=1)]

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            return dict(json.loads(line).items())
        except (ValueError, AttributeError):
            file = self.path / "metrics.jsonl"
            raise ValueError(f"{file}: line {number} is no line of a log; remove it, or its folder to train anew") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the lock dies with the process.

        Raises:
            Busy: Another process holds it. Loader workers of a killed run keep it for some seconds, which are waited for.
        """
        folder = os.open(self.path, os.O_RDONLY)
        try:
            deadline = time.monotonic() + LOCK_PATIENCE
            while not self._lock(folder):
                if time.monotonic() > deadline:
                    raise Busy(f"{self.path}: another process is training this run")
                time.sleep(0.1)
            yield
        finally:
            os.close(folder)

    @staticmethod
    def _lock(folder: int) -> bool:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False

    def studies(self) -> list[str]:
        """The studies that use the run."""
        file = self.path / "studies.txt"
        return file.read_text().split() if file.exists() else []

    def join(self, study: str) -> None:
        """Remember that a study uses the run."""
        if study not in self.studies():
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "studies.txt", "\n".join([*self.studies(), study, ""]).encode())


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


def final_metrics(log: list[dict[str, Any]]) -> dict[str, float]:
    """The last validation's metrics."""
    evaluated = [line for line in log if "val/loss" in line]
    return {name: value for name, value in evaluated[-1].items() if name.startswith("val/")} if evaluated else {}


def throughput(log: list[dict[str, Any]]) -> tuple[float, float]:
    """Seconds of training and images per second in them, over all interruptions; evaluation excluded."""
    timed = [line for line in log if "seconds" in line]
    seconds = sum(line["seconds"] for line in timed)
    return seconds, sum(line["images_per_second"] * line["seconds"] for line in timed) / seconds if seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a running run is, as its log tells."""

    epoch: float = 0.0
    """Epochs done."""
    top1: float | None = None
    """Latest validation (or else training) accuracy, percent."""
    images_per_second: float | None = None
    seconds_left: float | None = None


def progress(directory: RunDirectory, epochs: int) -> Progress:
    """How far a run has come; its log is all that is read, so any machine that sees the folder can tell."""
    lines = directory.log()
    latest = {key: value for line in lines for key, value in line.items()}
    epoch = latest.get("epoch", 0.0)
    timed = [(line["time"], line["epoch"]) for line in lines if "train/loss" in line]
    left = None
    if len(timed) > 1 and timed[-1][1] > timed[0][1]:
        pace = (timed[-1][0] - timed[0][0]) / (timed[-1][1] - timed[0][1])
        left = max(0.0, pace * (epochs - epoch) - (time.time() - timed[-1][0]))
    return Progress(
        epoch=epoch,
        top1=latest.get("val/top1", latest.get("train/top1")),
        images_per_second=latest.get("images_per_second"),
        seconds_left=left,
    )
