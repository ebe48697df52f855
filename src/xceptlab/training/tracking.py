"""Where a run's curves are written: ``metrics.jsonl``, which is the truth, and as copies of it
Weights & Biases and TensorBoard.
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
from xceptlab.runs.metrics import on_split
from xceptlab.runs.record import Record
from xceptlab.text import say
from xceptlab.training.task import Task
from xceptlab.training.weights_and_biases import WandbRun, chosen

_TENSORBOARD = RequirementCache("tensorboard")


class Diverged(Exception):
    """The training loss is not finite any more; raised on every process at the same step."""


class Curves(pl.Callback):
    """Callback that logs the training every ``every`` optimizer steps and at the end of each epoch,
    and logs each evaluation.

    In a line of the log ``step`` counts completed optimizer steps, ``epoch`` completed epochs, in
    fractions. ``train/`` values are those of the step's global batch. ``images_per_second`` and
    ``seconds`` are of the training since the last line, on all devices and without evaluations.
    ``replaced``, only where it is not 0, counts the images since the last line that could not be
    decoded (``data.on_corrupt``).

    Args:
        every: Number of optimizer steps between two lines of the log.
        quiet: Print no line after each epoch.

    Raises:
        Diverged: At a step that is to be logged, if a loss since the last line was not finite.
    """

    def __init__(self, every: int, quiet: bool = False) -> None:
        self.every = every
        self.quiet = quiet
        self._epoch = 0.0
        """Epochs done by the last batch, in fractions."""
        self._images = 0.0
        """Number of images trained on since the last line, by all processes."""
        self._since = 0.0
        """Time from which the next line counts its seconds, by ``time.perf_counter``."""
        self._seconds = 0.0
        """Seconds between the last line and the checkpoint from which this run continues; 0.0 in a
        run that begins.
        """
        self._loss: Tensor | float = 0.0
        """This process's part of the step's loss, summed over the batches accumulated so far."""
        self._top1: Tensor | float = 0.0
        """This process's part of the step's accuracy in percent, summed like the loss over the
        batches accumulated so far.
        """
        self._gathered = 0
        """Number of batches that the step has gathered so far."""
        self._replaced = 0
        """Number of images of this process since the last line that could not be decoded."""
        self._broken: Tensor | bool = False
        """Whether some loss since the last line was not finite."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep in the checkpoint what all processes have counted since the last line of the log."""
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
        """Take over from the checkpoint what was counted since the last line of the log."""
        state = checkpoint["since_last_line"]
        self._images = state["images"]
        self._seconds = state["seconds"]
        self._broken = state["broken"]
        # The number in the checkpoint is the total of all processes, and the next line adds their
        # numbers up: only one of them may carry it on.
        if trainer.is_global_zero:
            self._replaced = state["replaced"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _local(trainer).drop_after(trainer.global_step)
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
        """Count the batch and, where a line is due, log the step that it completes.

        Raises:
            Diverged: A line is due, and a loss since the last one was not finite.
        """
        accumulate = trainer.accumulate_grad_batches
        self._epoch = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        # The weight is world size * accumulate / images of the global batch (see BatchKey): this
        # adds the share of one accumulated batch, over all processes.
        self._images += trainer.world_size / batch.weight
        self._replaced += batch.replaced
        # Lightning has divided the loss by the number of accumulated batches, but not top-1.
        self._loss = self._loss + outputs["loss"].detach()
        self._top1 = self._top1 + outputs["top1"] / accumulate
        self._broken = self._broken | ~outputs["loss"].detach().isfinite()
        self._gathered += 1
        # A callback may end the training within an epoch.
        is_last = batch_idx + 1 == trainer.num_training_batches or trainer.should_stop
        if (batch_idx + 1) % accumulate and not is_last:
            return
        # A callback may also let steps gather so many batches that the last one has fewer.
        scale = accumulate / self._gathered
        sums = (scale * self._loss, scale * self._top1, self._broken)
        loss, top1, broken = map(torch.as_tensor, sums)
        self._loss = self._top1 = 0.0
        self._gathered = 0
        if not is_last and trainer.global_step % self.every:
            return
        if self._mean(trainer, broken):
            raise Diverged(f"the training loss is not finite by step {trainer.global_step}")
        seconds = time.perf_counter() - self._since
        line = {
            "epoch": self._epoch,
            "train/loss": self._mean(trainer, loss),
            "train/top1": self._mean(trainer, top1),
            "lr": _rate_of_last_step(trainer),
            "images_per_second": self._images / seconds,
            "seconds": seconds,
        }
        replaced = self._total_replaced(trainer)
        if replaced:
            line["replaced"] = replaced
        self._write(trainer, line)
        self._broken, self._replaced = False, 0
        self._images, self._since = 0.0, time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # An evaluation follows a batch, also in a run that continues: the checkpoint at the end of
        # an epoch is written after it. A callback may have ended the training within the epoch.
        self._write(trainer, {"epoch": self._epoch, **_scores(pl_module, "val")})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print one line after each epoch, in the run's first process, unless a progress bar shows
        it or the callback is quiet.
        """
        if trainer.progress_bar_callback is None and trainer.is_global_zero and not self.quiet:
            scores = ", ".join(
                f"{name} {value:.4g}" for name, value in _scores(pl_module, "val").items()
            )
            colon = ": " if scores else ""
            epoch = f"{round(self._epoch, 2):g}"
            print(f"epoch {epoch} of {trainer.max_epochs} done{colon}{scores}", flush=True)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _local(trainer).drop_after(trainer.global_step)
        # Of a training that a callback has ended, Lightning forgets when it is continued.
        lines = _local(trainer).lines
        epoch = lines[-1]["epoch"] if lines else float(trainer.current_epoch)
        self._write(trainer, {"epoch": epoch, **_scores(pl_module, "test")})

    def _total_replaced(self, trainer: pl.Trainer) -> int:
        """Count the images of all processes since the last line that could not be decoded."""
        replaced = torch.tensor(self._replaced, device=trainer.strategy.root_device)
        return round(trainer.world_size * self._mean(trainer, replaced))

    @staticmethod
    def _mean(trainer: pl.Trainer, value: Tensor) -> float:
        """Return the mean of a value (no dimensions) over all processes."""
        value = value.to(torch.promote_types(value.dtype, torch.float32))
        return float(trainer.strategy.reduce(value, reduce_op="mean"))

    @staticmethod
    def _write(trainer: pl.Trainer, line: dict[str, float]) -> None:
        """Give a line, values by name, to all loggers of the run, with the number of optimizer
        steps done.
        """
        for logger in trainer.loggers:
            logger.log_metrics(line, step=trainer.global_step)


def _scores(task: pl.LightningModule, split: str) -> dict[str, float]:
    """Return the latest scores of a run's ``Task`` on one split, ``val`` or ``test``, by name such
    as ``val/top1``; empty where the split was not evaluated.
    """
    assert isinstance(task, Task)
    return on_split(task.evaluation, split)


class LocalLog(Logger):
    """Logger that writes ``metrics.jsonl``. Each call of ``log_metrics`` adds one line, which is in
    the file when the call returns.

    Args:
        directory: The run's directory.
        first: Whether this is the run's first process; the others write nothing.
    """

    def __init__(self, directory: RunDirectory, *, first: bool) -> None:
        super().__init__()
        self.directory, self.first = directory, first
        self.lines: list[dict[str, Any]] = []

    name = "local"
    version = ""

    def drop_after(self, step: int) -> None:
        """Drop from the log the lines after optimizer step ``step``, from which an interrupted run
        continues, and the final evaluation, which is repeated. Only the first process does so.
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
    """Logger that sends the lines of the local log to Weights & Biases. When that fails, the run
    goes on without it.
    """

    name = "W&B"
    version = ""

    def __init__(self, wandb_run: WandbRun, local: LocalLog) -> None:
        super().__init__()
        self._wandb_run: WandbRun | None = wandb_run
        self._local = local

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run was opened with them."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Send the lines of the local log that W&B lacks. The arguments are not used, as the last
        line holds them.
        """
        self._safely(lambda wandb_run: wandb_run.send(self._local.lines))

    def finish(self, record: Record) -> None:
        """Send what only the run's record knows, and wait until all has arrived."""
        self._safely(lambda wandb_run: wandb_run.close(record))

    def _safely(self, action: Callable[[WandbRun], None]) -> None:
        """Call an action; if it raises, warn the user and send nothing from then on."""
        try:
            if self._wandb_run is not None:
                action(self._wandb_run)
        # No error of W&B's client is worth ending a training.
        except Exception as error:
            self._wandb_run = None
            say(
                f"{self.name} failed, the run goes on without it: {type(error).__name__} {error}",
                "Warning",
            )


def _local(trainer: pl.Trainer) -> LocalLog:
    """Return the logger among those of a Trainer that writes ``metrics.jsonl``."""
    return next(logger for logger in trainer.loggers if isinstance(logger, LocalLog))


def _rate_of_last_step(trainer: pl.Trainer) -> float:
    """Return the learning rate of the step that was just done; the optimizer already has that of
    the next one. With a schedule that a callback has set it is the optimizer's present one.
    """
    schedule = trainer.lr_scheduler_configs[0].scheduler
    if not isinstance(schedule, LambdaLR):
        # A callback has put another schedule in the place of ours.
        return float(trainer.optimizers[0].param_groups[0]["lr"])
    return float(schedule.base_lrs[0] * schedule.lr_lambdas[0](schedule.last_epoch - 1))


def loggers(config: RunConfig, directory: RunDirectory, *, step: int, first: bool) -> list[Logger]:
    """Build the run's loggers: that of ``metrics.jsonl`` and, in the run's first process, those of
    W&B and TensorBoard where they are configured.

    Args:
        config: The run.
        directory: The run's directory.
        step: Number of optimizer steps done by the checkpoint from which the run continues; 0 in a
            run that begins.
        first: Whether this is the run's first process.

    Raises:
        Refused: W&B or TensorBoard is asked for, and is not installed or refuses.
    """
    local = LocalLog(directory, first=first)
    if not first:
        return [local]
    found: list[Logger] = [local]
    wandb_run = _wandb(config, directory)
    if wandb_run:
        found.append(WandbLog(wandb_run, local))
    if config.runtime.tensorboard:
        found.append(_tensorboard(directory, step))
    return found


def finish(trainer: pl.Trainer, record: Record) -> None:
    """Send W&B what only a run's record knows, and wait until all of it has arrived. Nothing is
    done for a run that is not tracked by W&B.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLog):
            logger.finish(record)


def _tensorboard(directory: RunDirectory, step: int) -> Logger:
    """Build TensorBoard's logger, which writes into the run's folder.

    Args:
        directory: The run's directory.
        step: Number of optimizer steps from which the run continues. TensorBoard hides what an
            earlier attempt logged after it.

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


def _wandb(config: RunConfig, directory: RunDirectory) -> WandbRun | None:
    """Open the run in W&B as ``runtime.wandb`` asks for; returns None where it is not wanted.

    If ``auto`` fails, the user is warned, and the run is opened offline; None where that fails,
    too.

    Raises:
        Refused: ``online`` or ``offline`` is asked for, and cannot be used.
    """
    try:
        mode = chosen(config.runtime)
        return WandbRun(config, directory, mode) if mode else None
    except Refused as error:
        if config.runtime.wandb != "auto":
            raise Refused(
                f"runtime.wandb: {config.runtime.wandb} does not work here: {error}"
            ) from None
        say(
            f"{error}; the run is tracked offline, and `xceptlab sync` can send it later", "Warning"
        )
    try:
        return WandbRun(config, directory, "offline")
    except Refused as error:
        say(f"{error}; the run goes on without it", "Warning")
        return None
