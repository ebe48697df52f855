"""What the framework costs a training step: ``train`` against a bare Lightning Trainer, in one run,
alternating.

Run: xceptlab bench overhead. Both train one network with one optimizer and schedule on the same
batches; the bare one finds them ready-made and neither logs, seeds dropout, looks for NaN nor
thinks of checkpoints. The network is one linear layer: the difference does not depend on it, and a
step of 1 ms shows what one of 50 ms would hide in its noise. Ends of epochs (evaluation,
checkpoint) are not counted. Prints the table of benchmarks/results/overhead.md.
"""

import contextlib
import dataclasses
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from xceptlab.config.loading import load_run
from xceptlab.config.schema import RunConfig
from xceptlab.runs.directory import RunDirectory
from xceptlab.training import optim, train
from xceptlab.training.provenance import device_name
from xceptlab.training.task import Task

ROOT = Path(__file__).parents[1]
TINY = [
    *("-c", str(ROOT / "configs/model/xception_tiny.yaml")),
    *("-c", str(ROOT / "configs/data/digits.yaml")),
    *("-c", str(ROOT / "configs/train/digits.yaml")),
    *("--data.size=8", "--data.test_images=10", "--train.batch_size=8", "--train.epochs=3"),
    *("--runtime.log_every=50", "--runtime.wandb=disabled"),
]
ROUNDS = 20
STEP = 50.0
"""Milliseconds of the step that the overhead is compared with."""


def network(config: RunConfig) -> nn.Module:
    """In place of ``train.build``."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, config.data.classes))


class Bare(pl.LightningModule):
    """What one would write without the framework; counts the ``seconds`` of its epochs."""

    def __init__(self, config: RunConfig, steps_per_epoch: int) -> None:
        super().__init__()
        self.config, self.steps_per_epoch = config, steps_per_epoch
        self.network = network(config)
        self.seconds = 0.0

    def on_train_epoch_start(self) -> None:
        self.seconds -= time.perf_counter()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def on_train_epoch_end(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter()

    def configure_optimizers(self) -> Any:
        optimizer = optim.optimizer(self.network, self.config.train)
        schedule = optim.schedule(optimizer, self.config.train, self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def framework(config: RunConfig) -> float:
    """Milliseconds a step of a run; its log counts the seconds of its training."""
    with tempfile.TemporaryDirectory() as outputs, contextlib.redirect_stdout(io.StringIO()):
        config = dataclasses.replace(
            config, runtime=dataclasses.replace(config.runtime, outputs=outputs)
        )
        steps = train.train(config, progress=False).steps
        log = RunDirectory.of(outputs, config.run_id).log()
    return 1000 * sum(line.get("seconds", 0.0) for line in log) / steps


def bare(config: RunConfig, batches: list[Any]) -> float:
    """Milliseconds a step."""
    system = Bare(config, len(batches))
    trainer = pl.Trainer(
        accelerator=config.runtime.accelerator, devices=1, deterministic=config.train.deterministic,
        max_epochs=config.train.epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(system, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return 1000 * system.seconds / trainer.global_step


def batches_of(config: RunConfig) -> list[Any]:
    """The batches of a run's first epoch as its network sees them; it is trained for that."""
    batches, step = [], Task.training_step

    def keeping(task: Task, batch: Any, batch_idx: int) -> Any:
        if task.current_epoch == 0:
            batches.append((batch.images, batch.labels))
        return step(task, batch, batch_idx)

    Task.training_step = keeping  # type: ignore[method-assign]
    try:
        framework(config)
    finally:
        Task.training_step = step  # type: ignore[method-assign]
    return batches


def main() -> None:
    config = load_run([*TINY, *sys.argv[1:]])
    train.build = network
    batches = batches_of(config)
    bare(config, batches)  # warms up
    rounds = [(bare(config, batches), framework(config)) for _ in range(ROUNDS)]
    device = device_name(batches[0][0].device)
    steps = config.train.epochs * len(batches)
    print(
        f"{device}, torch {torch.__version__}, Lightning {pl.__version__}; {ROUNDS} rounds of {steps} steps each, alternating\n"
    )
    print("| | median | least to largest |\n|---|---:|---:|")
    for name, values, unit in (
        ("bare Lightning", [a for a, _ in rounds], "ms a step"),
        ("xceptlab", [b for _, b in rounds], "ms a step"),
        ("difference", [b - a for a, b in rounds], "ms a step"),
        (f"difference to a step of {STEP:g} ms", [100 * (b - a) / STEP for a, b in rounds], "%"),
    ):
        print(
            f"| {name} | {statistics.median(values):.2f} {unit} | {min(values):.2f} to {max(values):.2f} |"
        )


if __name__ == "__main__":
    main()
