"""Runs of 30 steps in processes of their own, forked from a server that has torch and Lightning
loaded: 0.2 s in place of 8 s.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["xceptlab.launch.preload"])
ARGV = [
    *("-c", str(ROOT / "configs/model/xception_tiny.yaml")),
    *("-c", str(ROOT / "configs/data/digits.yaml")),
    *("-c", str(ROOT / "configs/train/digits.yaml")),
    *(
        "--model.middle_blocks=0",
        "--model.dropout=0.2",
        "--data.train_images=300",
        "--data.test_images=101",
        "--data.size=8",
    ),
    *(
        "--data.crop=pad",
        "--data.pad=1",
        "--train.ema=0.9",
        "--train.accumulate=2",
        "--train.batch_size=28",
        "--train.epochs=3",
    ),
    *(
        "--runtime.log_every=1",
        "--runtime.wandb=disabled",
        "--runtime.accelerator=cpu",
        "--runtime.checkpoint_steps=3",
    ),
]
"""Everything that has a state: dropout, augmentation, an average of weights, accumulated batches.
"""
STEPS_PER_EPOCH, EPOCHS, IMAGES = 10, 3, 270
STEPS = STEPS_PER_EPOCH * EPOCHS


def photographs(folder: Path) -> tuple[str, ...]:
    """Overrides for as many made photographs: sets in memory, as the digits, are read without
    loader workers.
    """
    generator = np.random.default_rng(0)
    for split, count in (("train", 30), ("val", 10)):
        for name in "abcdefghij":
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.jpg")
    data = {
        "name": "folder",
        "root": folder,
        "num_classes": 10,
        "crop": "resized",
        "test_images": 0,
    }
    return tuple(f"--data.{key}={value}" for key, value in data.items())


def until(condition: Callable[[], Any], seconds: float = 300) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: In vain.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {seconds:g} s in vain")
        time.sleep(0.002)


class Run:
    """One run in a folder of its own, started and ended as often as one likes, with any number of
    processes.
    """

    def __init__(self, folder: Path, *overrides: str, outputs: Path | None = None) -> None:
        self.folder, self.overrides, self.outputs = folder, overrides, outputs or folder
        self.processes: list[BaseProcess] = []
        folder.mkdir(parents=True)

    def start(self, world: int = 1, workers: int = 0) -> "Run":
        runtime = (
            f"--runtime.outputs={self.outputs}",
            f"--runtime.devices={world}",
            f"--runtime.workers={workers}",
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        group = {
            "TORCHELASTIC_RUN_ID": "endurance",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GROUP_RANK": "0",
        }
        group |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}  # as torchrun's
        self.processes = [
            SERVER.Process(
                target=_train, args=([*ARGV, *runtime, *self.overrides], group, self.folder, rank)
            )
            for rank in range(world)
        ]
        for process in self.processes:
            process.start()
        return self

    def wait(self, seconds: float = 1200) -> list[int | None]:
        """The exit codes; None for a process that had to be killed."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        self.signal(signal.SIGKILL)
        return codes

    def wait_for_step(self, step: int) -> None:
        """Until the log has this step, or the run is over."""
        until(
            lambda: self.step >= step or not any(process.is_alive() for process in self.processes)
        )

    def signal(self, number: int, *, delay: float = 0.0) -> None:
        """To all processes, in some order, with a delay between them."""
        for process in random.sample(self.processes, len(self.processes)):
            if process.is_alive() and process.pid:
                os.kill(process.pid, number)
            time.sleep(delay)

    def stop(self, number: int, *, delay: float = 0.0) -> list[int | None]:
        """Signal all processes and wait for their exit codes."""
        self.signal(number, delay=delay)
        return self.wait()

    @property
    def path(self) -> Path:
        """The run's directory; one that does not exist while it has none."""
        return next(
            (file.parent for file in self.outputs.glob("runs/*/config.yaml")), self.outputs / "none"
        )

    @property
    def checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("checkpoints/*.ckpt"))

    @property
    def step(self) -> int:
        return max((line["step"] for line in self.log()), default=0)

    def log(self) -> list[dict[str, Any]]:
        """The whole lines of the log, without times."""
        lines: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError):
            text = (self.path / "metrics.jsonl").read_text()
            lines = [
                json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")
            ]
        return [
            {k: v for k, v in line.items() if k not in ("time", "seconds", "images_per_second")}
            for line in lines
        ]

    def losses(self) -> list[float]:
        return [line["train/loss"] for line in self.log() if "train/loss" in line]

    def images(self) -> dict[int, list[int]]:
        """The images of each batch of the run by its number, as the network last saw them, over all
        processes.
        """
        newest: dict[int, dict[int, Any]] = {}
        for line in sorted(
            (json.loads(text) for file in self.folder.glob("seen.*") for text in file.open()),
            key=_time,
        ):
            newest.setdefault(line["batch"], {})[line["rank"]] = line
        return {
            batch: [
                image
                for rank in range(max(lines.values(), key=_time)["world"])
                for image in lines[rank]["images"]
            ]
            for batch, lines in sorted(newest.items())
        }

    def record(self) -> dict[str, Any]:
        return json.loads((self.path / "record.json").read_text())

    def result(self) -> Any:
        """All that must not depend on what happened to the run; None while it is not done."""
        if not (self.path / "record.json").exists():
            return None
        kept = {
            key: self.record()[key]
            for key in ("status", "metrics", "steps", "science", "data_fingerprint")
        }
        return kept, self.log(), self.images(), (self.path / "model.safetensors").read_bytes()

    def output(self) -> str:
        return "".join(
            file.read_text(errors="replace") for file in sorted(self.folder.glob("output.*"))
        )


@functools.cache
def undisturbed(world: int = 1, *overrides: str) -> Any:
    """The result of a run to which nothing happens."""
    with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
        run = Run(Path(folder) / "run", *overrides).start(world)
        run.wait()
        assert run.result(), run.output()
        return run.result()


def _time(line: dict[str, Any]) -> float:
    return line["time"]


def _train(argv: list[str], group: dict[str, str], folder: Path, rank: int) -> None:
    """A process of a run: ``xceptlab train``, noting which images the network sees and with which
    weights it ends.
    """
    from xceptlab.cli import main
    from xceptlab.launch.child import print_to
    from xceptlab.training.task import Task

    world = int(group["WORLD_SIZE"])
    os.environ |= group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}
    print_to(folder / f"output.{rank}")
    step = Task.training_step

    def noting(task: Task, batch: Any, batch_idx: int) -> Any:
        number = task.current_epoch * STEPS_PER_EPOCH * 2 + batch_idx
        line = {
            "time": time.time(),
            "rank": rank,
            "world": world,
            "batch": number,
            "images": batch.number.tolist(),
        }
        with open(folder / f"seen.{rank}", "a") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(0.01)  # or a run may end before those who watch it look again
        return step(task, batch, batch_idx)

    def noting_weights(task: Task) -> None:
        (folder / f"weights.{rank}").write_bytes(
            b"".join(v.numpy().tobytes() for v in task.network.state_dict().values())
        )

    Task.training_step, Task.on_train_end = noting, noting_weights  # type: ignore[method-assign]
    sys.exit(main(["train", *argv]))
