"""A study as its runs' directories show it, from any machine that sees them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from xceptlab.launch.launcher import State
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.leases import STALE, leases
from xceptlab.runs.log import Progress
from xceptlab.study.expansion import Expansion

PAUSE = 2.0
"""Seconds between two looks."""
REASONS = 5
"""Reasons of failures that are shown at a time."""
STATES = ("done", "diverged", "running", "failed", "stopped", "queued", "waiting")
"""stopped: it has begun, and nobody trains it now."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One run as its directory shows it."""

    state: str
    where: str = ""
    """Who trains it."""
    reason: str = ""
    """Why it failed."""
    progress: Progress = field(default_factory=Progress)


class Overview:
    """The runs of a study. A look at one that is done costs nothing, at another one it reads what its log has gained."""

    def __init__(self, expansion: Expansion) -> None:
        self.expansion = expansion
        self.runs = {run.run_id: (arm, run) for (arm, _), run in expansion.runs().items()}
        self._directories = {run_id: RunDirectory.of(run.runtime.outputs, run_id) for run_id, (_, run) in self.runs.items()}
        self._followers = {run_id: directory.follow() for run_id, directory in self._directories.items()}
        self._ended: dict[str, Seen] = {}

    def name(self, run_id: str) -> str:
        """Arm and seed."""
        arm, run = self.runs[run_id]
        return f"{arm} seed {run.seed}"

    def reason(self, run_id: str) -> str:
        """Why a run failed."""
        return self._directories[run_id].failure() or "no reason is known"

    def log(self, run_id: str) -> Path:
        """Where to read more."""
        return self._directories[run_id].path / "log.txt"

    def look(self, states: Mapping[str, State]) -> dict[str, Seen]:
        """Every run, by id; ``states`` is what a launcher knows besides."""
        return {run_id: self._ended.get(run_id) or self._look(run_id, states.get(run_id)) for run_id in self.runs}

    def _look(self, run_id: str, state: State | None) -> Seen:
        directory = self._directories[run_id]
        if record := directory.record():
            self._ended[run_id] = Seen(state="diverged" if record.status == "diverged" else "done")
            return self._ended[run_id]
        progress = self._followers[run_id].progress(self.runs[run_id][1].train.epochs)
        if found := leases(directory.path):
            holder, beat = max(found.values(), key=lambda lease: lease[1])
            silent = time.time() - beat / 1e9
            if not holder.here or holder.alive:
                note = f" (no sign of life for {duration(silent)})" if silent > STALE and not holder.here else ""
                return Seen(state="running", where=f"{holder.host}:{holder.pid}{note}", progress=progress)
        reason = directory.failure()
        if state == "failed" or (reason and not state):
            return Seen(state="failed", reason=reason)
        return Seen(state=state or ("stopped" if progress.epoch else "waiting"), progress=progress)

    def table(self, states: Mapping[str, State] = {}) -> Group:
        """Counts, the running runs, and the names of the others."""
        seen = self.look(states)
        by_state = {state: [run_id for run_id in seen if seen[run_id].state == state] for state in STATES}
        done = len(by_state["done"]) + len(by_state["diverged"])
        counts = [f"{len(runs)} {state}" for state, runs in by_state.items() if state != "done" and runs]
        parts: list[Text | Table] = [Text(", ".join([f"{done} of {len(seen)} done", *counts]), style="bold")]
        view = Table("run", box=None, pad_edge=False, header_style="dim")
        for column in ("epoch", "top-1 %", "images/s", "left"):
            view.add_column(column, justify="right", min_width=8)
        view.add_column("process", style="dim")
        for run_id in by_state["running"]:
            p, epochs = seen[run_id].progress, self.runs[run_id][1].train.epochs
            view.add_row(
                Text(self.name(run_id)),
                f"{p.epoch:.1f}/{epochs}",
                "" if p.top1 is None else f"{p.top1:.1f}",
                "" if p.images_per_second is None else f"{p.images_per_second:,.0f}",
                "" if p.seconds_left is None else duration(p.seconds_left),
                Text(seen[run_id].where),
            )
        parts += [view] if view.row_count else []
        parts += self._failures({run_id: seen[run_id].reason for run_id in by_state["failed"]})
        for state, runs in by_state.items():
            if runs and state not in ("running", "failed"):
                names = ", ".join(map(self.name, runs))
                parts.append(Text(f"{state}: {names}", style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def _failures(self, reasons: Mapping[str, str]) -> list[Text | Table]:
        """Each reason once, with the runs that failed for it."""
        by_reason: dict[str, list[str]] = {}
        for run_id, reason in reasons.items():
            by_reason.setdefault(reason, []).append(run_id)
        lines: list[Text | Table] = []
        for runs in list(by_reason.values())[:REASONS]:
            why = f"{self.reason(runs[0])} (see {self.log(runs[0])})"
            lines.append(Text(f"failed: {', '.join(map(self.name, runs))}: {why}", style="red"))
        more = len(by_reason) - REASONS
        return [*lines, Text(f"failed for {more} other reasons: see the log.txt of each run")] if more > 0 else lines

    @property
    def complete(self) -> bool:
        """Whether every run was done at the last look."""
        return len(self._ended) == len(self.runs)


def show(expansion: Expansion) -> None:
    """Show a study: live in a terminal, until it is done or Ctrl-C; elsewhere once."""
    overview, console = Overview(expansion), Console(highlight=False)
    runs = (expansion.directory().parents[1] / "runs").resolve()
    console.print(Text(expansion.nothing_found() or f"{expansion.name}, runs in {runs}"), soft_wrap=True)
    if not console.is_terminal:
        console.print(overview.table())
        return
    try:
        with Live(overview.table(), console=console, auto_refresh=False) as live:
            while not overview.complete:
                time.sleep(PAUSE)
                live.update(overview.table(), refresh=True)
    except KeyboardInterrupt:  # how one leaves it
        pass


def duration(seconds: float) -> str:
    """Such as 3:05 or 1:00:10."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
