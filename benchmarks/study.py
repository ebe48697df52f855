"""What a run of a study costs beyond its steps and evaluations, and how many runs a machine does by
how many it does at a time.

Run: xceptlab bench study [--jobs 1 2 4] [--runs N] [--write] [-c FILE ...] [--train.epochs 10 ...].
Makes a study of N runs (two arms of the CIFAR network or, on a CPU, of the tiny one, on the
embedded digits unless layers say otherwise) and runs it anew for each number of jobs, as a user
does. Counted are the seconds of the whole command; of a run, which is the time from one run's end
to the next one's by as many as run at a time, so without the command's own start and report; and of
a run's steps and evaluations by its log. ``--write`` puts it into benchmarks/results/study-cpu.md
or study-gpu.md.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
import yaml

from _measure import spread
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.log import is_evaluation
from xceptlab.training.provenance import device_name

ROOT = Path(__file__).parents[1]
CUDA = torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(prog="xceptlab bench study")
    parser.add_argument(
        "--jobs",
        type=int,
        nargs="+",
        default=[1, 2, 3, 4, 6, 8] if CUDA else [1, 2],
        help="runs at a time",
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=0,
        help="runs of the study; 0 for thrice those at a time, and at least 5",
    )
    parser.add_argument(
        "--write", action="store_true", help="put the table into benchmarks/results/"
    )
    options, layers = parser.parse_known_args()
    device = torch.device("cuda" if CUDA else "cpu")
    lines = [
        "# What a study's runs cost",
        "",
        f"{date.today()}, {device_name(device)}, {os.cpu_count()} cores, torch {torch.__version__}; `xceptlab bench study`.",
        "",
        "| at a time | runs | whole command, s | a run, s | its steps, s | its evaluations, s | beyond both, s "
        "| images/s | runs an hour |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    for jobs in options.jobs:
        lines.append(row(jobs, options.runs or max(5, 3 * jobs), layers))
        print(lines[-1], flush=True)
        if options.write:
            file = ROOT / "benchmarks/results" / f"study-{'gpu' if CUDA else 'cpu'}.md"
            file.write_text("\n".join([*lines, ""]), encoding="utf-8")


def row(jobs: int, runs: int, layers: list[str]) -> str:
    """Run a new study and say what it took."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bench"
        folder.mkdir()
        (folder / "study.yaml").write_text(yaml.safe_dump(study(runs)), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "xceptlab", "study", str(folder), "--jobs", str(jobs)),
            *(f"--runtime.outputs={scratch}/outputs", "--runtime.wandb=disabled"),
            *(["--train.precision=bf16-mixed"] if CUDA else []),
            *layers,
        ]
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wall = time.perf_counter() - start
        directories = [RunDirectory(path) for path in Path(scratch, "outputs/runs").iterdir()]
        records = [record for directory in directories if (record := directory.record())]
        evaluations = [evaluating(directory.log()) for directory in directories]
    if len(records) < runs:
        raise RuntimeError(f"{len(records)} of {runs} runs were done: {done.stdout[-2000:]}")
    # Two arms have an even number of runs, which may be one more than was asked for.
    runs = len(records)
    ends = sorted(record.finished for record in records)
    run = jobs * (ends[-1] - ends[jobs - 1]) / (runs - jobs)
    steps = [record.seconds for record in records]
    images = statistics.mean(record.seconds * record.images_per_second for record in records)
    beyond = run - statistics.mean(steps) - statistics.mean(evaluations)
    return (
        f"| {jobs} | {runs} | {wall:.1f} | {run:.1f} | {spread(steps, '.1f')} | {spread(evaluations, '.1f')} "
        f"| {beyond:.1f} | {jobs * images / run:,.0f} | {3600 * jobs / run:,.0f} |"
    )


def evaluating(log: list[dict[str, Any]]) -> float:
    """Seconds of a run's evaluations: from the line before to each line of an evaluation."""
    pairs = itertools.pairwise(log)
    return sum(
        line["time"] - before["time"]
        for before, line in pairs
        if is_evaluation(line, "val") or is_evaluation(line, "test")
    )


def study(runs: int) -> dict[str, object]:
    """Two arms, and as many seeds as it takes for so many runs."""
    network = "cifar" if CUDA else "tiny"
    configs = [
        f"configs/model/xception_{network}.yaml",
        "configs/data/digits.yaml",
        "configs/train/digits.yaml",
    ]
    return {
        "question": "What does a run cost?",
        "base": [str(ROOT / config) for config in configs],
        "seeds": list(range(-(-runs // 2))),
        "arms": {"residual": {"model.residual": "all"}, "none": {"model.residual": "none"}},
    }


if __name__ == "__main__":
    main()
