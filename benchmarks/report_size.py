"""Time and memory of reports on large studies: makes the runs, with 100 epochs of curves each, and
reports them.

Run: xceptlab bench report_size; with --write, benchmarks/results/report_size.md is written.
"""

import json
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.record import Record
from xceptlab.study.expansion import Expansion
from xceptlab.study.plan import expand

EPOCHS, LINES, IMAGES = 100, 4, 10_000
"""LINES: of training, per epoch."""


def make(folder: Path, arms: int, seeds: int) -> Expansion:
    """A finished study of arms x seeds runs."""
    study = {
        "question": "How long does a large report take?",
        "base": [],
        "seeds": list(range(seeds)),
        "arms": {f"width{i}": {"model.width": 1 + i / 100} for i in range(arms)},
        "claims": [
            {
                "id": f"c{i}",
                "contrast": ["width0", f"width{i}"],
                "metric": "test/top1",
                "kind": "superior",
                "margin": 0.5,
            }
            for i in range(1, min(arms, 6))
        ],
    }
    (folder / "large.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    science = [
        "--data.name=cifar10",
        "--data.size=32",
        "--data.crop=pad",
        "--data.validation=0.1",
        f"--train.epochs={EPOCHS}",
    ]
    expansion = expand(
        str(folder / "large.yaml"), [*science, f"--runtime.outputs={folder / 'outputs'}"]
    )
    rng = np.random.default_rng(0)
    for (arm, _), config in expansion.runs().items():
        directory = RunDirectory.of(config.runtime.outputs, config.run_id)
        directory.create()
        top1 = 90 - 0.1 * int(arm.removeprefix("width")) + rng.normal(0, 0.3)
        correct = rng.random(IMAGES) < top1 / 100
        lines = []
        for epoch in range(EPOCHS):
            score = top1 * (1 - np.exp(-(epoch + 1) / 15)) + rng.normal(0, 0.2)
            for i in range(1, LINES + 1):
                timed = {"lr": 0.045, "images_per_second": 900.0, "seconds": 14.2}
                train = {
                    "train/loss": float(2 - epoch / 60),
                    "train/top1": score + rng.normal(0, 2),
                }
                lines.append(
                    {
                        "step": epoch * 352 + 88 * i,
                        "time": 1e9,
                        "epoch": epoch + i / LINES,
                        **train,
                        **timed,
                    }
                )
            end = {"step": 352 * (epoch + 1), "time": 1e9, "epoch": epoch + 1.0}
            lines.append({**end, "val/top1": score, "val/top5": 99.0, "val/loss": 0.5})
        (directory.path / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )
        np.save(directory.path / "test_correct.npy", correct.astype(np.uint8))
        directory.write_record(
            Record(
                run_id=config.run_id,
                status="finished",
                science=config.science(),
                metrics={
                    "test/top1": 100 * float(correct.mean()),
                    "test/top5": 99.0,
                    "test/loss": 0.4,
                },
                parameters=20_000_000,
                macs=10**9,
                test_images=IMAGES,
                steps=352 * EPOCHS,
                seconds=3600.0,
                images_per_second=900.0,
                device="a GPU",
                world_size=1,
                precision="32-true",
                data_fingerprint="abc",
                versions={"torch": "2.11.0"},
                git={"revision": "0" * 40, "dirty": False},
                started=1e9,
                finished=2e9,
            )
        )
    return expansion


def report(expansion: Expansion) -> tuple[float, float, float]:
    """Seconds of ``xceptlab report``, of them on the CPU, and its MiB at most, as a process of its
    own.
    """
    command = [sys.executable, "-m", "xceptlab", "report", *shlex.split(expansion.command)[2:]]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        seconds,
        after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime,
        after.ru_maxrss / 1024,
    )


def opening(page: Path, folder: Path) -> float:
    """Seconds in which headless Chromium draws a page, over what it needs for an empty one; NaN
    where there is no Chromium.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        return float("nan")
    options = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={folder / 'browser'}",
    ]

    def draw(address: str) -> float:
        start = time.perf_counter()
        subprocess.run(
            [*options, f"--screenshot={folder / 'page.png'}", address],
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - start

    draw("about:blank")  # makes its profile
    return min(draw(page.as_uri()) for _ in range(3)) - min(draw("about:blank") for _ in range(3))


def machine() -> str:
    return f"{os.cpu_count()} {platform.machine()} cores"


def main() -> None:
    header = [
        "runs",
        "arms",
        "seconds",
        "of them CPU",
        "MiB at most",
        "report.html, MiB",
        "opens in seconds",
    ]
    lines = [f"| {' | '.join(header)} |", "|---:" * len(header) + "|"]
    for arms, seeds in ((10, 20), (20, 50)):
        with tempfile.TemporaryDirectory() as name:
            expansion = make(Path(name), arms, seeds)
            seconds, busy, memory = report(expansion)
            page = expansion.directory() / "report.html"
            size = page.stat().st_size / 2**20
            opened = opening(page, Path(name))
            lines.append(
                f"| {arms * seeds:,} | {arms} | {seconds:.1f} | {busy:.1f} | {memory:.0f} | {size:.1f} | {opened:.1f} |"
            )
            print(lines[-1])
    if "--write" in sys.argv:
        what = f"`xceptlab report`, {EPOCHS} epochs of curves a run ({(LINES + 1) * EPOCHS} lines of log)"
        head = f"{what}, on {machine()} that others used too:\n\n"
        (Path(__file__).parent / "results" / "report_size.md").write_text(
            head + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    main()
