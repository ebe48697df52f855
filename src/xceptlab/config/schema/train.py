"""The section ``train``: optimizer, schedule, regularisation and arithmetic."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from xceptlab import register
from xceptlab.config.field_types import Count, NotNegative, Positive, Rate
from xceptlab.config.fields import ExtensibleSection


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ExtensibleSection):
    """The training. The defaults are the paper's recipe for ImageNet, as far as the paper states it
    (sections 4.2 and 4.3).
    """

    PREFIX: ClassVar[str] = "train."
    REGISTRABLE: ClassVar[dict[str, register.Kind]] = {
        "optimizer": "optimizer",
        "schedule": "schedule",
        "metrics": "metric",
        "callbacks": "callback",
    }

    epochs: Count = 100
    """Number of passes over the training images (not stated in the paper)."""
    batch_size: int = 1024
    """Images per optimizer step, over all devices together (not stated in the paper)."""
    accumulate: Count = 1
    """Split the batch of each step into this many smaller ones, computed one after another;
    BatchNorm sees the smaller ones.
    """
    optimizer: Literal["sgd", "rmsprop", "adamw"] | str = "sgd"
    """Name of the optimizer: one of torch's, or a registered one."""
    lr: Positive = 0.045
    """Learning rate after the warm-up."""
    momentum: Rate = 0.9
    """Momentum of sgd and rmsprop."""
    nesterov: bool = False
    """Use Nesterov's momentum, for sgd with momentum. It does not apply to rmsprop and adamw, and
    counts as false there.
    """
    weight_decay: NotNegative = 1e-5
    """Weight of the L2 regularisation (sgd, rmsprop) or of the decoupled weight decay (adamw)."""
    decay_norm_bias: bool = True
    """Apply the weight decay also to BatchNorm's parameters and to biases."""
    schedule: Literal["constant", "exponential", "cosine"] | str = "exponential"
    """Learning rate after the warm-up. constant: ``lr``. exponential: ``lr``, multiplied by
    ``decay_rate`` every ``decay_epochs``. cosine: from ``lr`` to 0 along half a cosine. Any other
    name is that of a registered schedule."""
    decay_rate: Positive = 0.94
    """Factor by which the exponential schedule multiplies the learning rate."""
    decay_epochs: Positive = 2.0
    """Number of epochs between two such multiplications in the exponential schedule, counted from
    the start of the run, warm-up included."""
    warmup: Rate = 0.0
    """Part of the training in which the learning rate rises linearly to ``lr``; its first step has
    ``lr`` / number of warm-up steps."""
    label_smoothing: Rate = 0.0
    """Probability that is taken from the true class and spread evenly over all classes."""
    gradient_clip: NotNegative = 0.0
    """Largest norm of the gradient, to which larger ones are scaled down; 0 does not clip."""
    ema: Rate = 0.0
    """Decay d of an exponential moving average of the weights, min(d, (1 + t) / (10 + t)) at step
    t; the averaged weights are the ones that are evaluated. 0 averages nothing."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    """Number format of the computation, by Lightning's name."""
    threads: Count = 1
    """Number of CPU threads of a process. It can change a result, as another number of threads sums
    in another order.
    """
    compile: bool = False
    """Compile the network with torch.compile, which is faster on a GPU. The first run compiles it,
    later ones find the code in torch's cache (TORCHINDUCTOR_CACHE_DIR). It can change a result, as
    fused operations round differently."""
    metrics: tuple[str, ...] = ()
    """Names of registered metrics that every evaluation measures besides top1, top5 and loss."""
    callbacks: tuple[str, ...] = ()
    """Names of registered Lightning callbacks, in the order in which Lightning gets them."""
    deterministic: bool = True
    """Use deterministic algorithms only. false is faster on a GPU (by 7% at 299 pixels on an H100,
    steps launched one by one), but then a repeated run agrees only within noise, not to the bit."""

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
        """Return the number of optimizer steps in an epoch of so many training images."""
        return math.ceil(images / self.batch_size)

    def steps(self, images: int) -> int:
        """Return the number of optimizer steps in all epochs of so many training images."""
        return self.epochs * self.steps_per_epoch(images)

    @property
    def unused(self) -> set[str]:
        """Keys that are set back to their defaults, as the chosen optimizer does not read them:
        ``train.nesterov`` with rmsprop and adamw, else none. ``train.momentum``, which adamw does
        not read either, keeps its value. A registered optimizer may read any key.
        """
        return {"train.nesterov"} if self.optimizer in ("rmsprop", "adamw") else set()
