"""``train`` in steady state against a loop written by hand, and against torchvision's reference
data pipeline, alternating.

Run: xceptlab bench loop [--network cifar|tiny] [--batch N] [--steps N] [--write] [--train.precision
bf16-mixed ...]. All train one network of CIFAR's size on as many made-up images with SGD:
``xceptlab`` as it is, on a GPU with captured steps and without; the hand loop on batches that lie
ready on the device, on a GPU with the whole step, the optimizer's too, captured in a CUDA graph,
which is the least that a step can take; and the hand loop, not captured, fed by torchvision's
transforms and workers.

Counts the steps only: no start, no evaluation, no checkpoint, no epoch's end. Prints images per
second with their spread and the ratio to the hand loop round by round. ``--write`` puts it into
benchmarks/results/loop-cpu.md or loop-gpu.md.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from _measure import spread, synchronise
from xceptlab import data
from xceptlab.config.loading import load_run
from xceptlab.config.schema import RunConfig
from xceptlab.data.sources import Arrays
from xceptlab.runs.directory import RunDirectory
from xceptlab.training import optim, train

ROOT = Path(__file__).parents[1]
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
ROUNDS = 3
HAND = "hand loop"


class MadeUp:
    """In place of CIFAR-10: as many random images as are asked for, of its size."""

    images = 0

    @staticmethod
    def require_files(config: object) -> None:
        """They are always there."""

    @staticmethod
    def class_names(config: object) -> tuple[str, ...]:
        """They have none."""
        return ()

    @staticmethod
    def files(config: object) -> str:
        """There are none."""
        return ""

    @classmethod
    def load(cls, config: object) -> tuple[Arrays, Arrays]:
        """Training and test images."""
        generator = np.random.default_rng(0)

        def arrays(n: int) -> Arrays:
            pixels = generator.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
            return Arrays(pixels, generator.integers(0, 10, n))

        return arrays(cls.images), arrays(100)


def main() -> None:
    parser = argparse.ArgumentParser(prog="xceptlab bench loop")
    parser.add_argument("--network", choices=("cifar", "tiny"), default="cifar" if CUDA else "tiny")
    parser.add_argument("--batch", type=int, default=256 if CUDA else 64)
    parser.add_argument("--steps", type=int, default=150 if CUDA else 40, help="steps of an epoch")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="show where the time of a step goes, and measure nothing else",
    )
    parser.add_argument(
        "--write", action="store_true", help="put the table into benchmarks/results/"
    )
    options, layers = parser.parse_known_args()
    MadeUp.images = options.batch * options.steps
    data.SETS["cifar10"] = MadeUp  # type: ignore[assignment]
    config = load_run(
        [
            *(
                "-c",
                str(ROOT / f"configs/model/xception_{options.network}.yaml"),
                "-c",
                str(ROOT / "configs/data/cifar10.yaml"),
            ),
            *(
                "-c",
                str(ROOT / "configs/train/cifar.yaml"),
                "--data.validation=0",
                "--train.ema=0",
                "--train.epochs=2",
            ),
            *(f"--train.batch_size={options.batch}", "--runtime.wandb=disabled"),
            f"--runtime.log_every={max(1, options.steps // 8)}",
            *(["--train.precision=bf16-mixed"] if CUDA else []),
            *layers,
        ]
    )
    train.prepare(config)
    torch.use_deterministic_algorithms(config.train.deterministic)  # for the hand loops, too
    if options.profile:
        print(profiled(config))
        return
    contenders: dict[str, Callable[[], float]] = {HAND: hand_loop(config)}
    contenders["xceptlab"] = lambda: framework(config)
    averaged = dataclasses.replace(config, train=dataclasses.replace(config.train, ema=0.999))
    contenders["xceptlab with the average of weights"] = lambda: framework(averaged)
    if CUDA:
        eager = dataclasses.replace(
            config, runtime=dataclasses.replace(config.runtime, capture=False)
        )
        contenders["xceptlab, not captured"] = lambda: framework(eager)
    contenders["hand loop with torchvision's loader"] = lambda: reference(config)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            rates[name].append(contender())
            print(f"{name}: {rates[name][-1]:,.0f} images/s", file=sys.stderr, flush=True)
    lines = [
        "# `train` in steady state",
        "",
        f"{date.today()}, {train.device_name(DEVICE)}, {os.cpu_count()} cores, torch {torch.__version__}; `xceptlab bench loop`:",
        f"xception_{options.network} at 32x32, batch {options.batch}, {config.train.precision}; median of {ROUNDS} alternating",
        "rounds with the least and the largest; ratios round by round.",
        "",
        "| | images/s | against the hand loop |",
        "|---|---:|---:|",
    ]
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(values, rates[HAND], strict=True)]
        lines.append(f"| {name} | {spread(values, ',.0f')} | {spread(ratios, '.3f')} |")
    text = "\n".join([*lines, ""])
    print(text)
    if options.write:
        (ROOT / "benchmarks/results" / f"loop-{'gpu' if CUDA else 'cpu'}.md").write_text(
            text, encoding="utf-8"
        )


def framework(config: RunConfig) -> float:
    """Images per second of a run, by the lines of its log in mid-epoch, the second epoch's: the
    first one warms up.
    """
    with tempfile.TemporaryDirectory() as outputs, contextlib.redirect_stdout(io.StringIO()):
        config = dataclasses.replace(
            config, runtime=dataclasses.replace(config.runtime, outputs=outputs)
        )
        train.train(config, progress=False)
        log = RunDirectory.of(outputs, config.run_id).log()
    # the first one holds the epoch's start
    lines = [line for line in log if 1 < line["epoch"] < 2 and "seconds" in line][1:]
    seconds = sum(line["seconds"] for line in lines)
    return sum(line["images_per_second"] * line["seconds"] for line in lines) / seconds


def profiled(config: RunConfig) -> str:
    """What a run of few steps spends its time on, on the host and on the device: calls, and their
    time without that of others.
    """
    MadeUp.images = 20 * config.train.batch_size
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, ema=0.999))
    framework(config)  # loads what is loaded once
    with torch.profiler.profile() as trace:
        framework(config)
    orders = ["self_cpu_time_total", *(["self_cuda_time_total"] if CUDA else [])]
    events = trace.key_averages()
    return "\n".join(
        events.table(sort_by=order, row_limit=30, max_name_column_width=60) for order in orders
    )


def hand_loop(config: RunConfig) -> Callable[[], float]:
    """The least that a step can take: ready batches, and on a GPU the whole step captured; measures
    it when it is called.
    """
    step = training(config)
    images, labels = batch(config)
    if CUDA:
        captured = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step(images, labels)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(captured):
            step(images, labels)
    steps = MadeUp.images // len(labels)

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            if CUDA:
                captured.replay()
            else:
                step(images, labels)
        synchronise()
        return steps * len(labels) / (time.perf_counter() - start)

    return measure


def training(config: RunConfig) -> Callable[[Tensor, Tensor], None]:
    """What does one step of a network like the run's."""
    network = train.build(config).to(DEVICE).train()
    optimizer = optim.optimizer(network, config.train)
    mixed = config.train.precision == "bf16-mixed"

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, mixed, cache_enabled=False):
            loss = F.cross_entropy(
                network(images), labels, label_smoothing=config.train.label_smoothing
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def batch(config: RunConfig) -> tuple[Tensor, Tensor]:
    """Images and labels, on the device."""
    images = torch.rand(config.train.batch_size, 3, 32, 32, device=DEVICE).mul(2).sub(1)
    labels = torch.randint(0, 10, (config.train.batch_size,), device=DEVICE)
    return images.contiguous(memory_format=torch.channels_last), labels


class Reference(Dataset[tuple[Tensor, int]]):
    """The made-up images through torchvision's transforms, one by one, as its reference script has
    them.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        normalise = T.Normalize((0.5,) * 3, (0.5,) * 3)
        self.transform = T.Compose(
            [
                T.ToPILImage(),
                T.RandomCrop(32, 4, padding_mode="reflect"),
                T.RandomHorizontalFlip(),
                T.ToTensor(),
                normalise,
            ]
        )

    def __len__(self) -> int:
        return len(self.arrays.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.arrays.images[i]), int(self.arrays.labels[i])


def reference(config: RunConfig) -> float:
    """Images per second of the uncaptured hand loop behind torchvision's loader, the first steps
    apart.
    """
    step = training(config)
    loader = DataLoader(
        Reference(MadeUp.load(None)[0]),
        config.train.batch_size,
        shuffle=True,
        num_workers=os.cpu_count() or 1,
        pin_memory=CUDA,
    )
    batches: Iterator[tuple[Tensor, Tensor]] = iter(loader)
    first = min(10, len(loader) // 2)
    start, images = 0.0, 0
    for number, (pixels, labels) in enumerate(batches):
        if number == first:
            synchronise()
            start, images = time.perf_counter(), 0
        step(
            pixels.to(DEVICE, non_blocking=True, memory_format=torch.channels_last),
            labels.to(DEVICE, non_blocking=True),
        )
        images += len(labels)
    synchronise()
    return images / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
