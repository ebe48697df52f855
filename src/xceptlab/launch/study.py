"""Train the missing runs of a study by a launcher, and show their progress live."""

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
    expansion: Expansion, max_jobs: int | None, main: Main, *, quiet: bool = False
) -> tuple[Expansion, dict[str, Path]]:
    """Train the missing runs of a study and, where it adds seeds until its claims are decided, the
    runs of added seeds.

    Args:
        expansion: The study.
        max_jobs: Largest number of runs at a time; None for as many as there is room for.
        main: ``xceptlab``'s main function, which a run's process calls.
        quiet: Whether to show no progress while the runs are trained.

    Returns:
        The study with the seeds that it needed, and the paths of the logs of the runs that failed,
        by the run's id; empty where none failed. After a failure no seeds are added.

    Raises:
        Refused: The data are not those of earlier runs; data, weights or what the launcher needs
            are missing; a run can never start here, or the cluster accepts no job; a record is
            damaged or is not that of the run with this id; the scores by which claims are judged or
            tuned values chosen are missing or cannot be used; or the study's directory holds
            another study's registration, or a file that is none.
        Interrupted, KeyboardInterrupt: A signal asked to stop.
    """
    failed = run_missing(expansion, max_jobs, main, quiet=quiet)
    while not failed:
        extended = with_needed_seeds(expansion)
        if extended.seeds == expansion.seeds:
            break
        expansion = extended
        failed = run_missing(expansion, max_jobs, main, quiet=quiet)
    return expansion, failed


def run_missing(
    expansion: Expansion, max_jobs: int | None, main: Main, *, quiet: bool = False
) -> dict[str, Path]:
    """Train every run of a study that has no record yet; what is done is not done again. The study
    is registered before the first run starts.

    Args:
        expansion: The study.
        max_jobs: Largest number of runs at a time; None for as many as there is room for.
        main: ``xceptlab``'s main function, which a run's process calls.
        quiet: Whether to show no progress while the runs are trained.

    Returns:
        The paths of the logs of the runs that failed, by the run's id; empty where none failed.

    Raises:
        Refused: The data are not those of earlier runs; data, weights or what the launcher needs
            are missing; a run can never start here, or the cluster accepts no job; a record is
            damaged or is not that of the run with this id; or the study's directory holds another
            study's registration, or a file that is none.
        Interrupted, KeyboardInterrupt: A signal asked to stop.
    """
    missing = _missing(expansion)
    older = sum(map(outdated, missing.values()))
    if older and not quiet:
        print(
            f"{older} of the missing runs were begun by an older version, whose results differ; they start anew"
        )
    launcher = None
    if missing:
        launcher = _make_launcher_with_runs(expansion, missing, max_jobs, main)
    remember_files(expansion)
    # The claims are registered before the launcher's first poll, which starts the first run.
    Registration.register(expansion)
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
            # The terminal may have been closed.
            with suppress(OSError):
                display.print(STOPPING if stop_runs else LEAVING)
            raise
        finally:
            if stop_runs:
                launcher.stop()
    return display.failures()


def _missing(expansion: Expansion) -> dict[str, RunConfig]:
    """Return the configurations of the runs without a record, by the run's id; remove checkpoints
    and leases that runs with a record have left.

    Raises:
        Refused: Runs were trained on other data than those at hand, or a record is damaged or is
            not that of the run with this id.
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
            missing[run.run_id] = _with_study_and_trial(run, expansion.name, trial)
    return missing


def _with_study_and_trial(run: RunConfig, study: str, trial: str) -> RunConfig:
    """Return a run's configuration that also names the study and the trial for which it is trained:
    an arm or, where keys are tuned, an arm at one value.
    """
    runtime = dataclasses.replace(run.runtime, study=study, arm=trial)
    return dataclasses.replace(run, runtime=runtime)


def _make_launcher_with_runs(
    expansion: Expansion, missing: dict[str, RunConfig], max_jobs: int | None, main: Main
) -> Launcher:
    """Check that the missing runs can be trained, and make a launcher that has accepted them;
    nothing is started yet.

    Raises:
        Refused: Data, weights or what the launcher needs are not there, or a run can never start
            here.
    """
    for arm_config in expansion.arms.values():
        require_files(arm_config.data)
    for weights in {run.model.weights for run in missing.values()} - {""}:
        identity.weights_file(weights)
    launcher = make_launcher(next(iter(missing.values())), max_jobs, main)
    launcher.accept(list(missing.values()))
    return launcher


def _poll_until_all_ended(launcher: Launcher, display: "_Display") -> None:
    """Poll the launcher, which then starts runs, and display the runs' states, until each run is
    done or has failed.
    """
    with display:
        states = launcher.poll()
        while not _all_ended(states):
            display.show(states)
            time.sleep(launcher.pause)
            states = launcher.poll()
        display.show(states)


def _all_ended(states: dict[str, State]) -> bool:
    """Whether every run, whose state is given by its id, is done or has failed."""
    return set(states.values()) <= {"done", "failed"}


def make_launcher(config: RunConfig, max_jobs: int | None, main: Main) -> Launcher:
    """Make the launcher that a run's configuration asks for by ``launcher.name``.

    Args:
        config: Configuration of a run.
        max_jobs: Largest number of runs at a time; None for as many as there is room for.
        main: ``xceptlab``'s main function, which a run's process calls.

    Raises:
        Refused: The launcher needs something that is not installed or not there.
    """
    if config.launcher.name == "slurm":
        from xceptlab.launch.slurm import Slurm

        return Slurm(main, max_jobs)
    if config.launcher.name == "ray":
        from xceptlab.launch.ray import Ray

        return Ray(main, max_jobs, config.launcher.address)
    from xceptlab.launch.local import Local

    return Local(main, max_jobs)


class _Display:
    """Shows the progress of a study while a launcher trains its runs: in a terminal as a live view,
    elsewhere by one line whenever a run is queued, starts or ends.

    Args:
        expansion: The study.
        missing: Configurations of the runs that are trained, by the run's id.
        quiet: Whether to show nothing.
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
        """The states that were shown last, by the run's id."""
        self.done = len(self.overview.runs) - len(missing)
        """Number of runs that were done at the start or that a printed line has said to be done. It
        is not counted further while there is a live view.
        """
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
            # The terminal may have been closed.
            with suppress(OSError):
                self.live.stop()

    def show(self, states: dict[str, State]) -> None:
        """Show the present states of the runs, which are given by the run's id."""
        if self.live:
            self._refresh(self.live, states)
        else:
            for run_id, state in states.items():
                if state not in (self.before[run_id], "waiting"):
                    self._print_line(run_id, state)
        self.before = states

    def _refresh(self, live: Live, states: dict[str, State]) -> None:
        """Redraw the live view if a second has passed, or if every run is done or has failed."""
        if _all_ended(states) or time.monotonic() > self.refreshed + 1:
            live.update(self.overview.table(states), refresh=True)
            self.refreshed = time.monotonic()

    def _print_line(self, run_id: str, state: State) -> None:
        """Print one line on a run that was queued, has started or has ended."""
        outcome = ""
        if state == "done":
            self.done += 1
            outcome = self._score(run_id)
        elif state == "failed":
            outcome = self._reason(run_id)
        done = f"{self.done} of {len(self.overview.runs)} done"
        self.print(one_line(f"{self.overview.name(run_id)}: {state}{outcome} ({done})"))

    def print(self, line: str) -> None:
        """Print a line at once; nothing if the display is quiet."""
        if not self.quiet:
            print(line, flush=True)

    def failures(self) -> dict[str, Path]:
        """Return the paths of the logs of the runs that had failed when states were last shown, by
        the run's id.
        """
        return {
            run_id: self.overview.log(run_id)
            for run_id, state in self.before.items()
            if state == "failed"
        }

    def _reason(self, run_id: str) -> str:
        """Return why a run failed, as text to follow its state: the reason, unless it was shown
        before, and the path of its log.
        """
        reason = self.overview.reason(run_id)
        log = f" (see {self.overview.log(run_id)})"
        if reason in self.reasons_shown:
            return log
        self.reasons_shown.add(reason)
        return f", {reason}{log}"

    def _score(self, run_id: str) -> str:
        """Return the test accuracy of a run that is done, such as ``, test/top1 91.20`` (percent),
        or ``, diverged``: text to follow the run's state.
        """
        record = RunDirectory.of(self.missing[run_id].runtime.outputs, run_id).record()
        if record is None or record.status == "diverged":
            return ", diverged"
        metric = f"test/{ACCURACY}"
        return f", {metric} {record.metrics[metric]:.2f}"
