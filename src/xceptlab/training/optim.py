"""Optimizers, weight-decay groups, learning-rate schedules and the average of weights, as a run's
training configuration asks for them.
"""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from numbers import Real
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from xceptlab import register
from xceptlab.config.schema import TrainConfig
from xceptlab.errors import Refused
from xceptlab.training.lightning import WeightAveraging


def optimizer(network: nn.Module, train: TrainConfig) -> Optimizer:
    """Build the optimizer that ``train.optimizer`` names, for a network's parameters in groups with
    and without weight decay.

    It is one of torch's classes with torch's constants, or what a user's module has registered.
    timm's factory knows more, but its ``sgd`` is Nesterov's, its ``rmsprop`` decays by 0.9 where
    torch's decays by 0.99, and it loads all of timm, which no other part of most runs needs.

    Raises:
        Refused: Nothing is registered under the name, or the registered function raises an error
            or gives something other than an optimizer.
    """
    groups = parameter_groups(network, train)
    if train.optimizer == "sgd":
        return SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov)
    if train.optimizer == "rmsprop":
        return RMSprop(groups, lr=train.lr, momentum=train.momentum)
    if train.optimizer == "adamw":
        return AdamW(groups, lr=train.lr)
    entry = register.entry("optimizer", train.optimizer)
    made = entry.call(groups, train)
    if not isinstance(made, Optimizer):
        raise entry.refusal(made, "a torch.optim.Optimizer")
    return made


def parameter_groups(network: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """Group a network's parameters by their weight decay, as torch's optimizers take them.

    The first group has ``train.weight_decay``. With ``train.decay_norm_bias: false`` the parameters
    with at most one dimension, such as the weights of norms and all biases, are in a second group
    without decay, if there are any. Else the first group holds all parameters.
    """
    decayed, not_decayed = [], []
    for parameter in network.parameters():
        if train.decay_norm_bias or parameter.ndim > 1:
            decayed.append(parameter)
        else:
            not_decayed.append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": train.weight_decay}]
    if not_decayed:
        groups.append({"params": not_decayed, "weight_decay": 0.0})
    return groups


def left_out(optimizer: Optimizer, network: nn.Module) -> list[str]:
    """Return the names of the network's trainable parameters that the optimizer does not update,
    since a registered function has not given them to it.
    """
    updated: set[int] = set()
    for group in optimizer.param_groups:
        updated.update(id(parameter) for parameter in group["params"])
    names = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and id(parameter) not in updated:
            names.append(name)
    return names


def learning_rate_factor(train: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the learning-rate schedule as a function from an optimizer step, 0 to epochs *
    steps_per_epoch - 1, to the factor by which ``train.lr`` is multiplied in this step.

    The factor rises linearly during the warm-up and then follows ``train.schedule``. The function
    raises Refused where a registered schedule raises an error or gives anything but a finite number
    of 0 or more.
    """
    steps = train.epochs * steps_per_epoch
    warmup_steps = round(train.warmup * steps)
    registered = next(
        (entry for entry in train.registered_entries() if entry.kind == "schedule"), None
    )

    def factor_at(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if train.schedule == "cosine":
            angle = math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)
            return (1 + math.cos(angle)) / 2
        if train.schedule == "exponential":
            # Exact, since 0.6 / 0.2 in floating point is below 3.
            decays = Fraction(step, steps_per_epoch) / Fraction(str(train.decay_epochs))
            return train.decay_rate ** math.floor(decays)
        if registered:
            part = (step - warmup_steps) / max(1, steps - warmup_steps)
            value = registered.call(part, train)
            if not isinstance(value, Real):
                raise registered.refusal(value, "a number")
            factor = cast(float, value)
            if not 0 <= factor < math.inf:
                raise Refused(
                    f"schedule {registered.name!r}: gives {factor:g}; it must give a factor of 0 or more"
                )
            return factor
        return 1.0

    return factor_at


def schedule(optimizer: Optimizer, train: TrainConfig, steps_per_epoch: int) -> LambdaLR:
    """Build torch's scheduler of the learning rate, to be advanced after each optimizer step.

    Raises:
        Refused: A registered schedule raises an error, or gives anything but a finite number of 0
            or more, for the first step. For later steps the scheduler's ``step`` raises it.
    """
    return LambdaLR(optimizer, learning_rate_factor(train, steps_per_epoch))


class AverageWeights(WeightAveraging):
    """Callback that averages weights and BatchNorm statistics exponentially over the steps, and
    lets the averages be evaluated in their place (the paper: Polyak averaging).

    The decay at step t is min(decay, (1 + t) / (10 + t)), TensorFlow's warm-up: a constant decay of
    0.99 would leave a run of 100 steps near its random start.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._averaged: tuple[list[Tensor], list[Tensor]] = [], []
        """The averages and, in the same order, the network's current values: weights, biases and
        BatchNorm statistics.
        """
        self._copied: tuple[list[Tensor], list[Tensor]] = [], []
        """Tensors of whole numbers of the average and, in the same order, of the network: they are
        copied, since BatchNorm's counts of batches cannot be averaged.
        """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """When a fit begins, copy the network for the averages, in 64 bits with the precision
        64-true: the Trainer converts the network itself only later.
        """
        super().setup(trainer, pl_module, stage)
        if self.average_model is not None:
            trainer.precision_plugin.convert_module(self.average_model)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the averages to the weights' device, since Lightning leaves them on the CPU; the
        count of updates stays there.
        """
        assert self.average_model is not None
        self.average_model.module.to(pl_module.device)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """List the averages and the network's tensors once for all steps. torch's own update walks
        through all modules at each step, which takes longer than a GPU takes to average them.
        """
        assert self.average_model is not None
        self._averaged, self._copied = ([], []), ([], [])
        average = self.average_model.module
        averages = itertools.chain(average.parameters(), average.buffers())
        currents = itertools.chain(pl_module.parameters(), pl_module.buffers())
        for mean, current in zip(averages, currents, strict=True):
            pair = self._averaged if mean.is_floating_point() else self._copied
            pair[0].append(mean)
            pair[1].append(current)

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the averages if this batch has completed an optimizer step. The weights of the
        first step are copied.
        """
        if trainer.global_step == self.latest_update_step:
            return
        assert self.average_model is not None
        t = int(self.average_model.n_averaged)
        averages, currents = self._averaged
        if t:
            torch._foreach_lerp_(averages, currents, 1 - min(self.decay, (1 + t) / (10 + t)))
        else:
            torch._foreach_copy_(averages, currents)
        counts, current_counts = self._copied
        if counts:
            torch._foreach_copy_(counts, current_counts)
        self.average_model.n_averaged += 1
        self.latest_update_step = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not replace the weights by their averages here, as Lightning's callback does: another
        callback's checkpoint is still to be written.
        """

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the network's weights by their averages, also in a run that continued and found
        all epochs done.
        """
        super().on_train_end(trainer, pl_module)
