"""The section ``train``: optimizer, schedule, regularisation and arithmetic."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from xceptlab import register
from xceptlab.config.field_types import Count, NotNegative, Positive, Rate
from xceptlab.config.fields import ExtensibleSection


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ExtensibleSection):
    """The training. The defaults are the paper's ImageNet recipe as far as it states one (sections
    4.2 and 4.3).
    """

    PREFIX: ClassVar[str] = "train."
    REGISTRABLE: ClassVar[dict[str, register.Kind]] = {
        "optimizer": "optimizer",
        "schedule": "schedule",
        "metrics": "metric",
        "callbacks": "callback",
    }

    epochs: Count = 100
    """Passes over the training images (not stated in the paper)."""
    batch_size: int = 1024
    """Images per optimizer step over all devices together (not stated in the paper)."""
    accumulate: Count = 1
    """Split each step into this many smaller batches, one after another; BatchNorm sees the smaller
    batches.
    """
    optimizer: Literal["sgd", "rmsprop", "adamw"] | str = "sgd"
    """Name of the optimizer: one of torch's, or a registered one."""
    lr: Positive = 0.045
    """Learning rate after the warm-up."""
    momentum: Rate = 0.9
    """Momentum of sgd and rmsprop."""
    nesterov: bool = False
    """Nesterov's momentum, for sgd with momentum; with another optimizer it does not apply and
    counts as false.
    """
    weight_decay: NotNegative = 1e-5
    """L2 regularisation (sgd, rmsprop), decoupled weight decay (adamw)."""
    decay_norm_bias: bool = True
    """Apply the weight decay also to BatchNorm's parameters and to biases."""
    schedule: Literal["constant", "exponential", "cosine"] | str = "exponential"
    """Learning rate after the warm-up: constant, times ``decay_rate`` every ``decay_epochs``, a
    cosine to 0, or a registered schedule."""
    decay_rate: Positive = 0.94
    """Factor of the exponential schedule."""
    decay_epochs: Positive = 2.0
    """Epochs between two steps of the exponential schedule."""
    warmup: Rate = 0.0
    """Part of the training in which the learning rate rises linearly from 0."""
    label_smoothing: Rate = 0.0
    """Probability taken from the true class and spread over all."""
    gradient_clip: NotNegative = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    ema: Rate = 0.0
    """Decay d of the average of weights that is evaluated, min(d, (1 + t) / (10 + t)) at step t; 0
    evaluates the weights.
    """
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    """Number format of the computation, in Lightning's names."""
    threads: Count = 1
    """CPU threads of a process; another number sums in another order, so it is part of the science.
    """
    compile: bool = False
    """Compile the network with torch.compile, which is faster on a GPU. The first run compiles it,
    later ones find the code in torch's cache (TORCHINDUCTOR_CACHE_DIR). Fused operations round
    differently, so it is part of the science."""
    metrics: tuple[str, ...] = ()
    """Registered metrics that every evaluation measures, besides top1, top5 and loss."""
    callbacks: tuple[str, ...] = ()
    """Registered Lightning callbacks, in their order."""
    deterministic: bool = True
    """Use deterministic algorithms only. false is faster on a GPU (7% at 299 on an H100, steps
    launched one by one), but then a run is repeated only within noise, not to the bit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("batch_size", self.batch_size >= 2, "at least 2 (BatchNorm needs two images)")
        has_two_images = self.accumulate * 2 <= self.batch_size
        self._require(
            "accumulate", has_two_images, "at most half of train.batch_size", "batch_size"
        )
        if self.nesterov:
            has_momentum = self.optimizer != "sgd" or self.momentum > 0
            self._require(
                "nesterov", has_momentum, "false without momentum", "momentum", "optimizer"
            )
        if "train.nesterov" in self.unused:
            object.__setattr__(self, "nesterov", False)

    def steps_per_epoch(self, images: int) -> int:
        """Number of optimizer steps in an epoch of so many training images."""
        return math.ceil(images / self.batch_size)

    def steps(self, images: int) -> int:
        """Number of optimizer steps in all epochs of so many training images."""
        return self.epochs * self.steps_per_epoch(images)

    @property
    def unused(self) -> set[str]:
        """Keys that do not apply to the chosen optimizer, and are reset; a registered optimizer may
        read all of them.
        """
        return {"train.nesterov"} if self.optimizer in ("rmsprop", "adamw") else set()
