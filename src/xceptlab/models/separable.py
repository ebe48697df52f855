"""The separable convolution, which the paper is about, and its variants.

A separable convolution splits a 3x3 convolution in two: a *depthwise* 3x3 convolution that looks at
each channel alone, and a *pointwise* 1x1 convolution that mixes the channels. The paper
(arXiv:1610.02357) does the depthwise one first and puts nothing between them. It also describes a
continuum between the regular and the separable convolution (section 1.2): after a pointwise
convolution comes a 3x3 convolution on ``segments`` groups of channels, from 1 group (regular) to as
many groups as there are channels (depthwise).
"""

import math

import torch
from torch import Tensor, nn

from xceptlab import register
from xceptlab.config.schema import ModelConfig
from xceptlab.errors import Refused
from xceptlab.models.extensions import new_module
from xceptlab.models.initial import seeded

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "selu": nn.SELU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "tanh": nn.Tanh,
}
"""Activations that may stand between the depthwise and the pointwise convolution, by the names that
``model.intermediate`` has for them.
"""

CHANNELS = (128, 256, 728, 1024, 1536, 2048)
"""Numbers of output channels of the paper's separable convolutions."""


class SeparableConv2d(nn.Module):
    """A 3x3 separable convolution and its variants (``model.order``, ``model.segments``), stride 1,
    zero padding 1, no biases: (N, inputs, H, W) -> (N, outputs, H, W).

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        config: The architecture; ``order``, ``segments``, ``intermediate``, ``intermediate_norm``
            and BatchNorm's constants are read.
        place: The name of the layer, for errors, and because the initial weights of a registered
            activation depend on it.

    Raises:
        Refused: ``segments`` does not divide the channels of the 3x3 convolution, or the activation
            ``intermediate`` cannot be made.
    """

    def __init__(
        self, inputs: int, outputs: int, config: ModelConfig, place: str = "separable"
    ) -> None:
        super().__init__()
        self.depthwise_first = config.order == "depthwise_first"
        # The 3x3 convolution keeps its number of channels, which depends on whether it comes first.
        channels = inputs if self.depthwise_first else outputs
        groups = self._groups(config, channels, place)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.intermediate_norm = (
            batch_norm(config, channels) if config.intermediate_norm else nn.Identity()
        )
        self.intermediate = activation(config.intermediate, place)

    @staticmethod
    def _groups(config: ModelConfig, channels: int, place: str) -> int:
        """Return the number of groups of a 3x3 convolution with ``channels`` channels: that of
        ``segments`` or, where this is ``all``, one group for each channel, which makes the
        convolution depthwise. ``place`` is the name of the layer, for the error.

        Raises:
            Refused: ``segments`` does not divide the channels.
        """
        if config.segments == "all":
            return channels
        if channels % config.segments:
            common = math.gcd(*map(config.channels, CHANNELS))
            divisors = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
            raise Refused(
                f"model.segments: {config.segments} does not divide the {channels} channels of {place}; what divides every "
                f"layer's: {divisors} or all (model.divisor: {config.segments} rounds channels so that it does)"
            )
        return config.segments

    def extra_repr(self) -> str:
        return "depthwise_first" if self.depthwise_first else "pointwise_first"

    def forward(self, x: Tensor) -> Tensor:
        if self.depthwise_first:
            first, second = self.depthwise, self.pointwise
        else:
            first, second = self.pointwise, self.depthwise
        x = first(x)  # (N, channels in between, H, W)
        x = self.intermediate(self.intermediate_norm(x))
        return second(x)  # (N, outputs, H, W)


def activation(name: str, place: str) -> nn.Module:
    """Make the activation that ``model.intermediate`` names, built in or registered.

    The random numbers of a registered function depend only on ``place``, the name of the layer, and
    on the seed that torch's generator of the CPU was last given. So under one seed the activation
    starts equal in every network that has a layer of this name. The generator is left as it was.

    Raises:
        Refused: Nothing is registered under the name, or the registered function raises an error or
            does not give a new ``nn.Module`` whose state can be saved.
    """
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]()
    with seeded(torch.initial_seed(), place):
        return new_module(register.entry("activation", name))


def convolution(inputs: int, outputs: int, config: ModelConfig, place: str) -> nn.Module:
    """Make a 3x3 convolution, separable or regular as ``config.convolution`` says, with stride 1,
    zero padding 1 and no biases: (N, inputs, H, W) -> (N, outputs, H, W).

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        config: The architecture.
        place: The name of the layer, for errors, and because the initial weights of a registered
            activation depend on it.

    Raises:
        Refused: A separable convolution cannot be made of this configuration: ``segments`` does not
            divide the channels of its 3x3 convolution, or the activation ``intermediate`` cannot
            be made.
    """
    if config.convolution == "regular":
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return SeparableConv2d(inputs, outputs, config, place)


def batch_norm(config: ModelConfig, channels: int) -> nn.BatchNorm2d:
    """Make a BatchNorm with the constants of the configuration, ``bn_eps`` and ``bn_momentum``."""
    return nn.BatchNorm2d(channels, eps=config.bn_eps, momentum=config.bn_momentum)
