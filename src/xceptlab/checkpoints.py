"""Checkpoints: written whole or not at all, read without executing anything."""

import io
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
