"""The sections ``runtime`` and ``launcher``: where and how a run is executed, which must not change
its result beyond rounding.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from xceptlab.config.field_types import Count, CountOrZero, Positive
from xceptlab.config.fields import LOCATION, Section


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig(Section):
    """Where and how a run is executed; nothing here may change its result beyond rounding."""

    PREFIX: ClassVar[str] = "runtime."

    outputs: str = field(default="outputs", metadata=LOCATION)
    """Folder that holds ``runs/`` and ``studies/``."""
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    """Kind of device, by Lightning's name."""
    devices: Count = 1
    """Number of devices of this kind per node; BatchNorm sees the images of all of them."""
    num_nodes: Count = 1
    """Number of machines (nodes) of a run."""
    workers: CountOrZero = 0
    """Number of processes that load data, per device; 0 loads in the training process."""
    capture: bool = True
    """On one GPU, replay the forward and the backward pass of a step from a CUDA graph, which is
    faster and gives the same bits (not in 16-mixed, nor with callbacks). false launches kernel by
    kernel."""
    log_every: Count = 50
    """Steps between two lines of the log."""
    checkpoint_steps: CountOrZero = 0
    """Steps between two checkpoints within an epoch; 0 writes them by time only."""
    checkpoint_minutes: Positive = 10.0
    """Minutes between two checkpoints within an epoch; another is written at the end of each epoch.
    """
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Mode of Weights & Biases; auto is online where an API key is configured, else offline."""
    wandb_project: str = ""
    """Project in Weights & Biases; empty for the project that WANDB_PROJECT or W&B's own settings
    name, or else xceptlab.
    """
    wandb_weights: bool = False
    """Send the evaluated weights to Weights & Biases as an artifact."""
    tensorboard: bool = False
    """Write the log also for TensorBoard, into the run's folder."""
    study: str = ""
    """Name of the study that started the run; set by ``xceptlab study``."""
    arm: str = ""
    """Name of the arm in that study and, where keys are tuned, the value that the run tries, as in
    ``residual@0.1``; set by ``xceptlab study``.
    """


@dataclass(frozen=True, kw_only=True)
class LauncherConfig(Section):
    """What starts a study's runs, and what it asks a cluster for; nothing here may change a run's
    result.
    """

    PREFIX: ClassVar[str] = "launcher."

    name: Literal["local", "slurm", "ray"] = "local"
    """What starts the runs: processes on this machine (local), SLURM's job arrays (submitit) or
    Ray's tasks. All nodes of a cluster must see the outputs, the data and the code under the same
    paths."""
    gpus: CountOrZero = 0
    """Number of GPUs to ask a cluster for, per node of a run; runtime.devices says how many of them
    the run uses.
    """
    memory: CountOrZero = 0
    """Memory to ask a cluster for, per node of a run, in GB; 0 for the cluster's default."""
    minutes: int = 1440
    """SLURM: time limit of a job, in minutes; a run that takes longer is continued automatically in
    another job.
    """
    partition: str = ""
    """SLURM: the partition; empty for the default partition."""
    account: str = ""
    """SLURM: the account; empty for the default account."""
    options: tuple[str, ...] = ()
    """SLURM: further options of sbatch, such as [qos=long, constraint=a100]."""
    address: str = "auto"
    """Ray: the cluster's address; auto for the cluster that this machine is in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            "minutes", self.minutes >= 3, "at least 3, as a job is told 90 seconds before its end"
        )
        have_values = all("=" in option for option in self.options)
        self._require("options", have_values, "a list of options of sbatch, each NAME=VALUE")
