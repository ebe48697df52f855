"""The queue of what waits for a GPU, in order of value: `make gpu`. About 10 minutes on an H100.

Run: xceptlab bench gpu [--results FILE] [--only WORD ...] [--again] [--list] [--rehearse]. Each
part is a program of its own with a time limit. Its output goes into the results file as it ends, or
as far as it came, so that a machine that is there for a quarter of an hour leaves what it had; the
next call skips the parts that ended at this revision of the code and goes on with the others. Parts
that need data look for CIFAR-10's parquet files in data/cifar10 and for photographs in
data/photographs/<class>/, and say so where there are none. ``--rehearse`` runs the parts without a
GPU, as far as they go.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from xceptlab.training.provenance import device_name

ROOT = Path(__file__).parents[1]
CIFAR, PHOTOGRAPHS = ROOT / "data" / "cifar10", ROOT / "data" / "photographs"


@dataclass(frozen=True)
class Part:
    """One thing to be settled on a GPU."""

    name: str
    seconds: int
    """It is ended after these."""
    arguments: tuple[str, ...]
    """Of ``xceptlab bench``."""
    needs: Path | None = None
    """Data without which it is left out."""


ON_CIFAR = (
    "-c",
    "configs/data/cifar10.yaml",
    f"--data.root={CIFAR}",
    "-c",
    "configs/train/cifar.yaml",
)
TEN_EPOCHS, TWO_EPOCHS = (*ON_CIFAR, "--train.epochs=10"), (*ON_CIFAR, "--train.epochs=2")
PARTS = [
    Part("captured steps: the same bits", 100, ("gpu_checks", "--only", "captured")),
    Part("train in steady state", 90, ("loop",)),
    Part("where the time of a step goes", 60, ("loop", "--profile")),
    Part(
        "10 epochs of CIFAR-10, runs of a study",
        150,
        ("study", "--jobs", "1", "--runs", "3", *TEN_EPOCHS),
        needs=CIFAR,
    ),
    Part("the network at CIFAR size", 60, ("model", "--sizes", "32", "--precisions", "bf16")),
    Part("the network at 299", 150, ("model", "--sizes", "299", "--precisions", "bf16")),
    Part("kernels for the memory half of the step", 150, ("kernels",)),
    Part("networks at a time", 90, ("share",)),
    Part("runs at a time", 120, ("study", "--jobs", "1", "2", "4", *TWO_EPOCHS), needs=CIFAR),
    Part("killed runs: the same bits", 150, ("gpu_checks", "--only", "kill", "agree")),
    Part(
        "what feeds a GPU",
        100,
        ("gpu_loader", "--photographs", str(PHOTOGRAPHS)),
        needs=PHOTOGRAPHS,
    ),
    Part("the network in float32", 150, ("model", "--precisions", "fp32")),
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="xceptlab bench gpu")
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "benchmarks/results/gpu_queue.md",
        help="file to append to",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORD",
        default=[""],
        help="parts whose names hold one of these",
    )
    parser.add_argument(
        "--again", action="store_true", help="also parts that have ended at this revision"
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="run without a GPU, as far as it goes"
    )
    parser.add_argument(
        "--list", action="store_true", help="show the parts and whether they have ended"
    )
    options = parser.parse_args()
    ended = options.results.read_text(encoding="utf-8") if options.results.is_file() else ""
    parts = [part for part in PARTS if any(word in part.name for word in options.only)]
    if options.list:
        for part in parts:
            print(
                f"{part.seconds:4} s  {'ended ' if heading(part) in ended else 'open  '} {part.name}"
            )
        return
    if not torch.cuda.is_available() and not options.rehearse:
        raise SystemExit(
            "xceptlab bench gpu: there is no GPU here; --rehearse runs the parts on a CPU, as far as they go"
        )
    failed = 0
    for part in parts:
        if heading(part) not in ended or options.again:
            failed += not run(part, options.results)
    sys.exit(failed > 0)


def revision() -> str:
    """The code's, with a plus where it was changed since; unknown outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True
        ).stdout.strip()

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks/*.py", "configs"
    )
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def heading(part: Part) -> str:
    """The line that says that a part has ended at this revision."""
    return f"## {part.name} ({revision()})"


def run(part: Part, results: Path) -> bool:
    """Run a part and append what it printed; whether it ended well and in time."""
    if part.needs and not part.needs.is_dir():
        print(f"{part.name}: left out; {part.needs} is not there", flush=True)
        return True
    print(f"{part.name}: at most {part.seconds} s", flush=True)
    start = time.monotonic()
    # not a pipe: what a killed part has printed must be there
    with tempfile.TemporaryFile() as output:
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "xceptlab", "bench", *part.arguments],
            cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(part.seconds)
            outcome = "" if code == 0 else f" (failed with exit code {code})"
        except subprocess.TimeoutExpired:
            outcome = f" (ended after its {part.seconds} s)"
        finally:  # also after Ctrl-C, which reaches only this process
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    title = heading(part) if not outcome else f"## {part.name}{outcome}"
    device = device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    when = f"{datetime.now():%Y-%m-%d %H:%M}, {device}, torch {torch.__version__}, {time.monotonic() - start:.0f} s"
    with open(results, "a", encoding="utf-8") as file:
        file.write(f"{title}\n\n{when}\n\n```\n{said}\n```\n\n")
        file.flush()
        os.fsync(file.fileno())
    print(f"{part.name}: {time.monotonic() - start:.0f} s{outcome}", flush=True)
    return not outcome


if __name__ == "__main__":
    main()
