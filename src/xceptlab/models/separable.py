"""The depthwise separable convolution, with what the paper and its critics vary about it.

A separable convolution splits a 3x3 convolution in two: a *depthwise* 3x3 convolution that looks at each channel alone, and a
*pointwise* 1x1 convolution that mixes the channels. The paper (arXiv:1610.02357) does the depthwise one first and puts nothing
between them; both choices are fields here.
"""

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class SeparableConv2d(nn.Module):
    """A 3x3 depthwise separable convolution, stride 1, zero padding 1, no biases: (N, inputs, H, W) -> (N, outputs, H, W).

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        order: ``depthwise_first`` as in the paper, or ``pointwise_first`` as in an Inception module; the depthwise convolution
            then acts on the output's channels.
        intermediate: The activation between the two convolutions, a key of ``ACTIVATIONS``; the paper's fig. 10 compares
            ``none``, ``relu`` and ``elu``.
    """

    def __init__(self, inputs: int, outputs: int, order: str, intermediate: str) -> None:
        super().__init__()
        channels = inputs if order == "depthwise_first" else outputs
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.intermediate = ACTIVATIONS[intermediate]()
        self.depthwise_first = order == "depthwise_first"

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.depthwise, self.pointwise) if self.depthwise_first else (self.pointwise, self.depthwise)
        return second(self.intermediate(first(x)))
