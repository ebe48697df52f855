"""Checkpoints: written whole or not at all, read without executing anything."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from xceptlab.records import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, but a kill or a full disk never leaves half of one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As Lightning's.

        Raises:
            ValueError: The file is cut or corrupt.
        """
        try:
            return super().load_checkpoint(path, *args, **kwargs)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path}: not a readable checkpoint ({error}); remove it to start the run again") from None


def every_epoch(directory: Path) -> ModelCheckpoint:
    """A checkpoint after each epoch, once the evaluated average is swapped out again; the newest is kept."""
    return ModelCheckpoint(
        dirpath=directory,
        filename="epoch{epoch:05d}",
        auto_insert_metric_name=False,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def newest(directory: Path) -> Path | None:
    """The checkpoint to continue from."""
    return max(directory.glob("epoch*.ckpt"), default=None)
