"""Stand-ins for ``xceptlab.cli.main`` that the launcher's processes call: importable, as processes
need them.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from xceptlab.config.loading import load_run
from xceptlab.config.schema import RunConfig
from xceptlab.files import write_atomically
from xceptlab.launch.launcher import Launcher, State
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.record import Record


def finish(
    launcher: Launcher, until: Callable[[dict[str, State]], object] | None = None
) -> dict[str, State]:
    """Poll until all runs have ended, or ``until`` what is given; returns the runs' states."""
    until = until or (lambda states: set(states.values()) <= {"done", "failed"})
    deadline = time.monotonic() + 400
    while not until(states := launcher.poll()):
        assert time.monotonic() < deadline, states
        time.sleep(launcher.pause / 10)
    return states


def calls(outputs: Path) -> list[dict[str, Any]]:
    """What ``record`` was called with, in turn."""
    file = outputs / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def record(argv: list[str]) -> int:
    """A run that is done at once. Its seed says what goes wrong: see the functions below."""
    file = Path(argv[argv.index("-c") + 1])
    config = load_run(["-c", str(file)])
    directory = RunDirectory.of(config.runtime.outputs, config.run_id)
    with open(file.parents[2] / "calls.jsonl", "a") as log:
        line = {
            "seed": config.seed,
            "pid": os.getpid(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "wandb": {name: os.environ[name] for name in os.environ if name.startswith("WANDB_")},
            "time": time.monotonic(),
        }
        log.write(json.dumps(line) + "\n")
    attempt = sum(call["seed"] == config.seed for call in calls(file.parents[2]))
    if config.seed == 1:  # crashes always
        raise RuntimeError("it crashed")
    if config.seed == 2 and attempt == 1:  # killed once
        os.kill(os.getpid(), signal.SIGKILL)
    if config.seed == 3:  # says that it is done and is not
        return 0
    if config.seed == 4:  # bad input
        return 2
    if config.seed == 5 and attempt < 4:  # interrupted by the scheduler, again and again
        return 75
    if config.seed == 6:  # hangs, and ignores being asked to stop
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if config.seed >= 100:  # dies of the signal 100 less, always
        os.kill(os.getpid(), config.seed - 100)
        time.sleep(600)
    if config.seed % 10 == 7:  # hangs
        time.sleep(600)
    if config.seed == 9 and attempt == 1:  # waits until it is asked to stop
        return _wait_for_a_stop_signal(directory)
    if config.seed == 10:  # crashes, after coming further than before up to its third epoch
        with open(directory.path / "metrics.jsonl", "a") as log:
            log.write(
                json.dumps({"step": attempt, "epoch": min(attempt, 3) - 0.5, "time": 0.0}) + "\n"
            )
        return 1
    assert yaml.safe_load(file.read_text())["seed"] == config.seed
    write_record(config)
    return 0


def _wait_for_a_stop_signal(directory: RunDirectory) -> int:
    """Wait in short turns: Ray interrupts by a signal that Python only simulates."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        # Whole from the start: whoever sees it stops this process at once.
        write_atomically(directory.path / "waits", str(os.getpid()).encode())
        while True:
            time.sleep(0.05)
    except KeyboardInterrupt:
        (directory.path / "asked to stop").touch()
    return 75


def write_record(config: RunConfig) -> None:
    """The record of a run that was trained in no time."""
    RunDirectory.of(config.runtime.outputs, config.run_id).write_record(
        Record(
            run_id=config.run_id, status="finished", science=config.science(), metrics={"test/top1": 50.0}, parameters=1, macs=1,
            test_images=1, steps=1, seconds=0.0, images_per_second=0.0, device="cpu", world_size=1, precision="32-true",
            data_fingerprint="", versions={}, git={}, started=0.0, finished=0.0,
        )
    )  # fmt: skip


def slowly(argv: list[str]) -> int:
    """A real run that takes a second a step, until somebody puts ``go`` into its outputs."""
    from xceptlab import cli
    from xceptlab.training.task import Task

    go = Path(argv[argv.index("-c") + 1]).parents[2] / "go"
    step = Task.training_step

    def slow_step(self: Task, *args: Any) -> Any:
        time.sleep(0 if go.exists() else 1)
        return step(self, *args)

    Task.training_step = slow_step  # type: ignore[method-assign]
    return cli.main(argv)
