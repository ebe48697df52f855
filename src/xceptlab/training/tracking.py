"""Where curves are written: metrics.jsonl, which is the truth, and beside it Weights & Biases and
TensorBoard.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.imports import RequirementCache
from pytorch_lightning.loggers import Logger
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from xceptlab.config.schema import RunConfig
from xceptlab.data.module import Batch
from xceptlab.errors import Refused
from xceptlab.files import write_atomically
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.log import is_evaluation
from xceptlab.runs.record import Record
from xceptlab.text import say
from xceptlab.training.task import Task
from xceptlab.training.weights_and_biases import Mirror, chosen

_TENSORBOARD = RequirementCache("tensorboard")


class Diverged(Exception):
    """The loss is not a finite number any more; raised on every process at the same step."""


class Curves(pl.Callback):
    """Log the training every ``log_every`` steps and at the end of each epoch, and each evaluation.

    ``step`` counts completed optimizer steps, ``epoch`` completed epochs, in fractions. ``train/``
    values are those of the step's global batch. ``images_per_second`` and ``seconds`` are of the
    training since the last line, on all devices and without evaluations. ``replaced``, only where
    it is not 0, counts the images since the last line that could not be decoded
    (``data.on_corrupt``).

    Raises:
        Diverged: At the next logged step after a loss that is not finite.
    """

    def __init__(self, every: int, quiet: bool = False) -> None:
        self.every = every
        self.quiet = quiet
        self._images = 0.0
        """Number of images trained on since the last line, by all processes."""
        self._since = 0.0
        """Time from which the next line counts its seconds, on the performance counter."""
        self._seconds = 0.0
        """Seconds since the last line that had passed when the checkpoint was written from which
        this run continues.
        """
        self._loss: Tensor | float = 0.0
        """This process's part of the loss of the step, summed over accumulated batches."""
        self._top1: Tensor | float = 0.0
        """This process's part of the accuracy of the step, summed over accumulated batches."""
        self._replaced = 0
        """Number of images of this process since the last line that could not be decoded."""
        self._broken: Tensor | bool = False
        """Whether some loss since the last line was not finite."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep in the checkpoint what has been counted since the last line of the log."""
        broken = self._mean(trainer, torch.as_tensor(self._broken, device=pl_module.device)) > 0
        seconds = time.perf_counter() - self._since
        replaced = self._total_replaced(trainer)
        checkpoint["since_last_line"] = {
            "images": self._images,
            "seconds": seconds,
            "broken": broken,
            "replaced": replaced,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = checkpoint["since_last_line"]
        self._images, self._seconds, self._broken = (
            state["images"],
            state["seconds"],
            state["broken"],
        )
        self._replaced = state["replaced"] if trainer.is_global_zero else 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _local(trainer).keep(trainer.global_step)
        self._since = time.perf_counter() - self._seconds

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        parts = trainer.accumulate_grad_batches
        self._images += trainer.world_size / batch.weight
        self._replaced += batch.replaced
        # Lightning has divided it by the number of parts
        self._loss = self._loss + outputs["loss"].detach()
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
            "lr": _rate_of_last_step(trainer),
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
        """Print one line an epoch where no progress bar shows it."""
        if trainer.progress_bar_callback is None and trainer.is_global_zero and not self.quiet:
            scores = ", ".join(
                f"{name} {value:.4g}" for name, value in _metrics(pl_module, "val/").items()
            )
            colon = ": " if scores else ""
            print(
                f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs} done{colon}{scores}",
                flush=True,
            )

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _local(trainer).keep(trainer.global_step)
        self._write(
            trainer, {"epoch": float(trainer.current_epoch), **_metrics(pl_module, "test/")}
        )

    def _total_replaced(self, trainer: pl.Trainer) -> int:
        """Number of images of all processes since the last line that could not be decoded."""
        replaced = torch.tensor(self._replaced, device=trainer.strategy.root_device)
        return round(trainer.world_size * self._mean(trainer, replaced))

    @staticmethod
    def _mean(trainer: pl.Trainer, value: Tensor) -> float:
        """Average a value over processes."""
        value = value.to(torch.promote_types(value.dtype, torch.float32))
        return float(trainer.strategy.reduce(value, reduce_op="mean"))

    @staticmethod
    def _write(trainer: pl.Trainer, line: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(line, step=trainer.global_step)


def _metrics(task: pl.LightningModule, prefix: str) -> dict[str, float]:
    """Latest metrics of a split, whose names begin with the prefix ``val/`` or ``test/``."""
    assert isinstance(task, Task)
    return {name: value for name, value in task.evaluation.items() if name.startswith(prefix)}


class LocalLog(Logger):
    """Logger of metrics.jsonl: one flushed line per call, written by the run's first process."""

    def __init__(self, directory: RunDirectory, *, first: bool) -> None:
        super().__init__()
        self.directory, self.first = directory, first
        self.lines: list[dict[str, Any]] = []

    name = "local"
    version = ""

    def keep(self, step: int) -> None:
        """Drop the lines after ``step``, where an interrupted run continues, and a final
        evaluation, which is repeated.
        """
        if not self.first:
            return
        log = self.directory.log()
        self.lines[:] = [
            line for line in log if line["step"] <= step and not is_evaluation(line, "test")
        ]
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        write_atomically(self.directory.path / "metrics.jsonl", text.encode())

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml has them."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if not self.first:
            return
        self.lines.append({"step": step, "time": time.time(), **metrics})
        with open(self.directory.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(self.lines[-1]) + "\n")


class WandbLog(Logger):
    """Logger that mirrors the local log in Weights & Biases. When that fails, the run goes on
    without it.
    """

    name = "W&B"
    version = ""

    def __init__(self, mirror: Mirror, local: LocalLog) -> None:
        super().__init__()
        self._mirror: Mirror | None = mirror
        self._local = local

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run was opened with them."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Send the lines that the local log has gained."""
        self._safely(lambda mirror: mirror.send(self._local.lines))

    def finish(self, record: Record) -> None:
        """Send what only the record knows, and wait until all has arrived."""
        self._safely(lambda mirror: mirror.close(record))

    def _safely(self, action: Callable[[Mirror], None]) -> None:
        try:
            if self._mirror is not None:
                action(self._mirror)
        except Exception as error:  # whatever it is, it is not worth a run
            self._mirror = None
            say(
                f"{self.name} failed, the run goes on without it: {type(error).__name__} {error}",
                "Warning",
            )


def _local(trainer: pl.Trainer) -> LocalLog:
    return next(logger for logger in trainer.loggers if isinstance(logger, LocalLog))


def _rate_of_last_step(trainer: pl.Trainer) -> float:
    """The learning rate of the step that was just done; the optimizer already has that of the next
    one.
    """
    schedule = trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(schedule, LambdaLR)
    return float(schedule.base_lrs[0] * schedule.lr_lambdas[0](schedule.last_epoch - 1))


def loggers(config: RunConfig, directory: RunDirectory, *, step: int, first: bool) -> list[Logger]:
    """Make the run's loggers: the local one, and in its ``first`` process those of W&B and
    TensorBoard that are configured.

    Args:
        config: The run.
        directory: The run's directory.
        step: Number of optimizer steps done by the checkpoint from which the run continues.
        first: Whether this is the run's first process.

    Raises:
        Refused: W&B or TensorBoard is asked for, and is not installed or refuses.
    """
    local = LocalLog(directory, first=first)
    if not first:
        return [local]
    found: list[Logger] = [local]
    mirror = _wandb(config, directory)
    if mirror:
        found.append(WandbLog(mirror, local))
    if config.runtime.tensorboard:
        found.append(_tensorboard(directory, step))
    return found


def finish(trainer: pl.Trainer, record: Record) -> None:
    """Tell W&B what only the record knows, and wait until all of it has arrived."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLog):
            logger.finish(record)


def _tensorboard(directory: RunDirectory, step: int) -> Logger:
    """Make TensorBoard's logger into the run's folder; what an interrupted run logged after
    ``step`` is hidden by TensorBoard.

    Raises:
        Refused: TensorBoard is not installed.
    """
    if not _TENSORBOARD:
        raise Refused(
            "runtime.tensorboard: true needs tensorboard, which is not installed (pip install tensorboard)"
        )
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(
        directory.path, name=None, version="tensorboard", flush_secs=10, purge_step=step + 1
    )


def _wandb(config: RunConfig, directory: RunDirectory) -> Mirror | None:
    """Open the run in W&B, offline where nothing else is possible; None where it is not wanted or
    cannot be opened.

    Raises:
        Refused: W&B is asked for explicitly, and cannot be used.
    """
    try:
        mode = chosen(config.runtime)
        return Mirror(config, directory, mode) if mode else None
    except Refused as error:
        if config.runtime.wandb != "auto":
            raise Refused(
                f"runtime.wandb: {config.runtime.wandb} does not work here: {error}"
            ) from None
        say(
            f"{error}; the run is tracked offline, and `xceptlab sync` can send it later", "Warning"
        )
    try:
        return Mirror(config, directory, "offline")
    except Refused as error:
        say(f"{error}; the run goes on without it", "Warning")
        return None
