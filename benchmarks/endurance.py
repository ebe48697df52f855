"""Runs that survive anything, counted: kills, pre-emptions, corrupt files, several processes. Prints a table.

Run: make endurance SIZE=full (or small, the default, which the CI runs); ONLY=word runs the checks with this word in their name.
Each check is a function that counts, stands alone and leaves nothing behind. Exit code 1 if one does not hold.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
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
    *("--data.crop=pad", "--data.pad=1", "--train.ema=0.9", "--train.accumulate=2", "--train.batch_size=28", "--train.epochs=3"),
    *("--runtime.log_every=1", "--runtime.wandb=disabled", "--runtime.accelerator=cpu", "--runtime.checkpoint_steps=3"),
]
"""30 steps of everything that has a state: dropout, augmentation, an average of weights, accumulated batches."""
STEPS_PER_EPOCH, EPOCHS, IMAGES = 10, 3, 270
STEPS = STEPS_PER_EPOCH * EPOCHS
SERVER = multiprocessing.get_context("forkserver")  # has torch and Lightning loaded: 0.2 s a process in place of 8 s
SERVER.set_forkserver_preload(["xceptlab.launch.preload"])


@dataclass
class Run:
    """One run in a folder of its own, started and ended as often as one likes, with any number of processes."""

    folder: Path
    overrides: tuple[str, ...] = ()
    outputs: Path | None = None  # elsewhere than in the folder
    processes: list[BaseProcess] = field(default_factory=list)

    def start(self, world: int = 1, workers: int = 0) -> "Run":
        self.folder.mkdir(parents=True, exist_ok=True)
        argv = [
            *RUN,
            f"--runtime.outputs={self.outputs or self.folder}",
            f"--runtime.devices={world}",
            f"--runtime.workers={workers}",
        ]
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

    def wait(self, seconds: float = 300) -> list[int | None]:
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
        return next((self.outputs or self.folder).glob("runs/*"), None)

    @property
    def checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("checkpoints/*.ckpt")) if self.path else []

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
    from xceptlab.interruption import PARENT
    from xceptlab.task import Task

    os.environ |= environment | {PARENT: str(os.getppid())}
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

    def noting_weights(task: Task) -> None:
        (folder / f"weights.{rank}").write_bytes(b"".join(v.numpy().tobytes() for v in task.network.state_dict().values()))

    Task.training_step, Task.on_train_end = noting, noting_weights  # type: ignore[method-assign]
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
            for i in range(20 if full else 1):
                run = Run(folder / f"{world}-{workers}-{i}").start(world, workers)
                run.wait_for_step(random.randrange(1, STEPS))
                run.signal(signal.SIGKILL, delay=random.uniform(0, 0.05))
                run.wait()
                run.start(world, workers).wait()
                of, held = of + 1, held + (run.result() == expected)
    return Counts(held, of)


@check("3 interruptions at random steps, world 1, 2 and 4", "in every epoch each image exactly once")
def once(folder: Path, full: bool) -> Counts:
    held, of = 0, 0
    for world in (1, 2, 4):
        run = Run(folder / f"{world}")
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            step = run.step
            run.start(world).wait_for_step(step + random.randrange(1, STEPS // 4))
            run.signal(number)
            run.wait()
        run.start(world).wait()
        batches = run.images()
        for epoch in range(EPOCHS):
            first = 2 * STEPS_PER_EPOCH * epoch
            images = [image for batch in range(first, first + 2 * STEPS_PER_EPOCH) for image in batches.get(batch, [])]
            of, held = of + 1, held + (sorted(images) == list(range(IMAGES)))
    return Counts(held, of, "epochs")


@check("2 -> 1 -> 2 processes in mid-run", "identical global batches")
def elastic(folder: Path, full: bool) -> Counts:
    expected = undisturbed(folder)[2]
    run = Run(folder / "run").start(2)
    for world in (1, 2):
        step = run.step
        run.wait_for_step(step + STEPS // 4)
        run.signal(signal.SIGTERM)
        run.wait()
        run.start(world)
    run.wait()
    seen = run.images()
    return Counts(sum(seen.get(batch) == images for batch, images in expected.items()), len(expected), "batches")


def _write_checkpoints(folder: Path, temporary: str) -> None:
    """Forever, through a full disk, too; where Python and libraries would put temporary files is ``temporary``."""
    import torch

    from xceptlab.checkpoints import CheckpointFiles

    os.environ["TMPDIR"] = tempfile.tempdir = temporary
    payload = torch.randn(2**18)
    for step in range(10**6):
        with contextlib.suppress(OSError):
            CheckpointFiles().save_checkpoint({"step": step, "payload": payload}, folder / f"step{time.time_ns() // 1000:020d}")


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[bool]:
    """Mount a disk of this size on the folder; False where that is not permitted."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and subprocess.run(["mount", *options], capture_output=True).returncode == 0
    try:
        yield bool(mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


@check("SIGKILL while checkpoints are written: one disk, two file systems, a full disk", "0 unreadable, previous one kept")
def torn(folder: Path, full: bool) -> Counts:
    from xceptlab.checkpoints import CheckpointFiles, newest, oldest_first

    memory = next((place for place in ("/dev/shm", "/run") if os.access(place, os.W_OK)), str(folder))
    held, of, notes = 0, 0, []
    with small_disk(folder / "small", 2.7) as mounted, tempfile.TemporaryDirectory(dir=memory) as other:
        places = [(folder / "same", str(folder)), (folder / "disk", other), (Path(other) / "memory", str(folder))]
        places += [(folder / "small" / "run", str(folder))] if mounted else []
        notes += [] if mounted else ["no full disk: mount is not permitted"]
        for place, temporary in places:
            place.mkdir()
            for _ in range(50 if full else 5):
                writer = SERVER.Process(target=_write_checkpoints, args=(place, temporary))
                writer.start()
                before = oldest_first(place)
                while len(oldest_first(place)) < 2 or (oldest_first(place) == before and "small" not in place.parts):
                    time.sleep(0.001)
                time.sleep(random.uniform(0, 0.03))
                writer.kill()
                writer.join()
                readable = [CheckpointFiles().load_checkpoint(path, weights_only=True) for path in oldest_first(place)]
                whole = newest(place) == oldest_first(place)[-1] and len(readable) >= 2
                of, held = of + 1, held + (whole and not list(place.glob(".*")))
    return Counts(held, of, "; ".join(notes))


@check("a disk that is full in mid-run", "old checkpoints kept, one clear line, continues when there is room")
def full_disk(folder: Path, full: bool) -> Counts:
    from xceptlab.checkpoints import newest

    expected = undisturbed(folder)
    with small_disk(folder / "small", 6) as mounted:
        if not mounted:
            return Counts(0, 0, "mount is not permitted")
        run = Run(folder / "run", outputs=folder / "small").start()
        filler = folder / "small" / "filler"
        run.wait_for_step(STEPS // 3)
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        codes = run.wait()
        lines = [line for line in run.output().splitlines() if line.startswith("xceptlab: ")]
        clear = codes == [1] and len(lines) == 1 and "No space left on device" in lines[0] and "Traceback" not in run.output()
        kept = len(run.checkpoints) == 2 and newest(run.checkpoints[0].parent) == run.checkpoints[-1]
        filler.unlink()
        run.start().wait()
        return Counts(clear + kept + (run.result() == expected), 3)


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    file.write_bytes(data)


def _empty(file: Path) -> None:
    os.truncate(file, 0)


@check("newest checkpoint cut, flipped, emptied; both corrupt", "falls back one, says so; same bits")
def corrupt(folder: Path, full: bool) -> Counts:
    expected = undisturbed(folder)
    held, of = 0, 0
    for i in range(5 if full else 1):
        for damage, files in ((_cut, 1), (_flip, 1), (_empty, 1), (_flip, 2)):
            run = Run(folder / f"{damage.__name__}{files}-{i}").start()
            run.wait_for_step(STEPS // 2)
            run.signal(signal.SIGKILL)
            run.wait()
            for file in run.checkpoints[-files:]:
                damage(file)
            run.start().wait()
            said = run.output().count("corrupt") == files
            of, held = of + 1, held + (said and run.result() == expected)
    return Counts(held, of)


@check("pre-emptions of 2 processes, 0 to 500 ms between them", "0 hangs, right step, exit code 75; same bits at the end")
def preempted(folder: Path, full: bool) -> Counts:
    times = 50 if full else 4
    longer = ("--runtime.checkpoint_steps=0", f"--train.epochs={times // 2 + 1}")
    expected = undisturbed(folder, 2, *longer)
    run = Run(folder / "run", longer)
    held = 0
    for _ in range(times):
        step = run.step
        run.start(2).wait_for_step(step + random.randrange(1, 6))
        run.signal(signal.SIGTERM, delay=random.uniform(0, 0.5))
        codes = run.wait()
        right = run.checkpoints[-1].name.startswith(f"step{run.step:08d}-") if run.checkpoints else False
        held += codes == [75, 0] and right
    run.start(2).wait()
    return Counts(held + (run.result() == expected), times + 1)


@check(
    "2 and 4 processes against 1: no dropout, BatchNorm, 50 steps", "losses to 1e-12 (64 bits), 1e-6 (32); same counts, weights"
)
def alike(folder: Path, full: bool) -> Counts:
    """The number of test images makes the processes' numbers of evaluation batches differ; 32 bits need a low learning rate, as
    sooner or later a rounding error tips a ReLU or a maximum, and chaos does the rest."""
    held, of, notes = 0, 0, []
    for precision, tolerance, lr in (("64-true", 1e-12, 0.01), ("32-true", 1e-6, 1e-5)):
        alone, *together = [
            Run(
                folder / f"{precision}{world}",
                (
                    *("--model.dropout=0", "--train.epochs=5", f"--train.precision={precision}", f"--train.lr={lr}"),
                    *("--data.test_images=57", "--train.accumulate=1"),
                ),
            ).start(world)
            for world in (1, 2, 4)
        ]
        for run in (alone, *together):
            run.wait()
        for run in together:
            losses = [[line["train/loss"] for line in one.log() if "train/loss" in line] for one in (alone, run)]
            worst = max(abs(a - b) / a for a, b in zip(*losses, strict=True))
            metrics = [json.loads((one.path / "record.json").read_text())["metrics"] for one in (alone, run)]
            counts = all(metrics[0][key] == metrics[1][key] for key in metrics[0] if "top" in key)
            loss = all(abs(metrics[0][key] / metrics[1][key] - 1) < 1e-6 for key in metrics[0] if "loss" in key)
            weights = {file.read_bytes() for file in run.folder.glob("weights.*")}
            of, held = of + 4, held + (worst < tolerance) + counts + loss + (len(weights) == 1)
            notes.append(f"{worst:.0e}")
    return Counts(held, of, "losses differ by " + ", ".join(notes))


@check("divergence on 2 processes", "a record that says so")
def divergence(folder: Path, full: bool) -> Counts:
    run = Run(folder / "run", ("--train.lr=1e30", "--train.warmup=0", "--train.ema=0")).start(2)
    codes = run.wait()
    record = json.loads((run.path / "record.json").read_text())
    return Counts(int(codes == [0, 0] and record["status"] == "diverged"), 1)


@check("kill -9 of one process of a run with 2, of its coordinator, of torchrun", "all down in 30 s, no orphans")
def orphans(folder: Path, full: bool) -> Counts:
    """Started as users do, with Lightning's launcher and torchrun, each with a loader worker per process."""
    train = ["-m", "xceptlab", "train", *RUN, "--runtime.devices=2", "--runtime.workers=1", "--train.epochs=1000"]
    coordinator = (
        "import os, subprocess, sys; subprocess.run(sys.argv[1:], env=os.environ | {'XCEPTLAB_PARENT': str(os.getpid())})"
    )
    lightning, torchrun = [sys.executable], [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    cases = [  # what is started, and whether its second process is killed or its first
        (lightning, True),
        (lightning, False),
        ([sys.executable, "-c", coordinator, *lightning], False),
        (torchrun, True),
        (torchrun, False),
    ]
    held, notes = 0, []
    for i, (command, second) in enumerate(cases if full else cases[1:4:2]):
        run = Run(folder / str(i))
        first = subprocess.Popen(
            [*command, *train, f"--runtime.outputs={run.folder}"],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while run.step < 3 and first.poll() is None:
            time.sleep(0.05)
        ranks = [pid for pid, environment in _session(first.pid) if b"\0LOCAL_RANK=1\0" in environment]  # and its loader worker
        os.kill(min(ranks) if second else first.pid, signal.SIGKILL)
        start = time.monotonic()
        while (left := _session(first.pid)) and time.monotonic() < start + 30:
            first.poll()
            time.sleep(0.1)
        held += not left
        notes.append(f"{time.monotonic() - start:.0f} s")
        for pid, _ in left:
            os.kill(pid, signal.SIGKILL)
    return Counts(held, len(notes), ", ".join(notes))


def _session(leader: int) -> list[tuple[int, bytes]]:
    """Id and environment of the living processes of a session."""
    processes = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = file.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                processes.append((int(file.parent.name), (file.parent / "environ").read_bytes()))
    return processes


@check("a checkpoint of version 0.1", "continues, to the same bits")
def previous_release(folder: Path, full: bool) -> Counts:
    import torch

    expected = undisturbed(folder)
    run = Run(folder / "run", ("--runtime.checkpoint_steps=0",)).start()
    while not run.checkpoints and run.processes[0].is_alive():
        time.sleep(0.001)
    run.signal(signal.SIGKILL)
    run.wait()
    checkpoint = torch.load(run.checkpoints[0], weights_only=True)  # at the end of the first epoch, where 0.1 wrote them
    del checkpoint["since_last_line"]
    checkpoint["callbacks"]["ModelCheckpoint{}"] = {"best_model_path": ""}
    for file in run.checkpoints:
        file.unlink()
    torch.save(checkpoint, run.path / "checkpoints" / "epoch00000.ckpt")
    run.start().wait()
    return Counts(int("continues from epoch00000" in run.output() and run.result() == expected), 1)


# ---- studies --------------------------------------------------------------------------------------------------------------

STUDY = """
question: Does anything get lost?
base: []
seeds: [{seeds}]
arms: {{a: {{train.lr: 0.1}}, b: {{train.lr: 0.05}}}}
claims: [{{id: c, contrast: [a, b], metric: test/loss, kind: superior, margin: 0}}]
"""
TINY = [
    *RUN,
    *(
        "--train.accumulate=1",
        "--train.epochs=1",
        "--data.train_images=100",
        "--data.test_images=50",
        "--runtime.checkpoint_steps=2",
    ),
]
"""5 steps."""


def _injured(argv: list[str]) -> int:
    """A run of a study, of which a tenth crashes in some way; notes when another process trains the same run."""
    from xceptlab import cli, train
    from xceptlab.task import Task

    folder = Path(argv[argv.index("-c") + 1]).parent
    real_train, step = train._train, Task.training_step
    crash = random.choice(("kill", "raise", "lie")) if random.random() < 0.1 else ""
    at = random.randrange(5)

    def alone(*args: Any) -> Any:
        """The part of a run that is done under the lease."""
        mark = folder / "in_training"
        if mark.exists() and Path(f"/proc/{mark.read_text()}").exists():
            (folder / "trained_twice_at_once").touch()
        mark.write_text(str(os.getpid()))
        try:
            return real_train(*args)
        finally:
            mark.unlink()

    def crashing(task: Task, batch: Any, batch_idx: int) -> Any:
        if crash and batch_idx == at:
            with open(folder / "crashes", "a") as file:
                file.write(crash[0])
            if crash == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if crash == "raise":
                raise RuntimeError("injected")
            os._exit(0)
        return step(task, batch, batch_idx)

    train._train = alone
    Task.training_step = crashing  # type: ignore[method-assign]
    return cli.main(argv)


def _coordinate(study: Path, outputs: Path, jobs: int, injure: bool) -> None:
    """The process of ``xceptlab study``."""
    from xceptlab import cli
    from xceptlab.launch.study import run_missing
    from xceptlab.study import expand

    os.setsid()
    output = os.open(outputs.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    expansion = expand(str(study), [*TINY, f"--runtime.outputs={outputs}"])
    sys.exit(len(run_missing(expansion, jobs, _injured if injure else cli.main)))


@check(
    "tiny runs, 10% crash, two coordinators, each killed once", "a record each, none trained twice at once, report as undisturbed"
)
def crashes(folder: Path, full: bool) -> Counts:
    from xceptlab.report.summary import summarise
    from xceptlab.study import expand

    count = 200 if full else 12
    study = folder / "study.yaml"
    study.write_text(STUDY.format(seeds=", ".join(map(str, range(count // 2)))))

    def coordinator(name: str, jobs: int) -> BaseProcess:
        process = SERVER.Process(target=_coordinate, args=(study, folder / name, jobs, name == "injured"))
        process.start()
        return process

    def done() -> int:
        return len(list(folder.glob("injured/runs/*/record.json")))

    both = [coordinator("injured", 1), coordinator("injured", 1)]
    for i in range(2):
        while done() < count * (i + 1) // 3:
            time.sleep(0.01)
        both[i].kill()
        both[i].join()
        both[i] = coordinator("injured", 1)
    for process in both:
        process.join()
    again = 0
    while done() < count and again < 10:  # a run that crashed twice at one place has failed, until the study is run again
        coordinator("injured", 2).join()
        again += 1
    coordinator("calm", 2).join()

    expansions = {name: expand(str(study), [*TINY, f"--runtime.outputs={folder / name}"]) for name in ("injured", "calm")}
    reports = [
        ([(v.outcome, v.summary) for v in summary.verdicts], [(row.mean, row.spread, row.n) for row in summary.arms])
        for summary in map(summarise, expansions.values())
    ]
    held = 0
    for run in expansions["calm"].runs().values():
        one, other = (folder / name / "runs" / run.run_id for name in ("injured", "calm"))
        same = (one / "record.json").exists() and all(
            (one / file).read_bytes() == (other / file).read_bytes() for file in ("model.safetensors", "test_correct.npy")
        )
        held += same and not (one / "trained_twice_at_once").exists()
    kinds = "".join(file.read_text() for file in folder.glob("injured/runs/*/crashes"))
    crashes = ", ".join(f"{kinds.count(kind[0])} {kind}" for kind in ("killed", "raised", "lied"))
    note = f"{len(kinds)} crashes: {crashes}; failed runs started again {again}x"
    return Counts(held if reports[0] == reports[1] else 0, count, note)


def _lie(argv: list[str]) -> int:
    return 0


@check("exit code 0 without a record", "never counted as done")
def lies(folder: Path, full: bool) -> Counts:
    from xceptlab.launch.local import Local
    from xceptlab.loading import load_run

    launcher, count = Local(_lie, 2), 50 if full else 10
    launcher.start([load_run([*TINY, f"--seed={seed}", f"--runtime.outputs={folder}"]) for seed in range(count)])
    seen = set()
    while not set((states := launcher.poll()).values()) <= {"done", "failed"}:
        seen |= set(states.values())
        time.sleep(0.02)
    return Counts(list(states.values()).count("failed") * ("done" not in seen), count)


def _test(file: str, full: bool) -> Counts:
    """A test of the suite as a check."""
    if not full:
        return Counts(0, 0, "part of make test")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", ROOT / "tests" / "launch" / file, "-k", "same_bits"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1]
    return Counts(0, 0, last) if "passed" not in last and not done.returncode else Counts(done.returncode == 0, 1)


@check("SLURM pre-emption", "requeued, same bits")
def slurm(folder: Path, full: bool) -> Counts:
    return _test("test_slurm.py", full)


@check("Ray node loss", "retried elsewhere, same bits")
def ray(folder: Path, full: bool) -> Counts:
    return _test("test_ray.py", full)


# ---- the table ------------------------------------------------------------------------------------------------------------


def show(checks: list[Check], full: bool) -> bool:
    """Run checks and print the table; returns whether all hold."""
    table = Table("test", "must hold", "held", "s", "note", box=None, pad_edge=False)
    hold = True
    for one in checks:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
            counts = one.run(Path(folder), full)
        hold &= counts.held == counts.of
        held = f"{counts.held} of {counts.of}" if counts.of else "skipped"
        print(f"{one.name}: {held} {counts.note}", flush=True)
        table.add_row(one.name, one.must_hold, held, f"{time.monotonic() - start:.0f}", counts.note)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return hold


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--only", default="", metavar="WORD", help="run the checks with this word in their name")
    options = parser.parse_args()
    wanted = [one for one in CHECKS if options.only.lower() in one.name.lower()]
    return int(not show(wanted, options.size == "full"))


if __name__ == "__main__":
    sys.exit(main())
