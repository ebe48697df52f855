"""A convolution that trains soundly on CPUs whatever its number of channels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VECTOR = 16
"""Channels that oneDNN takes at once on a CPU with AVX-512; 8 with AVX2, for which 16 is as good."""


class Conv2d(nn.Conv2d):
    """``nn.Conv2d``, but for a defect of oneDNN in the gradient of strided 1x1 convolutions of few channels.

    Before its backward pass oneDNN copies such a layer's input without the pixels that the stride skips, and writes behind the
    end of that copy where the input has fewer channels than a vector: the process dies, hangs or gets wrong gradients
    (uxlfoundation/oneDNN issue 6035, in torch 2.14 at least). Seen in 32-bit only, channels last, where the stride divides the
    size; which sizes and batches depends on the CPU and its threads. Channels of zeros, up to a whole vector, avoid it. They add
    exact zeros and leave the order of the sums, so that the results of layers that worked are the same to the last bit.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self._is_affected(input):
            return super().forward(input)
        missing = (0, 0, 0, 0, 0, VECTOR - self.in_channels)  # behind the last channel
        return self._conv_forward(F.pad(input, missing), F.pad(self.weight, missing), self.bias)

    def _is_affected(self, x: Tensor) -> bool:
        strided = self.kernel_size == (1, 1) and self.stride != (1, 1) and self.groups == 1
        if not strided or self.in_channels >= VECTOR or not torch.is_grad_enabled():
            return False
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return False
        return all(side % step == 0 for side, step in zip(x.shape[-2:], self.stride, strict=True))
