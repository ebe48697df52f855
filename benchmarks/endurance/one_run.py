"""What must hold of one run, whatever happens to it."""

import contextlib
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from table import Counts, check

from runs import (
    ARGV,
    EPOCHS,
    IMAGES,
    SERVER,
    STEPS,
    STEPS_PER_EPOCH,
    Run,
    photographs,
    undisturbed,
    until,
)


@check(
    "SIGKILL at random steps x {1, 2} processes x {0, 2} workers",
    "losses, images, weights equal to undisturbed",
)
def kills(folder: Path, full: bool) -> Counts:
    held, of, data = 0, 0, photographs(folder / "photographs")
    for world, workers in ((1, 0), (2, 2), (1, 2), (2, 0))[: 4 if full else 2]:
        for i in range(20 if full else 1):
            run = Run(folder / f"{world}-{workers}-{i}", *data).start(world, workers)
            run.wait_for_step(random.randrange(1, STEPS))
            run.stop(signal.SIGKILL, delay=random.uniform(0, 0.05))
            run.start(world, workers).wait()
            of, held = of + 1, held + (run.result() == undisturbed(world, *data))
    return Counts(held, of)


@check(
    "3 interruptions at random steps, world 1, 2 and 4", "in every epoch each image exactly once"
)
def once(folder: Path, full: bool) -> Counts:
    held, of = 0, 0
    for world in (1, 2, 4) if full else (1, 2):
        run = Run(folder / f"{world}")
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            step = run.step
            run.start(world).wait_for_step(step + random.randrange(1, STEPS // 4))
            run.stop(number)
        run.start(world).wait()
        batches = run.images()
        for epoch in range(EPOCHS):
            first = 2 * STEPS_PER_EPOCH * epoch
            images = [
                image
                for batch in range(first, first + 2 * STEPS_PER_EPOCH)
                for image in batches.get(batch, [])
            ]
            of, held = of + 1, held + (sorted(images) == list(range(IMAGES)))
    return Counts(held, of, "epochs")


@check("2 -> 1 -> 2 processes in mid-run", "identical global batches")
def elastic(folder: Path, full: bool) -> Counts:
    expected = undisturbed()[2]
    run = Run(folder / "run")
    for world in (2, 1):
        step = run.step
        run.start(world).wait_for_step(step + STEPS // 4)
        run.stop(signal.SIGTERM)
    run.start(2).wait()
    seen = run.images()
    return Counts(
        sum(seen.get(batch) == images for batch, images in expected.items()),
        len(expected),
        "batches",
    )


def _has_written(folder: Path, before: list[Path], is_full: bool) -> bool:
    """Whether there are checkpoints besides those of before; on a full disk there cannot be."""
    from xceptlab.training.checkpoints import oldest_first

    found = oldest_first(folder)
    return len(found) > 1 and (found != before or is_full)


def _write_checkpoints(folder: Path, temporary: str) -> None:
    """Forever, through a full disk, too; where Python and libraries would put temporary files is
    ``temporary``.
    """
    import torch

    from xceptlab.training.checkpoints import CheckpointFiles

    os.environ["TMPDIR"] = tempfile.tempdir = temporary
    payload = torch.randn(2**18)
    for step in range(10**6):
        with contextlib.suppress(OSError):
            CheckpointFiles().save_checkpoint(
                {"step": step, "payload": payload}, folder / f"step{time.time_ns() // 1000:020d}"
            )


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[bool]:
    """Mount a disk of this size on the folder; False where that is not permitted."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "tmpfs", str(folder)]
    mounted = (
        shutil.which("mount")
        and subprocess.run(["mount", *options], capture_output=True).returncode == 0
    )
    try:
        yield bool(mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


@check(
    "SIGKILL while checkpoints are written: one disk, two file systems, a full disk",
    "0 unreadable, previous one kept",
)
def torn(folder: Path, full: bool) -> Counts:
    from xceptlab.training.checkpoints import CheckpointFiles, newest, oldest_first

    memory = next(
        (place for place in ("/dev/shm", "/run") if os.access(place, os.W_OK)), str(folder)
    )
    held, of = 0, 0
    with (
        small_disk(folder / "small", 2.7) as mounted,
        tempfile.TemporaryDirectory(dir=memory) as other,
    ):
        places = [
            (folder / "same", str(folder)),
            (folder / "disk", other),
            (Path(other) / "memory", str(folder)),
        ]
        places += [(folder / "small" / "run", str(folder))] if mounted else []
        for place, temporary in places:
            place.mkdir()
            for _ in range(50 if full else 5):
                before, is_full = oldest_first(place), "small" in place.parts
                writer = SERVER.Process(target=_write_checkpoints, args=(place, temporary))
                writer.start()
                until(functools.partial(_has_written, place, before, is_full))
                time.sleep(random.uniform(0, 0.03))
                writer.kill()
                writer.join()
                readable = [
                    CheckpointFiles().load_checkpoint(path, weights_only=True)
                    for path in oldest_first(place)
                ]
                whole = newest(place) == oldest_first(place)[-1] and len(readable) >= 2
                # the next writer removes what the kill left, also where nothing more fits
                with contextlib.suppress(OSError):
                    CheckpointFiles().save_checkpoint(
                        {"step": 0}, place / f"step{time.time_ns() // 1000:020d}"
                    )
                of, held = of + 1, held + (whole and not list(place.glob(".*")))
    return Counts(held, of, "" if mounted else "no full disk: mount is not permitted")


@check(
    "a disk that is full in mid-run",
    "old checkpoints kept, one clear line, continues when there is room",
)
def full_disk(folder: Path, full: bool) -> Counts:
    from xceptlab.training.checkpoints import newest

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
        clear = (
            codes == [1]
            and len(lines) == 1
            and "No space left on device" in lines[0]
            and "Traceback" not in run.output()
        )
        kept = (
            len(run.checkpoints) == 2 and newest(run.checkpoints[0].parent) == run.checkpoints[-1]
        )
        filler.unlink()
        run.start().wait()
        return Counts(clear + kept + (run.result() == undisturbed()), 3)


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    file.write_bytes(data)


def _empty(file: Path) -> None:
    os.truncate(file, 0)


@check(
    "newest checkpoint cut, flipped, emptied; both corrupt", "falls back one, says so; same bits"
)
def corrupt(folder: Path, full: bool) -> Counts:
    held, of = 0, 0
    for i in range(5 if full else 1):
        for damage, files in ((_cut, 1), (_flip, 1), (_empty, 1), (_flip, 2)):
            run = Run(folder / f"{damage.__name__}{files}-{i}").start()
            run.wait_for_step(STEPS // 2)
            run.stop(signal.SIGKILL)
            for file in run.checkpoints[-files:]:
                damage(file)
            run.start().wait()
            said = run.output().count("corrupt") == files
            of, held = of + 1, held + (said and run.result() == undisturbed())
    return Counts(held, of)


@check(
    "pre-emptions of 2 processes, 0 to 500 ms between them",
    "0 hangs, right step, exit code 75; same bits at the end",
)
def preempted(folder: Path, full: bool) -> Counts:
    times = 50 if full else 3
    longer = ("--runtime.checkpoint_steps=0", f"--train.epochs={2 * times}")  # 20 steps for each
    run = Run(folder / "run", *longer)
    held = 0
    for _ in range(times):
        step = run.step
        run.start(2).wait_for_step(step + random.randrange(1, 6))
        codes = run.stop(signal.SIGTERM, delay=random.uniform(0, 0.5))
        right = (
            run.checkpoints[-1].name.startswith(f"step{run.step:08d}-")
            if run.checkpoints
            else False
        )
        held += codes == [75, 0] and right
    run.start(2).wait()
    return Counts(held + (run.result() == undisturbed(2, *longer)), times + 1)


@check(
    "2 and 4 processes against 1: no dropout, BatchNorm, 50 steps",
    "losses to 1e-12 (64 bits) and 1e-6 (32 bits, learning rate 1e-6); same counts, weights",
)
def alike(folder: Path, full: bool) -> Counts:
    """In 32 bits what is tested is the arithmetic: with a usual learning rate rounding errors grow,
    as they tip ReLUs and maxima, to 1e-2 in the losses of 50 steps. At 1e-6 they do not, while
    doubling the learning rate would change the losses by 6e-4, so that gradients wrong by 1% show.
    The processes have different numbers of evaluation batches.
    """
    held, of, notes = 0, 0, []
    for precision, tolerance, lr in (("32-true", 1e-6, 1e-6), ("64-true", 1e-12, 0.01))[
        : 2 if full else 1
    ]:
        science = (
            *(
                "--model.dropout=0",
                "--train.epochs=5",
                "--train.accumulate=1",
                "--data.test_images=57",
            ),
            *(
                f"--train.precision={precision}",
                f"--train.lr={lr}",
                "--train.schedule=constant",
                "--train.warmup=0",
            ),
        )
        worlds = (1, 2, 4) if full else (1, 2)
        alone, *together = [
            Run(folder / f"{precision}{world}", *science).start(world) for world in worlds
        ]
        for run in (alone, *together):
            run.wait()
        for run in together:
            worst = max(abs(a - b) / a for a, b in zip(alone.losses(), run.losses(), strict=True))
            one, many = alone.record()["metrics"], run.record()["metrics"]
            counts = all(one[key] == many[key] for key in one if "top" in key)
            loss = all(abs(one[key] / many[key] - 1) < 1e-6 for key in one if "loss" in key)
            weights = {file.read_bytes() for file in run.folder.glob("weights.*")}
            of, held = of + 4, held + (worst < tolerance) + counts + loss + (len(weights) == 1)
            notes.append(f"{worst:.0e}")
    return Counts(held, of, "losses differ by " + ", ".join(notes))


@check("divergence on 2 processes", "a record that says so")
def divergence(folder: Path, full: bool) -> Counts:
    run = Run(folder / "run", "--train.lr=1e30", "--train.warmup=0", "--train.ema=0").start(2)
    return Counts(int(run.wait() == [0, 0] and run.record()["status"] == "diverged"), 1)


@check(
    "kill -9 of one process of a run with 2, of its coordinator, of torchrun",
    "all down in 30 s, no orphans",
)
def orphans(folder: Path, full: bool) -> Counts:
    """Started as users do, with Lightning's launcher and torchrun, each with a loader worker per
    process.
    """
    data = photographs(folder / "photographs")
    train = [
        "-m",
        "xceptlab",
        "train",
        *ARGV,
        *data,
        "--runtime.devices=2",
        "--runtime.workers=1",
        "--train.epochs=1000",
    ]
    coordinator = (
        "import os, subprocess, sys; "
        "subprocess.run(sys.argv[1:], env=os.environ | {'XCEPTLAB_PARENT': str(os.getpid())})"
    )
    lightning, torchrun = (
        [sys.executable],
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    )
    cases = [  # what is started, and whether its second process is killed or its first
        (lightning, False),
        (torchrun, True),
        (lightning, True),
        (torchrun, False),
        ([sys.executable, "-c", coordinator, *lightning], False),
    ]
    held, notes = 0, []
    for i, (command, second) in enumerate(cases if full else cases[:2]):
        run = Run(folder / str(i))
        mark = f"ENDURANCE={run.folder}"
        whole = ["env", mark, *command, *train, f"--runtime.outputs={run.folder}"]
        first = subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: run.step >= 3 or first.poll() is not None)  # noqa: B023, called here
        # and its loader worker
        ranks = [pid for pid, environment in _marked(mark) if "LOCAL_RANK=1" in environment]
        os.kill(min(ranks) if second else first.pid, signal.SIGKILL)
        start = time.monotonic()
        while (left := _marked(mark)) and time.monotonic() < start + 30:
            first.poll()
            time.sleep(0.1)
        held += not left
        notes.append(f"{time.monotonic() - start:.0f} s")
        for pid, _ in left:
            os.kill(pid, signal.SIGKILL)
    return Counts(held, len(notes), ", ".join(notes))


def _marked(mark: str) -> list[tuple[int, list[str]]]:
    """Id and environment of the living processes with this in their environment, whatever their
    session (torchrun makes some).
    """
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in (environment := file.read_text(errors="replace").split("\0")):
                found.append((int(file.parent.name), environment))
    return found


@check(
    "a run begun by an older version; a checkpoint of one with other weights",
    "starts anew and says so; refused in one line",
)
def older_version(folder: Path, full: bool) -> Counts:
    from xceptlab.config.loading import load_run
    from xceptlab.training.checkpoints import CheckpointFiles

    run = Run(folder / "run")
    (folder / "run" / "runs" / load_run(ARGV).id_in(1)).mkdir(parents=True)
    run.start().wait_for_step(STEPS // 2)
    run.stop(signal.SIGKILL)
    anew = "an older version, whose results differ, began it; it starts anew" in run.output()
    checkpoint = CheckpointFiles().load_checkpoint(run.checkpoints[-1], weights_only=True)
    checkpoint["state_dict"]["network.a"] = checkpoint["state_dict"].pop(
        "network.classifier.weight"
    )
    CheckpointFiles().save_checkpoint(checkpoint, run.path / "checkpoints" / f"step{STEPS:08d}")
    codes = run.start().wait()
    return Counts(
        anew + (codes == [2] and "is of another version: network.a differs" in run.output()), 2
    )
