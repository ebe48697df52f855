"""What must hold of a study, whatever happens to its runs and coordinators."""

import fcntl
import os
import random
import signal
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from table import Counts, check

from runs import ARGV, ROOT, SERVER, until

STUDY = """
question: Does anything get lost?
base: []
seeds: {seeds}
arms: {{a: {{train.lr: 0.1}}, b: {{train.lr: 0.05}}}}
claims: [{{id: c, contrast: [a, b], metric: test/loss, kind: superior, margin: 0}}]
"""
TINY = [
    *(
        *ARGV,
        "--train.accumulate=1",
        "--train.epochs=1",
        "--data.train_images=100",
        "--data.test_images=50",
    ),
    "--runtime.checkpoint_steps=2",
]
"""5 steps."""


def _injured(argv: list[str]) -> int:
    """A run of a study, of which some crash, the first of each arm for certain; notes when two
    processes train the same.
    """
    from xceptlab import cli
    from xceptlab.training import train
    from xceptlab.training.task import Task

    folder = Path(argv[argv.index("-c") + 1]).parent
    real_train, step = train._train, Task.training_step
    certain = "-seed0-" in folder.name and not (folder / "crashes").exists()
    crash = (
        random.choice(("kill", "raise", "lie"))
        if certain or random.random() < float(os.environ["CRASHING"])
        else ""
    )
    at = random.randrange(5)

    def alone(*args: Any) -> Any:
        """The part of a run that is done under the lease."""
        with open(folder / "in_training", "w") as mark:
            try:
                # ends with the process, however it ends
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                (folder / "trained_twice_at_once").touch()
            return real_train(*args)

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


def _coordinate(study: Path, outputs: Path, jobs: int, crashing: float) -> None:
    """The process of ``xceptlab study``; this part of its runs crashes."""
    from xceptlab import cli
    from xceptlab.launch.child import print_to
    from xceptlab.launch.study import run_missing
    from xceptlab.study.plan import expand

    os.environ["CRASHING"] = str(crashing)
    print_to(outputs.with_suffix(".txt"))
    expansion = expand(str(study), [*TINY, f"--runtime.outputs={outputs}"])
    sys.exit(len(run_missing(expansion, jobs, _injured if crashing else cli.main)))


@check(
    "tiny runs, 10% crash (small: 30%), two coordinators, each killed once (small: one)",
    "a record each, none trained twice at once, report as undisturbed",
)
def crashes(folder: Path, full: bool) -> Counts:
    from xceptlab.report.summary import summarise
    from xceptlab.study.plan import expand

    count, crashing = (200, 0.1) if full else (6, 0.3)
    study = folder / "study.yaml"
    study.write_text(STUDY.format(seeds=list(range(count // 2))))

    def coordinator(jobs: int, name: str = "injured", crashing: float = crashing) -> BaseProcess:
        process = SERVER.Process(target=_coordinate, args=(study, folder / name, jobs, crashing))
        process.start()
        return process

    def done() -> int:
        return len(list(folder.glob("injured/runs/*/record.json")))

    both = [coordinator(1), coordinator(1)]
    for i in range(2 if full else 1):
        until(lambda: done() >= count * (i + 1) // 3, 1200)  # noqa: B023, called here
        both[i].kill()
        both[i].join()
        both[i] = coordinator(1)
    for process in both:
        process.join(600)
    again = 0
    # a run that crashed twice at one place has failed, until the study is run again
    while done() < count and again < 10:
        coordinator(2).join()
        again += 1
    coordinator(2, "calm", 0).join()

    expansions = [
        expand(str(study), [*TINY, f"--runtime.outputs={folder / name}"])
        for name in ("injured", "calm")
    ]
    injured, calm = (
        (
            [(v.outcome, v.summary) for v in summary.verdicts],
            [(row.mean, row.spread, row.n) for row in summary.arms],
        )
        for summary in map(summarise, expansions)
    )
    held = 0
    for run in expansions[0].runs().values():
        one, other = (folder / name / "runs" / run.run_id for name in ("injured", "calm"))
        same = (one / "record.json").exists() and all(
            (one / file).read_bytes() == (other / file).read_bytes()
            for file in ("model.safetensors", "test_correct.npy")
        )
        held += same and not (one / "trained_twice_at_once").exists()
    kinds = "".join(file.read_text() for file in folder.glob("injured/runs/*/crashes"))
    crashes = ", ".join(f"{kinds.count(kind[0])} {kind}" for kind in ("killed", "raised", "lied"))
    return Counts(
        held if injured == calm else 0,
        count,
        f"crashes: {crashes}; failed runs started again {again}x",
    )


def _lie(argv: list[str]) -> int:
    return 0


@check("exit code 0 without a record", "never counted as done")
def lies(folder: Path, full: bool) -> Counts:
    from xceptlab.config.loading import load_run
    from xceptlab.launch.local import Local

    launcher, count = Local(_lie, 2), 50 if full else 10
    launcher.accept(
        [
            load_run([*TINY, f"--seed={seed}", f"--runtime.outputs={folder}"])
            for seed in range(count)
        ]
    )
    seen: set[str] = set()

    def over() -> bool:
        seen.update(states := launcher.poll().values())
        return set(states) <= {"done", "failed"}

    until(over)
    return Counts(list(launcher.poll().values()).count("failed") * ("done" not in seen), count)


def _test(file: str, full: bool) -> Counts:
    """A test of the suite as a check."""
    if not full:
        return Counts(0, 0, "part of make test")
    command = [sys.executable, "-m", "pytest", "-rs", ROOT / "tests/launch" / file, "-k", "bits"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1]
    return (
        Counts(0, 0, last)
        if "passed" not in last and not done.returncode
        else Counts(int(done.returncode == 0), 1)
    )


@check("SLURM pre-emption", "requeued, same bits")
def slurm(folder: Path, full: bool) -> Counts:
    return _test("test_slurm.py", full)


@check("Ray node loss", "retried elsewhere, same bits")
def ray(folder: Path, full: bool) -> Counts:
    return _test("test_ray.py", full)
