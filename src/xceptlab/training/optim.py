"""Optimizers, learning-rate schedules, weight-decay groups and the average of weights, as the training configuration says."""

import math
from collections.abc import Callable
from itertools import compress
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from xceptlab.config.schema import TrainConfig
from xceptlab.training.lightning import WeightAveraging


def optimizer(network: nn.Module, train: TrainConfig) -> Optimizer:
    """The optimizer over the network's parameters, in one group or, with ``decay_norm_bias: false``, two."""
    groups = parameter_groups(network, train)
    if train.optimizer == "sgd":
        return SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov)
    if train.optimizer == "rmsprop":
        return RMSprop(groups, lr=train.lr, momentum=train.momentum)
    return AdamW(groups, lr=train.lr)


def parameter_groups(network: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """All parameters with weight decay; without it norms and biases (the parameters of one dimension) if so configured."""
    parameters = list(network.parameters())
    decayed = [p for p in parameters if train.decay_norm_bias or p.ndim > 1]
    spared = [p for p in parameters if not train.decay_norm_bias and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}]
    return groups + ([{"params": spared, "weight_decay": 0.0}] if spared else [])


def factor(train: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """What the learning rate is multiplied by at each step, 0 to epochs x steps_per_epoch - 1."""
    total = train.epochs * steps_per_epoch
    warmup = round(train.warmup * total)

    def at(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if train.schedule == "cosine":
            return (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2
        if train.schedule == "exponential":
            return train.decay_rate ** math.floor(step / steps_per_epoch / train.decay_epochs)
        return 1.0

    return at


def schedule(optimizer: Optimizer, train: TrainConfig, steps_per_epoch: int) -> LambdaLR:
    """The schedule, to be advanced after each step."""
    return LambdaLR(optimizer, factor(train, steps_per_epoch))


class AverageWeights(WeightAveraging):
    """Evaluate an exponential moving average of the weights and BatchNorm statistics (the paper: Polyak averaging).

    The decay at step t is min(decay, (1 + t) / (10 + t)), TensorFlow's warm-up: a constant decay of 0.99 would leave a run of
    100 steps near its random start.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._tensors: list[tuple[list[Tensor], list[Tensor]]] = []
        """Averages and current values of weights and statistics, and of BatchNorm's counts of batches."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copy the weights, in 64 bits where these will be."""
        super().setup(trainer, pl_module, stage)
        if self.average_model is not None:
            trainer.precision_plugin.convert_module(self.average_model)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the weights to their device, where Lightning leaves the average on the CPU; so stays the count of updates."""
        assert self.average_model is not None
        self.average_model.module.to(pl_module.device)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """List the tensors once; torch's update looks for them in all modules at each step, longer than a GPU takes for it."""
        assert self.average_model is not None
        both = [[*module.parameters(), *module.buffers()] for module in (self.average_model.module, pl_module)]
        floating = [tensor.is_floating_point() for tensor in both[0]]
        kinds = (floating, [not is_floating for is_floating in floating])
        self._tensors = [([*compress(both[0], kind)], [*compress(both[1], kind)]) for kind in kinds if any(kind)]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the weights of an optimizer step; those of the first step are the average."""
        if trainer.global_step == self.latest_update_step:
            return
        assert self.average_model is not None
        t = int(self.average_model.n_averaged)
        for averages, currents in self._tensors:
            if t and averages[0].is_floating_point():
                torch._foreach_lerp_(averages, currents, 1 - min(self.decay, (1 + t) / (10 + t)))
            else:
                torch._foreach_copy_(averages, currents)
        self.average_model.n_averaged += 1
        self.latest_update_step = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights as they are: a checkpoint that another callback writes in this hook must not hold the average."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand over the average, also when a continued run finds all its epochs done."""
        super().on_train_end(trainer, pl_module)
