"""Xception (Chollet 2017, arXiv:1610.02357, fig. 5): the whole network, top to bottom.

Shapes are (N, C, H, W) and stand on the tensor lines, for the paper's 299x299 input at width 1. A
module's name says its place in the network (``entry``, ``middle.3``, ``exit``). Its initial weights
are drawn by that name, so that two variants start with equal weights in every module that they
share (``initial.initialise``).
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from xceptlab.config.schema import ModelConfig
from xceptlab.models.conv import Conv2d
from xceptlab.models.initial import initialise, seeded
from xceptlab.models.separable import batch_norm, convolution


class MaxPool(nn.Module):
    """3x3 max pooling with stride 2: (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2)).

    Args:
        padding: ``same`` for TensorFlow's rule, which is the paper's: an even size is padded at the
            bottom and right only. ``symmetric`` for one pixel on every side, as in timm; on even
            sizes its windows lie one pixel further up and left.
    """

    def __init__(self, padding: str) -> None:
        super().__init__()
        self.same = padding == "same"

    def extra_repr(self) -> str:
        return "same" if self.same else "symmetric"

    def forward(self, x: Tensor) -> Tensor:
        if not self.same:
            return F.max_pool2d(x, 3, stride=2, padding=1)
        # An odd size needs one pixel on both sides; an even one none in front, and ceil_mode adds
        # the one behind.
        height, width = x.shape[-2:]
        return F.max_pool2d(x, 3, stride=2, padding=(height % 2, width % 2), ceil_mode=True)


class Block(nn.Module):
    """Convolutions, separable or regular as ``config.convolution`` says, each with a ReLU before
    and a BatchNorm behind it, and the skip around them: (N, inputs, H, W) -> (N, widths[-1],
    ceil(H / stride), ceil(W / stride)).

    With stride 2 the block ends in a max pooling, and its skip is a projection: a strided 1x1
    convolution with BatchNorm. With stride 1 the skip is the identity.

    Args:
        config: The architecture; ``residual`` says which skips there are.
        place: The block's name in the network, for errors, and because the initial weights of
            registered activations depend on it.
        inputs: Channels of the input.
        widths: Channels after each of the convolutions.
        stride: 1 or 2.
        relu_first: Whether a ReLU stands before the first convolution.
    """

    def __init__(
        self,
        config: ModelConfig,
        place: str,
        inputs: int,
        widths: tuple[int, ...],
        *,
        stride: int,
        relu_first: bool = True,
    ) -> None:
        super().__init__()
        self.units = nn.Sequential()
        channels = inputs
        for i, width in enumerate(widths):
            unit = nn.Sequential()
            if i > 0 or relu_first:
                # The first ReLU must not overwrite its input, which the skip needs, too.
                unit.add_module("relu", nn.ReLU(inplace=i > 0))
            unit.add_module("separable", convolution(channels, width, config, f"{place}.units.{i}"))
            unit.add_module("norm", batch_norm(config, width))
            self.units.append(unit)
            channels = width
        self.pool = MaxPool(config.padding) if stride == 2 else nn.Identity()
        self.skip: nn.Module | None = None
        if stride == 2 and config.residual in ("all", "projection_only"):
            self.skip = nn.Sequential()
            self.skip.add_module("conv", Conv2d(inputs, channels, 1, stride=2, bias=False))
            self.skip.add_module("norm", batch_norm(config, channels))
        elif stride == 1 and config.residual in ("all", "identity_only"):
            self.skip = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.units(x)  # (N, widths[-1], H, W)
        y = self.pool(y)  # (N, widths[-1], ceil(H / stride), ceil(W / stride))
        if self.skip is None:
            return y
        return y + self.skip(x)


class Stem(nn.Module):
    """The two regular convolutions at the beginning of the entry flow: (N, 3, H, W) -> (N, second,
    H', W').

    The stem ``imagenet`` is the paper's: stride 2 and no padding, 299 -> 149 -> 147. The stem
    ``cifar`` keeps the size: stride 1, zero padding 1.

    Args:
        config: The architecture; ``stem`` and BatchNorm's constants are read.
        first: Channels of the first convolution.
        second: Channels of the second convolution.
    """

    def __init__(self, config: ModelConfig, first: int, second: int) -> None:
        super().__init__()
        stride, padding = (2, 0) if config.stem == "imagenet" else (1, 1)
        self.conv1 = nn.Conv2d(3, first, 3, stride=stride, padding=padding, bias=False)
        self.norm1 = batch_norm(config, first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=padding, bias=False)
        self.norm2 = batch_norm(config, second)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)  # (N, 32, 149, 149)
        return F.relu(self.norm2(self.conv2(x)), inplace=True)  # (N, 64, 147, 147)


class Entry(nn.Module):
    """Entry flow: the stem, and three blocks that each halve the size: (N, 3, H, W) -> (N, 728, H',
    W') at width 1.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        w = config.channels
        self.stem = Stem(config, w(32), w(64))
        # The stem ends in a ReLU already.
        self.block1 = Block(
            config, "entry.block1", w(64), (w(128), w(128)), stride=2, relu_first=False
        )
        self.block2 = Block(config, "entry.block2", w(128), (w(256), w(256)), stride=2)
        self.block3 = Block(config, "entry.block3", w(256), (w(728), w(728)), stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (N, 64, 147, 147)
        x = self.block1(x)  # (N, 128, 74, 74)
        x = self.block2(x)  # (N, 256, 37, 37)
        return self.block3(x)  # (N, 728, 19, 19)


class Exit(nn.Module):
    """Exit flow: a last halving block, two wide separable convolutions, global average pooling:
    (N, 728, H, W) -> (N, 2048) at width 1.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        w = config.channels
        self.block = Block(config, "exit.block", w(728), (w(728), w(1024)), stride=2)
        self.separable1 = convolution(w(1024), w(1536), config, "exit.separable1")
        self.norm1 = batch_norm(config, w(1536))
        self.separable2 = convolution(w(1536), w(2048), config, "exit.separable2")
        self.norm2 = batch_norm(config, w(2048))

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)  # (N, 1024, 10, 10)
        x = F.relu(self.norm1(self.separable1(x)), inplace=True)  # (N, 1536, 10, 10)
        x = F.relu(self.norm2(self.separable2(x)), inplace=True)  # (N, 2048, 10, 10)
        return x.mean((2, 3))  # (N, 2048)


class Xception(nn.Module):
    """Xception, from images (N, 3, H, W), normalised to the range -1 to 1, to logits (N, classes).

    Args:
        config: The architecture.
        classes: Number of classes.
        seed: Seed from which the initial weights are drawn.

    Raises:
        Refused: ``segments`` does not divide the channels of a layer, or the activation
            ``intermediate`` cannot be made.
    """

    def __init__(self, config: ModelConfig, classes: int = 1000, seed: int = 0) -> None:
        super().__init__()
        # A registered activation may draw from torch's generator when it is made.
        with seeded(seed, "network"):
            self.entry = Entry(config)
            self.middle = nn.Sequential()
            width = config.channels(728)
            for i in range(config.middle_blocks):
                block = Block(config, f"middle.{i}", width, (width, width, width), stride=1)
                self.middle.append(block)
            self.exit = Exit(config)
            features = config.channels(2048)
            fc = nn.Sequential()
            for units in config.fc:
                fc.append(nn.Linear(features, units))
                fc.append(nn.ReLU())
                features = units
            self.fc = fc if config.fc else None
            self.dropout = nn.Dropout(config.dropout)
            self.classifier = nn.Linear(features, classes)
        initialise(self, config.init, seed)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the network with ``torch.compile``, region by region: the entry flow, each middle
        block and the exit flow.

        The middle blocks are equal, so torch compiles the first and reuses its code for the others.
        As one graph it would compile every block. The arguments are those of ``torch.compile``.
        """
        for region in (self.entry, *self.middle, self.exit):
            region.compile(*args, **kwargs)

    def features(self, x: Tensor) -> Tensor:
        """Compute the features after global average pooling, before the optional fully connected
        layers: (N, 3, H, W) -> (N, 2048) at width 1.
        """
        x = self.entry(x)  # (N, 728, 19, 19)
        x = self.middle(x)  # (N, 728, 19, 19)
        return self.exit(x)  # (N, 2048)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # (N, 2048)
        if self.fc is not None:
            x = self.fc(x)  # (N, units of the last one)
        return self.classifier(self.dropout(x))  # (N, classes)
