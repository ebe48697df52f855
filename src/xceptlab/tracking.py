"""Where curves go: metrics.jsonl, which is the truth, and Weights & Biases, which mirrors it."""

import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
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
    global batch; ``images_per_second`` and ``seconds`` are of the time since the last line (all devices, no evaluation), and
    so is ``replaced``, where there was any: the images that could not be decoded (``data.on_corrupt``).

    Raises:
        Diverged: At the next logged step after a loss that is not finite.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._images, self._since = 0.0, 0.0  # since the last line
        self._seconds = 0.0  # of them in the run that this one continues
        self._loss: Tensor | float = 0.0  # of the step, over the accumulated batches of this process
        self._top1: Tensor | float = 0.0
        self._replaced = 0  # unreadable images of this process since the last line
        self._broken: Tensor | bool = False  # some loss since the last line was not finite

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what the next line tells of the steps since the last one."""
        broken = self._mean(trainer, torch.as_tensor(self._broken, device=pl_module.device)) > 0
        seconds = time.perf_counter() - self._since
        replaced = self._total_replaced(trainer)
        checkpoint["since_last_line"] = {"images": self._images, "seconds": seconds, "broken": broken, "replaced": replaced}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if state := checkpoint.get("since_last_line"):  # version 0.1 kept none
            self._images, self._seconds, self._broken = state["images"], state["seconds"], state["broken"]
            self._replaced = state["replaced"] if trainer.is_global_zero else 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _local(trainer).keep(trainer.global_step)
        self._since = time.perf_counter() - self._seconds

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        parts = trainer.accumulate_grad_batches
        self._images += trainer.world_size / batch.weight
        self._replaced += batch.replaced
        self._loss = self._loss + outputs["loss"].detach()  # Lightning has divided it by the number of parts
        self._top1 = self._top1 + outputs["top1"] / parts
        self._broken = self._broken | ~outputs["loss"].detach().isfinite()
        if (batch_idx + 1) % parts:
            return
        loss, top1, broken = map(torch.as_tensor, (self._loss, self._top1, self._broken))
        self._loss = self._top1 = 0.0
        if batch_idx + 1 < trainer.num_training_batches and trainer.global_step % self.every:
            return
        if self._mean(trainer, broken):
            raise Diverged(f"the training loss is not finite by step {trainer.global_step}")
        seconds = time.perf_counter() - self._since
        line = {
            "epoch": trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches,
            "train/loss": self._mean(trainer, loss),
            "train/top1": self._mean(trainer, top1),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "images_per_second": self._images / seconds,
            "seconds": seconds,
        }
        if replaced := self._total_replaced(trainer):
            line["replaced"] = replaced
        self._write(trainer, line)
        self._broken, self._replaced = False, 0
        self._images, self._since = 0.0, time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, {"epoch": trainer.current_epoch + 1.0, **_metrics(pl_module, "val/")})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where no progress bar shows it, one line an epoch."""
        if trainer.progress_bar_callback is None and trainer.is_global_zero:
            scores = ", ".join(f"{name} {value:.4g}" for name, value in _metrics(pl_module, "val/").items())
            print(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs} done{': ' if scores else ''}{scores}", flush=True)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _local(trainer).keep(trainer.global_step)
        self._write(trainer, {"epoch": float(trainer.current_epoch), **_metrics(pl_module, "test/")})

    def _total_replaced(self, trainer: pl.Trainer) -> int:
        replaced = torch.tensor(self._replaced, device=trainer.strategy.root_device)
        return round(trainer.world_size * self._mean(trainer, replaced))

    @staticmethod
    def _mean(trainer: pl.Trainer, value: Tensor) -> float:
        value = value.to(torch.promote_types(value.dtype, torch.float32))
        return float(trainer.strategy.reduce(value, reduce_op="mean"))

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
    """The run's logs; W&B's on the first process only.

    Raises:
        ValueError: W&B is asked for, and is not installed or refuses.
    """
    return [LocalLog(directory), *(_wandb(config, directory) if rank_zero_only.rank == 0 else [])]  # type: ignore[attr-defined]


def finish(trainer: pl.Trainer, record: Record) -> None:
    """Close the run in W&B with what only the record knows, and wait until all of it is written."""
    for logger in trainer.loggers:
        if isinstance(logger, Mirror):
            logger.finish(record)


class Mirror(Logger):
    """The run in W&B. It mirrors the local log: when it fails, the run goes on without it."""

    name = "wandb"
    version = ""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run: Any | None = run
        run.define_metric("*", step_metric="step")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run was started with them."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._safely(lambda run: run.log({"step": step, **metrics}))

    def finish(self, record: Record) -> None:
        import wandb

        known = {"status": record.status, "parameters": record.parameters, "macs": record.macs, **record.metrics}
        self._safely(lambda run: (run.summary.update(known), run.finish()))
        self._safely(lambda run: wandb.teardown())  # finish() returns before the file is written; a forked run has no atexit

    def _safely(self, action: Callable[[Any], Any]) -> None:
        try:
            if self.run is not None:
                action(self.run)
        except Exception as error:  # whatever it is, it is not worth a run
            self.run = None
            rank_zero_warn(f"W&B failed, the run goes on without it: {type(error).__name__} {error}")


def _wandb(config: RunConfig, directory: RunDirectory) -> list[Logger]:
    """The run in W&B, one for its whole life: its id is the run's, with a nonce kept in the run's directory."""
    wanted = config.runtime.wandb
    if wanted == "disabled" or (wanted == "auto" and (os.environ.get("WANDB_MODE") == "disabled" or not _WANDB)):
        return []
    if not _WANDB:
        raise ValueError(f"runtime.wandb: {wanted!r} needs wandb, which is not installed (pip install wandb); disabled does not")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    def start(mode: Literal["online", "offline"]) -> Logger:
        run = wandb.init(
            id=f"{config.run_id}-{_nonce(directory.path / 'wandb_id')}",
            name=config.run_id,
            project=config.runtime.wandb_project,
            group=config.runtime.study or None,
            job_type=config.runtime.arm or None,
            tags=directory.studies() or None,
            config=config.science(),
            dir=directory.path,
            resume="allow",
            mode=mode,
            settings=wandb.Settings(
                console="off",
                save_code=False,
                reinit="finish_previous",
                x_transaction_log_flush_interval=1.0,  # seconds; else a kill costs the last 15
            ),
        )
        return Mirror(run)

    try:
        # auto never asks: it is online where the environment or the netrc file has a key
        offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun")
        online = wanted == "online" or (wanted == "auto" and not offline and wandb.login(prompt=False))
        return [start("online" if online else "offline")]
    except (wandb.Error, OSError) as error:
        if wanted != "auto":
            raise ValueError(f"runtime.wandb: {wanted} does not work here: {error}") from None
        rank_zero_warn(f"W&B does not work here, so the run is tracked offline: {error}")
        wandb.teardown()
        return [start("offline")]


def _nonce(file: Path) -> str:
    if not file.exists():
        write_atomically(file, secrets.token_hex(4).encode())
    return file.read_text().strip()
