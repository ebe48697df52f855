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

OF_SEPARABLE: tuple[str, ...] = ("order", "intermediate", "intermediate_norm")
"""Fields that only separable convolutions read."""

OF_XCEPTION: tuple[str, ...] = (
    *OF_SEPARABLE,
    "residual",
    "segments",
    "convolution",
    "width",
    "divisor",
    "middle_blocks",
    "stem",
    "fc",
    "padding",
    "bn_eps",
    "bn_momentum",
)
"""Fields that only Xception reads."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ExtensibleSection):
    """The network. The defaults are the paper's Xception, arXiv:1610.02357, fig. 5."""

    PREFIX: ClassVar[str] = "model."
    REGISTRABLE: ClassVar[dict[str, register.Kind]] = {
        "intermediate": "activation",
        "family": "model",
    }

    order: Literal["depthwise_first", "pointwise_first"] = "depthwise_first"
    """Which of the two convolutions of a separable convolution comes first (the paper's section 1.2
    calls the order unimportant).
    """
    intermediate: (
        Literal[
            "none", "relu", "elu", "gelu", "silu", "leaky_relu", "selu", "mish", "hardswish", "tanh"
        ]
        | str
    ) = "none"
    """Activation between the depthwise and the pointwise convolution (the paper's fig. 10). Any
    other name is that of a registered activation.
    """
    intermediate_norm: bool = False
    """Put a BatchNorm between the depthwise and the pointwise convolution, before the activation
    (DeepLabv3+ has both).
    """
    residual: Literal["all", "none", "identity_only", "projection_only"] = "all"
    """Which residual connections around the blocks there are (the paper's fig. 9). Those of the
    middle flow are identities, the others are projections."""
    segments: int | Literal["all"] = "all"
    """Number of groups of channels in the 3x3 convolution after the pointwise one: 1 makes it a
    regular, all a depthwise convolution (the paper's section 1.2). A number needs order
    pointwise_first."""
    convolution: Literal["separable", "regular"] = "separable"
    """Kind of the blocks' convolutions; regular puts one regular 3x3 convolution in the place of
    each separable one.
    """
    width: Annotated[float, Bounds(at_most=16)] = 1.0
    """Multiplier of every layer's number of channels."""
    divisor: Count = 1
    """Round every layer's number of channels to a multiple of this. With 8, ``segments`` of 1, 2, 4
    and 8 divide every layer at any width.
    """
    match: Literal["none", "parameters", "macs"] = field(default="none", metadata=NO_IDENTITY)
    """In a study, choose the width of each arm so that the arm has as many parameters or
    multiply-accumulates as the first arm.
    """
    timm: str = ""
    """Name of a timm model to train in place of Xception, such as inception_v3. Only the field
    dropout applies to it.
    """
    family: Literal["xception"] | str = "xception"
    """The network: Xception, or a registered family. Only the fields ``options`` and ``init`` apply
    to a registered family.
    """
    options: dict[str, Any] = field(default_factory=dict)
    """Options of a registered family, by name; an option that is left out has its default."""
    middle_blocks: Annotated[int, Bounds(at_least=0, at_most=32)] = 8
    """Number of blocks in the middle flow."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """The first two convolutions. imagenet: the paper's (stride 2, no padding). cifar: convolutions
    that keep the size, for images of 32x32 and smaller."""
    fc: tuple[int, ...] = ()
    """Numbers of units of fully connected layers with ReLU before the classifier; the paper's
    optional ones are [4096, 4096].
    """
    dropout: Rate = 0.0
    """Dropout rate before the classifier (the paper's ImageNet recipe uses 0.5)."""
    padding: Literal["same", "symmetric"] = "same"
    """Padding of the max poolings. same: TensorFlow's. symmetric: one pixel on every side, as in
    timm.
    """
    bn_eps: Positive = 1e-3
    """Number that BatchNorm adds to the variance; the default is Keras's."""
    bn_momentum: Annotated[float, Bounds(above=0, at_most=1)] = 0.01
    """Weight of a batch in BatchNorm's running statistics; the default is Keras's momentum of 0.99.
    """
    init: Literal["keras", "timm"] = "keras"
    """How initial weights are drawn. keras: Glorot uniform, as in the original. timm: as timm's
    legacy_xception draws them."""
    weights: str = field(default="", metadata=LOCATION)
    """Weights to start from in place of drawn ones: a file of Keras's or timm's Xception or of
    xceptlab, or a run's folder. The classifier is drawn anew if its number of classes differs; all
    else must fit. Empty draws all weights."""
    weights_digest: str = ""
    """Digest of the file of ``model.weights``, part of the run's identity. xceptlab fills it in. If
    it is given, it is compared with the file; where that is not at hand, it stands for the file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_layers()
        if self.timm:
            model, _, tag = self.timm.partition(".")
            allowed = f"{model}, without the tag of published weights, as all weights are drawn"
            self._require("timm", not tag, allowed)
            self._require(
                "family",
                self.family == "xception",
                "xception, or left out, with model.timm",
                "timm",
            )
        self._check_options()
        self._check_weights()

    def _check_layers(self) -> None:
        """Refuse a width, segments or fully connected layers with which no network can be built."""
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
        """Check ``options`` against the types of the family's dataclass, and keep those that differ
        from their defaults; refuse any option of a network that has none.
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
        """Refuse weights to start from with a network other than Xception, and a digest that is not
        16 hexadecimal digits or stands without weights.
        """
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

    def keys_without_effect(self) -> dict[str, str]:
        """Return the keys that this network does not read, each with the setting that is the
        reason, such as ``model.timm resnet18``; empty where it reads all.
        """
        if self.timm:
            reason = f"model.timm {self.timm}"
            unread = (*OF_XCEPTION, "init")
        elif self.family != "xception":
            reason = f"model.family {self.family}"
            unread = (*OF_XCEPTION, "dropout")
        elif self.convolution == "regular":
            reason = "model.convolution regular"
            unread = OF_SEPARABLE
        else:
            return {}
        return {f"{self.PREFIX}{name}": reason for name in unread}

    @property
    def _options_schema(self) -> Any:
        """Dataclass of the options of a registered family; None for Xception, for a timm model and
        for a family without options.
        """
        if self.family == "xception":
            return None
        return register.entry("model", self.family).about["options"]

    def all_options(self) -> dict[str, Any]:
        """Return all options of a registered family by name, including those that have their
        defaults; empty for Xception, for a timm model and for a family without options.
        """
        schema = self._options_schema
        if schema is None:
            return {}
        return options.with_defaults(schema, self.options)

    @property
    def is_xception(self) -> bool:
        """Whether the network is Xception, the only one whose budget can be matched by its width
        and which can start from files of weights.
        """
        return not self.timm and self.family == "xception"

    @property
    def identity_is_known(self) -> bool:
        """Whether the identity of the initial weights is known without reading any file."""
        return not self.weights or bool(self.weights_digest)

    @property
    def initial_weights_description(self) -> str:
        """The initial weights in words: ``drawn``, or the name of their file or folder with the
        first ``SHORT`` digits of the digest, which are missing as long as it is not filled in.
        """
        if not self.weights:
            return "drawn"
        name = os.path.basename(os.path.normpath(self.weights))
        return f"{name} ({self.weights_digest[:SHORT]})"

    def channels(self, paper: int) -> int:
        """Return the number of channels of a layer that has ``paper`` channels in the paper: scaled
        by ``width`` and rounded to a multiple of ``divisor``, at least to ``divisor`` itself.
        """
        multiples = round(paper * self.width / self.divisor)
        return max(1, multiples) * self.divisor
