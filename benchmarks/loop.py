"""``train`` in steady state against a loop written by hand, and against torchvision's reference
data pipeline, alternating.

Run: xceptlab bench loop [--network cifar|tiny] [--batch N] [--steps N] [--write] [--train.precision
bf16-mixed ...]. All train one network of CIFAR's size on as many made-up images with SGD:
``xceptlab`` as it is, on a GPU with captured steps and without; the hand loop on batches that lie
ready on the device, on a GPU with the whole step, the optimizer's too, captured in a CUDA graph,
which is the least that a step can take; and the hand loop, not captured, fed by torchvision's
transforms and workers.

Counts the steps only: no start, no evaluation, no checkpoint, no epoch's end. A machine that others
use is faster in one second than in the next, by more than the few percent that are in question; so
a run of ``xceptlab`` and the hand loop take turns every few steps, in a hook, and each block of
steps is compared with the one of the other that follows it. torchvision's workers go on working
while another takes its turn; that loop alternates with the hand loop as a whole. Prints images per
second and the ratio to the hand loop as median and quartiles. ``--write`` puts it into
benchmarks/results/loop-cpu.md or loop-gpu.md.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from _measure import quartiles, synchronise
from xceptlab import data
from xceptlab.config.loading import load_run
from xceptlab.config.schema import RunConfig
from xceptlab.data.sources import Arrays
from xceptlab.training import optim, train
from xceptlab.training.provenance import device_name
from xceptlab.training.task import Task

ROOT = Path(__file__).parents[1]
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
ROUNDS = 3
TURNS = 8
"""Number of blocks of steps in an epoch."""


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
    parser.add_argument("--network", choices=("cifar", "tiny"), default="cifar")
    parser.add_argument("--batch", type=int, default=256 if CUDA else 32)
    parser.add_argument("--steps", type=int, default=150 if CUDA else 16, help="steps of an epoch")
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
                "--train.epochs=3",
            ),
            *(f"--train.batch_size={options.batch}", "--runtime.wandb=disabled"),
            f"--runtime.log_every={max(1, options.steps // TURNS)}",
            *(["--train.precision=bf16-mixed"] if CUDA else []),
            *layers,
        ]
    )
    train.configure_process(config)
    torch.use_deterministic_algorithms(config.train.deterministic)  # for the hand loops, too
    if options.profile:
        print(profiled(config))
        return
    hand = hand_loop(config)
    averaged = dataclasses.replace(config, train=dataclasses.replace(config.train, ema=0.999))
    contenders: dict[str, Callable[[], list[Turn]]] = {
        "xceptlab": lambda: taking_turns(config, hand),
        "xceptlab with the average of weights": lambda: taking_turns(averaged, hand),
    }
    if CUDA:
        eager = dataclasses.replace(
            config, runtime=dataclasses.replace(config.runtime, capture=False)
        )
        contenders["xceptlab, not captured"] = lambda: taking_turns(eager, hand)
    contenders["hand loop with torchvision's loader"] = lambda: [reference(config, hand)]
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            turns[name] += contender()
            ratio = statistics.median(turn.ratio for turn in turns[name])
            print(f"{name}: {ratio:.3f} of the hand loop", file=sys.stderr, flush=True)
    by_hand = [turn.hand for found in turns.values() for turn in found]
    lines = [
        "# `train` in steady state",
        "",
        f"{date.today()}, {device_name(DEVICE)}, {os.cpu_count()} cores, torch {torch.__version__}; `xceptlab bench loop`:",
        f"xception_{options.network} at 32x32, batch {options.batch}, {config.train.precision}; images/s and their ratio to",
        "the hand loop's, each block of steps against the hand loop's that follows it: median and quartiles.",
        "",
        "| | blocks | images/s | against the hand loop |",
        "|---|---:|---:|---:|",
        f"| hand loop | {len(by_hand)} | {quartiles(by_hand, ',.0f')} | 1 |",
    ]
    for name, found in turns.items():
        rates = quartiles([turn.rate for turn in found], ",.0f")
        ratios = quartiles([turn.ratio for turn in found], ".3f")
        lines.append(f"| {name} | {len(found)} | {rates} | {ratios} |")
    text = "\n".join([*lines, ""])
    print(text)
    if options.write:
        (ROOT / "benchmarks/results" / f"loop-{'gpu' if CUDA else 'cpu'}.md").write_text(
            text, encoding="utf-8"
        )


class Turn(NamedTuple):
    """Images per second of a block of steps, and of the hand loop's that follow it."""

    rate: float
    hand: float

    @property
    def ratio(self) -> float:
        """How many times as fast as the hand loop it was."""
        return self.rate / self.hand


class TakingTurns:
    """After each block of a run's steps lets the hand loop do as many; ``turns`` has their rates.

    The first epoch, which warms up, and the first block of each other one, which holds its start,
    are left out.
    """

    def __init__(self, hand: Callable[[int], float], batch_size: int) -> None:
        self.hand, self.batch_size = hand, batch_size
        self.turns: list[Turn] = []
        self._since = 0.0

    def after_batch(self, trainer: pl.Trainer, batch_idx: int) -> None:
        steps = max(1, int(trainer.num_training_batches) // TURNS)
        if (batch_idx + 1) % steps:
            return
        synchronise()
        rate = steps * self.batch_size / (time.perf_counter() - self._since)
        hand = self.hand(steps)
        if trainer.current_epoch and batch_idx + 1 > steps:
            self.turns.append(Turn(rate, hand))
        self._since = time.perf_counter()


def taking_turns(config: RunConfig, hand: Callable[[int], float]) -> list[Turn]:
    """The turns of a run and of the hand loop."""
    turns = TakingTurns(hand, config.train.batch_size)

    def on_train_batch_end(task: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        turns.after_batch(task.trainer, batch_idx)

    # Not as a registered callback: with one the steps would not be captured.
    with mock.patch.object(Task, "on_train_batch_end", on_train_batch_end):
        framework(config)
    return turns.turns


def framework(config: RunConfig) -> None:
    """Train a run, into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as outputs, contextlib.redirect_stdout(io.StringIO()):
        runtime = dataclasses.replace(config.runtime, outputs=outputs)
        train.train(dataclasses.replace(config, runtime=runtime), progress=False)


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


def hand_loop(config: RunConfig) -> Callable[[int], float]:
    """The least that a step can take: ready batches, and on a GPU the whole step captured.

    Returns:
        A function of a number of steps, which does them and gives their images per second.
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

    def measure(steps: int) -> float:
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


def reference(config: RunConfig, hand: Callable[[int], float]) -> Turn:
    """The uncaptured hand loop behind torchvision's loader, its first steps apart, and the hand loop
    after it.
    """
    step = training(config)
    loader = DataLoader(
        Reference(MadeUp.load(None)[0]),
        config.train.batch_size,
        shuffle=True,
        num_workers=os.cpu_count() or 1,
        pin_memory=CUDA,
    )
    first = min(10, len(loader) // 2)
    start, images = 0.0, 0
    for number, (pixels, labels) in enumerate(loader):
        if number == first:
            synchronise()
            start, images = time.perf_counter(), 0
        step(
            pixels.to(DEVICE, non_blocking=True, memory_format=torch.channels_last),
            labels.to(DEVICE, non_blocking=True),
        )
        images += len(labels)
    synchronise()
    rate = images / (time.perf_counter() - start)
    return Turn(rate, hand(len(loader) - first))


if __name__ == "__main__":
    main()
