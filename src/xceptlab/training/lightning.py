"""All that training relies on in Lightning beyond what its users are promised, in one file and
checked before a run.

Lightning finds a hook by its name. If a release renamed one, the method of ours that replaces it
would never be called again, and nothing would say so: a run would train, but differently. The same
goes for private methods that are replaced from outside.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import callbacks
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.plugins.layer_sync import LayerSync
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.optim.swa_utils import AveragedModel

from xceptlab.errors import Refused

TESTED = "2.6"
"""The release of Lightning that the tests run with."""

REPLACED: dict[type, tuple[str, ...]] = {
    pl.LightningModule: (
        "on_load_checkpoint",
        "on_train_start",
        "on_train_batch_start",
        "training_step",
        "backward",
        "optimizer_zero_grad",
        "on_validation_start",
        "validation_step",
        "on_validation_epoch_end",
        "on_test_start",
        "test_step",
        "on_test_epoch_end",
        "configure_optimizers",
        "teardown",
    ),
    pl.LightningDataModule: (
        "prepare_data",
        "setup",
        "train_dataloader",
        "val_dataloader",
        "test_dataloader",
        "on_after_batch_transfer",
    ),
    pl.Callback: (
        "on_fit_start",
        "on_fit_end",
        "on_train_start",
        "on_train_epoch_start",
        "on_train_batch_end",
        "on_train_epoch_end",
        "on_validation_end",
        "on_test_end",
        "on_save_checkpoint",
        "on_load_checkpoint",
    ),
    callbacks.WeightAveraging: ("setup", "on_train_batch_end", "on_train_end"),
    callbacks.RichProgressBar: ("_get_train_description",),
    Logger: ("name", "version", "log_metrics", "log_hyperparams"),
    TorchCheckpointIO: ("save_checkpoint", "load_checkpoint"),
    LayerSync: ("apply", "revert"),
    ClusterEnvironment: (
        "creates_processes_externally",
        "main_address",
        "main_port",
        "detect",
        "world_size",
        "set_world_size",
        "global_rank",
        "set_global_rank",
        "local_rank",
        "node_rank",
    ),
}
"""Names of the methods and properties that classes of this package override, by the class of
Lightning that has them.
"""


def check() -> None:
    """Check that Lightning still has every method that a class of this package overrides.

    Raises:
        Refused: It lacks one.
    """
    for base, names in REPLACED.items():
        without_parents = [kind for kind in base.__mro__ if kind is base or kind not in REPLACED]
        for name in names:
            if not any(name in vars(kind) for kind in without_parents):
                raise _unfit(
                    base.__name__,
                    name,
                    "a method of this package would never be called in its place",
                )


def leave_signals_to_us(trainer: pl.Trainer) -> None:
    """Keep Lightning from handling signals. Its handlers talk to the other processes, and may hang.

    Lightning would also ask in each batch whether the first process got a SIGTERM, and would wait
    for the GPU to answer.

    Raises:
        Refused: Lightning handles signals by other methods than those replaced here.
    """
    _require(trainer, "_signal_connector", "its handlers of signals could not be turned off")
    signals = trainer._signal_connector
    _require(signals, "register_signal_handlers", "its handlers of signals could not be turned off")
    signals.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    loop = trainer.fit_loop.epoch_loop
    _require(loop, "_broadcast_sigterm_tensor", "it would wait for the GPU in each batch")
    loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def set_rank(rank: int) -> None:
    """Set the number of this process among those of the run, from 0, by which Lightning decides
    what runs in the first process only. Lightning has guessed it from the environment.

    Raises:
        Refused: Lightning keeps the rank elsewhere.
    """
    _require(rank_zero_only, "rank", "messages would come from the wrong process")
    rank_zero_only.rank = rank  # type: ignore[attr-defined]


@contextmanager
def keyboard_interrupt() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` from the ``with`` block if Ctrl-C was pressed while a Trainer ran
    in it. The Trainer itself turns it into a ``SystemExit`` with exit code 1.
    """
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


class WeightAveraging(callbacks.WeightAveraging):
    """Lightning's callback that averages weights, with public names for what it keeps privately.

    Raises:
        Refused: Lightning keeps the average under other names.
    """

    def __init__(self) -> None:
        super().__init__(use_buffers=True)
        for name in ("_average_model", "_latest_update_step"):
            _require(self, name, "the average of the weights is kept there")

    @property
    def average_model(self) -> AveragedModel | None:
        """The network that holds the averages; None before the training begins."""
        return self._average_model

    @property
    def latest_update_step(self) -> int:
        """Number of the optimizer step, from 1, whose weights were averaged last; 0 before there is
        one. A checkpoint keeps it.
        """
        return self._latest_update_step

    @latest_update_step.setter
    def latest_update_step(self, step: int) -> None:
        self._latest_update_step = step


class ProgressBar(callbacks.RichProgressBar):
    """Lightning's progress bar, with the epochs counted from 1 as everywhere else."""

    def _get_train_description(self, current_epoch: int) -> str:
        text = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        # Descriptions of different lengths would let the bars below each other flicker.
        return text.ljust(len(self.validation_description))


def _require(owner: Any, name: str, otherwise: str) -> None:
    """Check that an object or class of Lightning has an attribute.

    Args:
        owner: The object or class.
        name: Name of the attribute.
        otherwise: What goes wrong without it, as the error says it.

    Raises:
        Refused: It has no attribute of this name.
    """
    if not hasattr(owner, name):
        raise _unfit(getattr(owner, "__name__", type(owner).__name__), name, otherwise)


def _unfit(owner: str, name: str, otherwise: str) -> Refused:
    """Return the error for an attribute that the installed Lightning lacks.

    Args:
        owner: Name of the class or object of Lightning.
        name: Name of the attribute.
        otherwise: What goes wrong without it, a clause of the message.
    """
    return Refused(
        f"pytorch-lightning {pl.__version__} does not fit this version of xceptlab: {owner} has no {name} any more, and "
        f"{otherwise}; install pytorch-lightning {TESTED}"
    )
