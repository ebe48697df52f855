"""The section ``model``: the network, and the weights that it starts from."""

import os
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from xceptlab import register
from xceptlab.config import options
from xceptlab.config.field_types import Bounds, Count, Positive, Rate
from xceptlab.config.fields import LOCATION, NO_IDENTITY, ExtensibleSection
from xceptlab.config.options import Options
from xceptlab.config.run_id import SHORT

DIGEST = re.compile(r"[0-9a-f]{16}")
"""Pattern of ``model.weights_digest``: 16 hexadecimal digits."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ExtensibleSection):
    """The network. The defaults are the paper's Xception, arXiv:1610.02357, fig. 5."""

    PREFIX: ClassVar[str] = "model."
    REGISTRABLE: ClassVar[dict[str, register.Kind]] = {
        "intermediate": "activation",
        "family": "model",
    }

    order: Literal["depthwise_first", "pointwise_first"] = "depthwise_first"
    """Which convolution of a separable one comes first (the paper's section 1.2 calls the order
    unimportant).
    """
    intermediate: (
        Literal[
            "none", "relu", "elu", "gelu", "silu", "leaky_relu", "selu", "mish", "hardswish", "tanh"
        ]
        | str
    ) = "none"
    """Activation between the depthwise and the pointwise convolution (the paper's fig. 10), or a
    registered one.
    """
    intermediate_norm: bool = False
    """BatchNorm between the two convolutions, before the activation (DeepLabv3+ has both)."""
    residual: Literal["all", "none", "identity_only", "projection_only"] = "all"
    """Residual connections around the blocks (the paper's fig. 9): the middle flow's are
    identities, the others projections.
    """
    segments: int | Literal["all"] = "all"
    """Groups of channels that the 3x3 convolution after the pointwise one sees: 1 is a regular, all
    a depthwise convolution (the paper's section 1.2); a number needs order pointwise_first."""
    convolution: Literal["separable", "regular"] = "separable"
    """regular puts one 3x3 convolution in the place of each separable one."""
    width: Annotated[float, Bounds(at_most=16)] = 1.0
    """Multiplier of every layer's number of channels."""
    divisor: Count = 1
    """Channels are rounded to multiples of this; 8 lets 1, 2, 4 and 8 segments divide every layer
    at any width.
    """
    match: Literal["none", "parameters", "macs"] = field(default="none", metadata=NO_IDENTITY)
    """In a study: solve each arm's width for the first arm's number of parameters or
    multiply-accumulates.
    """
    timm: str = ""
    """Name of a timm model to train in place of Xception, such as inception_v3; of the other fields
    only dropout applies then.
    """
    family: Literal["xception"] | str = "xception"
    """The network: Xception, or a registered family, to which of the other fields only ``options``
    and ``init`` apply.
    """
    options: dict[str, Any] = field(default_factory=dict)
    """Options of a registered family, by name; those that are left out have its defaults."""
    middle_blocks: Annotated[int, Bounds(at_least=0, at_most=32)] = 8
    """Number of blocks in the middle flow, 0 to 32."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """First two convolutions: the paper's (stride 2, no padding), or size-preserving ones for
    images of 32x32 and smaller.
    """
    fc: tuple[int, ...] = ()
    """Units of fully connected layers with ReLU before the classifier (the paper's optional ones:
    [4096, 4096]).
    """
    dropout: Rate = 0.0
    """Dropout rate before the classifier (the paper's ImageNet recipe uses 0.5)."""
    padding: Literal["same", "symmetric"] = "same"
    """Padding of the max poolings: TensorFlow's, or one pixel on every side as in timm."""
    bn_eps: Positive = 1e-3
    """BatchNorm: what is added to the variance (Keras's value)."""
    bn_momentum: Annotated[float, Bounds(above=0, at_most=1)] = 0.01
    """BatchNorm: weight of a batch in the running statistics (Keras's momentum of 0.99)."""
    init: Literal["keras", "timm"] = "keras"
    """How initial weights are drawn: Glorot uniform as in the original, or as timm's port draws
    them.
    """
    weights: str = field(default="", metadata=LOCATION)
    """Weights to start from in place of drawn ones: a file of Keras's or timm's Xception, one of
    ours, or a run's folder. The classifier is drawn anew where they have another number of classes;
    all else must fit."""
    weights_digest: str = ""
    """Digest of the file of ``model.weights``, part of the run's identity. Filled in by xceptlab;
    if it is given, it must be the file's, or stands for the file where that is not at hand."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_layers()
        if self.timm:
            self._require(
                "family",
                self.family == "xception",
                "xception, or left out, with model.timm",
                "timm",
            )
        self._check_options()
        self._check_weights()

    def _check_layers(self) -> None:
        stem_has_a_channel = self.width > 0 and round(32 * self.width) >= 1
        self._require("width", stem_has_a_channel, "at least 0.016, to leave the stem a channel")
        if self.segments != "all":
            self._require("segments", self.segments >= 1, "all or a whole number of at least 1")
            may_be_a_number = self.order == "pointwise_first" and self.convolution == "separable"
            unless = "all, unless model.order is pointwise_first and model.convolution separable"
            self._require("segments", may_be_a_number, unless, "order", "convolution")
        have_units = all(units >= 1 for units in self.fc)
        self._require("fc", have_units, "a list of numbers of units, each at least 1")

    def _check_options(self) -> None:
        """Check ``options`` by the types of the family's own dataclass, and leave out those that
        have their defaults.
        """
        schema = self._options_schema
        if schema is None:
            self._require(
                "options", not self.options, f"left out: {self.family} has none", "family"
            )
            differing = Options()
        else:
            differing = options.checked(schema, self.options)
        object.__setattr__(self, "options", differing)

    def _check_weights(self) -> None:
        if self.weights:
            xception = "only Xception starts from a file"
            of_family = f"left out with model.family {self.family}: {xception}"
            self._require("weights", self.family == "xception", of_family, "family")
            self._require("weights", not self.timm, f"left out with model.timm: {xception}", "timm")
        if self.weights_digest:
            is_a_digest = bool(DIGEST.fullmatch(self.weights_digest))
            self._require(
                "weights_digest",
                is_a_digest,
                "what xceptlab has filled in, such as 0123456789abcdef",
            )
            self._require(
                "weights_digest", bool(self.weights), "left out without model.weights", "weights"
            )

    @property
    def _options_schema(self) -> Any:
        """The dataclass of a registered family's options; None for Xception and for a family
        without options.
        """
        if self.family == "xception":
            return None
        return register.entry("model", self.family).about["options"]

    def all_options(self) -> dict[str, Any]:
        """All options of a registered family by name, also those that have their defaults; empty
        for Xception.
        """
        schema = self._options_schema
        if schema is None:
            return {}
        return options.with_defaults(schema, self.options)

    @property
    def is_xception(self) -> bool:
        """Whether the network is Xception, which has a width to be solved and starts from files of
        weights.
        """
        return not self.timm and self.family == "xception"

    @property
    def identity_is_known(self) -> bool:
        """True if no file needs to be read to know the identity of the initial weights."""
        return not self.weights or bool(self.weights_digest)

    @property
    def initial_weights_description(self) -> str:
        """Initial weights in words: ``drawn``, or the name of their file with the first digits of
        its digest.
        """
        if not self.weights:
            return "drawn"
        name = os.path.basename(os.path.normpath(self.weights))
        return f"{name} ({self.weights_digest[:SHORT]})"

    def channels(self, paper: int) -> int:
        """The number of channels of a layer that has ``paper`` channels in the paper."""
        multiples = round(paper * self.width / self.divisor)
        return max(1, multiples) * self.divisor
