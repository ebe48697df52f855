"""Run what is missing of a study, and show it live."""

import dataclasses
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live

from xceptlab.config.schema import RunConfig
from xceptlab.data import identity, require_files
from xceptlab.errors import Interrupted, Refused
from xceptlab.launch.launcher import Launcher, Main, State
from xceptlab.launch.status import Overview
from xceptlab.runs.directory import RunDirectory, outdated
from xceptlab.runs.metrics import ACCURACY
from xceptlab.signals import StopSignals
from xceptlab.study.expansion import Expansion
from xceptlab.study.registration import Registration, remember_files
from xceptlab.study.sequential import with_needed_seeds
from xceptlab.text import one_line, say

STOPPING = "Stopping: the runs write their checkpoints; Ctrl-C stops at once"
LEAVING = "Leaving: the jobs go on, and the same command finds them"


def run_until_decided(
    expansion: Expansion, jobs: int | None, main: Main, *, quiet: bool = False
) -> tuple[Expansion, dict[str, Path]]:
    """Train the missing runs of a study and, where it adds seeds until its claims are decided, the
    runs of added seeds.

    The arguments are those of ``run_missing``.

    Returns:
        The study with the seeds that it needed, and the logs of the runs that failed, by id.
    """
    failed = run_missing(expansion, jobs, main, quiet=quiet)
    while not failed:
        extended = with_needed_seeds(expansion)
        if extended.seeds == expansion.seeds:
            break
        expansion = extended
        failed = run_missing(expansion, jobs, main, quiet=quiet)
    return expansion, failed


def run_missing(
    expansion: Expansion, jobs: int | None, main: Main, *, quiet: bool = False
) -> dict[str, Path]:
    """Train every run of a study that has no record; what is done is not done again.

    Args:
        expansion: The study.
        jobs: Largest number of runs at a time; None for as many as there is room for.
        main: ``xceptlab``'s main function.
        quiet: Show nothing while the runs are trained.

    Returns:
        The logs of the runs that failed, by id.
    """
    missing = _missing(expansion)
    older = sum(map(outdated, missing.values()))
    if older and not quiet:
        print(
            f"{older} of the missing runs were begun by an older version, whose results differ; they start anew"
        )
    launcher = _start(expansion, missing, jobs, main) if missing else None
    remember_files(expansion)
    Registration.register(expansion)  # before the first poll, which starts the first run
    for directory in expansion.directories().values():
        directory.join(expansion.name)
    if launcher is None:
        return {}
    display = _Display(expansion, missing, quiet)
    stop_runs = True
    with StopSignals():
        try:
            _poll_until_all_ended(launcher, display)
        except (Interrupted, KeyboardInterrupt) as error:
            stop_runs = not (launcher.outlived and isinstance(error, Interrupted))
            for run_id, log in display.failures().items():
                say(f"{run_id}: {display.overview.reason(run_id)} (see {log})", "failed")
            with suppress(OSError):  # the terminal may have been closed
                display.print(STOPPING if stop_runs else LEAVING)
            raise
        finally:
            if stop_runs:
                launcher.stop()
    return display.failures()


def _missing(expansion: Expansion) -> dict[str, RunConfig]:
    """Runs without a record, by id; checkpoints and leases of runs that have one are removed.

    Raises:
        Refused: Runs were trained on other data than those at hand.
    """
    runs = expansion.runs()
    directories = expansion.directories()
    records = expansion.records()
    changes = identity.changes((run, records[key]) for key, run in runs.items())
    if changes:
        folder = next(iter(directories.values())).path.parent
        raise Refused(
            f"{expansion.name}: its runs were trained on other data than are here: {'; '.join(changes)}; put back what was "
            f"there, or remove the folders of these runs, in {folder}, to train them again"
        )
    missing = {}
    for key, run in runs.items():
        trial, _ = key
        if records[key]:
            directories[key].tidy()
        else:
            missing[run.run_id] = _with_study_and_arm(run, expansion.name, trial)
    return missing


def _with_study_and_arm(run: RunConfig, study: str, arm: str) -> RunConfig:
    """A run's configuration that also names the study and the arm for which it is trained."""
    return dataclasses.replace(run, runtime=dataclasses.replace(run.runtime, study=study, arm=arm))


def _start(
    expansion: Expansion, missing: dict[str, RunConfig], jobs: int | None, main: Main
) -> Launcher:
    """Check that the missing runs can be trained, and hand them to their launcher.

    Raises:
        Refused: Data or weights are not there, or a run can never start here.
    """
    for arm_config in expansion.arms.values():
        require_files(arm_config.data)
    for weights in {run.model.weights for run in missing.values()} - {""}:
        identity.weights_file(weights)
    launcher = make_launcher(next(iter(missing.values())), jobs, main)
    launcher.start(list(missing.values()))
    return launcher


def _poll_until_all_ended(launcher: Launcher, display: "_Display") -> None:
    with display:
        states = launcher.poll()
        while not _all_ended(states):
            display.show(states)
            time.sleep(launcher.pause)
            states = launcher.poll()
        display.show(states)


def _all_ended(states: dict[str, State]) -> bool:
    return set(states.values()) <= {"done", "failed"}


def make_launcher(config: RunConfig, jobs: int | None, main: Main) -> Launcher:
    """Make the launcher that a run's configuration asks for.

    Raises:
        Refused: The launcher needs something that is not installed or not there.
    """
    if config.launcher.name == "slurm":
        from xceptlab.launch.slurm import Slurm

        return Slurm(main, jobs)
    if config.launcher.name == "ray":
        from xceptlab.launch.ray import Ray

        return Ray(main, jobs, config.launcher.address)
    from xceptlab.launch.local import Local

    return Local(main, jobs)


class _Display:
    """Shows how far a study is: live in a terminal, once a second; elsewhere one line whenever a
    run starts or ends.

    With ``quiet`` it shows nothing.
    """

    def __init__(self, expansion: Expansion, missing: dict[str, RunConfig], quiet: bool) -> None:
        self.expansion = expansion
        self.missing = missing
        self.quiet = quiet
        self.overview = Overview(expansion)
        console = Console(highlight=False)
        self.live = (
            Live(console=console, auto_refresh=False) if console.is_terminal and not quiet else None
        )
        self.before: dict[str, State] = dict.fromkeys(missing, "waiting")
        self.done = len(self.overview.runs) - len(missing)
        """Number of runs whose end was shown, or that were done before."""
        self.refreshed = 0.0
        """When the live view was last refreshed, on the monotonic clock."""
        self.reasons_shown: set[str] = set()
        """Reasons of failure that were shown, since each is shown once."""

    def __enter__(self) -> "_Display":
        count = len(self.overview.runs)
        self.print(
            f"{self.expansion.name}: {count} runs, {len(self.missing)} to train; Ctrl-C stops, the same command continues"
        )
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            with suppress(OSError):  # the terminal may have been closed
                self.live.stop()

    def show(self, states: dict[str, State]) -> None:
        if self.live:
            self._refresh(self.live, states)
        else:
            for run_id, state in states.items():
                if state not in (self.before[run_id], "waiting"):
                    self._print_line(run_id, state)
        self.before = states

    def _refresh(self, live: Live, states: dict[str, State]) -> None:
        if _all_ended(states) or time.monotonic() > self.refreshed + 1:
            live.update(self.overview.table(states), refresh=True)
            self.refreshed = time.monotonic()

    def _print_line(self, run_id: str, state: State) -> None:
        """Print one line on a run that has started or ended."""
        outcome = ""
        if state == "done":
            self.done += 1
            outcome = self._score(run_id)
        elif state == "failed":
            outcome = self._reason(run_id)
        done = f"{self.done} of {len(self.overview.runs)} done"
        self.print(one_line(f"{self.overview.name(run_id)}: {state}{outcome} ({done})"))

    def print(self, line: str) -> None:
        if not self.quiet:
            print(line, flush=True)

    def failures(self) -> dict[str, Path]:
        """The logs of the runs that failed, by id."""
        return {
            run_id: self.overview.log(run_id)
            for run_id, state in self.before.items()
            if state == "failed"
        }

    def _reason(self, run_id: str) -> str:
        """Text on why a run failed: the reason, if it was not shown before, and where to read on."""
        reason = self.overview.reason(run_id)
        log = f" (see {self.overview.log(run_id)})"
        if reason in self.reasons_shown:
            return log
        self.reasons_shown.add(reason)
        return f", {reason}{log}"

    def _score(self, run_id: str) -> str:
        record = RunDirectory.of(self.missing[run_id].runtime.outputs, run_id).record()
        if record is None or record.status == "diverged":
            return ", diverged"
        metric = f"test/{ACCURACY}"
        return f", {metric} {record.metrics[metric]:.2f}"
