"""A convolution that works around a defect of oneDNN, by which training on a CPU dies or goes
wrong.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VECTOR = 16
"""Number of channels in a vector of oneDNN on a CPU with AVX-512. With AVX2 it is 8, for which 16
is good, too.
"""

Network = TypeVar("Network", bound=nn.Module)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with a workaround for a defect of oneDNN in the gradient of strided 1x1
    convolutions of few channels.

    Before its backward pass oneDNN copies the layer's input without the pixels that the stride
    skips. If the input has fewer channels than a vector, it writes behind the end of that copy, and
    the process dies, hangs or gets wrong gradients (uxlfoundation/oneDNN issue 6035, in torch 2.14
    at least). This was seen in 32-bit only, with channels last, and where the stride divides the
    size; for which sizes and batches depends on the CPU and its threads.

    The workaround fills the channels up to a whole vector with zeros. These add exact zeros and
    leave the order of the sums, so that layers without the defect give the same bits as before.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self._is_affected(input):
            return super().forward(input)
        behind_last_channel = (0, 0, 0, 0, 0, VECTOR - self.in_channels)
        padded = F.pad(input, behind_last_channel)  # (N, VECTOR, H, W)
        weight = F.pad(self.weight, behind_last_channel)  # (outputs, VECTOR, 1, 1)
        return self._conv_forward(padded, weight, self.bias)

    def _is_affected(self, x: Tensor) -> bool:
        """Whether the defect may occur in the backward pass for an input (N, C, H, W)."""
        if not _is_small_and_strided(self) or not torch.is_grad_enabled():
            return False
        if x.device.type != "cpu":
            return False
        if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return False
        height, width = x.shape[-2:]
        stride_down, stride_right = self.stride
        return height % stride_down == 0 and width % stride_right == 0


def protected(network: Network) -> Network:
    """Turn the ungrouped strided 1x1 convolutions of a network that have fewer than ``VECTOR``
    input channels into our ``Conv2d``, in place, and return the network. In their backward pass on
    a CPU oneDNN may crash or give wrong gradients.

    Parameters, their names and hooks stay as they are, since our class adds no attributes.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_small_and_strided(module):
            module.__class__ = Conv2d
    return network


def _is_small_and_strided(layer: nn.Conv2d) -> bool:
    """Whether a layer is a strided 1x1 convolution, not a grouped one, with fewer input channels
    than ``VECTOR``.
    """
    is_pointwise = layer.kernel_size == (1, 1) and layer.groups == 1
    is_strided = layer.stride != (1, 1)
    return is_pointwise and is_strided and layer.in_channels < VECTOR
