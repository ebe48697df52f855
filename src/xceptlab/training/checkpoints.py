"""Checkpoints of a run: written whole or not at all, checked by a checksum in their file's name,
read without executing anything.
"""

import hashlib
import io
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from xceptlab.errors import Refused
from xceptlab.files import write_atomically
from xceptlab.signals import StopSignals
from xceptlab.text import say

KEPT = 2
"""Number of checkpoints that a run keeps. Should the newest be corrupt, it continues from the one
before.
"""


class CheckpointFiles(TorchCheckpointIO):
    """Lightning plugin that writes and reads checkpoint files. Their names end in a checksum of the
    content: ``step00000120-0123456789abcdef.ckpt``.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write ``<path>-<checksum>.ckpt``. Remove from its folder what a killed process left half
        written and, after the writing, all checkpoints but the ``KEPT`` newest.

        Raises:
            OSError: The file cannot be written, such as on a full disk; the older checkpoints stay.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        path, data = Path(path), buffer.getvalue()
        for unfinished in path.parent.glob(".*.tmp"):
            unfinished.unlink()
        write_atomically(path.with_name(f"{path.name}-{checksum(data)}.ckpt"), data)
        for old in oldest_first(path.parent)[:-KEPT]:
            old.unlink()

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint, executing nothing that it holds.

        Raises:
            Refused: The file is no checkpoint, or cannot be read.
        """
        try:
            return super().load_checkpoint(path, *args, **kwargs | {"weights_only": True})
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise Refused(
                f"{path}: not a readable checkpoint ({error}); remove it to start the run again"
            ) from None


def checksum(data: bytes) -> str:
    """Return the checksum of a checkpoint's bytes, 16 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:16]


def oldest_first(directory: Path) -> list[Path]:
    """Return the checkpoints in a folder, sorted by the number of optimizer steps that their names
    begin with; corrupt ones that have been renamed are left out.
    """
    return sorted(directory.glob("*.ckpt"))


def newest(directory: Path) -> Path | None:
    """Return the newest whole checkpoint in a folder: the newest one whose bytes have the checksum
    in its name; None where there is none.

    The user is told of a newer one that is corrupt, and it is renamed, so that it is not tried
    again.
    """
    for path in reversed(oldest_first(directory)):
        try:
            if checksum(path.read_bytes()) == path.stem.rpartition("-")[2]:
                return path
            path.rename(path.with_suffix(".corrupt"))
        # Another process of this run may have renamed it first.
        except FileNotFoundError:
            continue
        say(f"{path}: corrupt, its checksum differs; the run goes back to the one before")
    return None


def steps_done(checkpoint: Path | None) -> int:
    """Return the number of optimizer steps done when a checkpoint was written, by its file's name;
    0 for None.
    """
    if checkpoint is None:
        return 0
    return int(checkpoint.name.removeprefix("step").partition("-")[0])


class Checkpoints(Checkpoint):
    """Callback that writes a checkpoint at the end of each epoch and, within it, after a number of
    steps or minutes and when a signal asks the run to stop.

    All processes decide together, so that a signal which reaches one of them stops all after the
    same step. After the last step of an epoch, both the checkpoint and a request to stop wait for
    the evaluation.

    Args:
        directory: The folder for the checkpoints.
        steps: A checkpoint is written every so many optimizer steps; with 0 only the minutes count.
        minutes: A checkpoint is written at the first step that ends so many minutes after the last
            checkpoint.
        stop_signals: The signals that ask the run to stop.
    """

    def __init__(
        self, directory: Path, steps: int, minutes: float, stop_signals: StopSignals
    ) -> None:
        self.directory = directory
        self.steps = steps
        self.minutes = minutes
        self.stop_signals = stop_signals
        self._group: Any = None
        """Group of the run's processes that talk over CPUs; None where there is one process."""
        self._saved = 0.0
        """Time of the last checkpoint or, before there is one, of the fit's start, by
        ``time.monotonic``.
        """
        self._is_ended = False
        """Whether another callback has ended the training at this epoch."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["ended_by_callback"] = self._is_ended

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Ask the Trainer to stop where another callback had ended the training before the
        checkpoint was written. Checkpoints of older versions do not tell, and training goes on.
        """
        trainer.should_stop = checkpoint.get("ended_by_callback", False)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock for the first checkpoint, and check that all processes continue from the
        same one.

        Raises:
            Refused: The processes see different checkpoints.
        """
        self._saved = time.monotonic()
        if trainer.world_size > 1:
            # Over this backend the processes' CPUs talk, so that no decision waits for a GPU.
            self._group = torch.distributed.new_group(backend="gloo")
            names = [""] * trainer.world_size
            torch.distributed.all_gather_object(
                names, Path(trainer.ckpt_path or "none").name, self._group
            )
            if len(set(names)) > 1:
                raise Refused(
                    f"the processes would continue from different checkpoints ({', '.join(names)}); {self.directory} must be the "
                    "same folder for all of them, and no other process may write to it"
                )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        ends_a_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if trainer.is_last_batch or not ends_a_step:
            return
        due_by_time = time.monotonic() - self._saved >= 60 * self.minutes
        due_by_steps = self.steps > 0 and trainer.global_step % self.steps == 0
        due, signal = self._agreed(due_by_time or due_by_steps)
        if due or signal:
            self._save(trainer)
            self._stop(trainer, signal)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._is_ended = trainer.should_stop
        self._save(trainer)
        self._stop(trainer, self._agreed(True)[1])

    def _agreed(self, due: bool) -> tuple[bool, int]:
        """Agree with the other processes on what all do now.

        Args:
            due: Whether this process wants a checkpoint.

        Returns:
            Whether any process wants a checkpoint, and the number of the signal that asked one to
            stop; 0 if none was asked.
        """
        wishes = torch.tensor([due, self.stop_signals.number])
        if self._group:
            torch.distributed.all_reduce(wishes, torch.distributed.ReduceOp.MAX, self._group)
        return bool(wishes[0]), int(wishes[1])

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(
            self.directory / f"step{trainer.global_step:08d}", weights_only=False
        )
        self._saved = time.monotonic()

    def _stop(self, trainer: pl.Trainer, signal: int) -> None:
        """End this process if a signal has asked the run to stop.

        Args:
            trainer: The run's Trainer.
            signal: Number of the signal; with 0 nothing is done.

        Raises:
            KeyboardInterrupt: In the run's first process, for Ctrl-C.
            Interrupted: In the run's first process, for another signal.
            SystemExit: In the run's other processes, with exit code 0.
        """
        if signal and not trainer.is_global_zero:
            self.stop_signals.number = signal
            # The code must be 0: after another one Lightning's launcher would kill the first
            # process, which is to report the outcome.
            sys.exit(0)
        if signal:
            self.stop_signals.stop(signal)
