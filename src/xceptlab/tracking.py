"""Where curves go: metrics.jsonl, which is the truth, and Weights & Biases, which mirrors it."""

import json
import math
import os
import secrets
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_utilities.core.imports import RequirementCache
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor

from xceptlab.data.module import Batch
from xceptlab.records import Record, RunDirectory, write_atomically
from xceptlab.schema import RunConfig
from xceptlab.task import Task

_WANDB = RequirementCache("wandb")


class Diverged(Exception):
    """The loss is not a finite number any more; raised on every process at the same step."""


class Curves(pl.Callback):
    """Log the training every ``log_every`` steps and at the end of each epoch, and each evaluation.

    ``step`` counts completed optimizer steps, ``epoch`` completed epochs, in fractions. ``train/`` values are those of the step's
    global batch; ``images_per_second`` is over all devices since the last line, evaluation excluded.

    Raises:
        Diverged: At a logged step whose loss is not finite.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.images, self.seconds = 0.0, 0.0  # of the whole training
        self._images, self._since = 0.0, 0.0  # since the last line

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _local(trainer).keep(trainer.global_step)
        self._since = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images += trainer.world_size / batch.weight
        last = batch_idx + 1 == trainer.num_training_batches
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not stepped or not (last or trainer.global_step % self.every == 0):
            return
        # Lightning hands out the loss divided by the accumulated batches' number.
        loss = self._mean(trainer, outputs["loss"]) * trainer.accumulate_grad_batches
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} at step {trainer.global_step}")
        seconds = time.perf_counter() - self._since
        line = {
            "epoch": trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches,
            "train/loss": loss,
            "train/top1": self._mean(trainer, outputs["top1"]),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "images_per_second": self._images / seconds,
        }
        self._write(trainer, line)
        self.images, self.seconds = self.images + self._images, self.seconds + seconds
        self._images, self._since = 0.0, time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, {"epoch": trainer.current_epoch + 1.0, **_metrics(pl_module, "val/")})

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _local(trainer).keep(trainer.global_step)
        self._write(trainer, {"epoch": float(trainer.current_epoch), **_metrics(pl_module, "test/")})

    @staticmethod
    def _mean(trainer: pl.Trainer, value: Tensor) -> float:
        return float(trainer.strategy.reduce(value.detach(), reduce_op="mean"))

    @staticmethod
    def _write(trainer: pl.Trainer, line: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(line, step=trainer.global_step)


def _metrics(task: pl.LightningModule, prefix: str) -> dict[str, float]:
    assert isinstance(task, Task)
    return {name: value for name, value in task.evaluation.items() if name.startswith(prefix)}


class LocalLog(Logger):
    """metrics.jsonl: one flushed line per call."""

    def __init__(self, directory: RunDirectory) -> None:
        super().__init__()
        self.directory = directory

    name = "local"
    version = ""

    @rank_zero_only
    def keep(self, step: int) -> None:
        """Drop what an interrupted run logged after ``step``, where it continues, and its final evaluation."""
        lines = [line for line in self.directory.log() if line["step"] <= step and "test/loss" not in line]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(self.directory.path / "metrics.jsonl", text.encode())

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with open(self.directory.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": step, "time": time.time(), **metrics}) + "\n")


def _local(trainer: pl.Trainer) -> LocalLog:
    return next(logger for logger in trainer.loggers if isinstance(logger, LocalLog))


def loggers(config: RunConfig, directory: RunDirectory) -> list[Logger]:
    """The run's logs.

    Raises:
        ValueError: W&B is asked for and not installed.
    """
    return [LocalLog(directory), *_wandb(config, directory)]


def finish(trainer: pl.Trainer, record: Record) -> None:
    """Close the run in W&B with what only the record knows, and wait until all of it is written."""
    for logger in trainer.loggers:
        if not isinstance(logger, LocalLog):
            import wandb

            run = logger.experiment  # type: ignore[attr-defined]
            run.summary.update({"status": record.status, "parameters": record.parameters, "macs": record.macs, **record.metrics})
            run.finish()
            wandb.teardown()  # finish() returns before the service has written its file; a forked run has no atexit


def _wandb(config: RunConfig, directory: RunDirectory) -> list[Logger]:
    """The run in W&B, one for its whole life: its id is the run's, with a nonce kept in the run's directory."""
    wanted = config.runtime.wandb
    if wanted == "disabled" or (wanted == "auto" and (os.environ.get("WANDB_MODE") == "disabled" or not _WANDB)):
        return []
    if not _WANDB:
        raise ValueError(f"runtime.wandb: {wanted!r} needs wandb, which is not installed (pip install wandb); disabled does not")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    def start(mode: str) -> Logger:
        logger = WandbLogger(
            id=f"{config.run_id}-{_nonce(directory.path / 'wandb_id')}",
            name=config.run_id,
            project=config.runtime.wandb_project,
            group=config.runtime.study or None,
            job_type=config.runtime.arm or None,
            tags=[config.runtime.study] if config.runtime.study else None,
            config=config.science(),
            save_dir=directory.path,
            resume="allow",
            mode=mode,
            settings=wandb.Settings(console="off", save_code=False),
        )
        _ = logger.experiment
        return logger

    try:
        # auto never asks: it is online where the environment or the netrc file has a key
        online = wanted == "online" or (wanted == "auto" and not os.environ.get("WANDB_MODE") and wandb.login(prompt=False))
        return [start("online" if online else "offline")]
    except wandb.Error as error:
        if wanted != "auto":
            raise ValueError(f"runtime.wandb: {wanted} does not work here: {error}") from None
        rank_zero_warn(f"W&B does not work here, so the run is tracked offline: {error}")
        wandb.teardown()
        return [start("offline")]


def _nonce(file: Path) -> str:
    if not file.exists():
        file.write_text(secrets.token_hex(4))
    return file.read_text().strip()
