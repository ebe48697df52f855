"""What lets several processes compute what one would: Lightning is told which processes there are,
and BatchNorm takes its statistics over the images of all of them.
"""

import os
import socket
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import ClusterEnvironment, SLURMEnvironment
from pytorch_lightning.plugins.layer_sync import LayerSync
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from xceptlab.errors import Refused
from xceptlab.runs.world import World


class Processes(ClusterEnvironment):
    """Tells Lightning the processes of the run, which it would otherwise guess from the
    environment.

    Args:
        world: This process's place among those of the run.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def creates_processes_externally(self) -> bool:
        """Whether the other processes are there already, so that Lightning need not start them.

        Lightning sets LOCAL_RANK when it has started them.
        """
        return self.world.starter != "itself" or "LOCAL_RANK" in os.environ

    @property
    def main_address(self) -> str:
        """The address at which the other processes reach the first one.

        It is 127.0.0.1 where this process starts the others, and where srun started all of them on
        one node. Else it is MASTER_ADDR or, where srun gives none, the first node of SLURM's step.
        """
        one_node = self.world.starter == "srun" and os.environ["SLURM_STEP_NUM_NODES"] == "1"
        if one_node or not self.creates_processes_externally:
            return "127.0.0.1"
        return os.environ.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(
            os.environ["SLURM_STEP_NODELIST"]
        )

    @property
    def main_port(self) -> int:
        """The port on which the first process listens.

        It is any free one where this process starts the others and tells them. Processes that were
        started, as by torchrun or srun, take MASTER_PORT from their environment. Where srun gives
        none, they compute it, 15000 to 24999, from the numbers of SLURM's job and step.
        """
        if not self.creates_processes_externally:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                return probe.getsockname()[1]
        if "MASTER_PORT" in os.environ:
            return int(os.environ["MASTER_PORT"])
        job = int(os.environ["SLURM_JOB_ID"])
        step = int(os.environ["SLURM_STEP_ID"])
        return 15000 + (job + 1000 * step) % 10000

    @staticmethod
    def detect() -> bool:
        """Whether Lightning should choose this environment by itself: no, it is a plugin."""
        return False

    def world_size(self) -> int:
        return self.world.size

    def set_world_size(self, size: int) -> None:
        """Check that Lightning counts as many processes as the run has; nothing is set."""
        assert size == self.world.size

    def global_rank(self) -> int:
        return self.world.rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: the rank is known. Lightning counts node by node, and SLURM may number the
        tasks of several nodes in another order.
        """

    def local_rank(self) -> int:
        return self.world.local_rank

    def node_rank(self) -> int:
        return self.world.node_rank


class GlobalBatchNorm(nn.SyncBatchNorm):
    """BatchNorm with statistics over the images of all GPUs, torch's ``SyncBatchNorm``, followed by
    the activation that timm's BatchNorm has within it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise this process's images (N, C, H, W), in training by the statistics of all
        processes' images.
        """
        return _activated(self, super().forward(input))


class GlobalBatchNormOnCPU(nn.BatchNorm2d):
    """BatchNorm with statistics over the images of all processes, on CPUs, which torch's
    ``SyncBatchNorm`` refuses.

    The variance is the mean square of the centred values, as in one process: the mean square minus
    the squared mean would cost half of the digits.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise this process's images (N, C, H, W), in training by the statistics of all
        processes' images.
        """
        if self.training:
            y = self._normalised_over_processes(input)
        else:
            y = super().forward(input)
        return _activated(self, y)

    def _normalised_over_processes(self, x: Tensor) -> Tensor:
        """Normalise images (N, C, H, W) by the statistics of all processes' images, and update the
        running statistics.
        """
        channels = x.shape[1]
        per_channel = (1, channels, 1, 1)
        all_but_channels = (0, 2, 3)
        mean_before = self.get_buffer("running_mean")  # (C,)
        values = x.to(mean_before.dtype)  # (N, C, H, W)
        own_count = values.new_full((1,), values.numel() / channels)  # (1,): N * H * W
        own_sums = torch.cat([values.sum(all_but_channels), own_count])  # (C + 1,)
        total, count = _SumOverProcesses.apply(own_sums).split([channels, 1])  # (C,), (1,)
        mean = total / count  # (C,)
        centred = values - mean.view(per_channel)  # (N, C, H, W)
        own_squares = centred.square().sum(all_but_channels)  # (C,)
        variance = _SumOverProcesses.apply(own_squares) / count  # (C,)
        with torch.no_grad():
            batches = self.get_buffer("num_batches_tracked").add_(1)
            # Without a momentum torch's BatchNorm takes the mean over all batches so far.
            momentum = 1 / int(batches) if self.momentum is None else self.momentum
            mean_before.lerp_(mean, momentum)
            self.get_buffer("running_var").lerp_(variance * count / (count - 1), momentum)
        scale = torch.rsqrt(variance + self.eps)  # (C,)
        if not self.affine:
            return (centred * scale.view(per_channel)).to(x.dtype)  # (N, C, H, W)
        scale = scale * self.weight
        y = centred * scale.view(per_channel) + self.bias.view(per_channel)  # (N, C, H, W)
        return y.to(x.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """Sums a tensor over all processes. In the backward pass each process gets the sum of all
    processes' gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


def _activated(norm: nn.Module, y: Tensor) -> Tensor:
    """Apply the dropout and activation that timm's BatchNorm has within it to the output of a norm;
    other norms' output is returned as it is.
    """
    if hasattr(norm, "act"):
        return norm.act(norm.drop(y))  # type: ignore[operator]
    return y


def _refuse_other_batch_norm(module: nn.Module) -> None:
    """Check that a BatchNorm computes what ``nn.BatchNorm2d`` or timm's ``BatchNormAct2d`` does, so
    that its statistics can be taken over all processes.

    Raises:
        Refused: It takes other tensors than images, computes something of its own, or keeps no
            running statistics, so that its evaluation would depend on the number of devices.
    """
    if module.running_mean is None or not module.track_running_stats:
        raise Refused(
            f"runtime.devices: on several devices {type(module).__name__} without running statistics would be evaluated "
            "by each one's images; train on 1 device"
        )
    computes = type(module).forward
    if not isinstance(module, nn.BatchNorm2d) or computes not in (
        nn.BatchNorm2d.forward,
        BatchNormAct2d.forward,
    ):
        raise Refused(
            f"runtime.devices: on several devices {type(module).__name__} would take its statistics over each one's images; "
            "train on 1 device"
        )


class SyncBatchNormPlugin(LayerSync):
    """Lightning plugin that lets every BatchNorm of a network take its statistics over all
    processes while the network is trained.

    Lightning's own plugin replaces modules, and loses the activation in timm's. Here modules only
    change their class, so that parameters, buffers and names stay, and change it back in the end.
    """

    def __init__(self) -> None:
        self.classes_before: dict[nn.Module, type] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, pl.LightningModule)
        kind = GlobalBatchNormOnCPU if model.device.type == "cpu" else GlobalBatchNorm
        for module in model.modules():
            is_batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if not is_batch_norm or isinstance(module, nn.SyncBatchNorm):
                continue
            _refuse_other_batch_norm(module)
            self.classes_before[module] = type(module)
            module.__class__ = kind
            module.process_group = None  # type: ignore[assignment]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        while self.classes_before:
            module, kind = self.classes_before.popitem()
            module.__class__ = kind
        return model
