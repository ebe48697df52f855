"""Runs that survive anything, counted: kills, pre-emptions, corrupt files, several processes. Prints a table.

Run: make endurance SIZE=full (or small, the default, which the CI runs); ONLY=word runs the checks with this word in their name.
Each check is a function that counts, stands alone and leaves nothing behind. Exit code 1 if one does not hold.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Counts:
    """What a check counted: it holds where ``held`` equals ``of``; with ``of`` 0 it was skipped, ``note`` says why."""

    held: int
    of: int
    note: str = ""


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    must_hold: str
    run: Callable[[Path, bool], Counts]
    """Given an empty folder and whether to run in full size."""


CHECKS: list[Check] = []


def check(name: str, must_hold: str) -> Callable[[Callable[[Path, bool], Counts]], Callable[[Path, bool], Counts]]:
    """Make a function of (empty folder, full size) a row of the table."""

    def add(function: Callable[[Path, bool], Counts]) -> Callable[[Path, bool], Counts]:
        CHECKS.append(Check(name, must_hold, function))
        return function

    return add


# ---- runs in processes of their own ---------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
RUN = [
    *("-c", str(ROOT / "configs/model/xception_tiny.yaml")),
    *("-c", str(ROOT / "configs/data/digits.yaml")),
    *("-c", str(ROOT / "configs/train/digits.yaml")),
    *("--model.middle_blocks=0", "--model.dropout=0.2", "--data.train_images=300", "--data.test_images=101", "--data.size=8"),
    *("--data.crop=pad", "--data.pad=1", "--train.ema=0.9", "--train.accumulate=2", "--train.batch_size=20", "--train.epochs=3"),
    *("--runtime.log_every=1", "--runtime.wandb=disabled", "--runtime.accelerator=cpu", "--runtime.checkpoint_steps=3"),
]
"""42 steps of everything that has a state: dropout, augmentation, an average of weights, accumulated batches."""
STEPS_PER_EPOCH, STEPS, IMAGES = 14, 42, 270
SERVER = multiprocessing.get_context("forkserver")  # has torch and Lightning loaded: 0.2 s a process in place of 8 s
SERVER.set_forkserver_preload(["xceptlab.launch.preload"])


@dataclass
class Run:
    """One run in a folder of its own, started and ended as often as one likes, with any number of processes."""

    folder: Path
    overrides: tuple[str, ...] = ()
    processes: list[BaseProcess] = field(default_factory=list)

    def start(self, world: int = 1, workers: int = 0) -> "Run":
        self.folder.mkdir(parents=True, exist_ok=True)
        argv = [*RUN, f"--runtime.outputs={self.folder}", f"--runtime.devices={world}", f"--runtime.workers={workers}"]
        ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(world), "NODE_RANK": "0"}
        self.processes = [
            SERVER.Process(
                target=_train,
                args=([*argv, *self.overrides], ranks | {"LOCAL_RANK": str(rank)} if world > 1 else {}, self.folder, rank),
            )
            for rank in range(world)
        ]
        for process in self.processes:
            process.start()
        return self

    def wait(self, seconds: float = 120) -> list[int | None]:
        """The exit codes; None for a process that had to be killed."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        self.signal(signal.SIGKILL)
        return codes

    def wait_for_step(self, step: int) -> None:
        """Until the log has this step, or the run is over."""
        while self.step < step and any(process.is_alive() for process in self.processes):
            time.sleep(0.002)

    def signal(self, number: int, *, delay: float = 0.0) -> None:
        """To all processes, in some order, with a delay between them."""
        for process in random.sample(self.processes, len(self.processes)):
            if process.is_alive() and process.pid:
                os.kill(process.pid, number)
            time.sleep(delay)

    @property
    def path(self) -> Path | None:
        return next(self.folder.glob("runs/*"), None)

    @property
    def checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("runs/*/checkpoints/*.ckpt"))

    @property
    def step(self) -> int:
        return max((line["step"] for line in self.log()), default=0)

    def log(self) -> list[dict[str, Any]]:
        """The whole lines of the log, without times."""
        file = self.path / "metrics.jsonl" if self.path else Path("/nowhere")
        text = file.read_text() if file.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [{k: v for k, v in line.items() if k not in ("time", "seconds", "images_per_second")} for line in lines]

    def images(self) -> dict[int, list[int]]:
        """The images of each batch of the run by its number, as the network last saw them, over all processes."""
        newest: dict[int, dict[int, Any]] = {}
        for line in sorted((json.loads(text) for file in self.folder.glob("seen.*") for text in file.open()), key=_time):
            newest.setdefault(line["batch"], {})[line["rank"]] = line
        return {
            batch: [image for rank in range(max(lines.values(), key=_time)["world"]) for image in lines[rank]["images"]]
            for batch, lines in sorted(newest.items())
        }

    def result(self) -> Any:
        """All that must not depend on what happened to the run; None while it is not done."""
        if self.path is None or not (self.path / "record.json").exists():
            return None
        record = json.loads((self.path / "record.json").read_text())
        kept = {key: record[key] for key in ("status", "metrics", "steps", "science", "data_fingerprint")}
        return kept, self.log(), self.images(), (self.path / "model.safetensors").read_bytes()

    def output(self) -> str:
        return "".join(file.read_text(errors="replace") for file in sorted(self.folder.glob("output.*")))


def _time(line: Mapping[str, Any]) -> float:
    return line["time"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _train(argv: list[str], environment: dict[str, str], folder: Path, rank: int) -> None:
    """A process of a run, forked from the server: ``xceptlab train``, noting which images the network sees."""
    from xceptlab.cli import main
    from xceptlab.task import Task

    os.environ |= environment
    world = int(environment.get("WORLD_SIZE", "1"))
    output = os.open(folder / f"output.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    step = Task.training_step

    def noting(task: Task, batch: Any, batch_idx: int) -> Any:
        number = task.current_epoch * STEPS_PER_EPOCH * 2 + batch_idx
        line = {"time": time.time(), "rank": rank, "world": world, "batch": number, "images": batch.number.tolist()}
        with open(folder / f"seen.{rank}", "a") as file:
            file.write(json.dumps(line) + "\n")
        return step(task, batch, batch_idx)

    Task.training_step = noting  # type: ignore[method-assign]
    sys.exit(main(["train", *argv]))


def undisturbed(folder: Path, world: int = 1, *overrides: str) -> Any:
    """The result of a run to which nothing happens."""
    run = Run(folder / f"undisturbed{world}", overrides).start(world)
    run.wait()
    assert run.result(), run.output()
    return run.result()


# ---- the checks -----------------------------------------------------------------------------------------------------------


@check("SIGKILL at random steps x {1, 2} processes x {0, 2} workers", "losses, images, weights equal to undisturbed")
def kills(folder: Path, full: bool) -> Counts:
    held, of = 0, 0
    for world in (1, 2):
        expected = undisturbed(folder, world)
        for workers in (0, 2):
            for i in range(20 if full else 3):
                run = Run(folder / f"{world}-{workers}-{i}").start(world, workers)
                run.wait_for_step(random.randrange(1, STEPS))
                run.signal(signal.SIGKILL, delay=random.uniform(0, 0.05))
                run.wait()
                run.start(world, workers).wait()
                of, held = of + 1, held + (run.result() == expected)
    return Counts(held, of)


# ---- the table ------------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--only", default="", metavar="WORD", help="run the checks with this word in their name")
    options = parser.parse_args()
    table = Table("test", "must hold", "held", "s", "note", box=None, pad_edge=False)
    failed = False
    for one in CHECKS:
        if options.only.lower() not in one.name.lower():
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
            counts = one.run(Path(folder), options.size == "full")
        failed |= counts.held != counts.of
        held = f"{counts.held} of {counts.of}" if counts.of else "skipped"
        print(f"{one.name}: {held} {counts.note}", flush=True)
        table.add_row(one.name, one.must_hold, held, f"{time.monotonic() - start:.0f}", counts.note)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
