"""A convolution that trains soundly on CPUs whatever its number of channels."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VECTOR = 16
"""Number of channels in a vector of oneDNN on a CPU with AVX-512. With AVX2 it is 8, and 16 does as
well.
"""


Network = TypeVar("Network", bound=nn.Module)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d``, but for a defect of oneDNN in the gradient of strided 1x1 convolutions of few
    channels.

    Before its backward pass oneDNN copies such a layer's input without the pixels that the stride
    skips, and writes behind the end of that copy where the input has fewer channels than a vector:
    the process dies, hangs or gets wrong gradients (uxlfoundation/oneDNN issue 6035, in torch 2.14
    at least). Seen in 32-bit only, channels last, where the stride divides the size; which sizes
    and batches depends on the CPU and its threads. Channels of zeros, up to a whole vector, avoid
    it. They add exact zeros and leave the order of the sums, so that the results of layers that
    worked are the same to the last bit.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self._is_affected(input):
            return super().forward(input)
        behind_last_channel = (0, 0, 0, 0, 0, VECTOR - self.in_channels)
        padded = F.pad(input, behind_last_channel)  # (N, VECTOR, H, W)
        weight = F.pad(self.weight, behind_last_channel)  # (outputs, VECTOR, 1, 1)
        return self._conv_forward(padded, weight, self.bias)

    def _is_affected(self, x: Tensor) -> bool:
        if not _is_small_and_strided(self) or not torch.is_grad_enabled():
            return False
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return False
        height, width = x.shape[-2:]
        return height % self.stride[0] == 0 and width % self.stride[1] == 0


def protected(network: Network) -> Network:
    """Replace, in place, those convolutions of another library's network that the defect concerns
    by our ``Conv2d``.

    Parameters, their names, hooks and all else stay as they are: ours has no attributes of its own.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_small_and_strided(module):
            module.__class__ = Conv2d
    return network


def _is_small_and_strided(layer: nn.Conv2d) -> bool:
    """Whether a layer is a strided 1x1 convolution of fewer input channels than a vector has."""
    strided = layer.kernel_size == (1, 1) and layer.stride != (1, 1) and layer.groups == 1
    return strided and layer.in_channels < VECTOR
