"""What must hold on a GPU and cannot be tested without one. Prints a table and ends with 1 where
something does not hold.

Run on a machine with an NVIDIA GPU: xceptlab bench gpu_checks. Trains on the embedded digits, in
processes of their own, as users do; about 4 minutes. The results of the last machine that was at
hand are in benchmarks/results/gpu.md.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import safetensors.torch
import torch
import torchvision

from xceptlab.training.provenance import device_name

ROOT = Path(__file__).parents[1]
CUDA = torch.cuda.is_available()
"""Without a GPU the checks only show that they themselves work."""
TINY = [
    *(
        piece
        for name in ("model/xception_tiny", "data/digits", "train/digits")
        for piece in ("-c", str(ROOT / f"configs/{name}.yaml"))
    ),
    *(
        f"--runtime.accelerator={'gpu' if CUDA else 'cpu'}",
        "--runtime.wandb=disabled",
        "--runtime.log_every=1",
        "--model.dropout=0.3",
        "--train.ema=0.9",
    ),
    *("--train.epochs=6", "--data.crop=pad", "--data.pad=2"),
]
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def train(outputs: Path, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "xceptlab",
        "train",
        *TINY,
        f"--runtime.outputs={outputs}",
        *options,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    said = process.communicate(timeout=300)[0]
    if process.returncode:
        raise RuntimeError(said[-2000:])
    return said


def left(outputs: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Weights and curves of the run, without what depends on the clock."""
    (run,) = (outputs / "runs").iterdir()
    clock = ("time", "seconds", "images_per_second")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curves = [{key: value for key, value in line.items() if key not in clock} for line in lines]
    return safetensors.torch.load_file(run / "model.safetensors"), curves


def same(a: Path, b: Path) -> bool:
    (weights, curves), (others, other_curves) = left(a), left(b)
    return curves == other_curves and all(
        torch.equal(weights[name], others[name]) for name in weights
    )


def captured(scratch: Path, *options: str) -> str:
    """A run whose steps are replayed from CUDA graphs, and at the same time one whose steps are
    launched kernel by kernel.
    """
    replayed, launched = (
        train(scratch / "captured", *options),
        train(scratch / "launched", "--runtime.capture=false", *options),
    )
    said = finished(replayed)
    finished(launched)
    if "CUDA graph" in said:
        raise RuntimeError(f"not captured: {said[-500:]}")
    if not same(scratch / "captured", scratch / "launched"):
        raise RuntimeError("weights or curves differ")
    return f"{len(left(scratch / 'captured')[1])} lines: the same bits"


CAPTURED = {
    "32-true": (),
    "bf16-mixed": ("--train.precision=bf16-mixed",),
    "mixup, cutmix, cutout": ("--data.mixup=0.4", "--data.cutmix=1.0", "--data.cutout=4"),
    "two batches a step, clipped": ("--train.accumulate=2", "--train.gradient_clip=0.1"),
    "compiled": ("--train.compile=true",),
}


def repeats(scratch: Path, precision: str) -> str:
    """Two runs, the second killed three times at random steps."""
    option = f"--train.precision={precision}"
    whole = train(scratch / "whole", option)
    finished(whole)
    steps = len(left(scratch / "whole")[1])
    places = []
    # a later one each time, or no step is made between
    for place in sorted(random.Random(0).sample(range(10, steps - 10), 3)):
        process = train(scratch / "killed", option, "--runtime.checkpoint_steps=5")
        while process.poll() is None:
            written = sum(
                file.read_text().count("\n") for file in scratch.glob("killed/runs/*/metrics.jsonl")
            )
            if written >= place:
                process.send_signal(signal.SIGKILL)
                places.append(written)
                break
            time.sleep(0.005)
        process.wait()
    finished(train(scratch / "killed", option, "--runtime.checkpoint_steps=5"))
    if not same(scratch / "whole", scratch / "killed"):
        raise RuntimeError("weights or curves differ")
    return f"{steps} lines, killed after {places}: the same bits"


def cpu_and_gpu(scratch: Path) -> str:
    """The network in float64 gives the same on both."""
    from xceptlab.config.schema import ModelConfig
    from xceptlab.models.build import build

    network = build(ModelConfig(), 1000, 0).double()
    images = torch.randn(4, 3, 299, 299, dtype=torch.float64)
    results = []
    for device in ("cpu", "cuda" if CUDA else "cpu"):
        network.to(device).zero_grad()
        logits = network(images.to(device))
        logits.square().mean().backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in network.parameters()])
        results.append((logits.detach().cpu(), gradient))
    errors = [float((a - b).norm() / a.norm()) for a, b in zip(*results, strict=True)]
    if max(errors) > 1e-8:
        raise RuntimeError(f"relative errors of logits and gradient {errors}")
    return "relative errors of logits and gradient " + " and ".join(
        f"{error:.1e}" for error in errors
    )


def main() -> None:
    device = device_name(torch.device("cuda" if CUDA else "cpu"))
    print(
        f"{device}, {os.cpu_count()} cores, torch {torch.__version__}, torchvision {torchvision.__version__}"
    )
    parser = argparse.ArgumentParser(prog="xceptlab bench gpu_checks")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="WORD",
        help="checks whose names hold one of these",
    )
    only = parser.parse_args().only
    checks = {
        f"captured steps, {name}": lambda scratch, options=options: captured(scratch, *options)
        for name, options in CAPTURED.items()
    }
    checks |= {"CPU and GPU agree in float64 at 299": cpu_and_gpu}
    for precision in PRECISIONS:
        checks[f"kill -9 in mid-epoch, {precision}"] = lambda scratch, precision=precision: repeats(
            scratch, precision
        )
    chosen = {name: check for name, check in checks.items() if any(word in name for word in only)}
    # each check trains in processes of its own
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 4)) as pool:
        rows = [pool.submit(row, name, check) for name, check in chosen.items()]
    sys.exit(not all(one.result() for one in rows))


def row(name: str, check: Callable[[Path], str]) -> bool:
    """Print what a check found; whether it holds."""
    with tempfile.TemporaryDirectory() as scratch:
        start = time.monotonic()
        try:
            holds, found = True, check(Path(scratch))
        except (RuntimeError, subprocess.TimeoutExpired, StopIteration) as error:
            holds, found = False, str(error)
        print(
            f"| {name} | {'holds' if holds else 'DOES NOT HOLD'} | {found} ({time.monotonic() - start:.0f} s) |",
            flush=True,
        )
        return holds


if __name__ == "__main__":
    main()
