"""Read a run's log, ``metrics.jsonl``, at once or while the run is trained.

The log has a line for each logged step and each evaluation: a JSON object of numbers by name, such
as ``{"step": 10, "time": 1.7e9, "epoch": 0.5, "train/loss": 2.1}``.
"""

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xceptlab.errors import Refused
from xceptlab.runs.metrics import ACCURACY, on_split, split_of


def is_line(values: Any) -> bool:
    """Whether values, parsed from JSON, may be a line of a log: numbers by name, with step, time
    and epoch among them. Decimal numbers may be infinite or NaN; whole ones must be below 2**63 in
    absolute value.
    """
    if not isinstance(values, dict) or not {"step", "time", "epoch"} <= values.keys():
        return False
    return all(
        type(value) is float or (type(value) is int and abs(value) < 2**63)
        for value in values.values()
    )


def read_log(file: Path) -> list[dict[str, Any]]:
    """Read a log, and return its lines, each of numbers by name; empty where there is no log.

    A last line that was not written to its end, as by a process that was killed, is left out.

    Raises:
        Refused: A line is no JSON object of numbers with step, time and epoch among them; the
            message names the line.
    """
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    lines = [line for line in lines if line.endswith(b"\n")]
    try:
        # Parsing all lines at once takes a third of the time of parsing them one by one.
        parsed = json.loads(b"[" + b",".join(lines) + b"]")
    except (RecursionError, ValueError):
        parsed = []
    if len(parsed) == len(lines) and all(map(is_line, parsed)):
        return parsed
    # Parsing line by line finds the one that is wrong.
    return [_parsed(file, number, line) for number, line in enumerate(lines, start=1)]


def _parsed(file: Path, number: int, line: bytes) -> dict[str, Any]:
    """Parse one line of a log: a JSON object of numbers with step, time and epoch among them.

    Raises:
        Refused: The line is something else; the message names the ``file`` and the line's
            ``number``, which counts from 1.
    """
    try:
        values = json.loads(line)
    except (RecursionError, ValueError):
        values = None
    if not is_line(values):
        raise Refused(
            f"{file}: line {number} is no line of a log; remove it, or its folder to train anew"
        )
    return dict(values)


def final_metrics(log: list[dict[str, Any]]) -> dict[str, float]:
    """Return the metrics of the last validation in a log, by name such as ``val/top1``; empty where
    nothing was validated.
    """
    for line in reversed(log):
        if is_evaluation(line, "val"):
            return on_split(line, "val")
    return {}


def is_evaluation(line: dict[str, Any], split: str) -> bool:
    """Whether a line of a log has the scores of an evaluation on a split, ``val`` or ``test``."""
    return any(split_of(name) == split for name in line)


def throughput(log: list[dict[str, Any]]) -> tuple[float, float]:
    """Return how long and how fast a run was trained, by its log.

    Returns:
        The seconds of training, without evaluation, added up over interruptions; and the images per
        second in them. Both are 0 before the first logged step.
    """
    timed = [line for line in log if "seconds" in line]
    seconds = sum(line["seconds"] for line in timed)
    images = sum(line["images_per_second"] * line["seconds"] for line in timed)
    return seconds, images / seconds if seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is, by its log."""

    epoch: float = 0.0
    """Epochs trained so far, in fractions."""
    top1: float | None = None
    """Latest accuracy in validation, or else in training, in percent; None before there is any."""
    images_per_second: float | None = None
    """Latest speed of the training; None before there is any."""
    seconds_left: float | None = None
    """Estimated seconds of training to the end, at the speed so far; evaluations are not counted.
    None before there is a speed.
    """


class Follower:
    """Follows a run's log while the run is trained: each call of ``progress`` reads only what was
    added. It works on any machine that sees the file.

    Args:
        file: The log, ``metrics.jsonl`` in the run's directory; it need not exist yet.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._latest: dict[str, Any] = {}
        """The last value of each name in the log."""
        self._seconds = 0.0
        """Seconds of training, summed over all lines of the log."""
        self._inode = 0
        """Number by which the file system tells a file that was replaced from the one before."""
        self._bytes_read = 0

    def progress(self, epochs: int) -> Progress:
        """Read what was added to the log, and return how far the run is; where there is no log, 0
        epochs and None for all else.

        Args:
            epochs: Number of epochs that the run is to train.
        """
        try:
            self._read()
        except FileNotFoundError:
            return Progress()
        epoch = self._latest.get("epoch", 0.0)
        seconds_left = None
        if epoch and self._seconds:
            seconds_per_epoch = self._seconds / epoch
            since_last_line = time.time() - self._latest["time"]
            seconds_left = max(0.0, seconds_per_epoch * (epochs - epoch) - since_last_line)
        return Progress(
            epoch=epoch,
            top1=self._latest.get(f"val/{ACCURACY}", self._latest.get(f"train/{ACCURACY}")),
            images_per_second=self._latest.get("images_per_second"),
            seconds_left=seconds_left,
        )

    def _read(self) -> None:
        """Read the lines that were added to the log since the last call; start over where the file
        was replaced or shortened.

        Raises:
            FileNotFoundError: There is no log.
        """
        with open(self._file, "rb") as file:
            status = os.fstat(file.fileno())
            # The run was continued from an earlier step, or trained anew.
            if status.st_ino != self._inode or status.st_size < self._bytes_read:
                self._latest, self._seconds = {}, 0.0
                self._inode, self._bytes_read = status.st_ino, 0
            file.seek(self._bytes_read)
            whole_lines = file.read().rpartition(b"\n")[0]
        for line in whole_lines.splitlines():
            # A line that is wrong is left to whoever reads the whole log, who refuses it.
            with suppress(RecursionError, ValueError):
                values = json.loads(line)
                if is_line(values):
                    self._latest |= values
                    self._seconds += values.get("seconds", 0.0)
        if whole_lines:
            self._bytes_read += len(whole_lines) + len(b"\n")
