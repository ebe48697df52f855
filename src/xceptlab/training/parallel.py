"""What lets N processes compute what one would: their world, and BatchNorm over the whole batch."""

import os
import socket
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import ClusterEnvironment, SLURMEnvironment
from pytorch_lightning.plugins.layer_sync import LayerSync
from torch import Tensor, nn

from xceptlab.runs.world import World


class Processes(ClusterEnvironment):
    """The run's world for Lightning, which would otherwise guess one from the environment."""

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def creates_processes_externally(self) -> bool:
        """Whether the other processes are there already, and Lightning need not start them.

        It starts them once, for the first of the Trainer's runs, and sets LOCAL_RANK when it has.
        """
        return self.world.starter != "itself" or "LOCAL_RANK" in os.environ

    @property
    def main_address(self) -> str:
        """The address of the first process."""
        one_node = self.world.starter == "srun" and os.environ["SLURM_STEP_NUM_NODES"] == "1"
        if one_node or not self.creates_processes_externally:
            return "127.0.0.1"
        return os.environ.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(
            os.environ["SLURM_STEP_NODELIST"]
        )

    @property
    def main_port(self) -> int:
        """The port on which the first process listens: any free one, unless all processes must know
        it without having met.
        """
        if not self.creates_processes_externally:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                return probe.getsockname()[1]
        if "MASTER_PORT" in os.environ:
            return int(os.environ["MASTER_PORT"])
        return (
            15000
            + (int(os.environ["SLURM_JOB_ID"]) + 1000 * int(os.environ["SLURM_STEP_ID"])) % 10000
        )

    @staticmethod
    def detect() -> bool:
        """Whether Lightning should choose this environment by itself: no, it is given as a plugin."""
        return False

    def world_size(self) -> int:
        return self.world.size

    def set_world_size(self, size: int) -> None:
        """Check that Lightning counts the same processes."""
        assert size == self.world.size

    def global_rank(self) -> int:
        return self.world.rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: the rank is known, and SLURM may number the tasks of several nodes in another
        order.
        """

    def local_rank(self) -> int:
        return self.world.local_rank

    def node_rank(self) -> int:
        return self.world.node_rank


class GlobalBatchNorm(nn.SyncBatchNorm):
    """BatchNorm over the images of all GPUs."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise this process's images (N, C, H, W), in training by the statistics of all
        processes' images.
        """
        return _activated(self, super().forward(input))


class GlobalBatchNormOnCPU(nn.BatchNorm2d):
    """BatchNorm over the images of all processes on CPUs, by differentiable sums; torch's class for
    it refuses CPUs.

    The variance is that of the centred values, as in one process: a difference of squares would
    cost half of the digits.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise this process's images (N, C, H, W), in training by the statistics of all
        processes' images.
        """
        return _activated(self, self._summed(input) if self.training else super().forward(input))

    def _summed(self, x: Tensor) -> Tensor:
        assert self.momentum is not None
        shape, dims = (1, -1, 1, 1), (0, 2, 3)
        values = x.to(self.weight.dtype)
        images = values.new_full((1,), values.numel() / values.shape[1])
        total, count = _Sum.apply(torch.cat([values.sum(dims), images])).split([values.shape[1], 1])
        mean = total / count
        centred = values - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.get_buffer("num_batches_tracked").add_(1)
            self.get_buffer("running_mean").lerp_(mean, self.momentum)
            self.get_buffer("running_var").lerp_(variance * count / (count - 1), self.momentum)
        y = centred * (torch.rsqrt(variance + self.eps) * self.weight).view(shape) + self.bias.view(
            shape
        )
        return y.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over processes; backward, each gets the sum of all their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        torch.distributed.all_reduce(total := x.clone())
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        torch.distributed.all_reduce(total := gradient.clone())
        return total


def _activated(norm: nn.Module, y: Tensor) -> Tensor:
    """The output of a norm after its dropout and activation, which timm's BatchNorm has within it."""
    return norm.act(norm.drop(y)) if hasattr(norm, "act") else y  # type: ignore[operator]


class SyncBatchNorm(LayerSync):
    """Make every BatchNorm of a network global while it is trained.

    Lightning's own replaces modules, and loses the activation in timm's. Here modules only change
    their class, so that parameters, buffers and names stay, and change it back in the end.
    """

    def __init__(self) -> None:
        self.classes_before: dict[nn.Module, type] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, pl.LightningModule)
        kind = GlobalBatchNormOnCPU if model.device.type == "cpu" else GlobalBatchNorm
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                self.classes_before[module] = type(module)
                module.__class__ = kind  # type: ignore[assignment]
                module.process_group = None  # type: ignore[assignment]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        while self.classes_before:
            module, kind = self.classes_before.popitem()
            module.__class__ = kind
        return model
