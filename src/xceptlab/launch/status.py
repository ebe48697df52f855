"""Show the progress of a study. State, epoch and reason of failure of each run are read from its
directory, so this works on any machine that sees the outputs.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from xceptlab.errors import Refused
from xceptlab.launch.launcher import State
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.leases import STALE, read_leases
from xceptlab.runs.log import Follower, Progress
from xceptlab.study.expansion import Expansion

REFRESH_SECONDS = 2.0
"""Seconds between two readings of the runs' directories."""
WIDTH_OF_FILES = 10_000
"""Width of a line, in characters, where the output is no terminal, so that nothing is cut or
wrapped.
"""
REASONS = 5
"""Largest number of reasons of failure that are shown at a time."""
NO_REASON = "no reason is known"
"""Text in place of the reason of a failed run that left none."""
STATES = ("done", "diverged", "running", "failed", "stopped", "queued", "waiting")
"""The states of a run, in the order in which they are shown. ``stopped``: its log shows progress,
and no process trains it now; ``queued``: a cluster has it, and has not started it yet;
``waiting``: it has not begun, or a launcher is to start it, perhaps again.
"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """State of one run, as its directory and, if it has one, its launcher show it."""

    state: str
    """One of ``STATES``."""
    where: str = ""
    """Machine and id of the process that trains the run, such as ``host:4711``, with a note if it
    has given no sign of life for long; empty where no such process is known.
    """
    reason: str = ""
    """Why the run failed; empty for a run that did not, and where it is not known."""
    progress: Progress = field(default_factory=Progress)
    """How far the run is, by its log; for a run that is done or has failed, 0 epochs and None for
    all else.
    """


class Overview:
    """Reads the states of a study's runs from their directories, and shows them as text.

    It is made to be read repeatedly: a finished run is read once, and of the log of another one
    only the new lines.
    """

    def __init__(self, expansion: Expansion) -> None:
        self.expansion = expansion
        self.runs = {run.run_id: (trial, run) for (trial, _), run in expansion.runs().items()}
        """For every run, by its id, the name of what is trained and the run's configuration. The
        name is an arm's or, where keys are tuned, that of an arm at one value: ``residual@0.1``.
        """
        self._directories = {
            run_id: RunDirectory.of(run.runtime.outputs, run_id)
            for run_id, (_, run) in self.runs.items()
        }
        self._followers = {
            run_id: directory.follow() for run_id, directory in self._directories.items()
        }
        self._ended: dict[str, Seen] = {}
        """States of the runs with a record, by id, which do not change any more."""

    def name(self, run_id: str) -> str:
        """Return the name of a run in words, such as ``residual seed 0``."""
        trial, run = self.runs[run_id]
        return f"{trial} seed {run.seed}"

    def reason(self, run_id: str) -> str:
        """Return the reason of a run's failure, as its failure.txt has it; ``NO_REASON`` where
        there is none, also for a run that did not fail.
        """
        return self._directories[run_id].failure() or NO_REASON

    def log(self, run_id: str) -> Path:
        """Return the path of a run's log.txt, the file of all that the run prints if a launcher
        starts it.
        """
        return self._directories[run_id].path / "log.txt"

    def read(self, states: Mapping[str, State]) -> dict[str, Seen]:
        """Return the present state of every run, by the run's id. The directory of a run that was
        seen to be done or to have diverged is not read again.

        Args:
            states: By run id, what a launcher says of the runs that it has accepted; empty where
                there is no launcher.
        """
        seen = {}
        for run_id, (_, run) in self.runs.items():
            if run_id in self._ended:
                seen[run_id] = self._ended[run_id]
                continue
            directory = self._directories[run_id]
            follower = self._followers[run_id]
            seen[run_id] = run_status(directory, follower, run.train.epochs, states.get(run_id))
            if seen[run_id].state in ("done", "diverged"):
                self._ended[run_id] = seen[run_id]
        return seen

    def table(self, states: Mapping[str, State] = {}) -> Group:
        """Return what a terminal shows of the study: counts, running runs with their progress,
        reasons of failures, and the names of all other runs.

        Args:
            states: By run id, what a launcher says of the runs that it has accepted; empty where
                there is no launcher.
        """
        seen = self.read(states)
        by_state: dict[str, list[str]] = {state: [] for state in STATES}
        for run_id, run in seen.items():
            by_state[run.state].append(run_id)
        parts: list[Text | Table] = [self._counts(by_state)]
        if by_state["running"]:
            parts.append(self._progress({run_id: seen[run_id] for run_id in by_state["running"]}))
        parts += self._failures({run_id: seen[run_id].reason for run_id in by_state["failed"]})
        for state, runs in by_state.items():
            if runs and state not in ("running", "failed"):
                names = ", ".join(map(self.name, runs))
                parts.append(
                    Text(f"{state}: {names}", style="dim", no_wrap=True, overflow="ellipsis")
                )
        return Group(*parts)

    def _counts(self, by_state: Mapping[str, list[str]]) -> Text:
        """Return a line such as ``5 of 8 done, 1 diverged, 2 running``, from the ids of the runs in
        each state. Runs that diverged are also among those done.
        """
        done = len(by_state["done"]) + len(by_state["diverged"])
        counts = [f"{done} of {len(self.runs)} done"]
        for state, runs in by_state.items():
            if runs and state != "done":
                counts.append(f"{len(runs)} {state}")
        return Text(", ".join(counts), style="bold")

    def _progress(self, running: Mapping[str, Seen]) -> Table:
        """Return a table with a row for each of the running runs, which are given by id: epoch,
        accuracy, speed, time left and process.
        """
        view = Table("run", box=None, pad_edge=False, header_style="dim")
        for column in ("epoch", "top-1 %", "images/s", "left"):
            view.add_column(column, justify="right", min_width=8)
        view.add_column("process", style="dim")
        for run_id, seen in running.items():
            _, run = self.runs[run_id]
            progress = seen.progress
            view.add_row(
                Text(self.name(run_id)),
                f"{progress.epoch:.1f}/{run.train.epochs}",
                "" if progress.top1 is None else f"{progress.top1:.1f}",
                "" if progress.images_per_second is None else f"{progress.images_per_second:,.0f}",
                "" if progress.seconds_left is None else duration(progress.seconds_left),
                Text(seen.where),
            )
        return view

    def _failures(self, reasons: Mapping[str, str]) -> list[Text | Table]:
        """Return a line for each of the first ``REASONS`` reasons of failure, with the names of the
        runs that failed for it, and one more line that counts the other reasons, if any. The list
        is empty where no run failed.

        Args:
            reasons: The reason of every failed run, by the run's id; an empty text where it is not
                known.
        """
        by_reason: dict[str, list[str]] = {}
        for run_id, reason in reasons.items():
            by_reason.setdefault(reason, []).append(run_id)
        lines: list[Text | Table] = []
        for reason, runs in list(by_reason.items())[:REASONS]:
            names = ", ".join(map(self.name, runs))
            why = f"{reason or NO_REASON} (see {self.log(runs[0])})"
            lines.append(Text(f"failed: {names}: {why}", style="red"))
        others = len(by_reason) - REASONS
        if others > 0:
            lines.append(Text(f"failed for {others} other reasons: see the log.txt of each run"))
        return lines

    @property
    def complete(self) -> bool:
        """Whether every run was done or had diverged when the directories were last read."""
        return len(self._ended) == len(self.runs)


def run_status(
    directory: RunDirectory, follower: Follower, epochs: int, state: State | None = None
) -> Seen:
    """Return the state of one run.

    The first of these that there is decides: a record, which if damaged means ``failed``; a lease
    of a process that trains the run now; the launcher's ``state``; failure.txt. Where there is none
    of them, a run whose log shows progress is ``stopped``, and any other is ``waiting``.

    Args:
        directory: The run's directory.
        follower: Follower of the run's log.
        epochs: Number of epochs that the run is to train.
        state: What a launcher says of the run; None where no launcher has accepted it.
    """
    try:
        record = directory.record()
    except Refused as error:
        # A damaged file of one run must not hide the others.
        return Seen(state="failed", reason=str(error))
    if record:
        return Seen(state="diverged" if record.status == "diverged" else "done")
    progress = follower.progress(epochs)
    where = _process_that_trains(directory)
    if where:
        return Seen(state="running", where=where, progress=progress)
    reason = directory.failure()
    if state == "failed" or (reason and not state):
        return Seen(state="failed", reason=reason)
    if state:
        return Seen(state=state, progress=progress)
    return Seen(state="stopped" if progress.epoch else "waiting", progress=progress)


def _process_that_trains(directory: RunDirectory) -> str:
    """Return the process that trains a run, such as ``host:4711``, by the latest lease in the run's
    directory; empty where there is no lease, or the process is seen to have ended. A note follows
    where a process that cannot be seen from here, as on another machine, has given no sign of life
    for more than ``STALE`` seconds.
    """
    found = read_leases(directory.path)
    if not found:
        return ""
    latest = max(found.values(), key=lambda lease: lease.heartbeat)
    holder = latest.holder
    if holder.here and not holder.alive:
        return ""
    process = f"{holder.host}:{holder.pid}"
    silent = time.time() - latest.heartbeat / 1e9
    if silent > STALE and not holder.here:
        process += f" (no sign of life for {duration(silent)})"
    return process


def show(expansion: Expansion) -> None:
    """Print the progress of a study: in a terminal live, until all runs are done or Ctrl-C;
    elsewhere once.
    """
    overview = Overview(expansion)
    console = Console(highlight=False)
    runs = (expansion.directory().parents[1] / "runs").resolve()
    console.print(
        Text(expansion.nothing_found() or f"{expansion.name}, runs in {runs}"), soft_wrap=True
    )
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
        console.print(overview.table())
        return
    try:
        with Live(overview.table(), console=console, auto_refresh=False) as live:
            while not overview.complete:
                time.sleep(REFRESH_SECONDS)
                live.update(overview.table(), refresh=True)
    except KeyboardInterrupt:
        # The user has seen enough, which is no error.
        pass


def duration(seconds: float) -> str:
    """Return seconds as text of hours, minutes and seconds, such as 3:05 or 1:00:10."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds:02}"
