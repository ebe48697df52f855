"""Run what is missing of a study, and show it live."""

import dataclasses
import time
from collections import Counter
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
from xceptlab.signals import StopSignals
from xceptlab.study.expansion import Expansion
from xceptlab.study.registration import Registration, remember_files
from xceptlab.text import one_line, say


def run_missing(expansion: Expansion, jobs: int | None, main: Main) -> dict[str, Path]:
    """Train every run of a study that has no record; what is done is not done again.

    Args:
        expansion: The study.
        jobs: Runs at a time; None for as many as there is room for.
        main: ``xceptlab``'s main function.

    Returns:
        The logs of the runs that failed, by id.
    """
    missing = {}
    directories = {key: RunDirectory.of(run.runtime.outputs, run.run_id) for key, run in expansion.runs().items()}
    records = {key: directory.record() for key, directory in directories.items()}
    if changes := identity.changes((run, records[key]) for key, run in expansion.runs().items()):
        raise Refused(
            f"{expansion.name}: its runs were trained on other data than are here: {'; '.join(changes)}; put back what was "
            f"there, or remove the folders of these runs, in {next(iter(directories.values())).path.parent}, to train them again"
        )
    for (arm, seed), run in expansion.runs().items():
        if records[arm, seed]:
            directories[arm, seed].tidy()
        else:
            missing[run.run_id] = _of_study(run, expansion.name, arm)
    launcher = None
    if missing:
        if older := sum(map(outdated, missing.values())):
            print(f"{older} of the missing runs were begun by an older version, whose results differ; they start anew")
        for arm_config in expansion.arms.values():
            require_files(arm_config.data)
        for weights in {run.model.weights for run in missing.values()} - {""}:
            identity.weights_file(weights)
        launcher = make_launcher(next(iter(missing.values())), jobs, main)
        launcher.start(list(missing.values()))
    remember_files(expansion)
    Registration.make(expansion)  # before the first poll, which starts the first run
    for run in expansion.runs().values():
        RunDirectory.of(run.runtime.outputs, run.run_id).join(expansion.name)
    if launcher is None:
        return {}
    display = _Display(expansion, missing)
    leave = False
    with StopSignals():
        try:
            with display:
                while not set((states := launcher.poll()).values()) <= {"done", "failed"}:
                    display.show(states)
                    time.sleep(launcher.pause)
                display.show(states)
        except (Interrupted, KeyboardInterrupt) as error:
            leave = launcher.outlived and isinstance(error, Interrupted)
            stopping = "Stopping: the runs write their checkpoints; Ctrl-C stops at once"
            for run_id, log in display.failures().items():
                say(f"{run_id}: {display.overview.reason(run_id)} (see {log})", "failed")
            with suppress(OSError):  # the terminal may be gone
                print("Leaving: the jobs go on, and the same command finds them" if leave else stopping, flush=True)
            raise
        finally:
            if not leave:
                launcher.stop()
    return display.failures()


def make_launcher(config: RunConfig, jobs: int | None, main: Main) -> Launcher:
    """The launcher that a run asks for.

    Raises:
        Refused: What it needs is not installed or not there.
    """
    if config.launcher.name == "slurm":
        from xceptlab.launch.slurm import Slurm

        return Slurm(main, jobs)
    if config.launcher.name == "ray":
        from xceptlab.launch.ray import Ray

        return Ray(main, jobs, config.launcher.address)
    from xceptlab.launch.local import Local

    return Local(main, jobs)


def _of_study(run: RunConfig, study: str, arm: str) -> RunConfig:
    return dataclasses.replace(run, runtime=dataclasses.replace(run.runtime, study=study, arm=arm))


class _Display:
    """Live in a terminal, a look at the runs' directories a second; elsewhere one line whenever a run starts or ends."""

    def __init__(self, expansion: Expansion, missing: dict[str, RunConfig]) -> None:
        self.expansion, self.missing = expansion, missing
        self.overview = Overview(expansion)
        console = Console(highlight=False)
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self.before: dict[str, State] = dict.fromkeys(missing, "waiting")
        self.looked = 0.0
        self.reasons_shown: set[str] = set()
        """Reasons of failures, each of which is told once."""

    def __enter__(self) -> "_Display":
        count = len(self.overview.runs)
        print(
            f"{self.expansion.name}: {count} runs, {len(self.missing)} to train; Ctrl-C stops, the same command continues",
            flush=True,
        )
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            with suppress(OSError):  # the terminal may be gone
                self.live.stop()

    def show(self, states: dict[str, State]) -> None:
        over = set(states.values()) <= {"done", "failed"}
        if self.live and (over or time.monotonic() > self.looked + 1):
            self.live.update(self.overview.table(states), refresh=True)
            self.looked = time.monotonic()
        if not self.live:
            for run_id, state in states.items():
                if state != self.before[run_id] and state != "waiting":
                    done = len(self.overview.runs) - len(states) + Counter(states.values())["done"]
                    more = self._score(run_id) if state == "done" else ""
                    if state == "failed":
                        reason = self.overview.reason(run_id)
                        more = f" (see {self.overview.log(run_id)})"
                        more = more if reason in self.reasons_shown else f", {reason}{more}"
                        self.reasons_shown.add(reason)
                    total = len(self.overview.runs)
                    print(one_line(f"{self.overview.name(run_id)}: {state}{more} ({done} of {total} done)"), flush=True)
        self.before = states

    def failures(self) -> dict[str, Path]:
        """The logs of the runs that failed, by id."""
        return {run_id: self.overview.log(run_id) for run_id, state in self.before.items() if state == "failed"}

    def _score(self, run_id: str) -> str:
        record = RunDirectory.of(self.missing[run_id].runtime.outputs, run_id).record()
        if record is None or record.status == "diverged":
            return ", diverged"
        return f", test/top1 {record.metrics['test/top1']:.2f}"
